"""`resnet predict`: the most probable classes of images, in under half a second, without TensorFlow."""

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len

from resnet_cli.cli import console
from resnet_cli.cli.console import bytes_of_stdin
from resnet_cli.cli.options import BULK, Engine, Input, Json, Ray, RunFolders, Threshold, Views
from resnet_cli.cli.reporter import Reporter
from resnet_cli.data.inputs import listed_paths
from resnet_cli.files import csv_line, path_text
from resnet_cli.progress import how_many

if TYPE_CHECKING:
    from resnet_cli.inference.classify import Prediction
    from resnet_cli.jobs.bulk import BulkDone

_BAR = 20  # columns of a probability of 1
_BESIDE = 2 + 7 + 2 + 2 + _BAR  # columns of a line beside the name
Features = Annotated[bool, typer.Option("--features", help="Also write the pooled features.", rich_help_panel=BULK)]
Top = Annotated[int, typer.Option(min=1, help="Number of most probable classes to print.")]
Explain = Annotated[
    Path | None,
    typer.Option(help="Folder for a heat map of each image: where the predicted class is seen.", show_default=False),
]
Embeddings = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="New .npz or .parquet file of the images' pooled features.", show_default=False),
]


def predict(
    images: Annotated[
        list[str] | None, typer.Argument(help="Files, folders, patterns, or - for paths on stdin.", show_default=False)
    ] = None,
    run: RunFolders = None,
    views: Views = "1",
    engine: Engine = "auto",
    top: Top = 5,
    threshold: Threshold = 0.0,
    explain: Explain = None,
    embeddings: Embeddings = None,
    json: Json = False,
    null: Annotated[bool, typer.Option("--null", "-0", help="Paths on stdin end with NUL, as after find -print0.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print the result as CSV.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notices.")] = False,
    ray: Ray = None,
    input: Input = None,
    output: Annotated[
        str | None, typer.Option(help="Folder or URL of the Parquet files, a row per image.", rich_help_panel=BULK)
    ] = None,
    features: Features = False,
) -> None:
    """Classify images; without any run, into ImageNet's 1,000 classes.

    With `--ray`, many images: `--input` is a Parquet file with a column `path`, a folder or a pattern, as a path or a URL (s3,
    gs, hdfs, ...), and the rows are written to `--output`. The same command again continues where the last one stopped.
    """
    if ray is not None:
        if embeddings is not None:
            raise typer.BadParameter("--embeddings is not for --ray: --features adds them to the rows")
        if explain is not None or threshold:
            raise typer.BadParameter("--ray writes probabilities only: leave out --explain and --threshold")
        if images or csv or null:
            raise typer.BadParameter("--ray reads --input and writes --output: leave out images, --csv and --null")
        if not input or not output:
            raise typer.BadParameter("--ray needs --input and --output")
        _bulk(ray, input, output, run or (), int(views), engine, top, features, json, quiet)
        return
    if input or output or features:
        raise typer.BadParameter("--input, --output and --features are for --ray: add --ray local")
    if not images:
        raise typer.BadParameter("give images: files, folders, patterns, or - for paths on stdin")
    if embeddings is not None and embeddings.suffix.lower() not in (".npz", ".parquet"):
        raise typer.BadParameter(f"--embeddings {embeddings} ends with neither .npz nor .parquet")
    if json and csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    if null and "-" not in images:
        raise typer.BadParameter("--null is about paths on stdin: give - as well")
    stdin = bytes_of_stdin() if "-" in images else ()
    if stdin is None:
        raise typer.BadParameter("- stands for paths on stdin, which is closed")
    from resnet_cli.jobs.predict import PredictRequest, run_prediction

    request = PredictRequest(images, run or (), int(views), engine, top, threshold, explain, embeddings)
    names, results = run_prediction(request, listed_paths(stdin, null), Reporter(quiet))
    runs = list(map(path_text, names))
    show = partial(_show_json, runs) if json else partial(_show_csv, runs) if csv else _show_text
    if show(results):
        raise typer.Exit(1)


def _bulk(ray: str, input: str, output: str, *options: Any) -> None:
    runs, views, engine, top, features, json, quiet = options
    from resnet_cli.jobs.bulk import BulkRequest, run_bulk

    reporter = Reporter(quiet or json)
    reporter.listen()
    done = run_bulk(BulkRequest(ray, input, output, runs, views, engine, top, features), reporter)
    if json:
        console.print_json(done.to_json())
    else:
        console.out.print(_told(done))
    if done.errors == done.images:
        raise typer.Exit(1)


def _told(done: "BulkDone") -> str:
    before = f", {done.images - done.now:,} of them before" if done.now < done.images else ""
    rate = f" ({done.now / done.seconds:,.1f} images/s)" if done.now else ""
    errors = f"[red]{done.errors:,} with an error[/]" if done.errors else "no errors"
    return f"[bold]{how_many(done.images, 'image')}[/]{before}{rate}, {errors}: {console.escape(done.output)}"


def _show_json(runs: Sequence[str], results: "Iterable[Prediction]") -> int:
    """One array, written as it grows: each result is printed before the next one is computed."""
    failed = 0
    first = True
    for result in results:
        failed += result.error is not None
        sys.stdout.write(("[\n" if first else ",\n") + console.json_text(result.to_json(runs)))
        sys.stdout.flush()
        first = False
    sys.stdout.write("[]\n" if first else "\n]\n")
    return failed


def _show_csv(runs: Sequence[str], results: "Iterable[Prediction]") -> int:
    """A line per image and class; an image that failed has one line with its error."""
    failed = 0

    def write(*row: object) -> None:
        sys.stdout.write(csv_line(row))

    answered = ";".join(runs)
    write("path", "rank", "class", "probability", "error", "runs", "unsure", "unlike_training")
    for result in results:
        if result.error is not None:
            failed += 1
            write(path_text(result.name), "", "", "", path_text(result.error), answered, "", "")
        for rank, (name, probability) in enumerate(result.top, 1):
            marks = str(result.unsure).lower(), "" if result.unlike_training is None else str(result.unlike_training).lower()
            write(path_text(result.name), rank, name, f"{probability:.6f}", "", answered, *marks)
        sys.stdout.flush()
    return failed


def _show_text(results: "Iterable[Prediction]") -> int:
    """A block per image: its path and the most probable class, then the others."""
    failed = 0
    for result in results:
        if result.error is not None:
            failed += 1
            console.print_error(result.error, "")
            continue
        marks = ("  unsure" if result.unsure else "") + ("  unlike the training images" if result.unlike_training else "")
        console.out.print(f"[bold]{console.escape(result.name)}[/]{marks}")
        width = max((cell_len(name) for name, _ in result.top), default=0)
        has_bars = (room := console.room()) is None or width + _BESIDE <= room
        for name, probability in result.top:
            bar = f"{' ' * (width - cell_len(name))}  [dim]{'█' * round(probability * _BAR)}[/]" if has_bars else ""
            console.out.print(f"  {probability:7.2%}  {console.escape(name)}{bar}")
        if result.explanation:
            console.out.print(f"  heat map: {console.escape(str(result.explanation))}")
    return failed
