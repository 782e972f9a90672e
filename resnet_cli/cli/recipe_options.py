"""The options of `train` and `finetune` as named types for the commands' signatures; keys of recipes (light).

Common settings are options; all others are keys of the recipe, set by `--set` or a recipe file.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from glob import escape, glob
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Literal

import typer

from resnet_cli.cli import console
from resnet_cli.cli.options import DATASET, LABELS_TEXT, NO_REPORT, REPORT, complete_runs, complete_weights
from resnet_cli.data import Resize
from resnet_cli.engines import EngineName
from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import CATALOGUE
from resnet_cli.training.config import (
    FINETUNE_RECIPES,
    RECIPES,
    Augment,
    FinetuneConfig,
    Optimizer,
    TrainConfig,
    based_on,
    source_of,
    without_effect,
)
from resnet_cli.training.recipes import BASE, Key, as_toml, checked, keys_of, parse_setting

DATA, NETWORK, TRAINING, AUGMENTATION, OUTPUT = "Data", "Network", "Training", "Augmentation", "Output"
NO_DATASET = "name a folder of images, or a table with --labels (or --show the recipe)"
_CONFIGS: dict[str, type[TrainConfig] | type[FinetuneConfig]] = {"train": TrainConfig, "finetune": FinetuneConfig}
_KEYS: dict[type, dict[str, Key]] = {config: keys_of(config) for config in _CONFIGS.values()}


def _of_key(config: type[TrainConfig] | type[FinetuneConfig], name: str, panel: str) -> Any:
    """The option of a recipe key, with the key's help and range."""
    key = _KEYS[config][name]
    default = "the recipe's" if config is TrainConfig else key.auto or _word(getattr(FINETUNE_RECIPES["default"], name))
    text = f"{key.text}  \\[default: {default}]"
    return typer.Option(help=text, min=key.least, max=key.most, rich_help_panel=panel, show_default=False)


def _word(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _option(panel: str, text: str, *spellings: str, **how: Any) -> Any:
    return typer.Option(*spellings, help=text, rich_help_panel=panel, **how)


_SHORT = 40  # characters of a description in completion: a line that wraps would be another choice


def _networks(incomplete: str) -> list[str]:
    return [name for name in CATALOGUE if name.startswith(incomplete)]


def _recipes(names: Sequence[str]) -> Any:
    def found(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)] + sorted(glob(f"{escape(incomplete)}*.toml"))  # noqa: PTH207 -- Path drops a ./ that was typed

    return found


def _settings(config: type) -> Any:
    def found(incomplete: str) -> list[tuple[str, str]]:
        return [
            (f"{name}=", shorten(key.text, _SHORT, placeholder=" ..."))
            for name, key in _KEYS[config].items()
            if name.startswith(incomplete)
        ]

    return found


Dataset = Annotated[Path | None, DATASET]
LabelsFile = Annotated[Path | None, _option(DATA, LABELS_TEXT, "--labels", show_default=False)]
Fraction = Annotated[
    float | None,
    _option(
        DATA, "Share of the training and validation images of each class to use, 0..1, for a quick trial.", show_default=False
    ),
]
PerClass = Annotated[
    int | None,
    _option(
        DATA, "Most training, and most validation, images of each class to use, for a quick trial.", min=1, show_default=False
    ),
]
Strict = Annotated[bool, _option(DATA, "Stop at a damaged image; otherwise these are named and left out.", "--strict")]
ResizeName = Annotated[
    Resize,
    _option(DATA, "How an image becomes a square: crop its middle, pad it with grey bars, or squash it."),
]
TrainValSplit = Annotated[float | None, _of_key(TrainConfig, "val_split", DATA)]
Folds = Annotated[
    int | None,
    _option(
        DATA,
        "Also cross-validate the head on so many stratified folds of the training and validation images.  \\[default: none]",
        "--folds",
        min=2,
        max=20,
        show_default=False,
    ),
]
FinetuneValSplit = Annotated[float | None, _of_key(FinetuneConfig, "val_split", DATA)]

_ARCH = "Network; `resnet models` lists them."
TrainArch = Annotated[str, _option(NETWORK, _ARCH, autocompletion=_networks)]
FinetuneArch = Annotated[
    str, _option(NETWORK, f"{_ARCH} auto: resnet50, or the bundled network offline.", autocompletion=_networks)
]
ShortcutOption = Annotated[
    Literal["A", "B", "C"] | None, _option(NETWORK, "Shortcut option of the 2015 paper.  \\[default: the network's]")
]
TrainSize = Annotated[int | None, _option(NETWORK, "Input side, pixels.  \\[default: the network's]", min=8)]
FinetuneSize = Annotated[str, _option(NETWORK, "Input side, pixels; auto: chosen by network and image sizes.")]
TrainWeights = Annotated[
    str,
    _option(
        NETWORK,
        "Initial weights: none, imagenet, bundled, timm:NAME, torchvision:NAME, a run or a file.",
        autocompletion=complete_weights,
    ),
]
FinetuneWeights = Annotated[
    str,
    _option(
        NETWORK,
        "Initial weights: imagenet, bundled, none, timm:NAME, torchvision:NAME, a run or a file; auto: imagenet, else bundled.",
        autocompletion=complete_weights,
    ),
]
TeacherOption = Annotated[
    Path | None,
    _option(
        NETWORK,
        "Teacher for distillation: a run, or an ONNX or OpenVINO file.",
        show_default=False,
        autocompletion=complete_runs,
    ),
]
Unfreeze = Annotated[Literal["auto", "none", "last", "all"] | None, _of_key(FinetuneConfig, "unfreeze", NETWORK)]

TrainRecipe = Annotated[
    str,
    _option(
        TRAINING,
        "fast (ours), paper (He et al. 2015), keras (its CIFAR example), or a TOML file of keys.",
        metavar="NAME|FILE",
        autocompletion=_recipes(list(RECIPES)),
    ),
]
FinetuneRecipe = Annotated[
    str,
    _option(TRAINING, "default, or a TOML file of keys.", metavar="NAME|FILE", autocompletion=_recipes(list(FINETUNE_RECIPES))),
]
_SET = "Set a key of the recipe; may be repeated. --show lists all keys."
TrainSettings = Annotated[
    list[str] | None, _option(TRAINING, _SET, "--set", metavar="KEY=VALUE", autocompletion=_settings(TrainConfig))
]
FinetuneSettings = Annotated[
    list[str] | None, _option(TRAINING, _SET, "--set", metavar="KEY=VALUE", autocompletion=_settings(FinetuneConfig))
]
Show = Annotated[bool, _option(TRAINING, "Print the recipe with all changes, as a file for --recipe, and stop.", "--show")]
TrainEpochs = Annotated[int | None, _of_key(TrainConfig, "epochs", TRAINING)]
FinetuneEpochs = Annotated[int | None, _of_key(FinetuneConfig, "epochs", TRAINING)]
TrainBatchSize = Annotated[int | None, _of_key(TrainConfig, "batch_size", TRAINING)]
FinetuneBatchSize = Annotated[int | None, _of_key(FinetuneConfig, "batch_size", TRAINING)]
OptimizerName = Annotated[Optimizer | None, _of_key(TrainConfig, "optimizer", TRAINING)]
TrainRate = Annotated[float | None, _of_key(TrainConfig, "learning_rate", TRAINING)]
FinetuneRate = Annotated[float | None, _of_key(FinetuneConfig, "learning_rate", TRAINING)]
TrainLimit = Annotated[
    str | None,
    _option(TRAINING, "Time for the training itself, such as 30m: as many epochs as fit.", metavar="DURATION"),
]
FinetuneLimit = Annotated[
    str | None,
    _option(TRAINING, "Time for the training itself, such as 10m: views and epochs are chosen to fit.", metavar="DURATION"),
]
Tune = Annotated[
    str | None,
    _option(TRAINING, "Search settings for a time, such as 10m, then train with the best.", "--tune", metavar="DURATION"),
]
LrFind = Annotated[
    Literal["plot", "use"] | None,
    _option(TRAINING, "Learning-rate range test: plot it and stop, or use the suggested rate."),
]
TrainSeed = Annotated[int | None, _of_key(TrainConfig, "seed", TRAINING)]
FinetuneSeed = Annotated[int | None, _of_key(FinetuneConfig, "seed", TRAINING)]
Engine = Annotated[EngineName | None, _of_key(FinetuneConfig, "engine", TRAINING)]

AugmentName = Annotated[Augment | None, _of_key(FinetuneConfig, "augment", AUGMENTATION)]
Views = Annotated[int | None, _of_key(FinetuneConfig, "views", AUGMENTATION)]
TrainFlip = Annotated[bool | None, _of_key(TrainConfig, "flip", AUGMENTATION)]
FinetuneFlip = Annotated[bool | None, _of_key(FinetuneConfig, "flip", AUGMENTATION)]

RunOutput = Annotated[Path | None, _option(OUTPUT, "Run folder.  \\[default: runs/<dataset>-<arch>]", "--output")]
ForceRun = Annotated[bool, _option(OUTPUT, "Replace the run in --output.", "--force")]
Resume = Annotated[bool, _option(OUTPUT, "Continue an interrupted run.", "--resume")]
Tensorboard = Annotated[bool, _option(OUTPUT, "Write TensorBoard's event files too.", "--tensorboard")]
ReportFile = Annotated[Path | None, _option(OUTPUT, REPORT, "--report", metavar="FILE", show_default=False)]
NoReport = Annotated[bool, _option(OUTPUT, NO_REPORT, "--no-report")]
RayAddress = Annotated[
    str | None,
    _option(OUTPUT, "Train on a Ray cluster: local, auto or HOST:PORT.", "--ray", metavar="ADDRESS"),
]
RunJson = Annotated[bool, _option(OUTPUT, "Print the result as JSON.", "--json")]
RunQuiet = Annotated[bool, _option(OUTPUT, "No progress.", "--quiet", "-q")]


def given_keys(config: type, typed: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The keys of a configuration that were given on the command line, by options and by `--set`.

    Args:
        config: the configuration that has these keys.
        typed: arguments of the command by name; None for an option that was not given.
        settings: "key=value" each.

    Raises:
        typer.BadParameter: a key is unknown, has a wrong value or is given twice.
    """
    options = {name: typed[name] for name in _KEYS[config] if typed.get(name) is not None}
    try:
        given = checked(config, options)
        for setting in settings:
            name, value = parse_setting(config, setting)
            if name in options:
                raise typer.BadParameter(f"--set {setting} and {_spelling(name)} are the same: leave one out")
            if name in given:
                raise typer.BadParameter(f"--set {name} is given twice: leave one out")
            given[name] = value
    except ResnetError as error:
        joint = " " if error.message.endswith("?") else "; "
        raise typer.BadParameter(f"{error.message}{joint}{error.hint}") from error
    return given


def require_data(dataset: Path | None, labels: Path | None, fraction: float | None, per_class: int | None) -> None:
    """Require a data set, and refuse two ways to sample it.

    Raises:
        typer.BadParameter: there is none, both are given, or the share is not one.
    """
    if dataset is None and labels is None:
        raise typer.BadParameter(NO_DATASET, param_hint="DATASET")
    if fraction is not None and per_class is not None:
        raise typer.BadParameter("--fraction and --per-class both choose a sample: leave one out")
    if fraction is not None and not 0 < fraction <= 1:
        raise typer.BadParameter(f"{fraction:g} is not between 0 and 1", param_hint="--fraction")


def require_epochs_to_choose(time_limit: str | None, given: Mapping[str, Any], recipe: str, config: type) -> None:
    """Refuse a number of epochs, typed or in a recipe file, where a time limit is to choose it.

    Raises:
        typer.BadParameter: there are both.
    """
    if time_limit is None:
        return
    if "epochs" in given:
        raise typer.BadParameter("--time-limit chooses the epochs: leave epochs out")
    if "epochs" in based_on(recipe, config)[1]:
        raise typer.BadParameter(f"--time-limit chooses the epochs, and {recipe} sets them: leave one out")


def require_effect_of_search(lr_find: str | None, given: Mapping[str, Any], untrained: Mapping[str, object]) -> None:
    """Refuse options that have no effect with a range test.

    Args:
        lr_find: as typed.
        given: keys by name.
        untrained: options that only affect a training, with their typed values.

    Raises:
        typer.BadParameter: one of them has no effect.
    """
    if lr_find and "learning_rate" in given:
        raise typer.BadParameter(f"--lr-find {lr_find} looks for the rate: leave learning_rate out")
    if lr_find == "plot" and (vain := [option for option, value in untrained.items() if value]):
        raise typer.BadParameter(f"--lr-find plot trains nothing: leave {vain[0]} out")


def _spelling(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def instead_of_option(command: str, option: str, value: str) -> str:
    """What to type for an option that is a key of the command's recipe; "" if it is not.

    Args:
        command: name of the command.
        option: as typed, such as "--weight-decay" or "--no-nesterov".
        value: the word after it; "" if there is none.
    """
    keys = _KEYS[_CONFIGS[command]] if command in _CONFIGS else {}
    name = option.removeprefix("--").replace("-", "_")
    key = keys.get(name) or keys.get(name.removeprefix("no_"))
    if key is None or (name not in keys and key.kind is not bool):
        return ""
    if key.kind is bool:
        value = "true" if name in keys else "false"
    return f"{option} is a recipe key now: --set {key.name}={value or 'VALUE'}"


def show_recipe(recipe: str, config: TrainConfig | FinetuneConfig, usual: TrainConfig | FinetuneConfig, json: bool) -> None:
    """Print all keys of a configuration as a recipe file, or as JSON; changes of the named recipe are marked.

    Args:
        recipe: as typed.
        config: the configuration with all changes.
        usual: the named recipe that it is based on.
        json: whether to print JSON.
    """
    base, _ = based_on(recipe, type(config))
    if json:
        values = asdict(config)
        keys = {
            name: {"changed": values[name] != getattr(usual, name), "values": key.values, "meaning": key.text}
            for name, key in _KEYS[type(config)].items()
        }
        console.print_json({"recipe": recipe, "source": source_of(base), **values, "keys": keys})
        return
    name = recipe if recipe == base else f"{recipe}, which changes {base}"
    command = shlex.join(["resnet", *sys.argv[1:]])
    titles = [f"# Recipe {name}: {source_of(base)}.", f"# To a file, for --recipe my.toml: {command} > my.toml", ""]
    for line in [*titles, f'{BASE} = "{base}"', *as_toml(config, usual, without_effect(config))]:
        console.out.print(line, markup=False, style="dim" if line.startswith("#") else None)
