"""The curve of a learning-rate range test, as a picture and as a table.

In: rates and losses. Out: a PNG, and a CSV beside it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.figure import Figure

from resnet_cli.data.own_files import CREATOR
from resnet_cli.files import write_csv
from resnet_cli.reports.figures import literal, save_figure


class RateCurve(Protocol):
    """A range test as `learning.rate_finder` gives it."""

    @property
    def rates(self) -> Sequence[float]: ...

    @property
    def losses(self) -> Sequence[float]: ...

    @property
    def smoothed(self) -> Sequence[float]: ...

    @property
    def suggested(self) -> float | None: ...


def write_rate_curve(curve: RateCurve, picture: Path, title: str) -> None:
    """Draw loss against rate, single batches and their average, with the suggestion marked; list the same figures.

    Args:
        curve: what to show.
        picture: PNG to write; the table is `picture` with the ending .csv: rate, loss, smoothed.
        title: of the figure.

    Raises:
        ResnetError: the disk is full, or the folder cannot be written.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(curve.rates, curve.losses, ".", color="tab:gray", alpha=0.6, label="single batches")
    axes.semilogx(curve.rates, curve.smoothed, color="tab:blue", label="smoothed")
    if curve.suggested is not None:
        axes.axvline(curve.suggested, color="tab:orange", linestyle="--", label=f"suggested: {curve.suggested:g}")
    # What diverged may lie anywhere above; to scale, nothing would be seen of the rest.
    low, high = min(curve.losses), max(curve.smoothed)
    room = 0.1 * (high - low) or 0.1
    axes.set_ylim(low - room, high + room)
    axes.set(xlabel="learning rate", ylabel="cross-entropy, nats", title=literal(title))
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, picture, f"{CREATOR}--lr-find")
    lines = zip(curve.rates, curve.losses, curve.smoothed, strict=True)
    write_csv(picture.with_suffix(".csv"), [("rate", "loss", "smoothed"), *lines])
