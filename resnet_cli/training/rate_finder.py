"""The learning-rate range test: a short trial training whose rate grows until the loss does, and the rate that it suggests.

In: what `loop.train` gets. Out: a `RateSearch`; the network is left exactly as it was.

Source: Smith 2017, "Cyclical learning rates for training neural networks" (arXiv 1506.01186), section 3.3: the peak of a
schedule is the rate beyond which training gets no better. The rate grows geometrically over 100 steps, and the test ends at
four times the lowest loss, as in fast.ai's `lr_find`. Its suggestion, the steepest fall, is not ours: the loss of
random weights falls steepest while they are unlearned, for resnet20 on CIFAR-10 at a fiftieth of the paper's rate.
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
_DIVERGED = 4  # times the lowest running average
_RUNNING = 0.9  # momentum of that average: ten steps
_SMOOTHING = 0.8  # momentum of the curve that is shown: five steps to each side, a quarter of a decade
_CEILING = 2  # times the loss of the beginning
_BEGINNING, _END = 10, 5  # steps


@dataclass(frozen=True)
class RateSearch:
    """What the loss did while the rate grew; the three sequences are of one length, at most `STEPS`, and finite.

    Attributes:
        rates: learning rate of each step, growing.
        losses: training loss of each step's batch, before the step, nats.
        smoothed: their average, see `smooth`.
        suggested: peak rate for a training, see `suggest`; None where the loss falls no further than by chance, as it may where
            the head has learned nearly all there is on features alone.
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
    """Try rates from low to high, one a step, with the optimizer, loss, batches and precision that the training would use.

    Args:
        model: a functional network that gives logits (N, classes). Its variables (batch-norm statistics and random states among
            them) are put back whatever happens, and it is not compiled.
        stream: the training batches.
        config: recipe; `learning_rate`, `schedule` and `ema` play no part.
        progress: where to report, and what asks to stop.
        again: how to go on then.

    Raises:
        ResnetError: the loss is no number at the lowest rate.
        Interrupted: a signal asked to stop.
    """
    # Another model of the same layers: compiling and fitting it leaves no trace in the one that was given.
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
            f"the loss is no number even at the learning rate {rates[0]:g}",
            "the weights hold values that are no numbers: start from other --weights",
        )
    tried = tuple(map(float, rates[: len(losses)]))
    return RateSearch(tried, tuple(losses), tuple(map(float, smooth(losses))), suggest(tried, losses))


def _try_rates(
    trial: keras.Model, stream: Stream, config: TrainConfig, progress: Progress, task: Task, again: str
) -> list[float]:
    """The loss of every step, until it is no number or its running average has grown fourfold."""
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
        average = running / (1 - _RUNNING**step)  # the first steps without their bias towards zero, as in Adam
        task.advance(1, {"loss": average})
        # An average of a few batches is low or high by chance: the first ones are no measure.
        if step > _BEGINNING:
            lowest = min(lowest, average)
            if average > _DIVERGED * lowest:
                break
    return losses


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate at which the smoothed loss is lowest, to two digits: with more, it falls no further.

    The ends are left out: the first ten steps, whose rates are too low to matter, and, where the loss diverged or was no
    number in the end, the last five, which led there. So is all that follows a climb of twice the scatter of single batches:
    a network that was thrown out of its valley may find another one at rates that no training survives. Where the whole fall is
    less than the scatter, the lowest place is chance: None.

    Args:
        rates: geometric, growing, `STEPS` of them or fewer where the test ended early.
        losses: one a rate, finite.
    """
    smoothed = smooth(losses)
    end = len(losses) - (_END if len(losses) < STEPS else 0)
    if end <= _BEGINNING:
        return None
    # By the median, which those that diverged do not move; for normal scatter it is the standard deviation.
    scatter = 1.4826 * float(np.median(np.abs(np.asarray(losses) - smoothed)))
    middle = smoothed[_BEGINNING:end]
    climbed = middle > np.minimum.accumulate(middle) + 2 * scatter
    valley = middle[: int(climbed.argmax())] if climbed.any() else middle
    if np.mean(losses[:_BEGINNING]) - valley.min() <= scatter:
        return None
    return float(f"{rates[_BEGINNING + int(valley.argmin())]:.1e}")


def smooth(losses: Sequence[float]) -> NDArray[np.float64]:
    """Exponential average to both sides (len(losses),), each divided by the weights that it has (bias correction).

    A plain one lags: its lowest point stands at two to three times the rate of the losses' own, where a training may well
    diverge. Losses over twice the beginning's count as that: how high a loss flies must not hide how low it was before.

    Args:
        losses: one a step.
    """
    step = np.arange(len(losses))
    weights = _SMOOTHING ** np.abs(step[:, None] - step)
    capped = np.minimum(losses, _CEILING * np.mean(losses[:_BEGINNING]))
    averages: NDArray[np.float64] = weights @ capped / weights.sum(1)
    return averages
