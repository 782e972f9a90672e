"""`resnet evaluate`: measure a run, or an ensemble of runs, on held-out images or on any folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_cli.cli import console
from resnet_cli.cli.options import (
    Engine,
    Input,
    Json,
    Labels,
    NoReport,
    Quiet,
    Ray,
    ReportFile,
    RunFolders,
    Views,
    complete_dataset,
    dataset_path,
    report_page,
)
from resnet_cli.cli.reporter import Reporter
from resnet_cli.cli.results import MANY_CLASSES, WORST, Column, columns_of, fits, print_headline, print_table
from resnet_cli.data.scoring import SplitName
from resnet_cli.progress import how_many
from resnet_cli.reports import MISTAKES, worst_first
from resnet_cli.runs.folder import newest_run

if TYPE_CHECKING:
    from resnet_cli.inference.calibration import Coverage
    from resnet_cli.inference.metrics import Evaluation
    from resnet_cli.jobs.evaluate import Evaluated

_MANY = 12  # most classes in a confusion table on the terminal


Dataset = Annotated[
    Path | None,
    typer.Argument(
        help="Folder to score, or a .zip or .tar of it; or cifar10, cifar100.  \\[default: the run's held-out images]",
        parser=dataset_path,
        autocompletion=complete_dataset,
    ),
]
Split = Annotated[
    SplitName | None,
    typer.Option(help="Split of the run or of DATASET to score; train scores training images.  \\[default: test, else val]"),
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
Explain = Annotated[
    int,
    typer.Option(min=0, max=MISTAKES, help="Worst mistakes of the report with a heat map: where the predicted class is seen."),
]
CoverageTable = Annotated[
    bool, typer.Option("--coverage", help="Print accuracy against the share of images answered, and thresholds for `predict`.")
]
Strict = Annotated[bool, typer.Option("--strict", help="A damaged or changed image is an error.")]


def evaluate(
    dataset: Dataset = None,
    labels: Labels = None,
    run: RunFolders = None,
    split: Split = None,
    views: Views = "1",
    engine: Engine = "auto",
    min_accuracy: MinAccuracy = None,
    output: Output = None,
    allow_changed: AllowChanged = False,
    strict: Strict = False,
    coverage: CoverageTable = False,
    explain: Explain = MISTAKES,
    report: ReportFile = None,
    no_report: NoReport = False,
    json: Json = False,
    quiet: Quiet = False,
    ray: Ray = None,
    input: Input = None,
) -> None:
    """Measure a classifier: top-1, top-5, per class, confusion; writes predictions.csv and confusion.csv.

    Several `--run` form an ensemble: probabilities are averaged, classes are matched by name, and training images of any of the
    runs are not scored, except with `--split train`. Held-out images that have changed since training are named and left out.
    `--views 10` crops from a short side of image size / 0.875; a network for small images that was trained on padded crops, as
    in the papers on CIFAR, gets crops of the image padded as in training. Earlier results of the same run and data set are
    replaced, those of several runs or of an export are not; nothing is written into an export.

    With `--ray`, many images: `--input` is a folder with class folders, or a Parquet file with columns `path` and `label`. A
    row per image is written to `--output`, and confusion.csv; the same command again continues where the last one stopped.
    """
    if allow_changed and labels is not None:
        raise typer.BadParameter("--allow-changed is for a run's held-out images: leave it out with --labels")
    if allow_changed and dataset is not None:
        raise typer.BadParameter("--allow-changed is for a run's held-out images: leave it out with a DATASET")
    others = dataset is not None or labels is not None or report is not None or allow_changed or coverage
    _require_together(ray, input, output, others)
    page = report_page(report, no_report, explain)
    reporter = Reporter(quiet or json)
    reporter.line(f"evaluating {', '.join(map(str, run or [newest_run()]))}")
    from resnet_cli.jobs.evaluate import EvaluateRequest, run_evaluation

    request = EvaluateRequest(run or (), dataset, split, int(views), engine, output, allow_changed, strict, labels, page)
    if ray is not None and input is not None:
        from resnet_cli.jobs.bulk import run_bulk_evaluation

        reporter.listen()
        done = run_bulk_evaluation(request, ray, input, reporter)
    else:
        done = run_evaluation(request, reporter)
    if json:
        console.print_json(done.to_json())
    else:
        _print_result(done, coverage)
    top1 = done.measured.figures.top1
    if min_accuracy is not None and top1 < min_accuracy:
        console.print_error(f"top-1 accuracy {top1:.4f} is below --min-accuracy {min_accuracy:g}", "")
        raise typer.Exit(3)


def _require_together(ray: str | None, input: str | None, output: Path | None, others: bool) -> None:
    """Check the options of a bulk evaluation.

    Raises:
        typer.BadParameter: one is missing or does not fit.
    """
    if ray is None:
        if input is not None:
            raise typer.BadParameter("--input is for --ray: give the folder as DATASET, or add --ray local")
        return
    if input is None or output is None:
        raise typer.BadParameter("--ray needs --input and --output")
    if others:
        raise typer.BadParameter("--ray reads --input: leave DATASET, --labels, --allow-changed, --coverage and --report out")
    if ":/" in str(output):
        raise typer.BadParameter("--output of evaluate is a folder of this machine, or of storage that all machines see")


def _print_result(done: "Evaluated", with_coverage: bool) -> None:
    measured, runs = done.measured, len(done.runs)
    together = f", ensemble of {runs} runs" if runs > 1 else ""
    crops = f", {measured.views} views" if measured.views > 1 else ""
    what = f"{measured.scored.name}, {measured.scored.split}{together}{crops}"
    console.out.print(f"[italic]{console.escape(what)}[/]")
    _print_headline(measured.figures)
    _print_classes(measured.figures, "the report" if done.report else "the output of --json")
    _print_confusion(measured.figures)
    if with_coverage:
        _print_coverage(done)
    if (unlike := measured.unlike_training) is not None:
        images = measured.figures.count
        console.out.print(f"unlike the training images: {len(unlike)} of {images} ({len(unlike) / images:.1%})")
    if not measured.rows.samples:
        console.out.print(f"a row per image: {console.escape(str(done.folder / 'predictions'))}")
        return
    if done.report:
        console.out.print(f"report: {console.escape(str(done.report))}")
    console.out.print(f"worst images first: {console.escape(str(done.folder / 'predictions.csv'))}")


def _print_coverage(done: "Evaluated") -> None:
    points, wanted = done.measured.coverage
    rows = [
        {"threshold": _typed(point.threshold), "answered": f"{point.answered:.1%}", "accuracy": f"{point.accuracy:.1%}"}
        for point in points
    ]
    print_table(columns_of(rows, rows[0]), "accuracy of the most certain answers")
    if suggested := done.suggested:
        _print_suggested(done.runs[0].record["calibration"]["images"], suggested)
        return
    for accuracy, found in wanted.items():
        if found is None:
            console.out.print(f"no threshold reaches an accuracy of {accuracy:.0%}")
        else:
            how = f"predict --threshold {_typed(found.threshold)}, which answers {found.answered:.1%}"
            console.prose(console.out, f"{accuracy:.0%} right: {how}", hang=2)
    if wanted:
        what = "these thresholds were fitted on the images of this table: new images may be answered a little worse"
        console.prose(console.out, what)


def _typed(threshold: float) -> str:
    """A threshold to type: three decimals, or more where these would move it by over 5 % of its distance from 1."""
    decimals = next((n for n in (3, 4, 5, 6) if abs(round(threshold, n) - threshold) <= 0.05 * (1 - threshold)), 7)
    return f"{threshold:.{decimals}f}"


def _print_suggested(images: int, suggested: "Sequence[tuple[float, float | None, Coverage | None]]") -> None:
    console.prose(console.out, f"thresholds fitted on {how_many(images, 'validation image')}, and what they do here:")
    for wanted, threshold, found in suggested:
        if threshold is None:
            console.prose(console.out, f"{wanted:.0%} right: none, or too few validation images are answered to tell", hang=2)
            continue
        here = f"answers {found.answered:.1%}, {found.accuracy:.1%} of them right" if found else "answers nothing"
        console.prose(console.out, f"{wanted:.0%} right: predict --threshold {_typed(threshold)}, which {here}", hang=2)


def _print_headline(evaluation: "Evaluation") -> None:
    low, high = evaluation.top1_interval
    images = how_many(evaluation.count, "image")
    top5 = f"top-5 {evaluation.top5:.1%}  " if evaluation.top5 is not None else ""
    print_headline(f"top-1 {evaluation.top1:.1%}", f"(95 % interval {low:.1%} to {high:.1%}, {images})")
    console.out.print(f"{top5}loss {evaluation.loss:.3f}  calibration error {evaluation.ece:.3f}")


def _print_classes(evaluation: "Evaluation", where: str) -> None:
    """A row per class; of many classes only the worst, and `where` the others are."""
    classes = [each for each in evaluation.to_json()["classes"] if each["count"]]
    many = len(classes) >= MANY_CLASSES
    macro = dict(zip(("precision", "recall", "f1"), evaluation.macro(), strict=True))
    average = {"class": "macro average", "count": evaluation.count, **macro}
    shown = [*(worst_first(classes)[:WORST] if many else classes), average]
    rows = [
        {
            "class": each["class"],
            "images": f"{each['count']:,}",
            "precision": f"{each['precision']:.1%}",
            "recall": f"{each['recall']:.1%}",
            "F1": f"{each['f1']:.1%}",
        }
        for each in shown
    ]
    caption = f"The {WORST} worst of {how_many(len(classes), 'class')}; all are in {where}." if many else ""
    columns = columns_of(rows, ("images", "precision", "recall", "F1"), {"precision": 1, "F1": 2})
    print_table(columns, caption=caption, total=True)


def _print_confusion(evaluation: "Evaluation") -> None:
    names = [each.name for each in evaluation.classes]
    matrix = _matrix(evaluation, names) if len(names) <= _MANY else None
    if matrix is not None and fits(matrix):
        print_table(matrix, "confusion")
        return
    from resnet_cli.reports.page import most_frequent_confusions

    rows = [
        {"true": true, "taken for": guess, "images": f"{count:,}"}
        for count, true, guess in most_frequent_confusions(names, evaluation.confusion.tolist(), 10)
    ]
    if rows:
        print_table(columns_of(rows, ("images",)), "most frequent confusions (all: confusion.csv)")


def _matrix(evaluation: "Evaluation", names: Sequence[str]) -> list[Column]:
    counts = evaluation.confusion.tolist()
    predicted = [
        Column(name, [f"{row[index]:,}" if row[index] else "." for row in counts], is_number=True)
        for index, name in enumerate(names)
    ]
    return [Column("true \\ predicted", names), *predicted]
