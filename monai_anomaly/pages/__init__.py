"""Pages to look at runs with: no server, no network, only a browser."""

from .run_folder import CaseOfRun, RunFolder
from .site import write_report, write_view

__all__ = ["CaseOfRun", "RunFolder", "write_report", "write_view"]
