"""Running bundles, checking them, and handing them to other programs."""

from .bundles import StrictConfigWorkflow, bundles_folder, check_flags, config_files, find_bundle, guard, list_bundles
from .exports import calibration_of, export_bundle, export_label_server, with_weights
from .zoo_checks import check_bundle

__all__ = [
    "StrictConfigWorkflow",
    "bundles_folder",
    "calibration_of",
    "check_bundle",
    "check_flags",
    "config_files",
    "export_bundle",
    "export_label_server",
    "find_bundle",
    "guard",
    "list_bundles",
    "with_weights",
]
