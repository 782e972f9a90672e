"""The report of `compare`: several runs in one table and one plot, and the images on which two of them differ.

In: rows of figures, curves, and pairs of runs with their predictions. Out: one HTML file, as `page.py` writes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_cli.files import write_text
from resnet_cli.reports.curves import Curve
from resnet_cli.reports.page import Embedded, Shown, embed, environment
from resnet_cli.reports.plots import Line, Plot, draw


@dataclass(frozen=True)
class Guess:
    """What the two runs of a pair said of one image: classes and their probabilities, 0..1."""

    path: Path
    true: str
    first: str
    first_probability: float
    second: str
    second_probability: float


@dataclass(frozen=True)
class Pair:
    """Two runs and the held-out images that both measured.

    Attributes:
        first, second: names of the runs.
        both, only_first, only_second, neither: number of images by which runs are right.
        p_value: of the exact McNemar test, 0..1: how often two equally good runs would differ as much.
        lost, gained: images that only the first, and only the second run gets right; all are shown, so give a few.
    """

    first: str
    second: str
    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float
    lost: Sequence[Guess]
    gained: Sequence[Guess]


@dataclass(frozen=True)
class Comparison:
    """The contents of the page.

    Attributes:
        title: data set.
        headings: of the table's columns.
        rows: its cells as text; the first of each is the name.
        curves: error by epoch of every row.
        held_out: the split of the solid lines, such as "validation".
        pairs: runs with images on which they differ.
        notes: remarks on the figures.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    curves: Sequence[Curve]
    held_out: str
    pairs: Sequence[Pair]
    notes: Sequence[str]


@dataclass(frozen=True)
class _Side:
    """The images that one run of a pair alone gets right."""

    winner: str
    loser: str
    count: int
    images: Sequence[tuple[Guess, Embedded]]


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Render the page and write it atomically.

    Raises:
        ResnetError: it cannot be written.
    """
    tones = [f"tone-{place % 8}" for place in range(len(comparison.curves))]
    pairs = [
        (
            pair,
            [
                _Side(pair.second, pair.first, pair.only_second, _embedded(pair.gained)),
                _Side(pair.first, pair.second, pair.only_first, _embedded(pair.lost)),
            ],
        )
        for pair in comparison.pairs
    ]
    page = (
        environment()
        .get_template("comparison.html.j2")
        .render(
            comparison=comparison,
            plot=_plot(comparison, tones),
            legend=[(curve.label, tone) for curve, tone in zip(comparison.curves, tones, strict=True)],
            pairs=pairs,
        )
    )
    write_text(path, page)


def _embedded(guesses: Sequence[Guess]) -> list[tuple[Guess, Embedded]]:
    return [
        (each, embed(Shown(each.path, each.true, each.first, each.first_probability, each.second_probability)))
        for each in guesses
    ]


def _plot(comparison: Comparison, tones: Sequence[str]) -> str:
    lines = []
    for curve, tone in zip(comparison.curves, tones, strict=True):
        lines += [Line(_points(curve.train), tone, dashed=True), Line(_points(curve.held_out), tone)]
    name = f"Error by epoch; solid: {comparison.held_out} images, dashed: training images"
    return draw(Plot(name, "epoch", "error, %", lines, whole=True))


def _points(runs: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """The mean over runs by epoch, in percent; it ends with the shortest run."""
    return [(float(epoch), 100 * sum(errors) / len(errors)) for epoch, errors in enumerate(zip(*runs, strict=False), 1)]
