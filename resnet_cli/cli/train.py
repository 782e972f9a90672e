"""`resnet train`: any network of the residual papers, from scratch or from weights, by a recipe."""

import shlex
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from resnet_cli.cli import console
from resnet_cli.cli.cache import dataset_folder
from resnet_cli.cli.options import DATASET_HELP, ForceRun, Json, LrFind, Quiet, Resume, RunOutput, Strict, Tensorboard
from resnet_cli.cli.quiet import tensorflow_import
from resnet_cli.cli.result import print_result, print_search
from resnet_cli.learning.config import Optimizer, Schedule, TrainConfig
from resnet_cli.learning.recipes import Recipe, make_config, parse_drops, parse_duration, source_of
from resnet_cli.learning.tensorboard import require_tensorboard
from resnet_cli.networks.catalogue import Shortcut, find_network

_PANEL = "Recipe (what is not given, the recipe says)"


def _option(text: str, least: float | None = None, most: float | None = None) -> Any:
    return typer.Option(help=text, min=least, max=most, rich_help_panel=_PANEL, show_default=False)


def train(
    dataset: Annotated[Path | None, typer.Argument(help=DATASET_HELP)] = None,
    arch: Annotated[str, typer.Option(help="Network; `resnet models` lists them.")] = "resnet20",
    shortcut: Annotated[Shortcut | None, typer.Option(help="Shortcut option A, B or C of the 2015 paper.")] = None,
    image_size: Annotated[int | None, typer.Option(min=8, help="Input side in pixels.  [default: the network's]")] = None,
    weights: Annotated[str, typer.Option(help="none, imagenet, bundled, a run or a weights file to start from.")] = "none",
    recipe: Annotated[Recipe, typer.Option(help="fast (ours), paper (He et al. 2015), keras (its CIFAR example).")] = "fast",
    show: Annotated[bool, typer.Option("--show", help="Print the recipe with all changes, and stop.")] = False,
    time_limit: Annotated[
        str | None, typer.Option(help="Such as 30m: as many epochs as training can do in it, the schedule fitted.")
    ] = None,
    lr_find: LrFind = None,
    epochs: Annotated[int | None, _option("Passes over the pictures; the schedule follows.", 1)] = None,
    batch_size: Annotated[int | None, _option("Pictures a step.", 1)] = None,
    optimizer: Annotated[Optimizer | None, _option("Optimiser.")] = None,
    learning_rate: Annotated[float | None, _option("Peak learning rate.", 0)] = None,
    schedule: Annotated[Schedule | None, _option("How the rate falls.")] = None,
    warmup: Annotated[float | None, _option("Share of the steps in which the rate climbs.", 0, 1)] = None,
    drops: Annotated[str | None, _option("Of --schedule steps: 0.5:0.1 = from half of the steps on a tenth.")] = None,
    plateau: Annotated[float | None, _option("Factor on the rate when the validation loss stays, 0 for none.", 0, 1)] = None,
    momentum: Annotated[float | None, _option("Momentum of sgd.", 0, 0.9999)] = None,
    nesterov: Annotated[bool | None, _option("Nesterov's momentum.")] = None,
    weight_decay: Annotated[float | None, _option("L2 penalty, not on batch-norm and biases.", 0)] = None,
    label_smoothing: Annotated[float | None, _option("Share of the target spread over all classes.", 0, 0.9)] = None,
    dropout: Annotated[float | None, _option("Share of pooled features dropped.", 0, 0.9)] = None,
    stochastic_depth: Annotated[float | None, _option("Share of pictures that skip the last block.", 0, 0.9)] = None,
    ema: Annotated[float | None, _option("Share of the steps over which weights are averaged.", 0, 0.5)] = None,
    progressive: Annotated[bool | None, _option("Smaller pictures in the first half.")] = None,
    patience: Annotated[int | None, _option("Stop after so many epochs without gain, 0 never.", 0)] = None,
    class_weights: Annotated[bool | None, _option("Make every class count alike.")] = None,
    pixel_mean: Annotated[bool | None, _option("Subtract the training pictures' mean, pixel by pixel.")] = None,
    crop: Annotated[
        Literal["resized", "pad", "none"] | None, _option("Random crop of a part, or of the padded picture.")
    ] = None,
    scale: Annotated[float | None, _option("Smallest area of a resized crop.", 0.01, 1)] = None,
    flip: Annotated[bool | None, _option("Mirror every second picture.")] = None,
    rotate: Annotated[float | None, _option("Largest rotation, degrees.", 0, 180)] = None,
    shift: Annotated[float | None, _option("Largest shift, share of the side.", 0, 0.5)] = None,
    sharpness: Annotated[float | None, _option("Blur or sharpen by up to 1 + this.", 0)] = None,
    cutout: Annotated[float | None, _option("Side of a grey square, share of the side.", 0, 1)] = None,
    mixup: Annotated[float | None, _option("Beta parameter of mixup, 0 for none.", 0)] = None,
    val_split: Annotated[float | None, _option("Share held out where there is no val folder.", 0, 0.9)] = None,
    seed: Annotated[int | None, _option("Of everything random.", 0)] = None,
    output: RunOutput = None,
    force: ForceRun = False,
    resume: Resume = False,
    strict: Strict = False,
    tensorboard: Tensorboard = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a network of the residual papers on a folder of pictures, from scratch or from weights."""
    typed = locals()
    given = {field.name: typed[field.name] for field in fields(TrainConfig) if typed.get(field.name) is not None}
    if drops is not None:
        given["drops"] = parse_drops(drops)
    network = find_network(arch, shortcut)
    config = make_config(recipe, network.depth, given)
    if show:
        _show(recipe, config, given, json)
        return
    if dataset is None:
        raise typer.BadParameter("name a folder of pictures (or --show the recipe)", param_hint="DATASET")
    if time_limit and epochs:
        raise typer.BadParameter("--time-limit chooses the epochs: leave --epochs out")
    limit = parse_duration(time_limit) if time_limit else None
    if tensorboard:
        require_tensorboard()
    reporter = console.Reporter(quiet or json)
    folder = dataset_folder(dataset, reporter)
    with tensorflow_import():
        from resnet_cli.cli.train_job import TrainRequest, run_training, search_rate

    reporter.listen()
    command = shlex.join(["resnet", *sys.argv[1:]])
    request = TrainRequest(
        folder, arch, shortcut, image_size, weights, recipe, limit, lr_find, output, force, resume, strict, tensorboard, command
    )
    only_search = lr_find == "plot"
    result = search_rate(request, config, reporter) if only_search else run_training(request, config, reporter)
    if json:
        console.print_json(result)
    elif only_search:
        print_search(result)
    else:
        print_result(result)


def _show(recipe: Recipe, config: TrainConfig, given: dict[str, Any], json: bool) -> None:
    """The recipe as options that can be typed; changed ones are marked."""
    values = {name: value for name, value in asdict(config).items() if name != "depth_decay"}
    if json:
        console.print_json({"recipe": recipe, "source": source_of(recipe), **values})
        return
    table = console.Table("option", "value", "", title=f"{recipe}: {source_of(recipe)}")
    for name, value in values.items():
        spelled = ",".join(f"{share:g}:{factor:g}" for share, factor in value) if name == "drops" else str(value)
        table.add_row(f"--{name.replace('_', '-')}", spelled, "changed" if name in given else "")
    console.out.print(table)
