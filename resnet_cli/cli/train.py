"""`resnet train`: any network of the residual papers, from scratch or from weights, by a recipe."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import typer

from resnet_cli.cli import console
from resnet_cli.cli import recipe_options as o
from resnet_cli.cli.console import print_result, print_search
from resnet_cli.cli.options import (
    ForceRun,
    Json,
    LrFind,
    Quiet,
    Resume,
    RunOutput,
    Strict,
    Tensorboard,
    require_effect_of_search,
)
from resnet_cli.cli.reporter import Reporter
from resnet_cli.jobs.environment import dataset_folder, tensorflow_import
from resnet_cli.jobs.start import TrainRequest
from resnet_cli.jobs.train_plan import plan_training
from resnet_cli.networks.catalogue import find_network
from resnet_cli.training.config import Recipe, TrainConfig, make_config, parse_duration, source_of
from resnet_cli.training.tensorboard import require_tensorboard


def train(
    dataset: o.Dataset = None,
    arch: o.Arch = "resnet20",
    shortcut: o.ShortcutOption = None,
    image_size: o.ImageSize = None,
    weights: o.Weights = "none",
    teacher: o.TeacherOption = None,
    recipe: o.RecipeName = "fast",
    show: o.Show = False,
    time_limit: o.TimeLimit = None,
    lr_find: LrFind = None,
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    optimizer: o.OptimizerName = None,
    learning_rate: o.LearningRate = None,
    schedule: o.ScheduleName = None,
    warmup: o.Warmup = None,
    drops: o.Drops = None,
    plateau: o.Plateau = None,
    momentum: o.Momentum = None,
    nesterov: o.Nesterov = None,
    weight_decay: o.WeightDecay = None,
    label_smoothing: o.LabelSmoothing = None,
    dropout: o.Dropout = None,
    stochastic_depth: o.StochasticDepth = None,
    ema: o.Ema = None,
    progressive: o.Progressive = None,
    patience: o.Patience = None,
    class_weights: o.ClassWeights = None,
    pixel_mean: o.PixelMean = None,
    crop: o.Crop = None,
    scale: o.Scale = None,
    flip: o.Flip = None,
    rotate: o.Rotate = None,
    shift: o.Shift = None,
    color: o.Color = None,
    sharpness: o.Sharpness = None,
    cutout: o.Cutout = None,
    mixup: o.Mixup = None,
    teacher_weight: o.TeacherWeight = None,
    temperature: o.Temperature = None,
    teacher_views: o.TeacherViews = None,
    val_split: o.ValSplit = None,
    seed: o.Seed = None,
    output: RunOutput = None,
    force: ForceRun = False,
    resume: Resume = False,
    strict: Strict = False,
    tensorboard: Tensorboard = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a network of the residual papers on a folder of images, from scratch or from weights."""
    typed = dict(locals())
    given, network = o.recipe_changes(typed), find_network(arch, shortcut)
    config, limit = make_config(recipe, network, given), _limit(time_limit, epochs, show)
    require_effect_of_search(lr_find, learning_rate is not None, _vain_for_search(limit, resume, tensorboard))
    if show:
        return _show(recipe, config, make_config(recipe, network, {}), json)
    return _run(_request(typed, given, limit), config, quiet, json)


def _vain_for_search(limit: float | None, resume: bool, tensorboard: bool) -> dict[str, Any]:
    return {"--time-limit": limit, "--resume": resume, "--tensorboard": tensorboard}


def _request(typed: Mapping[str, Any], given: Mapping[str, Any], limit: float | None) -> TrainRequest:
    """What was typed beside the recipe; refused where no data set is named, or options that only matter with a teacher."""
    if typed["dataset"] is None:
        raise typer.BadParameter("name a folder of images (or --show the recipe)", param_hint="DATASET")
    vain = [name for name in ("teacher_weight", "temperature", "teacher_views") if name in given]
    if vain and typed["teacher"] is None:
        raise typer.BadParameter(f"--{vain[0].replace('_', '-')} matters with a --teacher alone")
    beside = {field.name: typed[field.name] for field in fields(TrainRequest) if field.name in typed}
    return TrainRequest(**beside, limit=limit, command=shlex.join(["resnet", *sys.argv[1:]]))


def _limit(time_limit: str | None, epochs: int | None, show: bool) -> float | None:
    if time_limit is None:
        return None
    if show:
        raise typer.BadParameter("--show trains nothing, so no clock can choose the epochs: leave --time-limit out")
    if epochs is not None:
        raise typer.BadParameter("--time-limit chooses the epochs: leave --epochs out")
    return parse_duration(time_limit)


def _run(request: TrainRequest, config: TrainConfig, quiet: bool, json: bool) -> None:
    if request.tensorboard:
        require_tensorboard()
    reporter = Reporter(quiet or json)
    request = replace(request, dataset=dataset_folder(request.dataset, reporter))
    plan = plan_training(request, config, reporter)
    with tensorflow_import():
        from resnet_cli.jobs.train import run_training

    reporter.listen()
    result = run_training(plan, reporter)
    if json:
        console.print_json(result)
    elif request.lr_find == "plot":
        print_search(result)
    else:
        print_result(result)


def _show(recipe: Recipe, config: TrainConfig, usual: TrainConfig, json: bool) -> None:
    """The recipe as options that can be typed; changed ones are marked."""
    values = asdict(config)
    if json:
        console.print_json({"recipe": recipe, "source": source_of(recipe), **values})
        return
    changed = {name for name, value in values.items() if value != getattr(usual, name)}
    table = console.Table("option", "value", *([""] if changed else []), title=f"{recipe}: {source_of(recipe)}")
    for name, value in values.items():
        spelled = ",".join(f"{share:g}:{factor:g}" for share, factor in value) if name == "drops" else str(value)
        table.add_row(f"--{name.replace('_', '-')}", spelled, *(["changed"] if name in changed else []))
    console.out.print(table)
