"""The report: one HTML file for any browser, without network access, light and dark, on screens and on paper.

In: computed metrics, and paths of images. Out: report.html, with all images embedded. Everything can be read without scripts;
a script sorts the tables and draws the confusion matrix of many classes.
"""

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from resnet_cli.data.decode import decode
from resnet_cli.errors import ResnetError
from resnet_cli.files import write_text
from resnet_cli.reports import worst_first
from resnet_cli.reports.plots import Line, Plot, draw
from resnet_cli.runs.folder import EpochRecord

_THUMBNAIL = 160  # pixels
_TABLE = 30  # most classes in the confusion table; with more, the matrix is a heat map
_LISTED = 15  # confusions
_MANY = 12  # classes; the counts of more are folded
_POLICY = (
    "default-src 'none'; img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Shown:
    """An image of the report with its prediction.

    Attributes:
        path: the image.
        true, predicted: classes.
        probability: of the predicted class, 0..1.
        true_probability: of the true class, 0..1.
        heat: evidence for the predicted class, RGBA; None without a map.
        box: the part of the image that the map covers: left, top, right, bottom, shares of its sides.
        name: text below the image, such as its path in the data set; "" for its whole path.
    """

    path: Path
    true: str
    predicted: str
    probability: float
    true_probability: float
    heat: Image.Image | None = None
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    name: str = ""


@dataclass(frozen=True)
class Contents:
    """The images of a run: their number by split and class, and the files that are not used."""

    classes: Sequence[str]
    counts: dict[str, Sequence[int]]
    left_out: int | None = None
    copies: int | None = None


@dataclass(frozen=True)
class Report:
    """The contents of the page.

    Attributes:
        title: data set and split.
        facts: labels and values: network, weights, input, command.
        figures: the fields of `evaluate --json`.
        mistakes: misclassified images, worst first; all are shown, so give a few.
        unsure: images with the least certain predictions.
        unlike: images that are the least like the training images; a few.
        unlike_count: number of images unlike the training images; None if that is not known.
        reliability: bins of the reliability diagram: low, high, mean confidence, accuracy.
        precision_recall: of some classes the name, the average precision, and the points (recall, precision).
        history: epochs of the training; empty if unknown.
        best: phase and epoch whose weights were kept.
        label_smoothing: of the training loss, except in the head phase.
        contents: the images of the run; None if unknown.
        warnings: warnings to show.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    figures: dict[str, Any]
    mistakes: Sequence[Shown] = ()
    unsure: Sequence[Shown] = ()
    unlike: Sequence[Shown] = ()
    unlike_count: int | None = None
    reliability: Sequence[tuple[float, float, float, float]] = ()
    precision_recall: Sequence[tuple[str, float, Sequence[tuple[float, float]]]] = ()
    history: Sequence[EpochRecord] = ()
    best: tuple[str, int] | None = None
    label_smoothing: float = 0.0
    contents: Contents | None = None
    warnings: Sequence[str] = field(default=())


def write_report(path: Path, report: Report) -> None:
    """Render the page and write it atomically.

    Raises:
        ResnetError: it cannot be written.
    """
    figures = report.figures
    names = [each["class"] for each in figures["classes"]]
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            figures=figures,
            classes=worst_first(figures["classes"]),
            mistakes=list(map(embed, report.mistakes)),
            unsure=list(map(embed, report.unsure)),
            unlike=list(map(embed, report.unlike)),
            with_heat=any(each.heat is not None for each in report.mistakes),
            training=_training_plots(report),
            legend=_legend(report),
            reliability=_reliability_plot(report.reliability) if report.reliability else "",
            precision_recall=_precision_recall_plot(report.precision_recall) if report.precision_recall else "",
            confusion=_shaded(figures) if len(names) <= _TABLE else [],
            confusions=most_frequent_confusions(names, figures["confusion"], _LISTED),
            matrix=as_json(_sparse(names, figures["confusion"])) if len(names) > _TABLE else "",
            wide=_MANY < len(names) <= _TABLE,
            folded=len(names) > _MANY,
        )
    )
    write_text(path, page)


def environment() -> jinja2.Environment:
    """Where the pages' templates are read from; every value is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("resnet_cli.reports", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )


def content_policy(page: str) -> str:
    """The content security policy of a page that a server sends: its one script and style, and connections to the server."""
    return f"{_POLICY}; script-src {_hash_of('script', page)}; style-src {_hash_of('style', page)}"


def _hash_of(element: str, page: str) -> str:
    """The source expression of a content security policy that allows the page's only element of this kind."""
    (content,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def as_json(value: Any) -> str:
    """JSON that can stand in a `<script>` element, whatever names it contains."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _shaded(figures: dict[str, Any]) -> list[tuple[str, list[tuple[int, float, bool]]]]:
    """Rows of the confusion table: class, and for every cell its count, its share of the row, and whether it is correct."""
    rows = []
    for i, (each, counts) in enumerate(zip(figures["classes"], figures["confusion"], strict=True)):
        total = max(1, sum(counts))
        rows.append((each["class"], [(count, count / total, i == j) for j, count in enumerate(counts)]))
    return rows


def _sparse(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The matrix for the script: class names, and row, column and count of every cell that is not 0."""
    return {"names": names, "cells": [[i, j, count] for i, row in enumerate(confusion) for j, count in enumerate(row) if count]}


def most_frequent_confusions(names: Sequence[str], confusion: Sequence[Sequence[int]], most: int) -> list[tuple[int, str, str]]:
    """Confused pairs of classes, most frequent first: number of images, true class, predicted class.

    Args:
        names: class names.
        confusion: `confusion[i][j]` is the number of images of class i predicted as class j.
        most: largest number of pairs.
    """
    pairs = [(count, names[i], names[j]) for i, row in enumerate(confusion) for j, count in enumerate(row) if i != j and count]
    return sorted(pairs, key=lambda pair: -pair[0])[:most]


@dataclass(frozen=True)
class Embedded:
    """An image of the page: thumbnail and heat map as data URLs, "" for none; size in CSS pixels; style of the map."""

    shown: Shown
    url: str
    width: int
    height: int
    enlarged: bool
    heat: str
    place: str


def embed(shown: Shown) -> Embedded:
    """Prepare an image for the page; one that can no longer be read has no thumbnail."""
    try:
        image = Image.fromarray(decode(shown.path, _THUMBNAIL))
    except ResnetError:  # it can no longer be read
        return Embedded(shown, "", 0, 0, False, "", "")
    scale = _THUMBNAIL / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    if scale < 1:
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    left, top, right, bottom = (100 * edge for edge in shown.box)
    place = f"left:{left:.2f}%;top:{top:.2f}%;width:{right - left:.2f}%;height:{bottom - top:.2f}%"
    url = data_url(image, "JPEG", quality=80)
    heat = "" if shown.heat is None else data_url(shown.heat, "PNG")
    return Embedded(shown, url, width, height, scale >= 2, heat, place)


def data_url(image: Image.Image, kind: str, **how: Any) -> str:
    """An image as a data URL."""
    content = io.BytesIO()
    image.save(content, kind, **how)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


_PHASES = {"train": "training", "head": "head phase", "tail": "fine-tuning phase"}


def _training_plots(report: Report) -> list[str]:
    """Loss and accuracy over all epochs, phases one after the other; the epoch whose weights were kept is marked."""
    phases = list(dict.fromkeys(record.stage for record in report.history))
    if len(report.history) < 2:  # one epoch is no curve
        return []
    ordered = [record for phase in phases for record in report.history if record.stage == phase]
    kept = [place for place, record in enumerate(ordered, 1) if (record.stage, record.epoch) == report.best]
    mark = None
    if kept:
        best = ordered[kept[0] - 1]
        phase = f" of the {_PHASES.get(best.stage, best.stage)}" if len(phases) > 1 else ""
        mark = (float(kept[0]), f"kept: epoch {best.epoch}{phase}")

    def lines(figure: str) -> Iterable[Line]:
        for tone, phase in enumerate(phases):
            numbered = [(place, record) for place, record in enumerate(ordered, 1) if record.stage == phase]
            seen = [(float(place), getattr(record, figure)) for place, record in numbered]
            held = [(float(place), getattr(record, f"val_{figure}")) for place, record in numbered]
            yield Line(seen, f"tone-{tone}", dashed=True)
            yield Line(held, f"tone-{tone}")

    x_range = (0.5, len(ordered) + 0.5)
    loss = Plot("Loss by epoch", "epoch", "cross-entropy, nats", list(lines("loss")), x_range, None, True, mark)
    accuracy = Plot("Accuracy by epoch", "epoch", "accuracy", list(lines("accuracy")), x_range, None, True, mark)
    return [draw(loss), draw(accuracy)]


def _legend(report: Report) -> list[tuple[str, str, bool]]:
    """Of every line of the training plots: its name, its colour, and whether it is dashed."""
    phases = list(dict.fromkeys(record.stage for record in report.history))
    lines = []
    for tone, phase in enumerate(phases):
        name = f"{_PHASES.get(phase, phase)}: " if len(phases) > 1 else ""
        smoothed = (
            f" (loss with label smoothing {report.label_smoothing:g})" if report.label_smoothing and phase != "head" else ""
        )
        lines += [
            (f"{name}training images{smoothed}", f"tone-{tone}", True),
            (f"{name}validation images", f"tone-{tone}", False),
        ]
    return lines


def _reliability_plot(bins: Sequence[tuple[float, float, float, float]]) -> str:
    diagonal = Line([(0.0, 0.0), (1.0, 1.0)], "tone-1", dashed=True)
    measured = Line([(confidence, accuracy) for _, _, confidence, accuracy in bins], "tone-0", dots=True)
    bars = [(low, high, accuracy) for low, high, _, accuracy in bins]
    return draw(Plot("Accuracy by confidence", "confidence", "accuracy", [diagonal, measured], (0, 1), (0, 1), bars=bars))


def _precision_recall_plot(curves: Sequence[tuple[str, float, Sequence[tuple[float, float]]]]) -> str:
    lines = [Line(points, f"tone-{tone}") for tone, (_, _, points) in enumerate(curves)]
    return draw(Plot("Precision against recall", "recall", "precision", lines, (0, 1), (0, 1)))
