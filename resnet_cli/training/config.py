"""The settings of training: keys with their defaults, named recipes, and recipe files (light).

In: a recipe's name or a TOML file, and the keys given by the user. Out: a `TrainConfig` or a `FinetuneConfig` without
contradictions. Types and ranges of keys are checked in `training.recipes`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from resnet_cli.engines import EngineName
from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import Network
from resnet_cli.training.recipes import Drops, Key, checked, read_recipe

Optimizer = Literal["sgd", "muon", "adam", "adamw"]
Schedule = Literal["cosine", "one-cycle", "steps", "constant"]
Augment = Literal["none", "light", "strong"]
Unfreezing = Literal["auto", "none", "last", "all"]
LARGEST_SEED = 2**32 - 1  # numpy's limit

# Seconds between checkpoints at the ends of epochs, and inside an epoch. Writing one takes a tenth of a second to some seconds.
CHECKPOINT_SECONDS, MID_EPOCH_SECONDS = 20, 600


@dataclass(frozen=True)
class TrainConfig:
    """Training of every layer, from scratch or from weights; `make_config` gives whole recipes.

    Each field is a key of a recipe, described in its annotation. Sources: Muon by Jordan et al. 2024, Nesterov's momentum by
    Sutskever et al. 2013, decoupled weight decay (adamw) by Loshchilov and Hutter 2019, progressive resizing by Howard 2018,
    temperature by Hinton et al. 2015; for `crop` to `mixup` see `data.augment.Augmentation`.
    """

    epochs: Annotated[int, Key("Passes over the training images; the schedule is scaled to them.", 1)] = 30
    batch_size: Annotated[int, Key("Largest number of images in a step; all steps of an epoch have the same size.", 1)] = 128
    optimizer: Annotated[Optimizer, Key("Optimizer; sgd has momentum.")] = "sgd"
    learning_rate: Annotated[float, Key("Peak learning rate; with muon, the step of a kernel as a share of its norm.", 0)] = 0.1
    schedule: Annotated[Schedule, Key("How the learning rate falls after warm-up.")] = "cosine"
    warmup: Annotated[float, Key("Share of all steps in which the learning rate rises.", 0, 1)] = 0.05
    drops: Annotated[Drops, Key("For schedule steps: share of the steps after which the rate is the peak times a factor.")] = ()
    plateau: Annotated[
        float, Key("Factor on the rate when the validation loss has not fallen for 5 epochs; 0 for none.", 0, 1)
    ] = 0.0
    momentum: Annotated[float, Key("Momentum of sgd and muon.", 0, 0.9999)] = 0.9
    nesterov: Annotated[bool, Key("Nesterov's momentum, for sgd and muon.")] = True
    weight_decay: Annotated[
        float, Key("L2 penalty; adamw: decoupled; muon: of the head only. Not of batch-norm and biases.", 0)
    ] = 5e-4
    label_smoothing: Annotated[float, Key("Share of the target spread over all classes.", 0, 0.9)] = 0.0
    dropout: Annotated[float, Key("Share of pooled features dropped.", 0, 0.9)] = 0.0
    stochastic_depth: Annotated[
        float, Key("Share of images that skip the last residual block; lower in earlier blocks, 0 at the input.", 0, 0.9)
    ] = 0.0
    ema: Annotated[float, Key("Average the weights over about this share of all steps; 0 for no averaging.", 0, 0.5)] = 0.0
    progressive: Annotated[bool, Key("Images of half the side in the first two thirds of the epochs.")] = False
    patience: Annotated[
        int, Key("Epochs without gain in validation accuracy or loss before training stops; 0 never stops early.", 0)
    ] = 0
    class_weights: Annotated[bool, Key("Weight images by 1 / size of their class: all classes count the same.")] = False
    pixel_mean: Annotated[bool, Key("Scale pixels to 0..1 and subtract the mean training image.")] = False
    crop: Annotated[Literal["resized", "pad", "none"], Key("Random crop, resized, or cut from the padded image.")] = "pad"
    scale: Annotated[float, Key("Smallest area of a resized crop, share of the image.", 0.01, 1)] = 0.35
    flip: Annotated[bool, Key("Mirror every second image; not for digits, text and arrows.")] = True
    rotate: Annotated[float, Key("Largest rotation, degrees.", 0, 180)] = 0.0
    shift: Annotated[float, Key("Largest shift, share of the side.", 0, 0.5)] = 0.0
    color: Annotated[float, Key("Change brightness, contrast and saturation by a factor of up to 1 + this.", 0)] = 0.0
    sharpness: Annotated[float, Key("Blur or sharpen by a factor of up to 1 + this.", 0)] = 0.0
    cutout: Annotated[float, Key("Side of a grey square, share of the side; 0 for none.", 0, 1)] = 0.0
    mixup: Annotated[float, Key("Parameter of mixup's Beta distribution; 0 for none.", 0)] = 0.0
    teacher_weight: Annotated[
        float, Key("Share of the teacher in the loss; 1 uses no labels. Not set: 0.9, or 1 without labels.", 0.01, 1)
    ] = 0.0
    temperature: Annotated[float, Key("Divides the logits of teacher and student; higher is softer.", 0.1, 100)] = 2.0
    teacher_views: Annotated[int, Key("Crops of each image that the teacher predicts; 0 draws new ones every epoch.", 0)] = 4
    val_split: Annotated[float, Key("Share held out for validation where there is no val folder.", 0, 0.9)] = 0.1
    seed: Annotated[int, Key("Random seed.", 0, LARGEST_SEED)] = 0


def small_epochs(epochs: int) -> int:
    """The number of epochs of progressive training that use smaller images."""
    return epochs * 2 // 3


_BY_AUGMENT = "as augment says"


@dataclass(frozen=True)
class FinetuneConfig:
    """Transfer: train a new head on pretrained features, then fine-tune the last layers with it.

    Each field is a key of a recipe, described in its annotation; `make_finetune_config` checks them. The fine-tuning phase
    trains the layers that `unfreeze` names; its learning rate rises and falls once (one-cycle).
    """

    unfreeze: Annotated[
        Unfreezing,
        Key("Layers to fine-tune in addition to the head: the last stage, or all; auto: by network."),
    ] = "last"
    hidden: Annotated[int, Key("Units of a hidden layer in the head; 0 for none, the tutorials use 2048.", 0)] = 0
    dropout: Annotated[float, Key("Share of pooled features dropped; has no effect on a head that is solved.", 0, 0.9)] = 0.2
    epochs: Annotated[
        int,
        Key("Passes of the fine-tuning phase, or of AdamW on a head alone; 0 chooses 6 to 20 by the number of images.", 0),
    ] = 0
    batch_size: Annotated[int, Key("Largest number of images in a step of the fine-tuning phase.", 1)] = 32
    optimizer: Annotated[Optimizer, Key("Optimizer of the fine-tuning phase.")] = "adamw"
    learning_rate: Annotated[
        float, Key("Peak learning rate of the fine-tuning phase; 0 chooses: for adamw 0.0005, or 0.0007 for all layers.", 0)
    ] = 0.0
    warmup: Annotated[float, Key("Share of the fine-tuning phase in which the learning rate rises.", 0, 1)] = 0.2
    weight_decay: Annotated[
        float, Key("L2 penalty of the fine-tuning phase; adamw: decoupled. Not of batch-norm and biases.", 0)
    ] = 0.05
    label_smoothing: Annotated[float, Key("Share of the target spread over all classes; fine-tuning phase.", 0, 0.9)] = 0.1
    augment: Annotated[
        Augment, Key("Augmentation: light crops at random; strong crops smaller, rotates, sharpens or blurs; none.")
    ] = "light"
    flip: Annotated[bool, Key("Mirror every second view; not for digits, text and arrows.")] = True
    views: Annotated[
        int, Key("Augmented views of an image; 1: the image itself; 0 chooses 2 to 12 by the number of images.", 0)
    ] = 0
    scale: Annotated[float | None, Key("Smallest area of a random crop, share of the image.", 0.01, 1, _BY_AUGMENT)] = None
    rotate: Annotated[float | None, Key("Largest rotation, degrees.", 0, 180, _BY_AUGMENT)] = None
    shift: Annotated[float | None, Key("Largest shift, share of the side.", 0, 0.5, _BY_AUGMENT)] = None
    color: Annotated[
        float | None, Key("Change brightness, contrast and saturation by a factor of up to 1 + this.", 0, None, _BY_AUGMENT)
    ] = None
    sharpness: Annotated[float | None, Key("Blur or sharpen by a factor of up to 1 + this.", 0, None, _BY_AUGMENT)] = None
    cutout: Annotated[float | None, Key("Side of a grey square, share of the side.", 0, 1, _BY_AUGMENT)] = None
    patience: Annotated[
        int,
        Key("Epochs of fine-tuning without gain before it stops; 0 never stops early and never skips the phase.", 0),
    ] = 5
    time_limit: Annotated[float, Key("Seconds for both phases: views and epochs are chosen to fit; 0 for no limit.", 0)] = 0.0
    class_weights: Annotated[bool, Key("Weight images by 1 / size of their class: all classes count the same.")] = False
    val_split: Annotated[
        float | None,
        Key("Share held out for validation where there is no val folder.", 0, 0.9, "0.2, or 0.1 beside a test folder"),
    ] = None
    seed: Annotated[int, Key("Random seed.", 0, LARGEST_SEED)] = 0
    engine: Annotated[EngineName, Key("What runs frozen layers; auto: OpenVINO, or Keras on a GPU.")] = "auto"
    cache: Annotated[bool, Key("Cache features for later runs, and use cached ones.")] = True
    cache_limit: Annotated[
        float | None, Key("Disk space for the activations of this run, GB.", 0, None, "half of what is free")
    ] = None

    @property
    def solves_head(self) -> bool:
        """Whether the head is solved as a logistic regression, without epochs; else AdamW trains it."""
        return not (self.hidden or (self.unfreeze == "none" and self.epochs))

    @property
    def mirrors(self) -> bool:
        """Whether training images are mirrored."""
        return self.flip and self.augments

    @property
    def augments(self) -> bool:
        """Whether training images are augmented at all."""
        return self.augment != "none" and self.views != 1

    def share(self, has_test: bool) -> float:
        """Share held out for validation: the one that was chosen, or the usual one, by whether there is a test folder."""
        return self.val_split if self.val_split is not None else (0.1 if has_test else 0.2)

    @property
    def rate(self) -> float:
        """Peak learning rate of the fine-tuning phase: the chosen one, or the default of optimizer and layers."""
        last, every = _USUAL_RATES[self.optimizer]
        return self.learning_rate or (every if self.unfreeze == "all" else last)


# Peak rates of the fine-tuning phase: of the last stage, and of all layers. All of resnet18-slim fell from 68 to 28 % in three
# epochs of sgd at 0.01 on 189 flowers, and gained at 0.002.
_USUAL_RATES: dict[Optimizer, tuple[float, float]] = {
    "sgd": (0.01, 0.002),
    "muon": (0.003, 0.003),
    "adam": (5e-4, 7e-4),
    "adamw": (5e-4, 7e-4),
}

# Settings that change with an optimizer chosen by name.
_USUAL: dict[Optimizer, dict[str, Any]] = {
    "sgd": {"learning_rate": 0.1},
    "muon": {"learning_rate": 0.03},
    "adam": {"learning_rate": 1e-3},
    "adamw": {"learning_rate": 1e-3, "weight_decay": 0.05},
}

FAST = TrainConfig(
    epochs=24,
    optimizer="muon",
    learning_rate=_USUAL["muon"]["learning_rate"],
    schedule="one-cycle",
    warmup=0.2,
    label_smoothing=0.1,
    ema=0.02,
    cutout=0.25,
)

# He et al. 2015, section 4.2: 64,000 iterations of 128 images are 164 epochs of CIFAR-10's 50,000.
PAPER = TrainConfig(
    epochs=164,
    schedule="steps",
    warmup=0.0,
    drops=((0.5, 0.1), (0.75, 0.01)),
    nesterov=False,
    weight_decay=1e-4,
    pixel_mean=True,
)
# The same section: 110 layers begin at a tenth of the rate, "until the training error is below 80% (about 400 iterations)".
_DEEP, _DEEP_START = 110, ((0.0, 0.1), (400 / 64_000, 1.0))

# Keras' CIFAR-10 ResNet example. Its l2(1e-4) adds 1e-4 * w^2 to the loss: a gradient of 2e-4 * w.
KERAS = TrainConfig(
    epochs=200,
    batch_size=32,
    optimizer="adam",
    learning_rate=1e-3,
    schedule="steps",
    warmup=0.0,
    drops=((0.4, 0.1), (0.6, 0.01), (0.8, 0.001), (0.9, 0.0005)),
    plateau=0.1**0.5,
    weight_decay=2e-4,
    pixel_mean=True,
    crop="none",
    shift=0.1,
)

RECIPES = {"fast": FAST, "paper": PAPER, "keras": KERAS}
FINETUNE_RECIPES = {"default": FinetuneConfig(unfreeze="auto")}
_SOURCES = {
    "fast": "ours: best accuracy a minute; Muon (Jordan et al. 2024), one cycle (Smith 2018), label smoothing, "
    "averaged weights, crop, flip and cutout",
    "paper": "He et al. 2015, section 4.2",
    "keras": "the CIFAR-10 ResNet example of Keras; here the schedule does not undo cuts on a plateau, as it does there",
    "default": "ours: a head solved on frozen features, then AdamW on the last layers, kept if validation improves",
}

_Configuration = TypeVar("_Configuration", TrainConfig, FinetuneConfig)
# Keys, the condition under which they have an effect, and the reason why they have none otherwise.
_Needs = tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...]
_TRAIN_NEEDS: _Needs = (
    (("momentum", "nesterov"), lambda c: c.optimizer in ("sgd", "muon"), "only the optimizers sgd and muon have a momentum"),
    (("drops",), lambda c: c.schedule == "steps", "only schedule steps drops the rate"),
    (("scale",), lambda c: c.crop == "resized", "only crop resized scales its crops"),
    (
        ("plateau",),
        lambda c: not c.plateau or c.schedule in ("steps", "constant"),
        "the schedules cosine and one-cycle fall to zero by themselves",
    ),
    (("progressive", "pixel_mean"), lambda c: not (c.progressive and c.pixel_mean), "a mean image has only one size"),
    (("teacher_weight",), lambda c: c.teacher_weight > 0, "it is not set, so the data set decides"),
)
_TEACHER = ("teacher_weight", "temperature", "teacher_views")
_PHASE = ("batch_size", "optimizer", "learning_rate", "warmup", "weight_decay", "label_smoothing", "patience")
VIEW_KEYS = ("scale", "rotate", "shift", "color", "sharpness", "cutout")
_FINETUNE_NEEDS: _Needs = (
    (_PHASE, lambda c: c.unfreeze != "none", "it is about the fine-tuning phase, which unfreeze none skips"),
    (
        ("dropout",),
        lambda c: c.unfreeze != "none" or not c.solves_head,
        "it has no effect on a head alone without hidden or epochs",
    ),
    (
        ("cache_limit",),
        lambda c: c.cache_limit is None or c.unfreeze in ("auto", "last"),
        "it limits the activations that only unfreeze last stores",
    ),
    (("views",), lambda c: c.augment != "none" or c.views < 2, "with augment none all views are equal"),
    (
        ("augment",),
        lambda c: c.augment != "strong" or c.views != 1,
        "views 1 shows images as they are",
    ),
    *(((name,), lambda c, name=name: c.augments or getattr(c, name) is None, "views are not augmented") for name in VIEW_KEYS),
    (("epochs",), lambda c: not (c.epochs and c.time_limit), "time_limit chooses the epochs"),
)
_NEEDS: dict[type, _Needs] = {TrainConfig: _TRAIN_NEEDS, FinetuneConfig: _FINETUNE_NEEDS}


def make_config(recipe: str | Path | None, network: Network, given: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a recipe, with some keys replaced: first by the recipe file, then by `given`.

    Args:
        recipe: "fast", "paper", "keras" or a TOML file, which may name one of them as `recipe`; None for "fast".
        network: the network to train: for small images, the paper's recipe starts at a lower rate from 110 layers on.
        given: fields of `TrainConfig` by name.

    Raises:
        ResnetError: there is no such recipe; a key is unknown, has a wrong type, is out of its range or contradicts the rest.
    """
    base, changes = based_on(recipe, TrainConfig)
    config = RECIPES[base]
    if base == "paper" and network.family == "cifar" and network.depth >= _DEEP:
        config = replace(config, drops=(*_DEEP_START, *config.drops))
    config = _trained_with(config, changes, f"{recipe}: ")
    return _trained_with(config, checked(TrainConfig, given), "")


def _trained_with(config: TrainConfig, changes: Mapping[str, Any], where: str) -> TrainConfig:
    if changes.get("optimizer", config.optimizer) != config.optimizer:
        config = replace(config, **_USUAL[changes["optimizer"]])
    if changes.get("schedule", config.schedule) != config.schedule:
        config = replace(config, drops=(), plateau=0.0)  # they belong to the other schedule
    config = replace(config, **changes)
    if config.schedule == "steps" and not config.drops:
        raise ResnetError(f"{where}schedule steps needs drops", "such as --set drops=0.5:0.1,0.75:0.01")
    return _require_effect(config, changes, where)


def make_finetune_config(recipe: str | Path | None, given: Mapping[str, Any]) -> FinetuneConfig:
    """The configuration of `finetune`: the defaults, with keys replaced first by a recipe file, then by `given`.

    Args:
        recipe: "default" or a TOML file; None for "default".
        given: fields of `FinetuneConfig` by name.

    Returns:
        The configuration; `unfreeze` is "auto" if it was not given, and is then chosen by network.

    Raises:
        ResnetError: there is no such recipe; a key is unknown, has a wrong type, is out of its range or has no effect.
    """
    base, changes = based_on(recipe, FinetuneConfig)
    config = _finetuned_with(FINETUNE_RECIPES[base], changes, f"{recipe}: ")
    return _finetuned_with(config, checked(FinetuneConfig, given), "")


def _finetuned_with(config: FinetuneConfig, changes: Mapping[str, Any], where: str) -> FinetuneConfig:
    if changes.get("optimizer", config.optimizer) != config.optimizer:
        decay = _USUAL[changes["optimizer"]].get("weight_decay", TrainConfig().weight_decay)
        config = replace(config, weight_decay=decay)
    return _require_effect(replace(config, **changes), changes, where)


def _require_effect(config: _Configuration, changes: Mapping[str, Any], where: str) -> _Configuration:
    for name, why in without_effect(config).items():
        if name in changes:
            raise ResnetError(f"{where}{name} contradicts the rest: {why}", "leave it out, or change the other")
    return config


def without_effect(config: TrainConfig | FinetuneConfig) -> dict[str, str]:
    """The keys that have no effect with the rest of the configuration, and why."""
    return {name: why for names, effective, why in _NEEDS[type(config)] if not effective(config) for name in names}


def require_teacher(given: Mapping[str, Any]) -> None:
    """Refuse keys that only have an effect with a teacher, if there is none.

    Raises:
        ResnetError: one of them was given.
    """
    if vain := [name for name in _TEACHER if name in given]:
        raise ResnetError(f"{vain[0]} only has an effect with --teacher", "leave it out, or name a teacher")


def based_on(recipe: str | Path | None, config: type) -> tuple[str, dict[str, Any]]:
    """The named recipe that a recipe is based on, and the keys that it changes; of `TrainConfig` or `FinetuneConfig`.

    Raises:
        ResnetError: there is no such recipe, or see `read_recipe`.
    """
    names = list(RECIPES if config is TrainConfig else FINETUNE_RECIPES)
    base, changes = read_recipe(recipe, names, config) if recipe is not None else (None, {})
    return base or names[0], changes


def source_of(recipe: str) -> str:
    """Where a named recipe comes from."""
    return _SOURCES[recipe]


def parse_duration(text: str, option: str = "--time-limit") -> float:
    """Seconds in "90s", "30m", "1h30m".

    Args:
        text: the duration.
        option: named in the error.

    Raises:
        ResnetError: it has another form.
    """
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip().lower())
    seconds = sum(int(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    if not seconds:
        raise ResnetError(f"{option} {text} is not a duration", f"such as {option} 30m, 1h30m or 90s")
    return float(seconds)
