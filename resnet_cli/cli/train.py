"""`resnet train`: any network of the residual papers, from scratch or from weights, by a recipe."""

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import typer

from resnet_cli.cli import recipe_options as o
from resnet_cli.cli.console import print_error
from resnet_cli.cli.options import report_page
from resnet_cli.cli.reporter import Reporter
from resnet_cli.cli.results import print_training
from resnet_cli.errors import ResnetError
from resnet_cli.jobs.cluster import find_cluster, is_child, join, require_together, run_child, together
from resnet_cli.jobs.environment import dataset_folder, tensorflow_import
from resnet_cli.jobs.launch import launch, require_ray
from resnet_cli.jobs.plan import TrainPlan, plan_training
from resnet_cli.jobs.start import TrainRequest, let_go
from resnet_cli.networks.catalogue import find_network
from resnet_cli.runs.folder import load_run
from resnet_cli.training.config import TrainConfig, based_on, make_config, parse_duration, require_teacher
from resnet_cli.training.tensorboard import require_tensorboard


def train(
    dataset: o.Dataset = None,
    labels: o.LabelsFile = None,
    fraction: o.Fraction = None,
    per_class: o.PerClass = None,
    val_split: o.TrainValSplit = None,
    strict: o.Strict = False,
    arch: o.TrainArch = "resnet20",
    shortcut: o.ShortcutOption = None,
    image_size: o.TrainSize = None,
    weights: o.TrainWeights = "none",
    teacher: o.TeacherOption = None,
    recipe: o.TrainRecipe = "fast",
    settings: o.TrainSettings = None,
    show: o.Show = False,
    epochs: o.TrainEpochs = None,
    batch_size: o.TrainBatchSize = None,
    optimizer: o.OptimizerName = None,
    learning_rate: o.TrainRate = None,
    time_limit: o.TrainLimit = None,
    lr_find: o.LrFind = None,
    seed: o.TrainSeed = None,
    flip: o.TrainFlip = None,
    output: o.RunOutput = None,
    force: o.ForceRun = False,
    resume: o.Resume = False,
    tensorboard: o.Tensorboard = False,
    report: o.ReportFile = None,
    no_report: o.NoReport = False,
    ray: o.RayAddress = None,
    json: o.RunJson = False,
    quiet: o.RunQuiet = False,
) -> None:
    """Train a network of the residual papers on a folder of images, from scratch or from weights."""
    typed = {**locals(), "page": report_page(report, no_report)}
    given, network = o.given_keys(TrainConfig, typed, settings or ()), find_network(arch, shortcut)
    limit = _limit(time_limit, show)
    o.require_epochs_to_choose(time_limit, given, recipe, TrainConfig)
    vain = {"--time-limit": limit, "--resume": resume, "--tensorboard": tensorboard, "--report": report}
    o.require_effect_of_search(lr_find, given, vain)
    config = make_config(recipe, network, given)
    if show:
        base, _ = based_on(recipe, TrainConfig)
        return o.show_recipe(recipe, config, make_config(base, network, {}), json)
    request = _request(typed, given, limit)
    return _run(request, config, quiet, json) if ray is None else _launch(ray, request, config, quiet, json)


def _request(typed: Mapping[str, Any], given: Mapping[str, Any], limit: float | None) -> TrainRequest:
    """The request, from all options except the recipe's; a data set is required, and keys of a teacher need a teacher."""
    o.require_data(*(typed[name] for name in ("dataset", "labels", "fraction", "per_class")))
    if typed["teacher"] is None:
        require_teacher(given)
    beside = {field.name: typed[field.name] for field in fields(TrainRequest) if field.name in typed}
    return TrainRequest(**beside, limit=limit, command=shlex.join(["resnet", *sys.argv[1:]]))


def _limit(time_limit: str | None, show: bool) -> float | None:
    if time_limit is None:
        return None
    if show:
        raise typer.BadParameter("--show trains nothing, so no clock can choose the epochs: leave --time-limit out")
    return parse_duration(time_limit)


def _run(request: TrainRequest, config: TrainConfig, quiet: bool, json: bool) -> None:
    if request.tensorboard:
        require_tensorboard()
    cluster = find_cluster()
    if cluster is not None:
        require_together(cluster, request)
        if not is_child():
            raise typer.Exit(run_child(sys.argv[1:], (sys.stdout, sys.stderr)))
    reporter = Reporter(quiet or json, mute=cluster is not None and cluster.index > 0)
    if cluster is not None:
        join(cluster, _end)
    with together():
        plan = _plan(request, config, reporter)
        with tensorflow_import():
            from resnet_cli.jobs.train import run_training

        reporter.listen()
        result = run_training(plan, reporter)
    if result:
        print_training(result, request.lr_find == "plot", json)


def _plan(request: TrainRequest, config: TrainConfig, reporter: Reporter) -> TrainPlan:
    folder = dataset_folder(request.dataset, reporter, request.labels)
    return plan_training(replace(request, dataset=folder), config, reporter)


def _launch(address: str, request: TrainRequest, config: TrainConfig, quiet: bool, json: bool) -> None:
    """Start the same command on a Ray cluster, and print what its first process prints."""
    require_ray(request)
    reporter = Reporter(quiet or json)
    plan = _plan(request, config, reporter)
    let_go()  # of a run that is resumed: its first process holds it
    words = sys.argv[1:]
    place = next(index for index, word in enumerate(words) if word == "--ray" or word.startswith("--ray="))
    del words[place : place + (2 if words[place] == "--ray" else 1)]
    launch(address, words, plan.place.folder, reporter, sys.stderr)
    print_training(load_run(plan.place.folder).record["results"], False, json)


def _end(error: ResnetError) -> None:
    """End this process, whose main thread waits for a process that is gone."""
    print_error(error.message, error.hint)
    sys.stderr.flush()
    os._exit(1)
