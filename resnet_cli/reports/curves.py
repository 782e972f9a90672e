"""Training curves as an image.

In: a run's metrics.jsonl. Out: curves.png: loss and accuracy, training dashed, validation solid.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnet_cli.data.own_files import CREATOR
from resnet_cli.history import EpochRecord, read_history
from resnet_cli.reports.figures import literal, save_figure

_COLOURS = {"train": "tab:blue", "tail": "tab:blue", "head": "tab:orange"}


def draw_curves(metrics: Path, image: Path, title: str, label_smoothing: float) -> None:
    """Draw loss and accuracy over the epochs of every stage.

    Args:
        metrics: the run's metrics.jsonl.
        image: PNG to write.
        title: of the figure.
        label_smoothing: that the training loss carries, in stages other than the head; the validation loss carries none.
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
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(literal(title))
    return figure


def _lines(axes: Axes, rows: Sequence[EpochRecord], figure: str, stage: str, smoothed: str = "") -> None:
    epochs, colour = [row.epoch for row in rows], _COLOURS[stage]
    # One epoch is no line: it would be drawn as nothing.
    marker = "o" if len(rows) == 1 else None
    training, validation = [getattr(row, figure) for row in rows], [getattr(row, f"val_{figure}") for row in rows]
    axes.plot(epochs, training, "--", color=colour, label=f"{stage}, training{smoothed}", marker=marker, fillstyle="none")
    axes.plot(epochs, validation, "-", color=colour, label=f"{stage}, validation", marker=marker)
