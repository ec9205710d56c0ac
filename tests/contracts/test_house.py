"""What holds for the whole tree: names, sizes, floors, configs, docs."""

import ast
import importlib
import inspect
import pkgutil
import re
import statistics
from pathlib import Path

import monai
import yaml

import monai_anomaly
from monai_anomaly.workflows import list_bundles

ROOT = Path(__file__).parents[2]
MODULES = [
    m.name for m in pkgutil.walk_packages(monai_anomaly.__path__, "monai_anomaly.") if not m.name.endswith("__main__")
]
FILES = sorted((ROOT / "monai_anomaly").rglob("*.py"))


def public_objects():
    for name in MODULES:
        module = importlib.import_module(name)
        for key, value in vars(module).items():
            if (
                not key.startswith("_")
                and getattr(value, "__module__", None) == name
                and (inspect.isclass(value) or inspect.isfunction(value))
            ):
                yield f"{name}.{key}", key, value


def test_no_name_of_monais_is_used_again():
    """MONAI finds bare names in every module whose name starts with "monai": ours would make its own ambiguous."""
    ours = {key for _, key, _ in public_objects()}
    assert len(ours) > 60
    theirs = set()
    for module in pkgutil.iter_modules(monai.__path__, "monai."):
        if module.name.split(".")[1] in {
            "networks",
            "transforms",
            "data",
            "engines",
            "handlers",
            "inferers",
            "losses",
            "metrics",
            "visualize",
        }:
            theirs |= {
                n
                for n, v in vars(importlib.import_module(module.name)).items()
                if inspect.isclass(v) or inspect.isfunction(v)
            }
    for part in ("nets", "blocks", "layers"):
        theirs |= set(vars(importlib.import_module(f"monai.networks.{part}")))
    assert len(theirs) > 500
    assert not ours & theirs


def test_everything_public_says_what_it_is():
    silent = [name for name, _, value in public_objects() if not inspect.getdoc(value)]
    assert not silent


def test_dictionary_transforms_take_what_their_arrays_take():
    from monai_anomaly import transforms

    pairs = [(n[:-1], n) for n in transforms.__all__ if n.endswith("d") and n[:-1] in transforms.__all__]
    assert len(pairs) >= 5
    for array, dictionary in pairs:
        wanted = set(inspect.signature(getattr(transforms, array)).parameters)
        assert wanted <= set(inspect.signature(getattr(transforms, dictionary)).parameters), dictionary


def test_files_and_functions_are_small():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert len(lengths) > 40
    assert max(lengths.values()) <= 400
    assert statistics.median(lengths.values()) <= 150
    functions = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                functions.append((body[-1].end_lineno - body[0].lineno + 1 if body else 0, f"{path.name}:{node.name}"))
    assert statistics.median(length for length, _ in functions) <= 10
    assert sorted(functions)[int(0.95 * len(functions))][0] <= 40
    assert max(functions)[0] <= 60, max(functions)


def test_no_drawer_modules_and_nothing_unsafe():
    assert not {path.stem for path in FILES} & {"utils", "common", "helpers", "misc", "base"}
    text = "\n".join(path.read_text(encoding="utf-8") for path in FILES)
    for pattern in (r"\bpickle\b", r"weights_only=False", r"^\s*assert ", r"\bprint\(", r"/work/", r"\.\./shared"):
        assert not re.search(pattern, text, re.MULTILINE), pattern


def test_every_bundle_is_whole_and_ascii():
    bundles = list_bundles()
    assert len(bundles) >= 1
    for bundle in bundles:
        for name in (
            "LICENSE",
            "docs/README.md",
            "docs/paper.md",
            "configs/metadata.json",
            "configs/smoke.yaml",
            "configs/logging.conf",
        ):
            assert (bundle / name).is_file(), name
        assert not list(bundle.rglob("*.py"))
        for config in (bundle / "configs").iterdir():
            config.read_text(encoding="ascii")  # MONAI reads configs in the locale's encoding


OWN_TO_A_FILE = {
    "imports",
    "data",
    "dataset",
    "dataloader",
    "postprocessing",
    "handlers",
    "initialize",
    "run",
    "evaluator",
}


def test_train_and_inference_say_the_same():
    """What two files of a bundle both say, they say alike; what a network sees and is, they both say."""
    for bundle in list_bundles():
        names = ("train_localization", "train_segmenter", "train")  # of the stage that inference runs
        train_name = next(n for n in names if (bundle / "configs" / f"{n}.yaml").is_file())
        train, inference = (
            yaml.safe_load((bundle / "configs" / f"{n}.yaml").read_text(encoding="ascii"))
            for n in (train_name, "inference")
        )
        shared = (set(train) & set(inference)) - OWN_TO_A_FILE
        assert {"network_def", "network", "preprocessing", "in_channels", "image_size"} <= shared
        for key in shared:
            assert train[key] == inference[key], f"{bundle.name}: {key}"


def test_every_switch_is_checked():
    """Text from the command line, "false", would be true."""
    for file in ROOT.glob("bundles/*/configs/*.yaml"):
        config = yaml.safe_load(file.read_text(encoding="ascii"))
        if "initialize" not in config:
            continue  # an overlay
        switches = {key for key, value in config.items() if isinstance(value, bool)}
        calls = " ".join(line for line in config["initialize"] if "check_flags" in line)
        assert switches <= set(re.findall(r"(\w+)=@", calls)), file


def test_config_expressions_are_short_and_targets_are_whole():
    count = 0
    for file in ROOT.glob("bundles/*/configs/*.yaml"):
        for line in file.read_text(encoding="ascii").splitlines():
            match = re.search(r":\s*['\"]?(\$.*?)['\"]?(\s+#.*)?$", line)
            if match:
                count += 1
                assert len(match[1]) <= 75, line
    assert count > 20


def test_readme_commands_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"make (demo|test|check|bench)", text))
    assert named == {"demo", "test", "check", "bench"}
    assert all(f"\n{target}:" in make for target in named)
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / link).exists() or (ROOT / f"{link}.md").exists(), link


NOT_REMEMBERED = {  # places, speed, and what a training may be gone on with to a longer end
    *("bundle_root", "dataset_dir", "output_dir", "ckpt_path", "ckpt_dir", "maps_dir", "cache_dir", "folds_file"),
    *(
        "labels_dir",
        "labels_file",
        "num_workers",
        "cache_gb",
        "save_interval",
        "resume",
        "amp",
        "tracking",
        "num_figures",
    ),
    *("max_epochs", "gan_epochs", "encoder_epochs", "swa_start", "swa_learning_rate", "section", "method", "guide"),
    *("map_settings", "healthy_name", "num_histogram_images", "num_references", "dice_by", "opening_size", "closing"),
    *("sw_batch_size", "map_ext", "map_writer", "label_ext", "label_writer", "invert_maps", "slice_axis", "seed"),
}


def test_what_results_depend_on_is_remembered_where_runs_go_on():
    """Every plain knob of a config is among the settings that an interrupted run is compared by."""
    checked = 0
    for file in sorted(file for bundle in list_bundles() for file in bundle.glob("configs/*.yaml")):
        text = file.read_text(encoding="utf-8")
        if not any(name in text for name in ("TrainingCheckpoint", "FitCheckpoint", "CaseJournal")):
            continue
        blocks = re.findall(r"^( +)settings:\n((?:\1  .*\n)+)", text, flags=re.MULTILINE)
        assert blocks, file
        for knob, value in yaml.safe_load(text).items():
            expression = isinstance(value, str) and value[:1] in ("$", "@")
            if isinstance(value, dict) or expression or knob in {*NOT_REMEMBERED, "imports", "initialize", "run"}:
                continue
            if knob == "handlers":
                continue
            for _, block in blocks:
                assert re.search(rf"@{knob}\b", block), f"{file}: {knob} is not among the settings"
                checked += 1
    assert checked > 200


def test_every_bundle_runs_in_several_processes():
    """The overlays of the zoo's convention are there, and begin before anything else of a run does."""
    for bundle in list_bundles():
        overlays = {
            file.stem: yaml.safe_load(file.read_text(encoding="ascii")) for file in bundle.glob("*/multi_gpu_*")
        }
        assert {"multi_gpu_train", "multi_gpu_evaluate", "multi_gpu_inference"} <= set(overlays)
        for name, overlay in overlays.items():
            assert overlay["device"] == {"_target_": "monai_anomaly.ranks.join"}, name
            assert overlay["initialize::0"] == "$[@device, monai.utils.set_determinism(seed=@seed)]", name
            assert overlay["finalize"] == ["$torch.distributed.destroy_process_group()"], name
        for file in (bundle / "configs").glob("*.yaml"):
            config = yaml.safe_load(file.read_text(encoding="ascii"))
            if "initialize" in config:
                assert config["initialize"][0] == "$monai.utils.set_determinism(seed=@seed)", file
