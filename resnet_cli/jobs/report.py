"""Write what was measured: predictions.csv, confusion.csv and the report, of one run or an ensemble (heavy).

In: a measurement and the runs it is about. Out: files in a folder.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnet_cli.data.contents import is_validated_by_test
from resnet_cli.engines import EngineName
from resnet_cli.errors import ResnetError
from resnet_cli.inference.explain import Explainable, as_image, explain
from resnet_cli.inference.metrics import losses, precision_recall, reliability
from resnet_cli.inference.scoring import write_confusion, write_predictions
from resnet_cli.jobs.measure import Measured
from resnet_cli.jobs.predict import explainable, run_classifier
from resnet_cli.progress import Progress, how_many
from resnet_cli.reports import MISTAKES, Page
from resnet_cli.reports.page import Contents, Report, Shown, write_report
from resnet_cli.runs.folder import Run, read_history, read_splits
from resnet_cli.training.tuning import compared

_FEW = 12  # least certain images, and images unlike the training images, in it
_CURVES = 8  # precision-recall curves in it


def write_measured(folder: Path, measured: Measured, runs: Sequence[Run], progress: Progress, page: Page = Page()) -> None:
    """Write predictions.csv, confusion.csv and the report.

    Args:
        folder: the folder to write to.
        measured: the metrics.
        runs: the run, or the runs of an ensemble, or an export; a record may not be written yet.
        progress: its warnings are in the report.
        page: which report.

    Raises:
        ResnetError: a file cannot be written.
    """
    write_predictions(folder / "predictions.csv", measured.rows, measured.scored.classes)
    write_confusion(folder / "confusion.csv", measured.figures)
    own, target = folder / "report.html", page.at(folder)
    if target != own:
        own.unlink(missing_ok=True)  # it would show other figures than the files beside it
    if target is None:
        return
    where = ("data", f"{measured.scored.root} ({measured.scored.split})")
    if len(runs) > 1:
        report = _report(measured, [where, *((run.name, _in_short(run.record)) for run in runs)], progress, None, 0)
    else:
        (run,) = runs
        classifier = _explainable(run, measured, progress) if page.explained else None
        report = _with_training(_report(measured, _facts(run, measured), progress, classifier, page.explained), run)
    write_report(target, report)


def _explainable(run: Run, measured: Measured, progress: Progress) -> Explainable | None:
    """The run's classifier in parts; None if it cannot be taken apart, which must not cost its figures."""
    ready = run_classifier(run)
    if ready.runtime is not None:
        progress.line("the report has no heat maps, which need a run or an OpenVINO export")
        return None
    engine: EngineName = "keras" if measured.engine.startswith("keras") else "auto"
    try:
        return explainable(ready, engine, progress)
    except ResnetError:
        raise
    except Exception as error:  # this relies on the converter's graphs
        progress.line(f"the report has no heat maps: {str(error).splitlines()[0] or type(error).__name__}")
        return None


def _facts(run: Run, measured: Measured) -> list[tuple[str, str]]:
    record, root = run.record, measured.scored.root
    trained_on = _trained_on(record)
    return [
        ("network", _network(record)),
        ("weights", _weights(record)),
        *([("teacher", record["teacher"]["name"])] if "teacher" in record else []),
        ("data", f"{root} ({measured.scored.split})"),
        *([("labels", record["data"]["labels"]["path"])] if "labels" in record["data"] else []),
        *([("trained on", trained_on)] if trained_on != str(root.resolve()) else []),
        *([("temperature", _temperature(record["calibration"]))] if "calibration" in record else []),
        *([("cross-validation", _cross_validation(found))] if (found := record.get("results", {}).get("folds")) else []),
        *([("tuning", _tuning(found))] if (found := record.get("results", {}).get("tuning", {})).get("trials") else []),
        *([("command", record["command"])] if record["command"] else []),
        ("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
    ]


def _with_training(report: Report, run: Run) -> Report:
    """The report with the curves of a run's training and the number of its images."""
    record, results = run.record, run.record.get("results", {})
    return replace(
        report,
        history=read_history(run.folder / "metrics.jsonl"),
        best=(results.get("kept", "train"), results["best_epoch"]) if "best_epoch" in results else None,
        label_smoothing=record.get("config", {}).get("label_smoothing", 0.0),
        contents=_contents(run),
    )


def _contents(run: Run) -> Contents | None:
    """The images that the run has used, and the number of files that it has not: skipped, or unreadable."""
    data, results = run.record["data"], run.record.get("results", {})
    if not data.get("counts"):
        return None
    counts = dict(data["counts"])  # as the folder was scanned, before images were opened
    for split in counts:
        if measured := results.get(split, {}).get("classes"):
            counts[split] = [each["count"] for each in measured]
    rows = read_splits(run) if run.splits.exists() else []
    if "train" in counts:
        trained = Counter(row.label for row in rows if row.split == "train")
        if sum(trained[name] for name in run.classes):  # unlabelled images have no class
            counts["train"] = [trained[name] for name in run.classes]
    once = [split for split in counts if split != "val" or not is_validated_by_test(rows)]
    unreadable = sum(sum(data["counts"][split]) - sum(counts[split]) for split in once)
    left_out = data.get("left_out")
    return Contents(run.classes, counts, None if left_out is None else left_out + unreadable, data.get("copies"))


def _report(
    measured: Measured, facts: Sequence[tuple[str, str]], progress: Progress, classifier: Explainable | None, explained: int
) -> Report:
    """The report of what was measured, without a training."""
    scored, rows = measured.scored, measured.rows
    probabilities, labels = rows.probabilities, rows.labels
    predicted, confidence, unlike = probabilities.argmax(1), probabilities.max(1), measured.unlike_training
    worst = [i for i in (-losses(probabilities, labels)).argsort(kind="stable") if predicted[i] != labels[i]]
    mistakes = [_shown(measured, i, classifier if place < explained else None) for place, i in enumerate(worst[:MISTAKES])]
    bins, curves = (
        reliability(confidence, predicted == labels),
        precision_recall(probabilities, labels, scored.classes, _CURVES),
    )
    return Report(
        f"{scored.name}: {scored.split}",
        [*facts, ("engine", measured.engine), ("views averaged", str(measured.views))],
        measured.figures.to_json(),
        mistakes,
        unsure=[_shown(measured, i, None) for i in confidence.argsort(kind="stable")[:_FEW]],
        unlike=[_shown(measured, i, None) for i in (unlike or ())[:_FEW]],
        unlike_count=None if unlike is None else len(unlike),
        reliability=[(each.low, each.high, each.confidence, each.accuracy) for each in bins],
        precision_recall=[(each.name, each.average_precision, each.points) for each in curves],
        warnings=progress.warnings,
    )


def _shown(measured: Measured, i: int, classifier: Explainable | None) -> Shown:
    """An image of the report, by its place in the rows; with a map of the evidence for its predicted class."""
    rows, classes = measured.rows, measured.scored.classes
    own, true = rows.probabilities[i], int(rows.labels[i])
    guess = int(own.argmax())
    path, root = rows.samples[i].path, measured.scored.root
    name = str(path.relative_to(root)) if path.is_relative_to(root) else ""
    shown = Shown(path, classes[true], classes[guess], float(own[guess]), float(own[true]), name=name)
    if classifier is None:
        return shown
    try:
        found = explain(classifier, shown.path, shown.predicted)
    except ResnetError:  # it can no longer be read
        return shown
    return replace(shown, heat=as_image(found.heat), box=found.box)


def _in_short(record: dict[str, Any]) -> str:
    return f"{_network(record)}; weights {_weights(record)}; trained on {_trained_on(record)}"


def _temperature(fitted: dict[str, Any]) -> str:
    return (
        f"{fitted['temperature']:.3f}, fitted on {how_many(fitted['images'], 'validation image')}: the calibration error went"
        f" from {fitted['ece_before']:.3f} to {fitted['ece_after']:.3f}"
    )


def _trained_on(record: dict[str, Any]) -> str:
    """The data set's folder; for an export, only its name is known."""
    return str(record["data"].get("path") or record["data"]["name"])


def _network(record: dict[str, Any]) -> str:
    exported = record.get("export")
    form = f", exported as {exported['format']} in {exported['precision']}" if exported else ""
    return f"{record['network']['name']}, {record['image_size']} pixels{form}"


def _cross_validation(found: dict[str, Any]) -> str:
    shares = ", ".join(f"{each['top1']:.1%}" for each in found["folds"])
    how = f"standard deviation {found['sd']:.1%} over {len(found['folds'])} folds: {shares}"
    return f"head on frozen features, accuracy {found['mean']:.1%}, {how}"


def _tuning(found: dict[str, Any]) -> str:
    trials = how_many(found["trials"], "trial")
    return f"{trials}, scored on {how_many(found['count'], 'image')} ({found['scored_on']}): accuracy {compared(found)}"


def _weights(record: dict[str, Any]) -> str:
    weights = record["weights"]
    return (
        f"{weights['source']}: {weights['fallback']}" if weights["fallback"] else weights.get("name") or str(weights["source"])
    )
