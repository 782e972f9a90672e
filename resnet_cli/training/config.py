"""What can be set about training: defaults, and recipes by name (light: the command line reads them from here).

In: a recipe's name, the network, and the options that were typed. Out: a `TrainConfig` without contradictions; a
`FinetuneConfig`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from resnet_cli.engines import EngineName
from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import Network, Unfreeze

Optimizer = Literal["sgd", "muon", "adam", "adamw"]
Schedule = Literal["cosine", "one-cycle", "steps", "constant"]
Augment = Literal["none", "light", "strong"]

# Seconds between checkpoints, which are written in a tenth of a second to some seconds: at the ends of epochs, and inside one.
CHECKPOINT_SECONDS, MID_EPOCH_SECONDS = 20, 600


@dataclass(frozen=True)
class TrainConfig:
    """Training from scratch, or from weights, of every layer; `make_config` gives whole recipes.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step at most: all batches of an epoch have one size, so that together they are all images.
        optimizer: sgd (with momentum), muon (Jordan et al. 2024), adam or adamw.
        learning_rate: peak rate; of muon the share of its norm by which a kernel moves in a step.
        schedule: cosine = warm-up, then a half cosine to zero; one-cycle = up and down in straight lines; steps = warm-up,
            then times the factors of `drops`; constant.
        warmup: share of all steps in which the rate climbs, 0..1.
        drops: (share of all steps, factor on the peak rate from there on), for "steps".
        plateau: factor on the highest rate whenever the validation loss has not fallen for five epochs, 0..1; 0 for none.
        momentum: of sgd and muon.
        nesterov: whether they look ahead (Sutskever et al. 2013).
        weight_decay: lambda of the L2 penalty, whose gradient is lambda * w (He et al. 2015: 1e-4); with adamw decoupled from
            the gradient (Loshchilov and Hutter 2019); with muon on the head alone. Never on batch-norm and biases.
        label_smoothing: share of the target spread over all classes.
        dropout: share of pooled features dropped.
        stochastic_depth: share of images for which the last residual block is skipped, falling to 0 at the input.
        ema: share of all steps over which weights are averaged; the averages are validated and kept; 0 for none.
        progressive: the first two thirds of the epochs see images of half the side: half of all work, which buys twice as
            many epochs (Howard 2018, progressive resizing).
        patience: epochs in which neither validation accuracy nor validation loss gets better before training stops, counted
            from the peak of the learning rate on; 0 never stops early.
        class_weights: weigh classes by 1 / their count.
        pixel_mean: scale pixels to 0..1 and subtract the training images' mean, pixel by pixel.
        crop, scale, flip, rotate, shift, color, sharpness, cutout, mixup: see `data.augment.Augmentation`.
        teacher_weight: share of the loss that is the teacher's, 0..1; the rest is that of the labels. 0 without a teacher.
        temperature: that evens out the probabilities of teacher and student (Hinton et al. 2015).
        teacher_views: crops of each image that the teacher is shown; 0 shows it new ones every epoch, which takes longer.
        val_split: share held out where the folder has no validation images, 0..1.
        seed: random seed.
    """

    epochs: int = 30
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.1
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    drops: tuple[tuple[float, float], ...] = ()
    plateau: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    ema: float = 0.0
    progressive: bool = False
    patience: int = 0
    class_weights: bool = False
    pixel_mean: bool = False
    crop: Literal["resized", "pad", "none"] = "pad"
    scale: float = 0.35
    flip: bool = True
    rotate: float = 0.0
    shift: float = 0.0
    color: float = 0.0
    sharpness: float = 0.0
    cutout: float = 0.0
    mixup: float = 0.0
    teacher_weight: float = 0.0
    temperature: float = 2.0
    teacher_views: int = 4
    val_split: float = 0.1
    seed: int = 0


def small_epochs(epochs: int) -> int:
    """Of so many epochs of progressive training, those with smaller images."""
    return epochs * 2 // 3


@dataclass(frozen=True)
class FinetuneConfig:
    """Transfer: a new head on pretrained features, then the last layers with it.

    Attributes:
        unfreeze: none = the head alone; last = the last stage as well; all = every layer.
        hidden: units of a ReLU layer in the head, 0 for none; the tutorials' head has 2048.
        dropout: share of pooled features dropped in training, 0..1; not where the head is solved (`solves_head`).
        epochs: passes of the fine-tuning phase over the images, 0 chooses by their number. With unfreeze none, passes of AdamW
            over all views for the head.
        batch_size: images a step at most: all batches of an epoch have one size, so that together they are all images.
        learning_rate: peak rate of AdamW in the fine-tuning phase, 0 for the usual one.
        augment: what happens to training images. none = they are as prediction sees them; light = random parts of half the area
            or more (0.7 with pad and squash); strong = of a quarter or more (0.5), also rotated and blurred or sharpened. See
            `transfer.features`.
        flip: mirror every second view of light and strong. Digits, text and arrows then get wrong labels.
        views: augmented views of each training image that go through the frozen layers; 1 = the image as prediction sees it,
            0 chooses by the number of images.
        patience: epochs of the fine-tuning phase without a gain in validation on the head and all earlier epochs before it
            stops, counted from the peak of its learning rate on; 0 never stops early, and never skips it for a perfect head.
        time_limit: seconds that both phases may take together; views and epochs are chosen to fit; 0 for no limit.
        class_weights: weigh classes by 1 / their count.
        val_split: share held out where the folder has no validation images; None = 0.2, or 0.1 beside a test folder.
        seed: random seed.
        engine: what runs frozen layers and measures: auto, openvino or keras.
    """

    unfreeze: Unfreeze = "last"
    hidden: int = 0
    dropout: float = 0.2
    epochs: int = 0
    batch_size: int = 32
    learning_rate: float = 0.0
    augment: Augment = "light"
    flip: bool = True
    views: int = 0
    patience: int = 5
    time_limit: float = 0.0
    class_weights: bool = False
    val_split: float | None = None
    seed: int = 0
    engine: EngineName = "auto"

    @property
    def solves_head(self) -> bool:
        """Whether the head is solved as a logistic regression, which knows no epochs; else AdamW trains it."""
        return not (self.hidden or (self.unfreeze == "none" and self.epochs))

    @property
    def mirrors(self) -> bool:
        """Whether training images are mirrored."""
        return self.flip and self.augment != "none" and self.views != 1

    @property
    def rate(self) -> float:
        """Peak rate of the fine-tuning phase: the one that was chosen, or the usual one."""
        return self.learning_rate or (7e-4 if self.unfreeze == "all" else 5e-4)


Recipe = Literal["fast", "paper", "keras"]

# What goes with an optimizer that was asked for by name.
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

_RECIPES = {"fast": FAST, "paper": PAPER, "keras": KERAS}
_SOURCES = {
    "fast": "ours: best accuracy a minute; Muon (Jordan et al. 2024), one cycle (Smith 2018), label smoothing, "
    "averaged weights, crop, flip and cutout",
    "paper": "He et al. 2015, section 4.2",
    "keras": "the CIFAR-10 ResNet example of Keras; cuts on a plateau last here, there the schedule undoes them (--plateau 0)",
}

# An option, when it has any effect, and why it has none otherwise.
_NEEDS: tuple[tuple[str, Callable[[TrainConfig], bool], str], ...] = (
    ("momentum", lambda config: config.optimizer in ("sgd", "muon"), "only --optimizer sgd and muon have a momentum"),
    ("nesterov", lambda config: config.optimizer in ("sgd", "muon"), "only --optimizer sgd and muon have a momentum"),
    ("drops", lambda config: config.schedule == "steps", "only --schedule steps drops the rate"),
    ("scale", lambda config: config.crop == "resized", "only --crop resized scales its crops"),
    (
        "plateau",
        lambda config: not config.plateau or config.schedule in ("steps", "constant"),
        "--schedule cosine and one-cycle fall to zero by themselves",
    ),
    ("progressive", lambda config: not config.progressive or not config.pixel_mean, "a mean per pixel needs one size"),
    ("pixel_mean", lambda config: not config.progressive or not config.pixel_mean, "a mean per pixel needs one size"),
)


def make_config(recipe: Recipe, network: Network, given: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a recipe with some of it replaced.

    Args:
        recipe: its name.
        network: what is trained: for small images the paper's recipe begins gently from 110 layers on.
        given: fields of `TrainConfig` that were asked for by name.

    Raises:
        ResnetError: an option that was given contradicts the rest.
    """
    config = _RECIPES[recipe]
    if recipe == "paper" and network.family == "cifar" and network.depth >= _DEEP:
        config = replace(config, drops=(*_DEEP_START, *config.drops))
    if given.get("optimizer", config.optimizer) != config.optimizer:
        config = replace(config, **_USUAL[given["optimizer"]])
    if given.get("schedule", config.schedule) != config.schedule:
        config = replace(config, drops=(), plateau=0.0)  # they were the other schedule's
    config = replace(config, **given)
    if config.schedule == "steps" and not config.drops:
        raise ResnetError("--schedule steps needs --drops", "such as --drops 0.5:0.1,0.75:0.01")
    for name, has_effect, why in _NEEDS:
        if name in given and not has_effect(config):
            raise ResnetError(f"--{name.replace('_', '-')} contradicts the rest: {why}", "leave it out, or change the other")
    return config


def source_of(recipe: Recipe) -> str:
    """Where a recipe comes from."""
    return _SOURCES[recipe]


def parse_drops(text: str) -> tuple[tuple[float, float], ...]:
    """Read "0.5:0.1,0.75:0.01": after half of all steps a tenth of the rate, after three quarters a hundredth.

    Raises:
        ResnetError: it is written otherwise, or out of order.
    """
    try:
        drops = tuple((float(share), float(factor)) for share, factor in (part.split(":") for part in text.split(",")))
    except ValueError:
        raise ResnetError(f"--drops {text} is not written as share:factor,...", "such as --drops 0.5:0.1,0.75:0.01") from None
    shares = [share for share, _ in drops]
    if shares != sorted(set(shares)) or any(not 0 <= share < 1 or factor <= 0 for share, factor in drops):
        raise ResnetError(
            f"--drops {text}: shares rise from 0 to 1, and factors are above 0", "such as --drops 0.5:0.1,0.75:0.01"
        )
    return drops


def parse_duration(text: str) -> float:
    """Seconds in "90s", "30m", "1h30m".

    Raises:
        ResnetError: it is written otherwise.
    """
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip().lower())
    seconds = sum(int(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    if not seconds:
        raise ResnetError(f"--time-limit {text} is no duration", "such as --time-limit 30m, 1h30m or 90s")
    return float(seconds)
