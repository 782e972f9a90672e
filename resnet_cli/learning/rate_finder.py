"""The learning-rate range test: a short trial training whose rate grows until the loss does, and the rate that it suggests.

In: what `training.train` gets. Out: a `RateSearch`; the network is left exactly as it was.

Source: Smith 2017, "Cyclical learning rates for training neural networks" (arXiv 1506.01186), section 3.3, with the rate growing
geometrically over 100 steps and the end at four times the lowest loss, as fast.ai's `lr_find` does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.learning.config import TrainConfig
from resnet_cli.learning.schedules import make_optimizer
from resnet_cli.learning.training import Stream, balanced_weights
from resnet_cli.progress import Progress

STEPS = 100
# Lowest and highest rate. Adam's steps have about the size of the rate itself, whatever the gradient: 1 is far too much anywhere.
BOUNDS = {"sgd": (1e-4, 10.0), "adam": (1e-6, 1.0), "adamw": (1e-6, 1.0)}
_BETA = 0.9  # of the exponential average: ten steps, half a decade of rates
_SETTLED = 10  # steps until the average rests on enough batches to be compared with
_DIVERGED = 4  # times the lowest average loss


@dataclass(frozen=True)
class RateSearch:
    """What the loss did while the rate grew; the three sequences are of one length, at most `STEPS`, and finite.

    Attributes:
        rates: learning rate of each step, growing; with `depth_decay` it is the head's.
        losses: training loss of each step's batch, before the step, nats.
        smoothed: exponential average of the losses.
        suggested: where the average falls fastest, to two digits; None where it never falls clearly, which says that no rate of
            the range teaches this network anything.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float | None


def find_rate(model: keras.Model, stream: Stream, config: TrainConfig, progress: Progress) -> RateSearch:
    """Try rates from low to high, one a step, with the optimizer, loss, batches and precision that the training would use.

    Args:
        model: a functional network that gives logits (N, classes). Its variables (batch-norm statistics and random states among
            them) are put back whatever happens, and it is not compiled.
        stream: the training batches.
        config: recipe; `learning_rate`, `schedule` and `ema` play no part.
        progress: where to report, and what asks to stop.

    Raises:
        ResnetError: the loss is no number at the lowest rate.
        Interrupted: a signal asked to stop.
    """
    # Another model of the same layers: compiling and fitting it leaves no trace in the one that was given.
    trial = keras.Model(model.inputs, model.outputs)
    rates = np.geomspace(*BOUNDS[config.optimizer], STEPS).astype(np.float32)
    trial.compile(
        optimizer=make_optimizer(replace(config, ema=0.0), rates, trial.trainable_variables),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.label_smoothing),
    )
    before = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    task = progress.start("learning rate", STEPS)
    try:
        losses = _try_rates(trial, stream, config, progress, task.advance)
    finally:
        task.finish()
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)
    if not losses:
        raise ResnetError(
            f"the loss is no number at the learning rate {rates[0]:g} already",
            "the weights or the pictures hold values that are no numbers: start from other --weights",
        )
    smoothed = smooth(losses, _lowest(losses))
    tried = tuple(map(float, rates[: len(losses)]))
    return RateSearch(tried, tuple(losses), tuple(map(float, smoothed)), suggest(tried, losses))


def _try_rates(trial: keras.Model, stream: Stream, config: TrainConfig, progress: Progress, advance: Any) -> list[float]:
    """The loss of every step until it is no number or has grown fourfold."""
    weights = balanced_weights(stream.labels, stream.classes) if config.class_weights else None
    losses: list[float] = []
    for _, (inputs, targets) in zip(range(STEPS), stream.batches(), strict=False):
        if progress.stop_signal():
            raise Interrupted(progress.stop_signal(), "no rate was chosen; type the same command again")
        loss = float(trial.train_on_batch(inputs, targets, None if weights is None else targets @ weights))
        if not math.isfinite(loss):
            break
        losses.append(loss)
        average = smooth(losses)
        advance(1, {"loss": float(average[-1])})
        if len(losses) > _SETTLED and average[-1] > _DIVERGED * average[_SETTLED:].min():
            break
    return losses


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate at which the average loss falls fastest over the logarithm of the rate.

    At the low end the first ten steps do not count: their averages rest on few batches. At the high end nothing counts after the
    lowest average: once a training diverges, the loss falls steeply between peaks, and means nothing. Where the whole fall is less
    than the scatter of single batches, the steepest place is chance: None.

    Args:
        rates: geometric, growing.
        losses: one a rate, finite.
    """
    lowest = _lowest(losses)
    smoothed = smooth(losses, lowest)[: lowest + 1]
    scatter = float(np.std(np.asarray(losses[: lowest + 1]) - smoothed))
    if lowest <= _SETTLED or smoothed[: _SETTLED + 1].mean() - smoothed[-1] <= scatter:
        return None
    slopes = np.gradient(smoothed)[_SETTLED:]  # the steps of log(rate) are equal
    return float(f"{rates[_SETTLED + int(slopes.argmin())]:.1e}")


def smooth(losses: Sequence[float], until: int = 0) -> NDArray[np.float64]:
    """Exponential average (len(losses),), each with the weights that it has divided out (bias correction).

    Args:
        losses: one a step.
        until: a plain average lags ten steps behind; up to this step it looks ahead as well as back, so that its slopes stand
            where the losses' are. Later steps look back alone: what blows up must not hide the fall before.
    """
    step = np.arange(len(losses))
    weights = _BETA ** np.abs(step[:, None] - step)
    weights *= step <= np.maximum(step, until)[:, None]
    averages: NDArray[np.float64] = weights @ np.asarray(losses, np.float64) / weights.sum(1)
    return averages


def _lowest(losses: Sequence[float]) -> int:
    """The step of the lowest average, among those whose average has settled; the last one where none has."""
    first = min(_SETTLED, len(losses) - 1)
    return first + int(smooth(losses)[first:].argmin())
