"""Options with the same meaning in several commands (light)."""

from glob import escape
from pathlib import Path
from typing import Annotated, Literal

import typer

from resnet_cli.engines import EngineName
from resnet_cli.reports import MISTAKES, Page


def dataset_path(typed: str) -> Path:
    """The data set as typed; only the bare word `cifar10` is a name, `./cifar10` is a folder."""
    from resnet_cli.data.named import no_name

    return no_name(Path(typed), typed)


def complete_runs(incomplete: str) -> list[str]:
    """Runs, newest first, for completion in the shell."""
    from resnet_cli.runs.folder import RUNS, summaries

    return [name for each in summaries(RUNS) if (name := str(each.folder)).startswith(incomplete)]


def complete_weights(incomplete: str) -> list[str]:
    """What --weights takes, for completion; names of published weights contain a colon, at which bash breaks words."""
    return [*(name for name in ("imagenet", "bundled", "none") if name.startswith(incomplete)), *complete_runs(incomplete)]


def complete_dataset(incomplete: str) -> list[str]:
    """Names of known data sets, for completion; the shell completes folders where this finds none."""
    from resnet_cli.data.named import NAMED

    found = [name for name in NAMED if incomplete and name.startswith(incomplete)]
    return [] if any(Path().glob(f"{escape(incomplete)}*")) else found


DATASET = typer.Argument(
    help="Folder with one folder of images per class, or a .zip or .tar of it; or cifar10, cifar100.",
    parser=dataset_path,
    autocompletion=complete_dataset,
)
DatasetFolder = Annotated[Path | None, DATASET]
LABELS_TEXT = "Table of path, label and, optionally, split in place of class folders: .csv, .tsv, .parquet or .jsonl."
Labels = Annotated[Path | None, typer.Option("--labels", help=LABELS_TEXT, show_default=False)]
RunFolder = Annotated[
    Path | None,
    typer.Option("--run", help="Run folder, or published weights.  \\[default: the newest]", autocompletion=complete_runs),
]
RunFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--run",
        "--model",
        help="Run folder; exported model, as folder or file, which its own runtime runs; or published weights as"
        " timm:resnet50.a1_in1k. Several form an ensemble: probabilities are averaged.  \\[default: the newest run]",
        autocompletion=complete_runs,
    ),
]
# Words, not numbers: older versions of click do not support choices of numbers.
Views = Annotated[
    Literal["1", "2", "10"],
    typer.Option(help="Views of an image to average: 2 = with its mirror image; 10 = corners and centre, also mirrored."),
]
Engine = Annotated[
    EngineName,
    typer.Option(help="Engine of forward passes; auto: OpenVINO, but Keras on a GPU or if OpenVINO is missing."),
]
REPORT, NO_REPORT = "HTML report.  \\[default: report.html beside the CSV files]", "Write no report."
ReportFile = Annotated[Path | None, typer.Option("--report", metavar="FILE", help=REPORT, show_default=False)]
NoReport = Annotated[bool, typer.Option("--no-report", help=NO_REPORT)]
Threshold = Annotated[
    float,
    typer.Option(min=0, max=1, help="Below this probability, 0..1, the answer is unsure; `evaluate --coverage` suggests one."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def report_page(path: Path | None, none: bool, explained: int = MISTAKES) -> Page:
    """Which report is written, from the options.

    Raises:
        typer.BadParameter: there is a path and none is wanted.
    """
    if none and path is not None:
        raise typer.BadParameter("--report and --no-report exclude each other")
    return Page(path, not none, explained)


BULK = "Many images, on Ray Data"
Ray = Annotated[
    str | None,
    typer.Option(help="Ray to run on: local (this machine), auto, or HOST:PORT of a cluster.", rich_help_panel=BULK),
]
Input = Annotated[
    str | None,
    typer.Option(help="Parquet file of paths, folder or pattern; a path, or a URL such as s3://...", rich_help_panel=BULK),
]
