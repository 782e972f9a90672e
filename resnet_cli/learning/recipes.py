"""Recipes: whole configurations of training by name, as data, and what may be changed about them (light).

In: a recipe's name, the network, and the options that were typed. Out: a `TrainConfig` without contradictions.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from resnet_cli.errors import ResnetError
from resnet_cli.learning.config import Optimizer, TrainConfig
from resnet_cli.networks.catalogue import Network

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

# He et al. 2015, section 4.2: 64,000 iterations of 128 pictures are 164 epochs of CIFAR-10's 50,000.
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
        network: what is trained: for small pictures the paper's recipe begins gently from 110 layers on.
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
