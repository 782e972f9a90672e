"""The report: one HTML file for any browser, without network access and scripts.

In: computed metrics, and paths of images. Out: report.html, with all images embedded.
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
_WIDEST = 30  # most classes in the confusion table; with more, the most frequent confusions are listed
_LISTED = 20  # confusions


@dataclass(frozen=True)
class Mistake:
    """A misclassified image; probability, 0..1, of the predicted class."""

    path: Path
    true: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Report:
    """The contents of the page.

    Attributes:
        title: data set and split.
        facts: labels and values: network, weights, input, command.
        figures: the fields of `evaluate --json`.
        mistakes: misclassified images, worst first; all are shown, so give a few.
        curves: curves.png, if there is one.
        warnings: warnings to show.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    figures: dict[str, Any]
    mistakes: Sequence[Mistake]
    curves: Path | None
    warnings: Sequence[str] = ()


def write_report(path: Path, report: Report) -> None:
    """Render the page and write it atomically.

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
    """Rows of the confusion table: class, and for every cell its count, its share of the row, and whether it is correct."""
    rows = []
    for i, (each, counts) in enumerate(zip(figures["classes"], figures["confusion"], strict=True)):
        total = max(1, sum(counts))
        rows.append((each["class"], [(count, count / total, i == j) for j, count in enumerate(counts)]))
    return rows


def _listed(figures: dict[str, Any]) -> list[tuple[int, str, str]]:
    return most_frequent_confusions([each["class"] for each in figures["classes"]], figures["confusion"], _LISTED)


def _thumbnail(path: Path) -> str:
    """A thumbnail as a data URL; empty if the image can no longer be read."""
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
    """Confused pairs of classes, most frequent first: number of images, true class, predicted class.

    Args:
        names: class names.
        confusion: `confusion[i][j]` is the number of images of class i predicted as class j.
        most: largest number of pairs.
    """
    pairs = [(count, names[i], names[j]) for i, row in enumerate(confusion) for j, count in enumerate(row) if i != j and count]
    return sorted(pairs, key=lambda pair: -pair[0])[:most]
