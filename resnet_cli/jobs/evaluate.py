"""The work of `resnet evaluate`, and the evaluation of new runs by `finetune` and `train` (heavy).

In: runs, and the images to score. Out: metrics; predictions.csv, confusion.csv and report.html in a folder.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from resnet_cli.data import scoring
from resnet_cli.data.scoring import Scored, SplitName
from resnet_cli.engines import EngineName
from resnet_cli.errors import ResnetError
from resnet_cli.inference.calibration import Coverage, coverage, coverage_at
from resnet_cli.inference.scoring import first_image, is_predictions
from resnet_cli.jobs.environment import dataset_folder, settled
from resnet_cli.jobs.measure import Measured, measure_together
from resnet_cli.jobs.predict import engine_for_many, load_runs, require_possible, run_classifier
from resnet_cli.jobs.report import write_measured
from resnet_cli.jobs.start import Place, choose_run_folder, make_run_folder, require_writable
from resnet_cli.progress import Progress
from resnet_cli.reports import Page
from resnet_cli.runs.folder import EVALUATIONS, FIGURES, Run

_ENSEMBLE = "ensemble"  # folder of an ensemble's results, under runs/


@dataclass(frozen=True)
class EvaluateRequest:
    """The arguments of an evaluation.

    Attributes:
        runs: folders of runs, exports (folder or model file), names of published weights, or .safetensors files; several form
            an ensemble, none means the newest run.
        dataset: folder, archive or name of a known data set whose images are scored; None for the first run's held-out images.
        split: train, val or test; None for test images if there are any, else validation images.
        views: views of each image to average: 1, 2 or 10.
        engine: engine of the forward passes.
        output: folder of the files; None for the run, or a folder in it or under runs/.
        allow_changed: score held-out images whose content has changed since training.
        strict: a damaged or changed image is an error.
        labels: table of labels that is scored in place of class folders; its relative paths start from `dataset`, or from the
            table's own folder.
        page: which report is written.
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
    page: Page = field(default_factory=Page)


@dataclass(frozen=True)
class Evaluated:
    """The result of an evaluation.

    Attributes:
        runs: the evaluated runs, one or more.
        measured: the images and their metrics.
        folder: folder of predictions.csv and confusion.csv.
        report: the report; None without one.
        warnings: warnings about the metrics.
    """

    runs: tuple[Run, ...]
    measured: Measured
    folder: Path
    report: Path | None
    warnings: tuple[str, ...]

    @property
    def suggested(self) -> tuple[tuple[float, float | None, Coverage | None], ...]:
        """Accuracies, 0..1, with the threshold that the run's calibration suggests for each, and what it does on these images.

        Empty if the run has none, if they are for other probabilities, or if they were fitted on these very images.
        """
        fitted, rows = self.runs[0].record.get("calibration", {}), self.measured.rows
        own = (fitted.get("split"), self.runs[0].record.get("data", {}).get("name"))
        if len(self.runs) > 1 or self.measured.views > 1 or not rows.samples or "thresholds" not in fitted:
            return ()
        if (self.measured.scored.split, self.measured.scored.name) == own:
            return ()
        points = coverage(rows.probabilities, rows.labels)
        pairs = [(each["accuracy"], each["threshold"]) for each in fitted["thresholds"]]
        return tuple((wanted, at, None if at is None else coverage_at(at, points)) for wanted, at in pairs)

    def _suggested_json(self) -> dict[str, Any] | None:
        suggested = self.suggested
        if not suggested:
            return None
        fitted = self.runs[0].record["calibration"]
        found = [
            {"accuracy": wanted, "threshold": at, "point": None if point is None else asdict(point)}
            for wanted, at, point in suggested
        ]
        return {"split": fitted["split"], "images": fitted["images"], "thresholds": found}

    def to_json(self) -> dict[str, Any]:
        """The JSON output of `evaluate`."""
        folders, measured = [run.name for run in self.runs], self.measured
        which = {"dataset": measured.scored.name, "split": measured.scored.split}
        names = {"run": folders[0], "runs": folders, "views": measured.views, **which}
        warnings = list(self.warnings)
        where = {"output": str(self.folder), "report": str(self.report) if self.report else None}
        outcome = {"engine": measured.engine, **where, "warnings": warnings, "notes": warnings}
        curve = measured.coverage_json()
        parts = {"coverage": curve and {**curve, "suggested": self._suggested_json()}}
        parts["unlike_training"] = measured.unlike_training_json()
        return {**names, **measured.figures.to_json(), **parts, **outcome}


def run_evaluation(request: EvaluateRequest, progress: Progress) -> Evaluated:
    """Measure runs and write predictions.csv, confusion.csv and report.html.

    Raises:
        ResnetError: a run or an image cannot be read, there is nothing to score, or the files cannot be written.
    """
    views, strict = request.views, request.strict
    engine = settled(request.engine, progress)
    runs = load_runs(request.runs, progress)
    classifiers = list(map(run_classifier, runs))
    require_possible(classifiers, request.engine, request.views)
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
    request.page.require_possible()
    # A training's warnings are about the images of its headline figure, and still apply to the figure if these are unchanged.
    told = runs[0].warnings_of_data if scored.changed else runs[0].warnings
    for warning in (*(told if scored.is_headline and len(runs) == 1 else ()), *scored.notes):
        progress.warn(warning)
    engine = engine_for_many(engine, classifiers, lambda: len(scored.samples), progress)
    measured = measure_together(classifiers, scored, views, progress, engine)
    if left_out := measured.rows.left_out:
        if strict:
            raise ResnetError(left_out[0].reason, "without --strict it is left out")
        progress.warn(scoring.unreadable_note(left_out))
    if request.output is None and name:
        target = make_run_folder(Place(target, name))  # another process may have created it meanwhile
    _make_folder(target)
    write_measured(target, measured, runs, progress, request.page)
    return Evaluated(runs, measured, target, request.page.at(target), tuple(progress.warnings))


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


def _make_folder(target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResnetError(f"cannot write to {target}: {error.strerror}", "choose another --output") from error
