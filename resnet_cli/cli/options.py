"""Options that mean the same in every command (light)."""

from collections.abc import Mapping
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
RunOutput = Annotated[Path | None, typer.Option("--output", help="Run folder.  \\[default: runs/<dataset>-<arch>]")]
ForceRun = Annotated[bool, typer.Option("--force", help="Replace the run in --output.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
Strict = Annotated[bool, typer.Option("--strict", help="A damaged image is an error.")]
ClassWeights = Annotated[bool, typer.Option(help="Make every class count alike.")]
Dropout = Annotated[float, typer.Option(min=0, max=0.9, help="Share of pooled features dropped.")]
FineTuningPatience = Annotated[
    int, typer.Option(min=0, help="Stop the fine-tuning phase after so many epochs without gain; 0 runs all, never skips it.")
]
CacheLimit = Annotated[float | None, typer.Option(min=0, help="GB of disk for activations.  \\[default: half of what is free]")]
Tensorboard = Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard's event files too.")]
TransferLimit = Annotated[
    str | None, typer.Option("--time-limit", help="Such as 10m, for the training itself: views and epochs are chosen to fit.")
]
LARGEST_SEED = 2**32 - 1  # that numpy takes
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Random seed.")]
ValSplit = Annotated[
    float | None,
    typer.Option(
        min=0, max=0.9, help="Share held out where there is no val folder.  \\[default: 0.2, or 0.1 beside a test folder]"
    ),
]
Engine = Annotated[
    EngineName,
    typer.Option(help="What runs networks forward; auto is OpenVINO, or Keras where that is missing or on a GPU."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
LrFind = Annotated[
    Literal["plot", "use"] | None, typer.Option(help="Range test of the learning rate: plot it and stop, or use its result.")
]


def require_effect_of_search(lr_find: str | None, rate_is_typed: bool, untrained: Mapping[str, object]) -> None:
    """Refuse what a range test passes over.

    Args:
        lr_find: as typed.
        rate_is_typed: whether a rate was asked for beside it.
        untrained: options that mean nothing where nothing is trained, and what was typed for them.

    Raises:
        typer.BadParameter: one of them has no effect.
    """
    if lr_find and rate_is_typed:
        raise typer.BadParameter(f"--lr-find {lr_find} looks for the rate: leave --learning-rate out")
    if lr_find == "plot" and (vain := [option for option, value in untrained.items() if value]):
        raise typer.BadParameter(f"--lr-find plot trains nothing: leave {vain[0]} out")
