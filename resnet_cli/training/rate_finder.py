"""The learning-rate range test: a short trial training whose rate grows until the loss rises, and the suggested rate.

In: the arguments of `loop.train`. Out: a `RateSearch`; the network's variables are restored.

Source: Smith 2017, "Cyclical learning rates for training neural networks" (arXiv 1506.01186), section 3.3: the peak of a
schedule is the rate beyond which training gets no better. The rate grows geometrically over 100 steps, and the test ends at
four times the lowest loss, as in fast.ai's `lr_find`. fast.ai suggests the steepest fall; this program does not: the loss of
random weights falls fastest in the very first steps of learning, for resnet20 on CIFAR-10 at a fiftieth of the paper's rate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.errors import ResnetError
from resnet_cli.progress import Progress, Task, stop_if_asked
from resnet_cli.training.checkpoints import Stream, untouched
from resnet_cli.training.config import TrainConfig
from resnet_cli.training.distillation import loss_of
from resnet_cli.training.loop import balanced_weights
from resnet_cli.training.optimizers import make_optimizer

STEPS = 100
# Lowest and highest rate. Adam's and Muon's steps are as large as the rate, whatever the gradient: 1 is too much for them.
BOUNDS = {"sgd": (1e-4, 10.0), "muon": (1e-5, 1.0), "adam": (1e-6, 1.0), "adamw": (1e-6, 1.0)}
_DIVERGED = 4  # a loss of so many times the lowest running average has diverged
_RUNNING = 0.9  # momentum of that average: ten steps
_SMOOTHING = 0.8  # momentum of the smoothed curve: five steps to each side, a quarter of a decade
_CEILING = 2  # losses are clipped to so many times the loss at the beginning
_BEGINNING, _END = 10, 5  # steps


@dataclass(frozen=True)
class RateSearch:
    """The result of a range test; the three sequences have the same length, at most `STEPS`, and are finite.

    Attributes:
        rates: learning rate of each step, growing.
        losses: training loss of each step's batch, before the step, nats.
        smoothed: their moving average, see `smooth`.
        suggested: peak rate for a training, see `suggest`; None if the loss falls no further than by chance, as it may if
            the head already fits the features almost perfectly.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float | None


def find_rate(
    model: keras.Model,
    stream: Stream,
    config: TrainConfig,
    progress: Progress,
    again: str = "nothing was trained yet: type the same command again",
) -> RateSearch:
    """Try rates from low to high, one per step, with the optimizer, loss, batches and precision that the training would use.

    Args:
        model: a functional network that gives logits (N, classes). Its variables (including batch-norm statistics and random
            states) are restored in any case, and it is not compiled.
        stream: the training batches.
        config: recipe; `learning_rate`, `schedule` and `ema` have no effect.
        progress: where to report; it also tells when a stop was requested.
        again: how to continue after a stop.

    Raises:
        ResnetError: the loss is NaN or Inf at the lowest rate.
        Interrupted: a signal requested a stop.
    """
    # Another model of the same layers: compiling and fitting it does not change the given one.
    trial = keras.Model(model.inputs, model.outputs)
    rates = np.geomspace(*BOUNDS[config.optimizer], STEPS).astype(np.float32)
    trial.compile(
        optimizer=make_optimizer(replace(config, ema=0.0), rates, trial.trainable_variables),
        loss=loss_of(config),
    )
    task = progress.start("learning rate", STEPS)
    with untouched(model):
        losses = _try_rates(trial, stream, config, progress, task, again)
    task.finish()
    if not losses:
        raise ResnetError(
            f"the loss is NaN or Inf even at the learning rate {rates[0]:g}",
            "the weights contain NaN or Inf: start from other --weights",
        )
    tried = tuple(map(float, rates[: len(losses)]))
    return RateSearch(tried, tuple(losses), tuple(map(float, smooth(losses))), suggest(tried, losses))


def _try_rates(
    trial: keras.Model, stream: Stream, config: TrainConfig, progress: Progress, task: Task, again: str
) -> list[float]:
    """The loss of every step, until it is NaN or Inf, or its running average has grown fourfold."""
    weights = balanced_weights(stream.labels, stream.classes) if config.class_weights else None
    losses: list[float] = []
    running, lowest = 0.0, math.inf
    for step, (inputs, targets) in zip(range(1, STEPS + 1), stream.batches(), strict=False):
        stop_if_asked(progress, again)
        loss = float(trial.train_on_batch(inputs, targets, None if weights is None else targets[:, : len(weights)] @ weights))
        if not math.isfinite(loss):
            break
        losses.append(loss)
        running = _RUNNING * running + (1 - _RUNNING) * loss
        average = running / (1 - _RUNNING**step)  # bias correction of the first steps, as in Adam
        task.advance(1, {"loss": average})
        # The average of a few batches is low or high by chance: ignore the first ones.
        if step > _BEGINNING:
            lowest = min(lowest, average)
            if average > _DIVERGED * lowest:
                break
    return losses


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate at which the smoothed loss is lowest, to two digits: higher rates do not lower it further.

    The ends are ignored: the first ten steps, whose rates are too low to matter, and, if the loss diverged or became NaN, the
    last five, which led there. So is everything after a rise of twice the scatter of single batches: a network that has left
    its minimum may find another one at rates that are too high for a training. If the whole fall is less than the scatter, the
    minimum is random, and the result is None.

    Args:
        rates: geometric, growing; `STEPS` of them, or fewer if the test ended early.
        losses: one per rate, finite.
    """
    smoothed = smooth(losses)
    end = len(losses) - (_END if len(losses) < STEPS else 0)
    if end <= _BEGINNING:
        return None
    # From the median, which diverged losses do not change; for normal scatter it equals the standard deviation.
    scatter = 1.4826 * float(np.median(np.abs(np.asarray(losses) - smoothed)))
    middle = smoothed[_BEGINNING:end]
    climbed = middle > np.minimum.accumulate(middle) + 2 * scatter
    valley = middle[: int(climbed.argmax())] if climbed.any() else middle
    if np.mean(losses[:_BEGINNING]) - valley.min() <= scatter:
        return None
    return float(f"{rates[_BEGINNING + int(valley.argmin())]:.1e}")


def smooth(losses: Sequence[float]) -> NDArray[np.float64]:
    """Two-sided exponential moving average (len(losses),) with bias correction.

    A one-sided average lags: its minimum is at two to three times the rate of the true minimum, where a training may well
    diverge. Losses are clipped to twice the initial loss, so that a diverging loss does not hide the minimum before it.

    Args:
        losses: one per step.
    """
    step = np.arange(len(losses))
    weights = _SMOOTHING ** np.abs(step[:, None] - step)
    capped = np.minimum(losses, _CEILING * np.mean(losses[:_BEGINNING]))
    averages: NDArray[np.float64] = weights @ capped / weights.sum(1)
    return averages
