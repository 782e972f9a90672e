"""Error curves of several networks on one sheet, as in figure 6 of He et al. 2015.

In: a `Curve` for every network. Out: a PNG or SVG figure: training error dashed, held-out error solid, a colour a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnet_cli.data.own_files import COMPARED_BY, is_figure
from resnet_cli.errors import ResnetError
from resnet_cli.reports.figures import literal, save_figure


@dataclass(frozen=True)
class Curve:
    """Errors (shares, 0..1) by epoch, a list a run; several runs become their mean, and a band of one standard deviation."""

    label: str
    train: Sequence[Sequence[float]]
    held_out: Sequence[Sequence[float]]


def check_picture(picture: Path) -> None:
    """See whether a figure may be written there: an earlier comparison is replaced, any other file is not.

    Raises:
        ResnetError: it is neither PNG nor SVG, or the place is taken.
    """
    if picture.suffix.lower() not in (".png", ".svg"):
        raise ResnetError(f"--output {picture} is neither .png nor .svg", "such as --output compare.png")
    if not picture.exists():
        return
    if picture.is_file() and is_figure(picture, COMPARED_BY):
        return
    raise ResnetError(f"{picture} exists and is no figure of `{COMPARED_BY}`", "choose another --output")


def draw_comparison(curves: Sequence[Curve], title: str, held_out: str, picture: Path) -> None:
    """Draw all curves into one figure.

    Args:
        curves: at least one.
        title: of the figure.
        held_out: what solid lines were measured on, such as "test".
        picture: file to write, .png or .svg.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    palette = matplotlib.colormaps["tab10" if len(curves) <= 10 else "turbo"]
    for place, curve in enumerate(curves):
        colour = palette(place if len(curves) <= 10 else place / len(curves))
        _line(axes, curve.train, "--", colour, None)
        _line(axes, curve.held_out, "-", colour, literal(curve.label))
    axes.set(xlabel="epoch", ylabel="error, %", ylim=_limits(curves), title=literal(title))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(title=f"solid: {held_out}, dashed: training")
    save_figure(figure, picture, COMPARED_BY)


def _line(axes: Axes, runs: Sequence[Sequence[float]], style: str, colour: tuple[float, ...], label: str | None) -> None:
    # Runs that stopped early end the mean: beyond them it would be one of other runs.
    length = min(map(len, runs))
    values = 100 * np.array([run[:length] for run in runs])
    epochs, mean = np.arange(1, length + 1), values.mean(0)
    axes.plot(epochs, mean, style, color=colour, label=label, linewidth=1.2, marker="." if length == 1 else None)
    if len(runs) > 1:
        spread = values.std(0, ddof=1)
        axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """Both ends of the axis, in %, so that the last epochs can be told apart.

    The first epochs are cut off, as in the paper; the axis begins at 0 unless that left more than half of the figure empty.
    """
    runs = [run for curve in curves for run in (*curve.train, *curve.held_out)]
    top = min(100.0, 130 * max(*(max(run[len(run) // 2 :]) for run in runs), 0.01))
    lowest = 100 * min(map(min, runs))
    return (0.0 if lowest < top / 2 else lowest - (top - lowest) / 10), top
