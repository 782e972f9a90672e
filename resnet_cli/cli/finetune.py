"""`resnet finetune`: a folder of photos in, a trained, measured, portable classifier out."""

import shlex
import sys
from dataclasses import fields
from typing import Any

import typer

from resnet_cli.cli import recipe_options as o
from resnet_cli.cli.options import report_page
from resnet_cli.cli.reporter import Reporter
from resnet_cli.cli.results import print_training
from resnet_cli.errors import ResnetError
from resnet_cli.jobs.cluster import find_cluster
from resnet_cli.jobs.environment import dataset_folder, tensorflow_import
from resnet_cli.jobs.plan import plan_finetune
from resnet_cli.jobs.start import FinetuneRequest, require_folds_to_fit
from resnet_cli.networks.catalogue import find_network
from resnet_cli.training.config import FinetuneConfig, based_on, make_finetune_config, parse_duration
from resnet_cli.training.tensorboard import require_tensorboard
from resnet_cli.training.tuning import require_tunable


def finetune(
    dataset: o.Dataset = None,
    labels: o.LabelsFile = None,
    fraction: o.Fraction = None,
    per_class: o.PerClass = None,
    resize: o.ResizeName = "crop",
    val_split: o.FinetuneValSplit = None,
    folds: o.Folds = None,
    strict: o.Strict = False,
    arch: o.FinetuneArch = "auto",
    weights: o.FinetuneWeights = "auto",
    image_size: o.FinetuneSize = "auto",
    unfreeze: o.Unfreeze = None,
    recipe: o.FinetuneRecipe = "default",
    settings: o.FinetuneSettings = None,
    show: o.Show = False,
    epochs: o.FinetuneEpochs = None,
    batch_size: o.FinetuneBatchSize = None,
    learning_rate: o.FinetuneRate = None,
    time_limit: o.FinetuneLimit = None,
    tune: o.Tune = None,
    lr_find: o.LrFind = None,
    seed: o.FinetuneSeed = None,
    engine: o.Engine = None,
    augment: o.AugmentName = None,
    flip: o.FinetuneFlip = None,
    views: o.Views = None,
    output: o.RunOutput = None,
    force: o.ForceRun = False,
    resume: o.Resume = False,
    tensorboard: o.Tensorboard = False,
    report: o.ReportFile = None,
    no_report: o.NoReport = False,
    json: o.RunJson = False,
    quiet: o.RunQuiet = False,
) -> None:
    """Turn a folder of photos into a classifier, from a pretrained network."""
    typed: dict[str, Any] = {**locals(), "page": report_page(report, no_report)}
    typed["time_limit"] = parse_duration(time_limit) if time_limit else None
    given = o.given_keys(FinetuneConfig, typed, settings or ())
    o.require_effect_of_search(lr_find, given, {"--time-limit": time_limit, "--tensorboard": tensorboard, "--report": report})
    o.require_epochs_to_choose(time_limit, given, recipe, FinetuneConfig)
    config = make_finetune_config(recipe, given)
    typed["tune"] = parse_duration(tune, "--tune") if tune else None
    typed["fixed"] = frozenset(given) | based_on(recipe, FinetuneConfig)[1].keys()
    against = {"--time-limit": config.time_limit, "--lr-find": lr_find, "--folds": folds, "--show": show}
    require_tunable(typed["tune"], against)
    if show:
        base, _ = based_on(recipe, FinetuneConfig)
        return o.show_recipe(recipe, config, make_finetune_config(base, {}), json)
    o.require_data(dataset, labels, fraction, per_class)
    if lr_find and config.unfreeze == "none":
        raise typer.BadParameter("--lr-find is about the fine-tuning phase, which unfreeze none skips: leave it out")
    require_folds_to_fit(folds, lr_find, config.time_limit)
    if arch != "auto":
        find_network(arch)  # report a misspelt name before a data set is downloaded
    return _run(typed, config, Reporter(quiet or json), json)


def _run(typed: dict[str, Any], config: FinetuneConfig, reporter: Reporter, json: bool) -> None:
    """Fine-tune with the arguments of the command by name."""
    if typed["tensorboard"]:
        require_tensorboard()
    if cluster := find_cluster():
        raise ResnetError(
            f"finetune runs in one process, and the environment starts {cluster.count}",
            "start it once: it uses all GPUs of its machine",
        )
    typed = typed | {"dataset": dataset_folder(typed["dataset"], reporter, typed["labels"])}
    beside = {each.name: typed[each.name] for each in fields(FinetuneRequest) if each.name in typed}
    request = FinetuneRequest(**beside, command=shlex.join(["resnet", *sys.argv[1:]]))
    plan = plan_finetune(request, config, reporter)
    with tensorflow_import():
        from resnet_cli.jobs.finetune import run_finetune

    reporter.listen()
    result = run_finetune(plan, reporter)
    print_training(result, request.lr_find == "plot", json)
