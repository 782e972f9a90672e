"""The options of `train`, one name each, so that the command's signature is a list (light)."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from resnet_cli.cli.options import DATASET, LARGEST_SEED
from resnet_cli.training.config import Optimizer, Recipe, Schedule, TrainConfig, parse_drops

PANEL = "Recipe (what is not given, the recipe says)"


def _option(text: str, least: float | None = None, most: float | None = None) -> Any:
    return typer.Option(help=text, min=least, max=most, rich_help_panel=PANEL, show_default=False)


Dataset = Annotated[Path | None, DATASET]
Arch = Annotated[str, typer.Option(help="Network; `resnet models` lists them.")]
ShortcutOption = Annotated[
    Literal["A", "B", "C"] | None, typer.Option(help="Shortcut option of the 2015 paper.  \\[default: the network's]")
]
ImageSize = Annotated[int | None, typer.Option(min=8, help="Input side in pixels.  \\[default: the network's]")]
Weights = Annotated[str, typer.Option(help="none, imagenet, bundled, a run or a weights file to start from.")]
TeacherOption = Annotated[
    Path | None, typer.Option(help="A run, or an ONNX or OpenVINO file, whose answers the network learns.", show_default=False)
]
RecipeName = Annotated[Recipe, typer.Option(help="fast (ours), paper (He et al. 2015), keras (its CIFAR example).")]
Show = Annotated[bool, typer.Option("--show", help="Print the recipe with all changes, and stop.")]
TimeLimit = Annotated[str | None, typer.Option(help="Such as 30m, for the training itself: as many epochs as fit.")]
Epochs = Annotated[int | None, _option("Passes over the images; the schedule follows.", 1)]
BatchSize = Annotated[int | None, _option("Images a step, at most.", 1)]
OptimizerName = Annotated[Optimizer | None, _option("Optimiser.")]
LearningRate = Annotated[float | None, _option("Peak learning rate, if not the optimiser's usual one.", 0)]
ScheduleName = Annotated[Schedule | None, _option("How the rate falls.")]
Warmup = Annotated[float | None, _option("Share of the steps in which the rate climbs.", 0, 1)]
Drops = Annotated[str | None, _option("Step decay as FRACTION:FACTOR,..., e.g. 0.5:0.1.")]
Plateau = Annotated[float | None, _option("Factor on the rate when the validation loss stays, 0 for none.", 0, 1)]
Momentum = Annotated[float | None, _option("Momentum of sgd and muon.", 0, 0.9999)]
Nesterov = Annotated[bool | None, _option("Nesterov's momentum.")]
WeightDecay = Annotated[float | None, _option("L2 penalty, not on batch-norm and biases; with muon on the head alone.", 0)]
LabelSmoothing = Annotated[float | None, _option("Share of the target spread over all classes.", 0, 0.9)]
Dropout = Annotated[float | None, _option("Share of pooled features dropped.", 0, 0.9)]
StochasticDepth = Annotated[float | None, _option("Share of images that skip the last block.", 0, 0.9)]
Ema = Annotated[float | None, _option("Share of the steps over which weights are averaged.", 0, 0.5)]
Progressive = Annotated[bool | None, _option("Half the image's side in the first two thirds.")]
Patience = Annotated[int | None, _option("Stop after so many epochs without gain in validation accuracy or loss, 0 never.", 0)]
ClassWeights = Annotated[bool | None, _option("Make every class count alike.")]
PixelMean = Annotated[bool | None, _option("Subtract the training images' mean, pixel by pixel.")]
Crop = Annotated[Literal["resized", "pad", "none"] | None, _option("Random crop of a part, or of the padded image.")]
Scale = Annotated[float | None, _option("Smallest area of a resized crop.", 0.01, 1)]
Flip = Annotated[bool | None, _option("Mirror every second image.")]
Rotate = Annotated[float | None, _option("Largest rotation, degrees.", 0, 180)]
Shift = Annotated[float | None, _option("Largest shift, share of the side.", 0, 0.5)]
Color = Annotated[float | None, _option("Change brightness, contrast and saturation by up to 1 + this.", 0)]
Sharpness = Annotated[float | None, _option("Blur or sharpen by up to 1 + this.", 0)]
Cutout = Annotated[float | None, _option("Side of a grey square, share of the side.", 0, 1)]
Mixup = Annotated[float | None, _option("Beta parameter of mixup, 0 for none.", 0)]
TeacherWeight = Annotated[float | None, _option("Share of the loss that is the teacher's; 1 uses no labels.", 0.01, 1)]
Temperature = Annotated[float | None, _option("Evens out the teacher's probabilities.", 0.1, 100)]
TeacherViews = Annotated[int | None, _option("Crops of an image that the teacher is shown; 0 for new ones every epoch.", 0)]
ValSplit = Annotated[float | None, _option("Share held out where there is no val folder.", 0, 0.9)]
Seed = Annotated[int | None, _option("Random seed.", 0, LARGEST_SEED)]


def recipe_changes(typed: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `TrainConfig` that were typed.

    Args:
        typed: arguments of the command by name; None where the recipe decides.

    Raises:
        ResnetError: --drops cannot be read.
    """
    given = {field.name: typed[field.name] for field in fields(TrainConfig) if typed.get(field.name) is not None}
    return given | ({"drops": parse_drops(given["drops"])} if "drops" in given else {})
