"""Reports: figures that others computed become plots and HTML pages. This file says which report is asked for (light).

Matplotlib logs a message about its font cache, built once per machine; it is silenced, as only `cli/` writes to the terminal.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_cli.errors import ResnetError
from resnet_cli.runs.folder import GENERATOR

logging.getLogger("matplotlib").setLevel(logging.ERROR)

MISTAKES = 24  # misclassified images in a report


@dataclass(frozen=True)
class Page:
    """Which report is written.

    Attributes:
        path: its file; None for report.html in the folder of the figures.
        is_wanted: whether there is one at all.
        explained: mistakes that get a class-activation map; an ensemble has none.
    """

    path: Path | None = None
    is_wanted: bool = True
    explained: int = MISTAKES

    def at(self, folder: Path) -> Path | None:
        """The report's path, for figures in a folder; None without a report."""
        return (self.path or folder / "report.html") if self.is_wanted else None

    def of_run(self, folder: Path) -> str | None:
        """The report's path in the record of a run: report.html if it is in the run's folder; None without a report."""
        path = self.at(folder)
        return None if path is None else path.name if path.absolute().parent == folder.absolute() else str(path)

    def require_possible(self) -> None:
        """Check the path before the work that the report is about.

        Raises:
            ResnetError: see `require_own_report`.
        """
        if self.path is not None:
            require_own_report(self.path)


def worst_first(classes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Classes as in the JSON output, those with the lowest recall first and those without images last."""
    return sorted(classes, key=lambda each: (not each["count"], each["recall"], each["f1"]))


def require_own_report(path: Path) -> None:
    """Check that a report may be written to a path: it replaces an earlier report, but no other file.

    Raises:
        ResnetError: the name does not end with .html, its folder is missing, or another file has it.
    """
    if path.suffix.lower() != ".html":
        raise ResnetError(f"--report {path} is no .html file", "such as --report report.html")
    if not path.exists():
        if not path.absolute().parent.is_dir():
            raise ResnetError(f"cannot write --report {path}: there is no folder {path.parent}", "create it first")
        return
    with suppress(OSError, ValueError):
        if GENERATOR in path.read_text(encoding="utf-8"):
            return
    raise ResnetError(f"{path} exists and is no report of this program", "choose another --report")
