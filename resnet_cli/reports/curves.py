"""Curves as image files: of one training, of several networks in one figure, of a learning-rate range test.

In: epochs, or a `Curve` for every network. Out: a PNG or SVG figure, training error dashed and held-out error solid as in
figure 6 of He et al. 2015, and the table of a range test.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnet_cli.data.folders import COMPARED_BY, CREATOR
from resnet_cli.files import write_bytes, write_csv
from resnet_cli.runs.folder import EpochRecord, read_history


def literal(text: str) -> str:
    """Escape a name: matplotlib would read text between dollar signs as a formula, and cannot draw undecodable bytes."""
    return text.replace("$", r"\$").encode(errors="backslashreplace").decode()


def save_figure(figure: Figure, image: Path, creator: str) -> None:
    """Write a figure; the same figure gives the same bytes.

    Args:
        figure: what was drawn.
        image: .png or .svg.
        creator: the command that drew it, recorded in the file.
    """
    kind = image.suffix.lower().removeprefix(".")
    metadata = {"Creator": creator, "Date": None} if kind == "svg" else {"Software": creator}
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": creator}), warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes; that needs no warning.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(buffer, format=kind, dpi=120, metadata=metadata)
    write_bytes(image, buffer.getbuffer())


_COLOURS = {"train": "tab:blue", "tail": "tab:blue", "head": "tab:orange"}


def draw_curves(metrics: Path, image: Path, title: str, label_smoothing: float) -> None:
    """Draw loss and accuracy over the epochs of every stage.

    Args:
        metrics: the run's metrics.jsonl.
        image: PNG to write.
        title: title of the figure.
        label_smoothing: label smoothing of the training loss, except in the head stage; the validation loss has none.
    """
    save_figure(curves(read_history(metrics), title, label_smoothing), image, f"{CREATOR}curves")


def curves(records: Sequence[EpochRecord], title: str, label_smoothing: float) -> Figure:
    """The figure that `draw_curves` writes."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for stage in dict.fromkeys(record.stage for record in records):
        rows = [record for record in records if record.stage == stage]
        smoothed = f" (label smoothing {label_smoothing:g})" if label_smoothing and stage != "head" else ""
        _lines(loss, rows, "loss", stage, smoothed)
        _lines(accuracy, rows, "accuracy", stage)
    loss.set(xlabel="epoch", ylabel="cross-entropy, nats")
    accuracy.set(xlabel="epoch", ylabel="accuracy", ylim=(None, 1.0))
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(literal(title))
    return figure


def _lines(axes: Axes, rows: Sequence[EpochRecord], figure: str, stage: str, smoothed: str = "") -> None:
    epochs, colour = [row.epoch for row in rows], _COLOURS[stage]
    # A line of one epoch would be invisible: draw a marker.
    marker = "o" if len(rows) == 1 else None
    training, validation = [getattr(row, figure) for row in rows], [getattr(row, f"val_{figure}") for row in rows]
    axes.plot(epochs, training, "--", color=colour, label=f"{stage}, training{smoothed}", marker=marker, fillstyle="none")
    axes.plot(epochs, validation, "-", color=colour, label=f"{stage}, validation", marker=marker)


@dataclass(frozen=True)
class Curve:
    """Errors (shares, 0..1) by epoch, one list per run; several become their mean and a band of one standard deviation."""

    label: str
    train: Sequence[Sequence[float]]
    held_out: Sequence[Sequence[float]]


_LABEL = 70  # characters of a legend


def draw_comparison(curves: Sequence[Curve], title: str, held_out: str, image: Path) -> None:
    """Draw all curves into one figure.

    Args:
        curves: at least one.
        title: title of the figure.
        held_out: split of the solid lines, such as "test".
        image: file to write, .png or .svg.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    palette = matplotlib.colormaps["tab10" if len(curves) <= 10 else "turbo"]
    for place, curve in enumerate(curves):
        colour = palette(place if len(curves) <= 10 else place / len(curves))
        _line(axes, curve.train, "--", colour, None)
        _line(axes, curve.held_out, "-", colour, literal(_short(curve.label)))
    axes.set(xlabel="epoch", ylabel="error, %", ylim=error_limits(curves), title=literal(title))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.legend(title=f"solid: {held_out}, dashed: training")
    save_figure(figure, image, COMPARED_BY)


def _short(label: str) -> str:
    """A label that leaves room for the axes: of a long one, the beginning and the end, where names of runs differ."""
    half = _LABEL // 2
    return label if len(label) <= _LABEL else f"{label[:half]}…{label[-half:]}"


def _line(axes: Axes, runs: Sequence[Sequence[float]], style: str, colour: tuple[float, ...], label: str | None) -> None:
    # The mean ends with the shortest run: later it would be the mean of fewer runs.
    length = min(map(len, runs))
    values = 100 * np.array([run[:length] for run in runs])
    epochs, mean = np.arange(1, length + 1), values.mean(0)
    axes.plot(epochs, mean, style, color=colour, label=label, linewidth=1.2, marker="." if length == 1 else None)
    if len(runs) > 1:
        spread = values.std(0, ddof=1)
        axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)


def error_limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """Limits of the error axis, in %, chosen so that the last epochs can be distinguished.

    The first epochs are cut off, as in the paper; the axis begins at 0 unless more than half of the figure would be empty.
    """
    runs = [run for curve in curves for run in (*curve.train, *curve.held_out)]
    top = min(100.0, 130 * max(*(max(run[len(run) // 2 :]) for run in runs), 0.01))
    lowest = 100 * min(map(min, runs))
    return (0.0 if lowest < top / 2 else lowest - (top - lowest) / 10), top


class RateCurve(Protocol):
    """A range test as `training.rate_finder` gives it."""

    @property
    def rates(self) -> Sequence[float]:
        """Learning rates, rising."""
        ...

    @property
    def losses(self) -> Sequence[float]:
        """Training loss of one batch at each of them."""
        ...

    @property
    def smoothed(self) -> Sequence[float]:
        """Its moving average."""
        ...

    @property
    def suggested(self) -> float | None:
        """The rate to train with; None if the loss did not clearly fall."""
        ...


def write_rate_curve(curve: RateCurve, image: Path, title: str) -> None:
    """Draw loss against rate, single batches and their average, with the suggested rate; write the same numbers as a table.

    Args:
        curve: the range test.
        image: PNG to write; the table is `image` with the extension .csv: rate, loss, smoothed.
        title: title of the figure.

    Raises:
        ResnetError: the disk is full, or the folder cannot be written.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(curve.rates, curve.losses, ".", color="tab:gray", alpha=0.6, label="single batches")
    axes.semilogx(curve.rates, curve.smoothed, color="tab:blue", label="smoothed")
    if curve.suggested is not None:
        axes.axvline(curve.suggested, color="tab:orange", linestyle="--", label=f"suggested: {curve.suggested:g}")
    # Diverged losses can be so high that the rest of the curve would be flat: cut them off.
    low, high = min(curve.losses), max(curve.smoothed)
    room = 0.1 * (high - low) or 0.1
    axes.set_ylim(low - room, high + room)
    axes.set(xlabel="learning rate", ylabel="cross-entropy, nats", title=literal(title))
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, image, f"{CREATOR}--lr-find")
    lines = zip(curve.rates, curve.losses, curve.smoothed, strict=True)
    write_csv(image.with_suffix(".csv"), [("rate", "loss", "smoothed"), *lines])
