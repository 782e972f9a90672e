"""What becomes of a range test of the learning rate: its plot and figures in a folder, and the rate that training takes."""

from pathlib import Path
from typing import Any

from resnet_cli.errors import ResnetError
from resnet_cli.learning.rate_finder import RateSearch
from resnet_cli.progress import Progress
from resnet_cli.reports.rate_curve import write_rate_curve

_PLOT = "rate.png"


def usable_rate(search: RateSearch, progress: Progress) -> float:
    """The suggested rate, told to the user.

    Raises:
        ResnetError: the test suggests none.
    """
    if search.suggested is None:
        raise ResnetError(
            "the range test suggests no learning rate: the loss fell nowhere clearly",
            "`--lr-find plot` draws it; name a rate with --learning-rate",
        )
    progress.line(f"the range test suggests --learning-rate {search.suggested:g}")
    return search.suggested


def write_search(folder: Path, search: RateSearch) -> None:
    """Write rate.png and rate.csv."""
    write_rate_curve(folder / _PLOT, search.rates, search.losses, search.smoothed, search.suggested)


def search_record(folder: Path, search: RateSearch) -> dict[str, Any]:
    """The JSON contract of `--lr-find plot`."""
    return {"folder": str(folder), "plot": str(folder / _PLOT), "suggested": search.suggested}
