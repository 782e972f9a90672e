"""The work of `resnet evaluate`, and the evaluation of new runs by `finetune` and `train` (heavy).

In: runs, and the images to score. Out: metrics; predictions.csv, confusion.csv and report.html in a folder.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from resnet_cli.data import scoring
from resnet_cli.data.dataset import Dataset
from resnet_cli.data.decode import Geometry
from resnet_cli.data.scoring import Scored, SplitName
from resnet_cli.engines import EngineName
from resnet_cli.engines.base import Outputs
from resnet_cli.errors import ResnetError
from resnet_cli.inference.classify import Classified, classify
from resnet_cli.inference.metrics import Evaluation, losses, measure
from resnet_cli.inference.scoring import (
    Rows,
    classify_pooled,
    collect,
    first_image,
    is_predictions,
    write_confusion,
    write_predictions,
)
from resnet_cli.jobs.environment import dataset_folder, settled
from resnet_cli.jobs.predict import Ready, engine_for_many, load_members, load_runs, read_weights, run_classifier
from resnet_cli.jobs.start import Place, choose_run_folder, make_run_folder, require_writable
from resnet_cli.networks.catalogue import ClassifierSpec
from resnet_cli.progress import Progress, how_many, stop_if_asked
from resnet_cli.reports.page import Mistake, Report, write_report
from resnet_cli.runs.folder import EVALUATIONS, FIGURES, Run
from resnet_cli.training.tuning import compared

_SHOWN = 24  # mistakes in the report
_ENSEMBLE = "ensemble"  # folder of an ensemble's results, under runs/


@dataclass(frozen=True)
class EvaluateRequest:
    """The arguments of an evaluation.

    Attributes:
        runs: folders of runs or of OpenVINO exports, names of published weights, or .safetensors files; several form an
            ensemble, none means the newest run.
        dataset: folder, archive or name of a known data set whose images are scored; None for the first run's held-out images.
        split: train, val or test; None for test images if there are any, else validation images.
        views: views of each image to average: 1, 2 or 10.
        engine: engine of the forward passes.
        output: folder of the files; None for the run, or a folder in it or under runs/.
        allow_changed: score held-out images whose content has changed since training.
        strict: a damaged or changed image is an error.
        labels: table of labels that is scored in place of class folders; its relative paths start from `dataset`, or from the
            table's own folder.
    """

    runs: Sequence[Path] = ()
    dataset: Path | None = None
    split: SplitName | None = None
    views: int = 1
    engine: EngineName = "auto"
    output: Path | None = None
    allow_changed: bool = False
    strict: bool = False
    labels: Path | None = None


@dataclass(frozen=True)
class Measured:
    """Predictions of scored images, and their metrics; `views` views of each image were averaged.

    `engine` names the engine and its precision. Of a bulk evaluation, `rows` only has the images that could not be read.
    """

    scored: Scored
    rows: Rows
    figures: Evaluation
    engine: str
    views: int = 1


@dataclass(frozen=True)
class Evaluated:
    """The result of an evaluation.

    Attributes:
        runs: the evaluated runs, one or more.
        measured: the images and their metrics.
        folder: folder of predictions.csv, confusion.csv and report.html.
        warnings: warnings about the metrics.
    """

    runs: tuple[Run, ...]
    measured: Measured
    folder: Path
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON output of `evaluate`."""
        folders, measured = [run.name for run in self.runs], self.measured
        which = {"dataset": measured.scored.name, "split": measured.scored.split}
        names = {"run": folders[0], "runs": folders, "views": measured.views, **which}
        warnings = list(self.warnings)
        outcome = {"engine": measured.engine, "output": str(self.folder), "warnings": warnings, "notes": warnings}
        return {**names, **measured.figures.to_json(), **outcome}


def run_evaluation(request: EvaluateRequest, progress: Progress) -> Evaluated:
    """Measure runs and write predictions.csv, confusion.csv and report.html.

    Raises:
        ResnetError: a run or an image cannot be read, there is nothing to score, or the files cannot be written.
    """
    views, strict = request.views, request.strict
    engine = settled(request.engine, progress)
    runs = load_runs(request.runs, progress)
    if request.dataset is None and request.labels is None:
        _unpack_again(runs[0], progress)
        scored = scoring.held_out(runs, request.split, request.allow_changed)
    else:
        root = dataset_folder(request.dataset, progress, request.labels)
        scored = scoring.folder(runs, root, request.split, request.labels, strict)
    if strict and scored.changed and not request.allow_changed:
        raise ResnetError(f"{scored.changed[0]} has changed since training", "put it back, or add --allow-changed")
    name = _new_name(runs, scored, views)
    target = request.output or (choose_run_folder(name) if name else _place(runs[0], scored, views, request.labels))
    _require_own(target, runs)
    # A training's warnings are about the images of its headline figure, and still apply to the figure if these are unchanged.
    told = runs[0].warnings_of_data if scored.changed else runs[0].warnings
    for warning in (*(told if scored.is_headline and len(runs) == 1 else ()), *scored.notes):
        progress.warn(warning)
    classifiers = list(map(run_classifier, runs))
    engine = engine_for_many(engine, classifiers, lambda: len(scored.samples), progress)
    measured = measure_together(classifiers, scored, views, progress, engine)
    if left_out := measured.rows.left_out:
        if strict:
            raise ResnetError(left_out[0].reason, "without --strict it is left out")
        progress.warn(scoring.unreadable_note(left_out))
    if request.output is None and name:
        target = make_run_folder(Place(target, name))  # another process may have created it meanwhile
    _write_figures(target, measured, runs, progress.warnings)
    return Evaluated(runs, measured, target, tuple(progress.warnings))


def _unpack_again(run: Run, progress: Progress) -> None:
    """Put the images of a run back that came from an archive and are no longer in the cache.

    Raises:
        ResnetError: the archive is no longer there either.
    """
    archive = run.record.get("data", {}).get("archive")
    if not archive or run.data.is_dir():
        return
    if not Path(archive).is_file():
        raise ResnetError(f"the archive {archive} is no longer there", "put it back, or give a folder: resnet evaluate FOLDER")
    dataset_folder(Path(archive), progress)


def _new_name(runs: Sequence[Run], scored: Scored, views: int) -> str:
    """The name of a new folder under runs/ for results that do not belong into a run's folder; else empty."""
    if len(runs) > 1:
        return _ENSEMBLE
    own = not (runs[0].is_export or runs[0].is_published)
    return "" if own else f"{runs[0].folder.resolve().name}-{_measurement(scored, views)}"


def _measurement(scored: Scored, views: int) -> str:
    return f"{scored.name}-{scored.split}" + (f"-{views}-views" if views > 1 else "")


def _place(run: Run, scored: Scored, views: int, labels: Path | None) -> Path:
    """The folder of the results: the run itself for its headline figure; else a folder in it for each data set, or table of
    labels, and number of views.
    """
    if scored.is_headline and views == 1:
        return run.folder
    # Tables in different folders may have the same name.
    table = f"-{hashlib.sha256(str(labels.resolve()).encode()).hexdigest()[:6]}" if labels else ""
    first = run.folder / EVALUATIONS / f"{_measurement(scored, views)}{table}"
    place, number = first, 1
    own = {sample.path for sample in scored.samples}  # a table of labels may name images outside of the folder
    while (image := first_image(place / "predictions.csv")) and not (_lies_in(image, scored.root) or image in own):
        number += 1
        place = first.with_name(f"{first.name}-{number}")
    return place


def _lies_in(image: Path, root: Path) -> bool:
    return image.absolute().is_relative_to(root.absolute())


def _require_own(folder: Path, runs: Sequence[Run]) -> None:
    """Refuse to overwrite files that are not from an evaluation, and to write into an export, which must not contain the names
    of images.
    """
    for run in runs:
        if run.is_export and folder.resolve().is_relative_to(run.folder.resolve()):
            raise ResnetError(f"{folder} lies in the export {run.folder}, which stays as it is", "choose another --output")
    present = [name for name in FIGURES if (folder / name).exists()]
    if present and not is_predictions(folder / "predictions.csv"):
        raise ResnetError(f"{folder / present[0]} exists already, and is not from `resnet evaluate`", "choose another --output")
    require_writable(folder)


def _write_figures(target: Path, measured: Measured, runs: Sequence[Run], warnings: list[str]) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResnetError(f"cannot write to {target}: {error.strerror}", "choose another --output") from error
    if len(runs) == 1:
        write_measured(target, measured, runs[0].record, runs[0].folder / "curves.png", warnings)
    else:
        write_ensemble(target, measured, runs, warnings)


def measure_together(
    classifiers: Sequence[Ready],
    scored: Scored,
    views: int,
    progress: Progress,
    engine: EngineName = "auto",
    pooled: Iterable[Outputs] | None = None,
) -> Measured:
    """Score images with the files that `predict` loads; probabilities are averaged over classifiers and views.

    Args:
        classifiers: one or more, of the same classes.
        scored: the images.
        views: views of each image.
        progress: where to report.
        engine: engine of the forward passes.
        pooled: features of the images from the only classifier's backbone, in pieces of float32 (n, D), if they are known:
            then only its head is run, and the whole network for some images.
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
    """The results; stop if a signal requests it."""
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
    """Evaluate a run before it is finished: on "val", whose features may be known as `pooled`, and on "test" if there is one;
    only once if both are the same images.
    """
    rebuild = partial(read_weights, folder / "model.weights.h5", spec)
    classifier = Ready(str(folder), folder / "model.xml", dataset.classes, geometry, rebuild)
    from resnet_cli.engines.frozen import measuring_engine  # imports Keras, which a training process has already done

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
        folder: the folder to write to.
        measured: the metrics.
        record: contents of run.json, or of export.json.
        curves: the run's curves.png; may be absent.
        warnings: warnings for the report.
    """
    trained_on = _trained_on(record)
    facts = [
        ("network", _network(record)),
        ("weights", _weights(record)),
        *([("teacher", record["teacher"]["name"])] if "teacher" in record else []),
        ("data", f"{measured.scored.root} ({measured.scored.split})"),
        *([("labels", record["data"]["labels"]["path"])] if "labels" in record["data"] else []),
        *([("trained on", trained_on)] if trained_on != str(measured.scored.root.resolve()) else []),
        *([("cross-validation", _cross_validation(found))] if (found := record.get("results", {}).get("folds")) else []),
        *([("tuning", _tuning(found))] if (found := record.get("results", {}).get("tuning", {})).get("trials") else []),
        *([("command", record["command"])] if record["command"] else []),
        ("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
    ]
    _write(folder, measured, facts, curves, warnings)


def write_ensemble(folder: Path, measured: Measured, runs: Sequence[Run], warnings: list[str]) -> None:
    """Write predictions.csv, confusion.csv and report.html of an ensemble."""
    words = [f"{_network(run.record)}; weights {_weights(run.record)}; trained on {_trained_on(run.record)}" for run in runs]
    facts = [(run.name, each) for run, each in zip(runs, words, strict=True)]
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
    return f"{trials}, scored on {found['count']} images ({found['scored_on']}): accuracy {compared(found)}"


def _weights(record: dict[str, Any]) -> str:
    weights = record["weights"]
    return (
        f"{weights['source']}: {weights['fallback']}" if weights["fallback"] else weights.get("name") or str(weights["source"])
    )


def _mistakes(scored: Scored, rows: Rows) -> list[Mistake]:
    """The misclassified images with the lowest probability of the true class."""
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
