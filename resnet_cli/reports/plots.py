"""Line plots as SVG text that follows the page's colours, light and dark (light: the standard library only).

In: lines of points. Out: an `<svg>` element for the report. Figures for files are drawn by matplotlib, in `curves.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

_WIDTH, _HEIGHT = 480, 240  # units of the view box; the page scales it
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 20, 36
_DOT = 2.5


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes:
        points: (x, y), at least one; a single one is drawn as a dot, hollow if the line is dashed.
        tone: its colour, a class of the page's style sheet, such as "tone-0".
        dashed: whether it is dashed.
        dots: whether it has a dot at every point.
    """

    points: Sequence[tuple[float, float]]
    tone: str
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Plot:
    """A plot with its axes.

    Attributes:
        name: what it shows, for readers who cannot see it.
        x, y: labels of the axes.
        lines: what is drawn.
        x_range, y_range: limits; None for those of the data.
        whole: whether x has whole numbers only, such as epochs.
        marked: x of a vertical line, with its label.
        bars: (left, right, height) of bars behind the lines.
    """

    name: str
    x: str
    y: str
    lines: Sequence[Line]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    whole: bool = False
    marked: tuple[float, str] | None = None
    bars: Sequence[tuple[float, float, float]] = field(default=())


def ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """Round values from `low` to `high`, at most `most` of them: multiples of 1, 2 or 5 times a power of ten."""
    span = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(span / most))
    if whole:
        step = max(1, step)
    step = next(
        step * factor
        for factor in (1, 2, 5, 10, 20)
        if math.floor(high / (step * factor)) - math.ceil(low / (step * factor)) < most
    )
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def draw(plot: Plot) -> str:
    """The plot as an `<svg>` element; colours come from the classes tone-0 to tone-7, grid, axis and bar of the style sheet."""
    points = [point for line in plot.lines for point in line.points]
    (left, right), (bottom, top) = (
        plot.x_range or _limits([x for x, _ in points]),
        plot.y_range or _limits([y for _, y in points]),
    )

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        return across, _HEIGHT - _BOTTOM - (y - bottom) / (top - bottom) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(plot.name)}">']
    for value in ticks(left, right, 8, plot.whole):
        x, _ = place(value, bottom)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{value:g}</text>')
    for value in ticks(bottom, top, 6):
        _, y = place(left, value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for start, end, height in plot.bars:
        (x, y), (to, zero) = place(start, height), place(end, max(bottom, 0.0))
        parts.append(
            f'<rect class="bar" x="{x + 1:.1f}" y="{y:.1f}" width="{max(0.0, to - x - 2):.1f}" height="{zero - y:.1f}"/>'
        )
    if plot.marked:
        x, _ = place(plot.marked[0], bottom)
        side, shift = ("end", -5) if x > _WIDTH / 2 else ("start", 5)
        parts.append(f'<path class="mark" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        parts.append(
            f'<text class="tick" x="{x + shift:.1f}" y="{_TOP - 8}" text-anchor="{side}">{escape(plot.marked[1])}</text>'
        )
    for line in plot.lines:
        parts += _drawn(line, [place(x, y) for x, y in line.points])
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>')
    parts.append(f'<text class="tick" x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(plot.x)}</text>')
    height = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text class="tick" transform="translate(12 {height}) rotate(-90)" text-anchor="middle">{escape(plot.y)}</text>'
    )
    return "".join([*parts, "</svg>"])


def _drawn(line: Line, places: Sequence[tuple[float, float]]) -> list[str]:
    way = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dashed = " dashed" if line.dashed else ""
    parts = [f'<path class="line {line.tone}{dashed}" d="M{way}"/>'] if len(places) > 1 else []
    hollow = " hollow" if line.dashed else ""
    if line.dots or len(places) == 1:
        parts += [f'<circle class="dot {line.tone}{hollow}" cx="{x:.1f}" cy="{y:.1f}" r="{_DOT}"/>' for x, y in places]
    return parts


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Limits with a little room; of equal values, half a unit around them."""
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room
