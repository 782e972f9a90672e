"""The report: one HTML file that opens in any browser, without a network and without scripts.

In: figures that others computed, and paths of images. Out: report.html, with every image inside it.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from resnet_cli.data.decode import decode
from resnet_cli.errors import ResnetError
from resnet_cli.files import write_text

_THUMBNAIL = 160  # pixels
_WIDEST = 30  # classes that the confusion table shows; of more, the most frequent confusions are listed
_LISTED = 20  # confusions


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class; probability, 0..1, of the class that it was taken for."""

    path: Path
    true: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        title: data set and split.
        facts: labels and values: network, weights, input, command.
        figures: the fields of `evaluate --json`.
        mistakes: the worst first; the page shows them all, so hand over a few.
        curves: curves.png, where there is one.
        warnings: what the reader must know.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    figures: dict[str, Any]
    mistakes: Sequence[Mistake]
    curves: Path | None
    warnings: Sequence[str] = ()


def write_report(path: Path, report: Report) -> None:
    """Render and write the page, whole.

    Raises:
        ResnetError: it cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("resnet_cli.reports", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    curves, wide = report.curves, len(report.figures["classes"]) > _WIDEST
    page = environment.get_template("report.html.j2").render(
        report=report,
        curves=_data_url(curves.read_bytes(), "png") if curves is not None and curves.exists() else "",
        mistakes=[(mistake, _thumbnail(mistake.path)) for mistake in report.mistakes],
        confusion=[] if wide else _shaded(report.figures),
        confusions=_listed(report.figures) if wide else [],
    )
    write_text(path, page)


def _shaded(figures: dict[str, Any]) -> list[tuple[str, list[tuple[int, float, bool]]]]:
    """Rows of the confusion table: class, and for every cell its count, its share of the row, and whether it is right."""
    rows = []
    for i, (each, counts) in enumerate(zip(figures["classes"], figures["confusion"], strict=True)):
        total = max(1, sum(counts))
        rows.append((each["class"], [(count, count / total, i == j) for j, count in enumerate(counts)]))
    return rows


def _listed(figures: dict[str, Any]) -> list[tuple[int, str, str]]:
    return most_frequent_confusions([each["class"] for each in figures["classes"]], figures["confusion"], _LISTED)


def _thumbnail(path: Path) -> str:
    """The image, small, as a data URL; empty where it can no longer be read."""
    try:
        image = Image.fromarray(decode(path, _THUMBNAIL))
    except ResnetError:
        return ""
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return _data_url(content.getvalue(), "jpeg")


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def most_frequent_confusions(names: Sequence[str], confusion: Sequence[Sequence[int]], most: int) -> list[tuple[int, str, str]]:
    """Pairs of classes that were confused: how many images, the true class, what they were taken for; the most first.

    Args:
        names: of the classes.
        confusion: `confusion[i][j]` images of class i were taken for class j.
        most: pairs that are wanted.
    """
    pairs = [(count, names[i], names[j]) for i, row in enumerate(confusion) for j, count in enumerate(row) if i != j and count]
    return sorted(pairs, key=lambda pair: -pair[0])[:most]
