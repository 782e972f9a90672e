"""Measure a finished classifier and write what it came to: shared by `finetune`, `train` and `evaluate` (heavy).

In: a run's OpenVINO file and the pictures to score. Out: figures; predictions.csv, confusion.csv and report.html.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_cli.data.decode import Geometry
from resnet_cli.data.scan import Dataset
from resnet_cli.data.scoring import Scored
from resnet_cli.engines.openvino import OpenVinoEngine
from resnet_cli.inference.classify import classify
from resnet_cli.inference.evaluate import Rows, collect, shared_classes, write_confusion, write_predictions
from resnet_cli.inference.measure import Evaluation, losses, measure
from resnet_cli.progress import Progress
from resnet_cli.reports.page import Mistake, Report, write_report

_SHOWN = 24  # mistakes in the report


@dataclass(frozen=True)
class Measured:
    """Predictions of scored pictures, and the figures that they make."""

    scored: Scored
    rows: Rows
    figures: Evaluation


def measure_run(model: Path, geometry: Geometry, scored: Scored, progress: Progress) -> Measured:
    """Score pictures through the file that `predict` loads."""
    engine = OpenVinoEngine(model, "many")
    task = progress.start(f"measuring {scored.split}", len(scored.samples))
    results = classify((sample.path for sample in scored.samples), geometry, engine)
    rows = shared_classes(collect(results, scored.samples, task), scored.columns)
    task.finish()
    return Measured(scored, rows, measure(rows.probabilities, rows.labels, scored.classes))


def measure_splits(folder: Path, dataset: Dataset, geometry: Geometry, progress: Progress) -> dict[str, Measured]:
    """Figures of the held-out splits of a run that is about to be finished: "val", and "test" where there is one."""
    columns = tuple(range(len(dataset.classes)))
    return {
        split: measure_run(
            folder / "model.xml",
            geometry,
            Scored(dataset.name, split, dataset.classes, columns, dataset.splits[split], ()),
            progress,
        )
        for split in ("val", "test")
        if split in dataset.splits
    }


def write_measured(folder: Path, measured: Measured, record: dict[str, Any], curves: Path, notes: list[str]) -> None:
    """Write predictions.csv, confusion.csv and report.html.

    Args:
        folder: where to.
        measured: the figures.
        record: what run.json says of the run.
        curves: the run's curves.png; may be absent.
        notes: what the reader must know.
    """
    scored, rows = measured.scored, measured.rows
    write_predictions(folder / "predictions.csv", rows, scored.classes)
    write_confusion(folder / "confusion.csv", measured.figures)
    weights = record["weights"]
    facts = [
        ("network", f"{record['network']['name']}, {record['image_size']} pixels"),
        ("weights", weights["source"] + (f": {weights['fallback']}" if weights["fallback"] else "")),
        ("data", f"{record['data']['path']} ({scored.split})"),
        ("command", record["command"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
    ]
    title = f"{scored.name}: {scored.split}"
    report = Report(title, facts, measured.figures.to_json(), _mistakes(scored, rows), curves, notes)
    write_report(folder / "report.html", report)


def _mistakes(scored: Scored, rows: Rows) -> list[Mistake]:
    """The pictures whose true class got the least probability, among those that were taken for another class."""
    predicted = rows.probabilities.argmax(1)
    worst = (-losses(rows.probabilities, rows.labels)).argsort(kind="stable")
    wrong = [i for i in worst if predicted[i] != rows.labels[i]][:_SHOWN]
    return [
        Mistake(
            rows.samples[i].path,
            scored.classes[rows.labels[i]],
            scored.classes[predicted[i]],
            float(rows.probabilities[i, predicted[i]]),
        )
        for i in wrong
    ]
