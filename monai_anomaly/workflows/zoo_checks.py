"""The model zoo's checks of a bundle."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from monai.bundle import verify_metadata, verify_net_in_out

from monai_anomaly.workflows.bundles import config_files


def check_bundle(bundle: Path, schema: Path | None = None) -> list[str]:
    """Run the model zoo's checks that need no network, and return what was checked.

    Files, version and changelog, metadata against the published schema, network input and output. The network is
    checked as ``smoke.yaml`` shrinks it, which also stands in for what fitting would bring.

    Args:
        bundle: its folder.
        schema: the metadata schema's file; None checks without the schema's text, by the required keys alone.

    Raises:
        ValueError: a check failed.
    """
    required = ("LICENSE", "configs/metadata.json", "configs/inference.yaml", "docs/README.md", "docs/paper.md")
    missing = [name for name in required if not (bundle / name).is_file()]
    if missing:
        msg = f"{bundle.name} lacks {', '.join(missing)}."
        raise ValueError(msg)
    meta = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    if meta.get("version") not in meta.get("changelog", {}):
        msg = f"{bundle.name}: version {meta.get('version')!r} is not in the changelog."
        raise ValueError(msg)
    checked = ["files", "version and changelog"]
    meta_file = str(bundle / "configs" / "metadata.json")
    if schema is not None:
        with tempfile.TemporaryDirectory() as folder:  # verify_metadata looks here first, and then not on the network
            shutil.copy(schema, Path(folder) / "schema.json")
            verify_metadata(meta_file=meta_file, filepath=str(Path(folder) / "schema.json"))
        checked.append("metadata schema")
    configs = config_files(bundle, ["inference", "smoke"])
    verify_net_in_out(net_id="network_def", meta_file=meta_file, config_file=configs, device="cpu", n=8)
    return [*checked, "network input and output"]
