"""Measure finished classifiers and write what they came to: shared by `finetune`, `train` and `evaluate` (heavy).

In: runs' OpenVINO files and the images to score. Out: figures; predictions.csv, confusion.csv and report.html.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from resnet_cli.data.dataset import Dataset
from resnet_cli.data.decode import Geometry
from resnet_cli.data.scoring import Scored
from resnet_cli.engines import EngineName
from resnet_cli.engines.base import Outputs
from resnet_cli.inference.classify import Classified, classify
from resnet_cli.inference.metrics import Evaluation, losses, measure
from resnet_cli.inference.scoring import Rows, classify_pooled, collect, write_confusion, write_predictions
from resnet_cli.jobs.ready import Ready, load_members, read_weights
from resnet_cli.networks.catalogue import ClassifierSpec
from resnet_cli.progress import Progress, stop_if_asked
from resnet_cli.reports.page import Mistake, Report, write_report
from resnet_cli.runs.folder import Run

_SHOWN = 24  # mistakes in the report


@dataclass(frozen=True)
class Measured:
    """Predictions of scored images, and the figures that they make; `views` of each image were averaged.

    `engine` says what computed them, and in what precision.
    """

    scored: Scored
    rows: Rows
    figures: Evaluation
    engine: str
    views: int = 1


def measure_together(
    classifiers: Sequence[Ready],
    scored: Scored,
    views: int,
    progress: Progress,
    engine: EngineName = "auto",
    pooled: Iterable[Outputs] | None = None,
) -> Measured:
    """Score images through the files that `predict` loads, probabilities averaged over the classifiers and the views.

    Args:
        classifiers: one or more, of the same classes.
        scored: the images.
        views: of each image.
        progress: where to report.
        engine: what computes.
        pooled: what one classifier's backbone gives for each image, in pieces of float32 (n, D), if that is known: then its
            head alone is run, and only some images go through all of it.
    """
    members = load_members(classifiers, "many", engine, progress)
    words = ", ".join(sorted({f"{member.engine.name} {member.engine.precision}" for member in members}))
    paths = [sample.path for sample in scored.samples]
    results: Iterable[Classified] | None = None
    if pooled is not None and members[0].engine.name == "openvino":
        results = classify_pooled(classifiers[0].model, pooled, paths, members[0])
    words += ", on stored features" if results is not None else ""
    progress.line(f"measuring {scored.split}, engine: {words}")
    task = progress.start(f"measuring {scored.split}", len(paths))
    if results is None:
        results = classify(paths, members, views)
    rows = collect(_until_asked(results, progress), scored.samples, task)
    task.finish()
    return Measured(scored, rows, measure(rows.probabilities, rows.labels, scored.classes), words, views)


def _until_asked(results: Iterable[Classified], progress: Progress) -> Iterator[Classified]:
    """The results, unless a signal asks to stop, which only trainings wait for."""
    for each in results:
        stop_if_asked(progress, "type the same command with --resume; only measuring is left")
        yield each


def measure_splits(
    folder: Path,
    spec: ClassifierSpec,
    dataset: Dataset,
    geometry: Geometry,
    progress: Progress,
    engine: EngineName,
    pooled: Iterable[Outputs] | None,
) -> dict[str, Measured]:
    """Figures of the held-out splits of a run that is about to be finished: "val", whose features may be known as `pooled`, and
    "test" where there is one; once, where these are the same images.
    """
    rebuild = partial(read_weights, folder / "model.weights.h5", spec)
    classifier = Ready(str(folder), folder / "model.xml", dataset.classes, geometry, rebuild)
    from resnet_cli.engines.frozen import measuring_engine  # only a process that trained has Keras already

    engine = measuring_engine(engine)

    def measured(split: str, known: Iterable[Outputs] | None) -> Measured:
        scored = Scored(dataset.name, split, dataset.classes, dataset.splits[split], (), dataset.root)
        return measure_together([classifier], scored, 1, progress, engine, known)

    if dataset.is_validated_by_test:
        return dict.fromkeys(("val", "test"), measured("test", pooled))
    validation = {"val": measured("val", pooled)}
    return {**validation, "test": measured("test", None)} if "test" in dataset.splits else validation


def write_measured(folder: Path, measured: Measured, record: dict[str, Any], curves: Path, warnings: list[str]) -> None:
    """Write predictions.csv, confusion.csv and report.html of one run, or of an export.

    Args:
        folder: where to.
        measured: the figures.
        record: what run.json, or export.json, says of the run.
        curves: the run's curves.png; may be absent.
        warnings: what the reader must know.
    """
    trained_on = _trained_on(record)
    facts = [
        ("network", _network(record)),
        ("weights", _weights(record)),
        *([("teacher", record["teacher"]["name"])] if "teacher" in record else []),
        ("data", f"{measured.scored.root} ({measured.scored.split})"),
        *([("trained on", trained_on)] if trained_on != str(measured.scored.root.resolve()) else []),
        *([("command", record["command"])] if record["command"] else []),
        ("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
    ]
    _write(folder, measured, facts, curves, warnings)


def write_ensemble(folder: Path, measured: Measured, runs: Sequence[Run], warnings: list[str]) -> None:
    """Write predictions.csv, confusion.csv and report.html of several runs that answered together."""
    words = [f"{_network(run.record)}; weights {_weights(run.record)}; trained on {_trained_on(run.record)}" for run in runs]
    facts = [(str(run.folder), each) for run, each in zip(runs, words, strict=True)]
    _write(folder, measured, [("data", f"{measured.scored.root} ({measured.scored.split})"), *facts], None, warnings)


def _write(folder: Path, measured: Measured, facts: list[tuple[str, str]], curves: Path | None, warnings: list[str]) -> None:
    scored, rows = measured.scored, measured.rows
    write_predictions(folder / "predictions.csv", rows, scored.classes)
    write_confusion(folder / "confusion.csv", measured.figures)
    facts = [*facts, ("engine", measured.engine), ("views averaged", str(measured.views))]
    title = f"{scored.name}: {scored.split}"
    report = Report(title, facts, measured.figures.to_json(), _mistakes(scored, rows), curves, warnings)
    write_report(folder / "report.html", report)


def _trained_on(record: dict[str, Any]) -> str:
    """The data set's folder; of an export its name alone is known."""
    return str(record["data"].get("path") or record["data"]["name"])


def _network(record: dict[str, Any]) -> str:
    exported = record.get("export")
    form = f", exported as {exported['format']} in {exported['precision']}" if exported else ""
    return f"{record['network']['name']}, {record['image_size']} pixels{form}"


def _weights(record: dict[str, Any]) -> str:
    weights = record["weights"]
    return f"{weights['source']}: {weights['fallback']}" if weights["fallback"] else str(weights["source"])


def _mistakes(scored: Scored, rows: Rows) -> list[Mistake]:
    """The images whose true class got the least probability, among those that were taken for another class."""
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
