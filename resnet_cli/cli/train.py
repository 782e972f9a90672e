"""`resnet train`: any network of the residual papers, from scratch or from weights."""

import shlex
import sys
from dataclasses import fields
from typing import Annotated, Literal

import typer

from resnet_cli.cli import console
from resnet_cli.cli.cache import dataset_folder
from resnet_cli.cli.options import (
    ClassWeights,
    DatasetFolder,
    Dropout,
    ForceRun,
    Json,
    Quiet,
    Resume,
    RunOutput,
    Seed,
    Strict,
    Tensorboard,
)
from resnet_cli.cli.quiet import tensorflow_import
from resnet_cli.cli.result import print_result
from resnet_cli.learning.config import Optimizer, Schedule, TrainConfig
from resnet_cli.learning.tensorboard import require_tensorboard
from resnet_cli.networks.catalogue import Shortcut

D = TrainConfig()


def train(
    dataset: DatasetFolder,
    arch: Annotated[str, typer.Option(help="Network; `resnet models` lists them.")] = "resnet20",
    shortcut: Annotated[Shortcut | None, typer.Option(help="Shortcut option A, B or C of the 2015 paper.")] = None,
    image_size: Annotated[int | None, typer.Option(min=8, help="Input side in pixels.  [default: the network's]")] = None,
    weights: Annotated[str, typer.Option(help="none, imagenet, bundled, a run or a weights file to start from.")] = "none",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pictures.")] = D.epochs,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a step.")] = D.batch_size,
    optimizer: Annotated[Optimizer, typer.Option(help="Optimiser.")] = D.optimizer,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak learning rate.")] = D.learning_rate,
    schedule: Annotated[Schedule, typer.Option(help="How the rate falls.")] = D.schedule,
    warmup: Annotated[float, typer.Option(min=0, max=1, help="Share of the steps in which the rate climbs.")] = D.warmup,
    momentum: Annotated[float, typer.Option(min=0, max=0.9999, help="Momentum of sgd.")] = D.momentum,
    weight_decay: Annotated[float, typer.Option(min=0, help="L2 penalty, not on batch-norm and biases.")] = D.weight_decay,
    label_smoothing: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the target spread over all classes.")
    ] = D.label_smoothing,
    dropout: Dropout = D.dropout,
    ema: Annotated[float, typer.Option(min=0, max=0.99999, help="Momentum of averaged weights, 0 for none.")] = D.ema,
    progressive: Annotated[bool, typer.Option(help="Smaller pictures in the first half.")] = D.progressive,
    patience: Annotated[int, typer.Option(min=0, help="Stop after so many epochs without gain, 0 never.")] = D.patience,
    class_weights: ClassWeights = D.class_weights,
    crop: Annotated[
        Literal["resized", "pad", "none"], typer.Option(help="Random crop of a part, or of the padded picture.")
    ] = D.crop,
    scale: Annotated[float, typer.Option(min=0.01, max=1, help="Smallest area of a resized crop.")] = D.scale,
    flip: Annotated[bool, typer.Option(help="Mirror every second picture.")] = D.flip,
    rotate: Annotated[float, typer.Option(min=0, max=180, help="Largest rotation, degrees.")] = D.rotate,
    shift: Annotated[float, typer.Option(min=0, max=0.5, help="Largest shift, share of the side.")] = D.shift,
    cutout: Annotated[float, typer.Option(min=0, max=1, help="Side of a grey square, share of the side.")] = D.cutout,
    mixup: Annotated[float, typer.Option(min=0, help="Beta parameter of mixup, 0 for none.")] = D.mixup,
    val_split: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share held out where there is no val folder.")
    ] = D.val_split,
    seed: Seed = D.seed,
    output: RunOutput = None,
    force: ForceRun = False,
    resume: Resume = False,
    strict: Strict = False,
    tensorboard: Tensorboard = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a network of the residual papers on a folder of pictures, from scratch or from weights."""
    given = locals()
    config = TrainConfig(**{field.name: given[field.name] for field in fields(TrainConfig) if field.name in given})
    if tensorboard:
        require_tensorboard()
    reporter = console.Reporter(quiet or json)
    folder = dataset_folder(dataset, reporter)
    with tensorflow_import():
        from resnet_cli.cli.train_job import TrainRequest, run_training
    reporter.listen()
    command = shlex.join(["resnet", *sys.argv[1:]])
    request = TrainRequest(folder, arch, shortcut, image_size, weights, output, force, resume, strict, command, tensorboard)
    result = run_training(request, config, reporter)
    if json:
        console.print_json(result)
    else:
        print_result(result)
