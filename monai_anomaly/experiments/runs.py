"""Bundle runs inside an experiment."""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_anomaly.checks import root_cause
from monai_anomaly.data.writers import write_atomically
from monai_anomaly.workflows import StrictConfigWorkflow, config_files, find_bundle

logger = logging.getLogger(__name__)

_LIBRARIES = ("monai_anomaly.workflows", "monai.engines", "monai.transforms", "monai.handlers", "torch._dynamo")


def warm_processes() -> BaseContext:
    """Return a way to start processes that have the libraries loaded already: seconds less for each but the first."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_LIBRARIES))
    return context


def end_with_parent() -> None:
    """Let this process end when the one that asked for it does: nobody would wait for its result."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class Runs:
    """Run configs of a bundle one after the other; one that fails is noted and does not take the others with it.

    Args:
        bundle: its stem.
        extra: names of configs laid over all others.
        overrides: for every run that has the id.
    """

    def __init__(self, bundle: str, extra: Sequence[str] = (), overrides: Mapping[str, Any] | None = None) -> None:
        self.folder = find_bundle(bundle)
        self.extra = list(extra)
        self.overrides = dict(overrides or {})
        self.failures: list[tuple[str, str]] = []

    def check(self, configs: Sequence[str]) -> None:
        """Check the overrides before the first run.

        Args:
            configs: that have all the ids together.

        Raises:
            ValueError: none of them has an id; the message names the nearest one.
        """
        files = config_files(self.folder, [*configs, *self.extra])
        with quiet_runs():
            StrictConfigWorkflow(files, override=self.overrides, workflow_type=None, logging_file=False)

    def __call__(self, name: str, configs: Sequence[str], overrides: Mapping[str, Any]) -> bool:
        """Run configs laid over one another and say whether they came to their end.

        Args:
            name: of the run, for the list of failures.
            configs: by name.
            overrides: by id; those of every run come first.
        """
        try:
            with quiet_runs():
                self._run(configs, overrides)
        except Exception as error:
            logger.debug("run %s", name, exc_info=True)
            self.failures.append((name, root_cause(error)))
            logger.warning("%s failed: %s", *self.failures[-1])
            return False
        finally:
            gc.collect()  # engines and their handlers refer to one another
        return True

    def _run(self, configs: Sequence[str], overrides: Mapping[str, Any]) -> None:
        files = config_files(self.folder, [*configs, *self.extra])
        known = ConfigParser()
        known.read_config(files)
        own = {key: value for key, value in self.overrides.items() if key in known}
        workflow = StrictConfigWorkflow(files, override={**overrides, **own}, workflow_type=None, logging_file=False)
        workflow.initialize()
        workflow.run()
        workflow.finalize()


@contextmanager
def quiet_runs() -> Iterator[None]:
    """Hold back what each run would say; warnings pass."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith(("ignite", "monai"))]
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING if name.startswith("monai_anomaly") else logging.ERROR)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def same_as_before(file: Path, settings: Mapping[str, Any]) -> None:
    """Note the settings of an experiment, or compare them with those it was begun with; guides may be added."""
    now = json.loads(json.dumps(settings, default=str))
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    other = [name for name in now if name in before and before[name] != now[name]]
    if other:
        listed = "; ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in other)
        msg = f"{file.parent} holds an experiment with other settings: {listed}. Choose another --out."
        raise ValueError(msg)
    write_atomically(
        file, lambda path: path.write_text(json.dumps({**before, **now}, indent=4) + "\n", encoding="utf-8")
    )
