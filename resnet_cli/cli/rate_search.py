"""What becomes of a range test of the learning rate: its plot and figures in a folder, and the rate that training takes."""

from pathlib import Path
from typing import Any

from resnet_cli.learning.rate_finder import RateSearch
from resnet_cli.progress import Progress
from resnet_cli.reports.rate_curve import write_rate_curve

_PLOT = "rate.png"


def usable_rate(search: RateSearch, usual: float, progress: Progress) -> float:
    """The suggested rate, or the usual one where the test suggests none; told to the user."""
    if search.suggested is None:
        progress.line(f"the range test suggests nothing: no rate lowers the loss clearly; --learning-rate {usual:g} stays")
        return usual
    progress.line(f"the range test suggests --learning-rate {search.suggested:g}")
    return search.suggested


def write_search(folder: Path, search: RateSearch) -> None:
    """Write rate.png and rate.csv."""
    write_rate_curve(search, folder / _PLOT, folder.name)


def search_record(folder: Path, search: RateSearch) -> dict[str, Any]:
    """The JSON contract of `--lr-find plot`."""
    return {"folder": str(folder), "plot": str(folder / _PLOT), "suggested": search.suggested}
