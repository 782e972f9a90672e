"""Options that mean the same in every command (light)."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from resnet_cli.engines import EngineName


def dataset_path(typed: str) -> Path:
    """What a command was given as its data set; `./cifar10` stays a folder: a name is the bare word."""
    from resnet_cli.data.named import NAMED

    path = Path(typed)
    return path.absolute() if str(path) in NAMED and str(path) != typed else path


DATASET = typer.Argument(help="Folder with one folder of images per class; or cifar10, cifar100.", parser=dataset_path)
DatasetFolder = Annotated[Path, DATASET]
RunFolder = Annotated[Path | None, typer.Option("--run", help="Run folder.  \\[default: the newest]")]
RunFolders = Annotated[
    list[Path] | None,
    typer.Option("--run", help="Run folder; several form an ensemble: probabilities are averaged.  \\[default: the newest]"),
]
# Words, not numbers: older versions of click cannot choose among numbers.
Views = Annotated[
    Literal["1", "2", "10"],
    typer.Option(
        help="Views of an image that are averaged: 2 adds its mirror image; 10 are corners and centre, both mirrored."
    ),
]
Engine = Annotated[
    EngineName,
    typer.Option(help="What runs networks forward; auto is OpenVINO, or Keras where that is missing or on a GPU."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
