"""`resnet evaluate`: the figures of a run, or of several together, on held-out pictures or on any folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_cli.cli import console
from resnet_cli.cli.beginning import Place, choose_run_folder, make_run_folder, require_writable
from resnet_cli.cli.cache import dataset_folder
from resnet_cli.cli.options import Engine, Json, Quiet, RunFolders, Strict, Views, dataset_path
from resnet_cli.cli.reporter import Reporter
from resnet_cli.data import scoring
from resnet_cli.engines.choice import settled
from resnet_cli.errors import ResnetError
from resnet_cli.inference.ensemble import load_runs
from resnet_cli.runs import EVALUATIONS, FIGURES
from resnet_cli.statistics import most_frequent_confusions

if TYPE_CHECKING:
    from resnet_cli.cli.measuring import Measured
    from resnet_cli.inference.measure import Evaluation
    from resnet_cli.runs import Run

_MANY = 12  # classes, more than which no terminal has room for
_ENSEMBLE = "ensemble"  # folder of several runs' figures, under runs/


def evaluate(
    dataset: Annotated[
        Path | None,
        typer.Argument(help="Folder to score; or cifar10, cifar100.  \\[default: what the run held out]", parser=dataset_path),
    ] = None,
    run: RunFolders = None,
    views: Views = "1",
    engine: Engine = "auto",
    min_accuracy: Annotated[float | None, typer.Option(min=0, max=1, help="Exit 3 if top-1 is lower, 0..1.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the CSV files.  \\[default: the run, evaluations/ in it for a DATASET, runs/ensemble for several]"
        ),
    ] = None,
    strict: Strict = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a classifier: top-1, top-5, per class, confusion; writes predictions.csv and confusion.csv.

    Several `--run` answer together: probabilities are averaged, classes are matched by name, and no picture is scored that one
    of the runs was trained on. `--views 10` crops from a short side of image size / 0.875; a network for small pictures that
    was trained on padded crops, as the papers do on CIFAR, gets crops of the picture padded as in training. Earlier figures of
    the same run and data set are replaced, those of several runs are not.
    """
    from resnet_cli.cli.measuring import measure_together
    from resnet_cli.cli.ready import engine_for_many, run_classifier

    reporter = Reporter(quiet or json)
    engine = settled(engine, reporter)
    runs = load_runs(run or ())
    root = None if dataset is None else dataset_folder(dataset, reporter)
    scored = scoring.held_out(runs) if root is None else scoring.folder(runs, root)
    target = output or _place(runs, scored, int(views), root)
    _require_own(target)
    require_writable(target)
    classifiers = list(map(run_classifier, runs))
    engine = engine_for_many(engine, classifiers, lambda: len(scored.samples), reporter)
    measured = measure_together(classifiers, scored, int(views), reporter, engine)
    evaluation, left_out = measured.figures, measured.rows.left_out
    if left_out and strict:
        raise ResnetError(left_out[0].reason, "without --strict it is left out")
    notes = [*scored.notes, *(f"left out: {each.reason}" for each in left_out)]
    if output is None and len(runs) > 1:
        target = make_run_folder(Place(target, _ENSEMBLE))  # another process may have taken it meanwhile
    _write_files(target, measured, runs, notes)
    if json:
        folders = [str(each.folder) for each in runs]
        names = {"run": folders[0], "runs": folders, "views": int(views), "dataset": scored.name, "split": scored.split}
        outcome = {"engine": measured.engine, "output": str(target), "notes": notes}
        console.print_json({**names, **evaluation.to_json(), **outcome})
    else:
        together = f", {len(runs)} runs together" if len(runs) > 1 else ""
        crops = f", {views} views" if views != "1" else ""
        _print_tables(evaluation, f"{scored.name}, {scored.split}{together}{crops}", notes)
        console.out.print(f"report: {console.escape(str(target / 'report.html'))}; worst pictures first: predictions.csv")
    if min_accuracy is not None and evaluation.top1 < min_accuracy:
        console.print_error(f"top-1 accuracy {evaluation.top1:.4f} is below --min-accuracy {min_accuracy:g}", "")
        raise typer.Exit(3)


def _place(runs: "Sequence[Run]", scored: scoring.Scored, views: int, root: Path | None) -> Path:
    """A run's own files are those of what it held out; other pictures and views are measured beside them, each data set's in a
    folder of its own.
    """
    from resnet_cli.inference.evaluate import first_picture

    if len(runs) > 1:
        return choose_run_folder(_ENSEMBLE)
    folder = runs[0].folder
    if root is None and views == 1:
        return folder
    first = folder / EVALUATIONS / (f"{scored.name}-{scored.split}" + (f"-{views}-views" if views > 1 else ""))
    place, number = first, 1
    while (picture := first_picture(place / "predictions.csv")) and root and not _lies_in(picture, root):
        number += 1
        place = first.with_name(f"{first.name}-{number}")
    return place


def _lies_in(picture: Path, root: Path) -> bool:
    return picture.absolute().is_relative_to(root.absolute())


def _require_own(folder: Path) -> None:
    """Figures are written over earlier figures, and over nothing else that is called as they are."""
    from resnet_cli.inference.evaluate import is_predictions

    present = [name for name in FIGURES if (folder / name).exists()]
    if present and not is_predictions(folder / "predictions.csv"):
        raise ResnetError(f"{folder / present[0]} exists already, and is not from `resnet evaluate`", "choose another --output")


def _write_files(target: Path, measured: "Measured", runs: "Sequence[Run]", notes: list[str]) -> None:
    from resnet_cli.cli.measuring import write_ensemble, write_measured

    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResnetError(f"cannot write to {target}: {error.strerror}", "choose another --output") from error
    if len(runs) == 1:
        write_measured(target, measured, runs[0].record, runs[0].folder / "curves.png", notes)
    else:
        write_ensemble(target, measured, runs, notes)


def _print_tables(evaluation: "Evaluation", title: str, notes: list[str]) -> None:
    table = console.Table("class", "pictures", "precision", "recall", "F1", title=console.escape(title))
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
    for note in notes:
        console.out.print(f"[yellow]note:[/] {console.escape(note)}")
    low, high = evaluation.top1_interval
    top5 = f"  top-5 {evaluation.top5:.1%}" if evaluation.top5 is not None else ""
    console.out.print(
        f"[bold]top-1 {evaluation.top1:.1%}[/]  (95 % interval {low:.1%} to {high:.1%}, {evaluation.count} pictures){top5}"
        f"  loss {evaluation.loss:.3f}  calibration error {evaluation.ece:.3f}"
    )


def _print_confusion(evaluation: "Evaluation") -> None:
    names = [each.name for each in evaluation.classes]
    table = _matrix(evaluation, names) if len(names) <= _MANY else None
    if table is None or console.full_width(table) > console.out.width:
        table = console.Table("true", "taken for", "pictures", title="most frequent confusions (all: confusion.csv)")
        for count, true, guess in most_frequent_confusions(names, evaluation.confusion.tolist(), 10):
            table.add_row(console.escape(true), console.escape(guess), str(count))
    console.out.print(table)


def _matrix(evaluation: "Evaluation", names: Sequence[str]) -> console.Table:
    table = console.Table("true \\ predicted", *map(console.escape, names), title="confusion")
    for name, row in zip(names, evaluation.confusion.tolist(), strict=True):
        table.add_row(console.escape(name), *(str(count) if count else "." for count in row))
    return table
