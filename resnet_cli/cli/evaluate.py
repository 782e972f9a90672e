"""`resnet evaluate`: the figures of a run, or of several together, on held-out images or on any folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_cli.cli import console
from resnet_cli.cli.options import Engine, Json, Quiet, RunFolders, Views, dataset_path
from resnet_cli.cli.reporter import Reporter
from resnet_cli.data import scoring
from resnet_cli.errors import ResnetError
from resnet_cli.jobs.environment import dataset_folder, settled
from resnet_cli.jobs.start import Place, choose_run_folder, make_run_folder, require_writable
from resnet_cli.runs.folder import EVALUATIONS, FIGURES
from resnet_cli.statistics import most_frequent_confusions

if TYPE_CHECKING:
    from resnet_cli.inference.metrics import Evaluation
    from resnet_cli.jobs.measure import Measured
    from resnet_cli.runs.folder import Run

_MANY = 12  # classes, more than which no terminal has room for
_ENSEMBLE = "ensemble"  # folder of several runs' figures, under runs/


Dataset = Annotated[
    Path | None,
    typer.Argument(help="Folder to score; or cifar10, cifar100.  \\[default: what the run held out]", parser=dataset_path),
]
Split = Annotated[
    scoring.SplitName | None,
    typer.Option(
        help="Images of the run or of DATASET to score; train scores images that were trained on.  \\[default: test, else val]"
    ),
]
MinAccuracy = Annotated[float | None, typer.Option(min=0, max=1, help="Exit 3 if top-1 is lower, 0..1.")]
Output = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the CSV files.  \\[default: the run; evaluations/ in it for a DATASET or another split; a new folder of"
        " runs/ for several runs or an export]"
    ),
]
AllowChanged = Annotated[
    bool, typer.Option("--allow-changed", help="Score held-out images whose content has changed since training.")
]
Strict = Annotated[bool, typer.Option("--strict", help="A damaged or changed image is an error.")]


def evaluate(
    dataset: Dataset = None,
    run: RunFolders = None,
    split: Split = None,
    views: Views = "1",
    engine: Engine = "auto",
    min_accuracy: MinAccuracy = None,
    output: Output = None,
    allow_changed: AllowChanged = False,
    strict: Strict = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a classifier: top-1, top-5, per class, confusion; writes predictions.csv and confusion.csv.

    Several `--run` form an ensemble: probabilities are averaged, classes are matched by name, and no image is scored that one
    of the runs was trained on, unless `--split train` asks for those. Held-out images whose content has changed since training
    are named and left out. `--views 10` crops from a short side of image size / 0.875; a network for small images that
    was trained on padded crops, as the papers do on CIFAR, gets crops of the image padded as in training. Earlier figures of
    the same run and data set are replaced, those of several runs or of an export are not; nothing is written into an export.
    """
    from resnet_cli.jobs.measure import measure_together
    from resnet_cli.jobs.ready import engine_for_many, load_runs, run_classifier

    if allow_changed and dataset is not None:
        raise typer.BadParameter("--allow-changed is for the images that a run held out: leave it out with a DATASET")
    reporter = Reporter(quiet or json)
    engine = settled(engine, reporter)
    runs = load_runs(run or ())
    root = None if dataset is None else dataset_folder(dataset, reporter)
    scored = scoring.held_out(runs, split, allow_changed) if root is None else scoring.folder(runs, root, split)
    if strict and scored.changed and not allow_changed:
        raise ResnetError(f"{scored.changed[0]} has changed since training", "put it back, or add --allow-changed")
    name = _new_name(runs, scored, int(views))
    target = output or (choose_run_folder(name) if name else _place(runs[0], scored, int(views)))
    _require_own(target, runs)
    # What a training warned of is about the images of its headline figure, and of that figure where they are the same still.
    told = runs[0].warnings_of_data if scored.changed else runs[0].warnings
    for warning in (*(told if scored.is_headline and len(runs) == 1 else ()), *scored.notes):
        reporter.warn(warning)
    classifiers = list(map(run_classifier, runs))
    engine = engine_for_many(engine, classifiers, lambda: len(scored.samples), reporter)
    measured = measure_together(classifiers, scored, int(views), reporter, engine)
    if left_out := measured.rows.left_out:
        if strict:
            raise ResnetError(left_out[0].reason, "without --strict it is left out")
        reporter.warn(scoring.unreadable_note(left_out))
    if output is None and name:
        target = make_run_folder(Place(target, name))  # another process may have taken it meanwhile
    _write_files(target, measured, runs, reporter.warnings)
    if json:
        console.print_json(_document(runs, measured, target, reporter.warnings))
    else:
        _print_result(measured, len(runs), target)
    top1 = measured.figures.top1
    if min_accuracy is not None and top1 < min_accuracy:
        console.print_error(f"top-1 accuracy {top1:.4f} is below --min-accuracy {min_accuracy:g}", "")
        raise typer.Exit(3)


def _document(runs: "Sequence[Run]", measured: "Measured", target: Path, warnings: list[str]) -> dict[str, Any]:
    folders, scored = [str(each.folder) for each in runs], measured.scored
    names = {"run": folders[0], "runs": folders, "views": measured.views, "dataset": scored.name, "split": scored.split}
    outcome = {"engine": measured.engine, "output": str(target), "warnings": warnings, "notes": warnings}
    return {**names, **measured.figures.to_json(), **outcome}


def _print_result(measured: "Measured", runs: int, target: Path) -> None:
    together = f", {runs} runs together" if runs > 1 else ""
    crops = f", {measured.views} views" if measured.views > 1 else ""
    _print_tables(measured.figures, f"{measured.scored.name}, {measured.scored.split}{together}{crops}")
    console.out.print(f"report: {console.escape(str(target / 'report.html'))}; worst images first: predictions.csv")


def _new_name(runs: "Sequence[Run]", scored: scoring.Scored, views: int) -> str:
    """Of the folder under runs/ that figures get which no single run can keep; empty where one does."""
    if len(runs) > 1:
        return _ENSEMBLE
    return f"{runs[0].folder.resolve().name}-{_measurement(scored, views)}" if runs[0].is_export else ""


def _measurement(scored: scoring.Scored, views: int) -> str:
    return f"{scored.name}-{scored.split}" + (f"-{views}-views" if views > 1 else "")


def _place(run: "Run", scored: scoring.Scored, views: int) -> Path:
    """A run's own files are those of its headline figure; other images and views are measured beside them, each data set's in
    a folder of its own.
    """
    from resnet_cli.inference.scoring import first_image

    if scored.is_headline and views == 1:
        return run.folder
    first = run.folder / EVALUATIONS / _measurement(scored, views)
    place, number = first, 1
    while (image := first_image(place / "predictions.csv")) and not _lies_in(image, scored.root):
        number += 1
        place = first.with_name(f"{first.name}-{number}")
    return place


def _lies_in(image: Path, root: Path) -> bool:
    return image.absolute().is_relative_to(root.absolute())


def _require_own(folder: Path, runs: "Sequence[Run]") -> None:
    """Figures are written over earlier figures, over nothing else that is called as they are, and into no export: that is
    handed on as it is, and they name images.
    """
    from resnet_cli.inference.scoring import is_predictions

    for run in runs:
        if run.is_export and folder.resolve().is_relative_to(run.folder.resolve()):
            raise ResnetError(f"{folder} lies in the export {run.folder}, which stays as it is", "choose another --output")
    present = [name for name in FIGURES if (folder / name).exists()]
    if present and not is_predictions(folder / "predictions.csv"):
        raise ResnetError(f"{folder / present[0]} exists already, and is not from `resnet evaluate`", "choose another --output")
    require_writable(folder)


def _write_files(target: Path, measured: "Measured", runs: "Sequence[Run]", warnings: list[str]) -> None:
    from resnet_cli.jobs.measure import write_ensemble, write_measured

    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResnetError(f"cannot write to {target}: {error.strerror}", "choose another --output") from error
    if len(runs) == 1:
        write_measured(target, measured, runs[0].record, runs[0].folder / "curves.png", warnings)
    else:
        write_ensemble(target, measured, runs, warnings)


def _print_tables(evaluation: "Evaluation", title: str) -> None:
    table = console.Table("class", "images", "precision", "recall", "F1", title=console.escape(title))
    for each in evaluation.classes:
        if not each.count:
            continue
        table.add_row(
            console.escape(each.name), str(each.count), f"{each.precision:.1%}", f"{each.recall:.1%}", f"{each.f1:.1%}"
        )
    precision, recall, f1 = evaluation.macro()
    table.add_section()
    table.add_row("macro average", str(evaluation.count), f"{precision:.1%}", f"{recall:.1%}", f"{f1:.1%}")
    console.out.print(table)
    _print_confusion(evaluation)
    low, high = evaluation.top1_interval
    top5 = f"  top-5 {evaluation.top5:.1%}" if evaluation.top5 is not None else ""
    console.out.print(
        f"[bold]top-1 {evaluation.top1:.1%}[/]  (95 % interval {low:.1%} to {high:.1%}, {evaluation.count} images){top5}"
        f"  loss {evaluation.loss:.3f}  calibration error {evaluation.ece:.3f}"
    )


def _print_confusion(evaluation: "Evaluation") -> None:
    names = [each.name for each in evaluation.classes]
    table = _matrix(evaluation, names) if len(names) <= _MANY else None
    if table is None or console.full_width(table) > console.out.width:
        table = console.Table("true", "taken for", "images", title="most frequent confusions (all: confusion.csv)")
        for count, true, guess in most_frequent_confusions(names, evaluation.confusion.tolist(), 10):
            table.add_row(console.escape(true), console.escape(guess), str(count))
    console.out.print(table)


def _matrix(evaluation: "Evaluation", names: Sequence[str]) -> console.Table:
    table = console.Table("true \\ predicted", *map(console.escape, names), title="confusion")
    for name, row in zip(names, evaluation.confusion.tolist(), strict=True):
        table.add_row(console.escape(name), *(str(count) if count else "." for count in row))
    return table
