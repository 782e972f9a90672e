"""`resnet finetune`: a folder of photos in, a trained, measured, portable classifier out."""

import math
import shlex
import sys
from dataclasses import fields
from typing import Annotated, Any, Literal

import typer

from resnet_cli.cli import console
from resnet_cli.cli.console import print_result, print_search
from resnet_cli.cli.options import (
    CacheLimit,
    ClassWeights,
    DatasetFolder,
    Dropout,
    Engine,
    FineTuningPatience,
    ForceRun,
    Json,
    LrFind,
    Quiet,
    Resume,
    RunOutput,
    Seed,
    Strict,
    Tensorboard,
    TransferLimit,
    ValSplit,
    require_effect_of_search,
)
from resnet_cli.cli.reporter import Reporter
from resnet_cli.jobs.environment import dataset_folder, tensorflow_import
from resnet_cli.jobs.finetune_plan import plan_finetune
from resnet_cli.jobs.start import FinetuneRequest
from resnet_cli.networks.catalogue import find_network
from resnet_cli.training.config import Augment, FinetuneConfig, parse_duration
from resnet_cli.training.tensorboard import require_tensorboard

D = FinetuneConfig()


def finetune(
    dataset: DatasetFolder,
    arch: Annotated[str, typer.Option(help="Network, or auto; `resnet models` lists them.")] = "auto",
    weights: Annotated[str, typer.Option(help="auto, imagenet, bundled, none, a run or a weights file.")] = "auto",
    unfreeze: Annotated[
        Literal["auto", "none", "last", "all"], typer.Option(help="Layers to fine-tune in addition to the head.")
    ] = "auto",
    hidden: Annotated[int, typer.Option(min=0, help="Units of a hidden layer in the head; the tutorials use 2048.")] = D.hidden,
    dropout: Dropout = D.dropout,
    image_size: Annotated[str, typer.Option(help="Input side in pixels; auto follows network and images.")] = "auto",
    resize: Annotated[Literal["crop", "pad", "squash"], typer.Option(help="How an image becomes a square.")] = "crop",
    epochs: Annotated[
        int, typer.Option(min=0, help="Passes of the fine-tuning phase, or of AdamW on a head alone; 0 chooses.")
    ] = D.epochs,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step at most, fine-tuning phase.")] = D.batch_size,
    learning_rate: Annotated[
        float, typer.Option(min=0, help="Peak rate of the fine-tuning phase; 0 chooses: 0.0005, or 0.0007 for all layers.")
    ] = D.learning_rate,
    augment: Annotated[Augment, typer.Option(help="light: random parts; strong: smaller ones, rotated too; none.")] = D.augment,
    flip: Annotated[bool, typer.Option(help="Mirror every second view; not for digits, text and arrows.")] = D.flip,
    views: Annotated[int, typer.Option(min=0, help="Augmented views of an image; 1 = as it is, 0 chooses.")] = D.views,
    patience: FineTuningPatience = D.patience,
    time_limit: TransferLimit = None,
    lr_find: LrFind = None,
    class_weights: ClassWeights = D.class_weights,
    val_split: ValSplit = D.val_split,
    seed: Seed = D.seed,
    engine: Engine = D.engine,
    output: RunOutput = None,
    force: ForceRun = False,
    resume: Resume = False,
    strict: Strict = False,
    tensorboard: Tensorboard = False,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep features for later runs, and use kept ones.")] = True,
    cache_limit: CacheLimit = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn a folder of photos into a classifier, from a pretrained network."""
    typed = locals()
    _require_effect(typed)
    if tensorboard:
        require_tensorboard()
    if arch != "auto":
        find_network(arch)  # a misspelt name is told before a data set is fetched
    reporter = Reporter(quiet or json)
    folder = dataset_folder(dataset, reporter)
    typed["unfreeze"] = D.unfreeze if unfreeze == "auto" else unfreeze
    typed["time_limit"] = parse_duration(time_limit) if time_limit else D.time_limit
    config = FinetuneConfig(**{field.name: typed[field.name] for field in fields(FinetuneConfig)})
    where = (folder, arch, weights, image_size, resize, output, force, resume, strict, lr_find)
    command = shlex.join(["resnet", *sys.argv[1:]])
    request = FinetuneRequest(*where, tensorboard, cache, cache_limit, command, auto_unfreeze=unfreeze == "auto")
    _run(request, config, reporter, json)


def _run(request: FinetuneRequest, config: FinetuneConfig, reporter: Reporter, json: bool) -> None:
    plan = plan_finetune(request, config, reporter)
    with tensorflow_import():
        from resnet_cli.jobs.finetune import run_finetune

    reporter.listen()
    result = run_finetune(plan, reporter)
    if json:
        console.print_json(result)
    elif request.lr_find == "plot":
        print_search(result)
    else:
        print_result(result)


def _require_effect(typed: dict[str, Any]) -> None:
    """Refuse what would be skipped."""
    changed = [name for name in ("batch_size", "learning_rate", "patience") if typed[name] != getattr(D, name)]
    if typed["unfreeze"] == "none" and (vain := [*changed, *(["lr_find"] if typed["lr_find"] else [])]):
        option = f"--{vain[0].replace('_', '-')}"
        raise typer.BadParameter(f"{option} is about the fine-tuning phase, and --unfreeze none has none: leave it out")
    if typed["dropout"] != D.dropout and typed["unfreeze"] == "none" and not (typed["hidden"] or typed["epochs"]):
        raise typer.BadParameter("--dropout has no effect on a head alone without --hidden or --epochs: leave it out")
    if typed["cache_limit"] is not None and typed["unfreeze"] not in ("auto", "last"):
        raise typer.BadParameter("--cache-limit is about the activations that --unfreeze last stores: leave it out")
    if typed["augment"] == "none" and typed["views"] > 1:
        raise typer.BadParameter(f"--views {typed['views']} are augmented, and --augment none augments nothing: leave one out")
    if typed["augment"] == "strong" and typed["views"] == 1:
        raise typer.BadParameter("--views 1 shows images as they are, so --augment strong has no effect: leave one out")
    if typed["time_limit"] is not None and typed["epochs"]:
        raise typer.BadParameter("--time-limit chooses the epochs: leave --epochs out")
    untrained = {"--time-limit": typed["time_limit"], "--tensorboard": typed["tensorboard"]}
    require_effect_of_search(typed["lr_find"], "learning_rate" in changed, untrained)
    for name, value in typed.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise typer.BadParameter(f"--{name.replace('_', '-')} {value} is no number to go by")
