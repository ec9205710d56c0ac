# make demo | test | check | audit | bench | web | clean: each builds .venv first where that is needed
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m monai_anomaly
DEMO := demo

.PHONY: demo test check audit bench web clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,dev]'
	touch $@

# OCT phantoms; ReSAD with untrained features learns the healthy ones; maps, scores and a report of the others
demo: $(VENV)/installed
	$(RUN) phantoms oct --out $(DEMO)/data
	$(RUN) run resad train --config data_volume --dataset_dir $(DEMO)/data --ckpt_dir $(DEMO)/model \
	    --weights random --image_size '[192, 256]' --slice_step 2
	$(RUN) run resad inference --config data_volume --dataset_dir $(DEMO)/data --ckpt_path $(DEMO)/model/model.pt \
	    --output_dir $(DEMO)/maps --image_size '[192, 256]'
	$(RUN) run resad train evaluate --config data_volume --dataset_dir $(DEMO)/data --ckpt_dir $(DEMO)/model \
	    --output_dir $(DEMO)/evaluation --image_size '[192, 256]'
	$(RUN) report $(DEMO)/evaluation
	@echo "maps:   $(DEMO)/maps"
	@echo "report: $(DEMO)/evaluation/report/index.html"

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml monai_anomaly

# known vulnerabilities of what is installed; asks pypi.org
audit: $(VENV)/installed-dev
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/pip-audit --skip-editable

# every hot path beside a plain form, in one Markdown file; half an hour on two cores
bench: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt '.[onnx]'
	$(BIN)/python benchmarks/run_all.py

# the viewer that the report's pages show volumes with, from npm; its result is in the repository
web:
	cd web && npm ci && npm run build

clean:
	rm -rf $(VENV) $(DEMO) .coverage .pytest_cache .mypy_cache .ruff_cache
