"""What becomes of a range test of the learning rate: its plot and figures in a folder, and the rate that training takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnet_cli.cli.beginning import begun_with, remember
from resnet_cli.learning.rate_finder import RateSearch
from resnet_cli.learning.transfer import ChooseRate
from resnet_cli.progress import Progress
from resnet_cli.reports.rate_curve import write_rate_curve

_PLOT, _FOUND = "rate.png", "found_rate"


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


def search_record(folder: Path, suggested: float | None, warnings: list[str]) -> dict[str, Any]:
    """The JSON contract of `--lr-find plot`."""
    return {"folder": str(folder), "plot": str(folder / _PLOT), "suggested": suggested, "warnings": warnings}


def search_once(folder: Path, usual: float, only: bool, progress: Progress) -> ChooseRate:
    """What chooses the rate of a run's second stage by a range test, which a run that goes on does not repeat.

    Args:
        folder: the run; it gets the plot.
        usual: the rate where the test suggests none.
        only: nothing is trained with it.
        progress: where to report.
    """

    def choose(search: Callable[[], RateSearch]) -> float | None:
        before = found_rate(folder)
        if before is not None:
            return before
        found = search()
        write_search(folder, found)
        rate = found.suggested if only else usable_rate(found, usual, progress)
        remember(folder, _FOUND, rate)
        return None if only else rate

    return choose


def found_rate(folder: Path) -> float | None:
    """What the range test of an unfinished run came to; None where there was none."""
    rate: float | None = begun_with(folder).get(_FOUND)
    return rate
