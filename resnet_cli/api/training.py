"""From a folder of images to a run: `check`, `finetune` and `train` (light: heavy modules are imported when a call needs them).

In: a folder and arguments. Out: problems; a `Run`. Arguments become the requests and configurations of the commands.
"""

import inspect
import math
import numbers
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from resnet_cli.api.run import PathLike, Run, as_text, call, data_path, load, optional_path, require_one_of
from resnet_cli.data import Resize
from resnet_cli.errors import ResnetError
from resnet_cli.jobs.environment import dataset_folder, tensorflow_import
from resnet_cli.jobs.plan import plan_finetune, plan_training
from resnet_cli.jobs.start import FinetuneRequest, TrainRequest, let_go, require_folds_to_fit
from resnet_cli.networks.catalogue import Shortcut, find_network
from resnet_cli.progress import Interruptible, Progress
from resnet_cli.training.config import (
    FinetuneConfig,
    TrainConfig,
    based_on,
    make_config,
    make_finetune_config,
    parse_duration,
    require_teacher,
)
from resnet_cli.training.recipes import keys_of
from resnet_cli.training.tuning import require_tunable

if TYPE_CHECKING:
    from resnet_cli.data.check import Inspection


def finetune(
    data: PathLike | None = None,
    *,
    labels: PathLike | None = None,
    fraction: float | None = None,
    per_class: int | None = None,
    arch: str = "auto",
    weights: PathLike = "auto",
    unfreeze: Literal["auto", "none", "last", "all"] | None = None,
    image_size: int | None = None,
    resize: Resize = "crop",
    recipe: str | Path = "default",
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    time_limit: str | float | None = None,
    val_split: float | None = None,
    seed: int | None = None,
    folds: int | None = None,
    tune: str | float | None = None,
    settings: Mapping[str, Any] | None = None,
    output: PathLike | None = None,
    force: bool = False,
    resume: bool = False,
    strict: bool = False,
    progress: bool | Progress = True,
) -> Run:
    """Turn a folder of photos into a classifier, from a pretrained network, as `resnet finetune` does.

    Args:
        data: a folder with one folder of images per class, a .zip or .tar of it, or the name of a known data set; may be left
            out with `labels`.
        labels: table of labels in place of class folders; docs/data.md describes it.
        fraction, per_class: sample of the training and validation images, for a quick trial.
        arch, weights, resize, output, force, resume, strict: as the options of the command.
        image_size: input side in pixels; None chooses it by network and image sizes.
        recipe: name or TOML file of a recipe; see docs/recipes.md.
        unfreeze, epochs, batch_size, learning_rate, val_split, seed: keys of the recipe; None keeps the recipe's value.
        time_limit: limit of both phases, such as "10m", or in seconds; views and epochs are chosen to fit.
        folds: also cross-validate the head on so many folds, 2 to 20; see docs/small-sets.md.
        tune: search the settings for this time, such as "10m", or in seconds, then train with the best.
        settings: any other keys of the recipe by name, such as {"dropout": 0.3}.
        progress: True shows it, False hides it, an object of the `Progress` protocol receives it.

    Raises:
        ResnetError: data, an argument or a file is wrong.

    Example:
        >>> run = resnet.finetune("photos", weights="bundled", seed=1)  # doctest: +SKIP
    """
    asked = dict(locals())
    config = _finetune_config(asked)
    require_folds_to_fit(folds, None, config.time_limit)
    require_tunable(tune, {"--time-limit": config.time_limit, "--folds": folds})
    with _training(progress) as shown:
        plan = plan_finetune(_finetune_request(asked, shown), config, shown)
        with tensorflow_import():
            from resnet_cli.jobs.finetune import run_finetune
        return _finished(lambda: run_finetune(plan, shown))


def train(
    data: PathLike | None = None,
    *,
    labels: PathLike | None = None,
    fraction: float | None = None,
    per_class: int | None = None,
    arch: str = "resnet20",
    shortcut: Shortcut | None = None,
    weights: PathLike = "none",
    teacher: PathLike | None = None,
    image_size: int | None = None,
    recipe: str | Path = "fast",
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    time_limit: str | float | None = None,
    val_split: float | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    output: PathLike | None = None,
    force: bool = False,
    resume: bool = False,
    strict: bool = False,
    progress: bool | Progress = True,
) -> Run:
    """Train a network of the residual papers on a folder of images, as `resnet train` does.

    Args:
        data: a folder with one folder of images per class, a .zip or .tar of it, or the name of a known data set; may be left
            out with `labels`.
        labels: table of labels in place of class folders; docs/data.md describes it.
        fraction, per_class: sample of the training and validation images, for a quick trial.
        arch, shortcut, weights, teacher, output, force, resume, strict: as the options of the command.
        image_size: input side in pixels; None for the network's.
        recipe: name or TOML file of a recipe; see docs/recipes.md.
        epochs, batch_size, learning_rate, val_split, seed: keys of the recipe; None keeps the recipe's value.
        time_limit: limit of the training itself, such as "30m", or in seconds; epochs are chosen to fit.
        settings: any other keys of the recipe by name, such as {"mixup": 0.2}.
        progress: True shows it, False hides it, an object of the `Progress` protocol receives it.

    Raises:
        ResnetError: data, an argument or a file is wrong.

    Example:
        >>> run = resnet.train("cifar10", arch="resnet56", recipe="paper")  # doctest: +SKIP
    """
    asked = dict(locals())
    config = _train_config(asked)
    with _training(progress) as shown:
        plan = plan_training(_train_request(asked, shown), config, shown)
        with tensorflow_import():
            from resnet_cli.jobs.train import run_training
        return _finished(lambda: run_training(plan, shown))


def check(data: PathLike | None = None, *, labels: PathLike | None = None, progress: bool | Progress = True) -> "Inspection":
    """Check a data set for problems, as `resnet check` does: damaged files, copies, leaks, small classes.

    Args:
        data: a folder with one folder of images per class, a .zip or .tar of it, or the name of a known data set; may be left
            out with `labels`.
        labels: table of labels in place of class folders; docs/data.md describes it.
        progress: as for `finetune`.

    Returns:
        `classes`, `images`, `counts` by split and class, and `problems`, each with `kind`, `path`, `detail` and `severity`.

    Raises:
        ResnetError: there is no such folder.

    Example:
        >>> import resnet_cli as resnet
        >>> found = resnet.check("sample_data/cars_vs_trucks", progress=False)
        >>> found.classes, found.images, found.problems
        (('cars', 'trucks'), 80, ())
    """
    from resnet_cli.data.check import inspect_dataset

    with call(progress) as shown:
        table = optional_path("labels", labels)
        return inspect_dataset(_folder(data, table, shown), shown, table)


def _folder(data: PathLike | None, labels: Path | None, progress: Progress) -> Path:
    """The folder of the data set of a call.

    Raises:
        ResnetError: neither data nor labels are given.
    """
    if data is None and labels is None:
        raise ResnetError(
            "data=None is neither text nor a path, and there are no labels", "give a folder of images, or labels=TABLE"
        )
    return dataset_folder(None if data is None else data_path(data), progress, labels)


def _sample(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The table of labels and the sample of a call."""
    fraction, per_class = asked["fraction"], asked["per_class"]
    for name, value, kind in (("fraction", fraction, numbers.Real), ("per_class", per_class, numbers.Integral)):
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ResnetError(f"{name}={value!r} is not a number", "give a share from 0 to 1, or a whole number of images")
    return {
        "labels": optional_path("labels", asked["labels"]),
        "fraction": None if fraction is None else float(fraction),
        "per_class": None if per_class is None else int(per_class),
    }


def _given(asked: Mapping[str, Any], config: type) -> dict[str, Any]:
    """The keys of a recipe that a call set, by an argument or in `settings`."""
    named = {name: asked[name] for name in keys_of(config) if asked.get(name) is not None}
    settings = asked["settings"] or {}
    if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
        raise ResnetError("settings is not a mapping of keys to values", 'such as settings={"dropout": 0.3}')
    if twice := sorted(named.keys() & settings.keys()):
        raise ResnetError(f"{twice[0]} is an argument and in settings as well", "give it once")
    given = {**named, **settings}
    if asked["time_limit"] is not None and "epochs" in given:
        raise ResnetError("time_limit chooses the epochs", "leave epochs out")
    if "time_limit" in named:
        given["time_limit"] = _seconds(named["time_limit"])
    return given


def _fixed(asked: Mapping[str, Any]) -> frozenset[str]:
    """The keys of the recipe that `tune` does not search, as the call or a recipe file sets them."""
    return frozenset(_given(asked, FinetuneConfig)) | based_on(asked["recipe"], FinetuneConfig)[1].keys()


def _seconds(limit: str | float, name: str = "time_limit") -> float:
    """A time in seconds, from "10m" or a number of seconds."""
    if isinstance(limit, str):
        return parse_duration(limit, f"--{name.replace('_', '-')}")
    if not isinstance(limit, numbers.Real) or isinstance(limit, bool) or not 0 < limit < math.inf:
        raise ResnetError(f"{name}={limit!r} is not a duration", 'give "10m", or seconds as a number')
    return float(limit)


def _finetune_config(asked: Mapping[str, Any]) -> FinetuneConfig:
    return make_finetune_config(asked["recipe"], _given(asked, FinetuneConfig))


def _train_config(asked: Mapping[str, Any]) -> TrainConfig:
    given = _given(asked, TrainConfig)
    if asked["teacher"] is None:
        require_teacher(given)
    return make_config(asked["recipe"], find_network(as_text("arch", asked["arch"]), asked["shortcut"]), given)


def _finetune_request(asked: Mapping[str, Any], progress: Progress) -> FinetuneRequest:
    require_one_of("resize", asked["resize"], get_args(Resize))
    if as_text("arch", asked["arch"]) != "auto":
        find_network(asked["arch"])  # report a misspelt name before a data set is downloaded
    return FinetuneRequest(
        dataset=_folder(asked["data"], optional_path("labels", asked["labels"]), progress),
        **_sample(asked),
        arch=asked["arch"],
        weights=as_text("weights", asked["weights"]),
        image_size=str(_size(asked["image_size"]) or "auto"),
        resize=asked["resize"],
        output=optional_path("output", asked["output"]),
        force=asked["force"],
        resume=asked["resume"],
        strict=asked["strict"],
        lr_find=None,
        tensorboard=False,
        command=_spelled(finetune, asked),
        folds=_folds(asked["folds"]),
        tune=None if asked["tune"] is None else _seconds(asked["tune"], "tune"),
        fixed=_fixed(asked),
    )


def _folds(folds: int | None) -> int | None:
    if folds is None:
        return None
    if not isinstance(folds, numbers.Integral) or isinstance(folds, bool) or not 2 <= folds <= 20:
        raise ResnetError(f"folds={folds!r} is not a number of folds", "give a whole number from 2 to 20")
    return int(folds)


def _train_request(asked: Mapping[str, Any], progress: Progress) -> TrainRequest:
    require_one_of("shortcut", asked["shortcut"], (None, *get_args(Shortcut)))
    limit = asked["time_limit"]
    return TrainRequest(
        dataset=_folder(asked["data"], optional_path("labels", asked["labels"]), progress),
        **_sample(asked),
        arch=asked["arch"],
        shortcut=asked["shortcut"],
        image_size=_size(asked["image_size"]),
        weights=as_text("weights", asked["weights"]),
        teacher=optional_path("teacher", asked["teacher"]),
        recipe=os.fspath(asked["recipe"]),
        limit=None if limit is None else _seconds(limit),
        lr_find=None,
        output=optional_path("output", asked["output"]),
        force=asked["force"],
        resume=asked["resume"],
        strict=asked["strict"],
        tensorboard=False,
        command=_spelled(train, asked),
    )


def _size(image_size: int | None) -> int | None:
    """The input side in pixels."""
    if image_size is None:
        return None
    if not isinstance(image_size, numbers.Integral) or isinstance(image_size, bool):
        raise ResnetError(f"image_size={image_size!r} is not a number of pixels", "such as image_size=224")
    if image_size < 8:
        raise ResnetError(f"image_size={image_size} is less than 8 pixels", "such as image_size=224")
    return int(image_size)


def _spelled(function: Callable[..., Run], asked: Mapping[str, Any]) -> str:
    """The text of a call for run.json: with all arguments that are not defaults."""
    usual = inspect.signature(function).parameters
    named = {name: value for name, value in asked.items() if name not in ("data", "progress", "resume")}
    plain = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in named.items()}
    changed = [f"{name}={value!r}" for name, value in plain.items() if value != usual[name].default]
    data = [] if asked["data"] is None else [repr(os.fspath(asked["data"]))]
    return f"resnet.{function.__name__}({', '.join([*data, *changed])})"


@contextmanager
def _training(progress: bool | Progress) -> Iterator[Interruptible]:
    """The context of a call that trains: in any case, the lock of the run is released."""
    with call(progress) as shown:
        try:
            yield shown
        finally:
            let_go()


def _finished(work: Callable[[], dict[str, Any]]) -> Run:
    """Do the heavy part of a training, and restore Keras' settings and random states."""
    from resnet_cli.networks.precision import settings_put_back

    with settings_put_back():
        return load(work()["run"])
