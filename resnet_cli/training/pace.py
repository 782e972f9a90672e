"""Measure how long training takes on this machine, so that `--time-limit` can fit a whole schedule into the limit.

In: the arguments of a training (network, stream, held-out batches, recipe). Out: seconds per step and per validation; the
number of epochs that fit.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import keras

from resnet_cli.errors import ResnetError
from resnet_cli.progress import NOTHING_YET, Progress, stop_if_asked
from resnet_cli.training.checkpoints import Stream, untouched
from resnet_cli.training.config import TrainConfig, small_epochs
from resnet_cli.training.devices import divisible, on_all_devices
from resnet_cli.training.distillation import loss_of
from resnet_cli.training.optimizers import make_optimizer, rates
from resnet_cli.training.reading import Reading, on_device

_WARM_UP, _MEASURED = 5, 25  # steps: the first ones trace and compile
_SHARE = 0.1  # share of the limit for each measurement of steps
MARGIN = 0.95  # share of the limit that is planned: no machine has a constant speed


@dataclass(frozen=True)
class Pace:
    """Seconds that training takes on this machine.

    Attributes:
        step: of one training step.
        small_step: of one step on the smaller images of progressive training; equal to `step` without.
        validation: of one validation on all held-out images.
        start: for tracing and compiling graphs, minutes for deep networks. Training needs it once more: its optimizer contains
            the rates of all steps, whose number is not known before.
        asking: additional time per step in the first epochs, in which a teacher predicts; 0 without one.
        asking_epochs: number of these epochs.
    """

    step: float
    small_step: float
    validation: float
    start: float = 0.0
    asking: float = 0.0
    asking_epochs: int = 0

    def epochs_within(self, seconds: float, steps_per_epoch: int) -> int:
        """Epochs that fit, including those with smaller images; 0 if not even one does."""
        epochs = 0
        while self.seconds_of(epochs + 1, steps_per_epoch) <= seconds:
            epochs += 1
        return epochs

    def seconds_of(self, epochs: int, steps: int) -> float:
        """Seconds of a training of so many epochs of so many steps."""
        small = small_epochs(epochs)
        trained = steps * (small * self.small_step + (epochs - small) * self.step)
        trained += steps * min(epochs, self.asking_epochs) * self.asking
        return self.start + trained + epochs * self.validation


def measure_pace(
    model: keras.Model,
    stream: Stream,
    held_out: keras.utils.PyDataset,
    config: TrainConfig,
    limit: float,
    progress: Progress,
    small: Stream | None = None,
    hint: str = NOTHING_YET,
) -> Pace:
    """Train a few steps and leave the network as it was.

    Args:
        model, stream, held_out, config, progress, small: as of `train`.
        limit: seconds that the training may take; each measurement of steps ends after a tenth of that, but not before two
            steps.
        hint: how to continue after a signal.

    Raises:
        ResnetError: an image can no longer be read.
        Interrupted: a signal requested a stop.
    """
    with on_all_devices(model) as copy:
        return _measure(copy, stream, divisible(held_out), config, limit, progress, small, hint)


def _measure(
    model: keras.Model,
    stream: Stream,
    held_out: keras.utils.PyDataset,
    config: TrainConfig,
    limit: float,
    progress: Progress,
    small: Stream | None,
    hint: str,
) -> Pace:
    """See `measure_pace`; the model is on its devices, and the batches can be divided among them."""
    task = progress.start("measuring the pace", None)
    clock, reading = _Clock(limit * _SHARE, progress, hint), Reading(hint.partition(": ")[2] or hint)
    with untouched(model), reading.told():
        model.compile(
            optimizer=make_optimizer(config, rates(replace(config, learning_rate=0.0), 1), model.trainable_variables),
            loss=loss_of(config),
        )
        step, start = _measure_steps(model, stream, clock, reading)
        small_step = step
        if small is not None:
            small_step, start_of_small = _measure_steps(model, small, clock, reading)
            start += start_of_small
        watched = reading.held_out(held_out)
        began = time.perf_counter()
        model.evaluate(watched, steps=1, callbacks=[clock], verbose=0)  # traces and compiles
        start, began = start + time.perf_counter() - began, time.perf_counter()
        batches = max(1, min(8, len(held_out)))
        model.evaluate(watched, steps=batches, callbacks=[clock], verbose=0)
        validation = (time.perf_counter() - began) * len(held_out) / batches
    task.finish()
    return Pace(step, small_step, validation, start)


def fit_to_limit(config: TrainConfig, limit: float, pace: Pace, steps_per_epoch: int, spent: float = 0.0) -> TrainConfig:
    """The recipe with as many epochs as fit.

    Args:
        config: recipe.
        limit: seconds, from the start of the training.
        pace: measured on this machine.
        steps_per_epoch: steps per epoch of the stream.
        spent: seconds of the limit that are already used, including the measurement.

    Raises:
        ResnetError: not even one epoch fits.
    """
    epochs = pace.epochs_within(limit * MARGIN - spent, steps_per_epoch)
    if not epochs:
        needed = (spent + pace.seconds_of(1, steps_per_epoch)) / MARGIN
        raise ResnetError(
            f"--time-limit {limit:.0f}s is too short: one epoch takes {needed:.0f} s here",
            f"give at least --time-limit {int(needed) + 1}s, or fewer images",
        )
    return replace(config, epochs=epochs)


class _Clock(keras.callbacks.Callback):  # type: ignore[misc]
    """Records when each step of a `fit` ended; stops it after so many seconds, or when a signal requests a stop."""

    def __init__(self, seconds: float, progress: Progress, hint: str) -> None:
        super().__init__()
        self._seconds, self._progress, self._hint = seconds, progress, hint

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.began, self.times = time.perf_counter(), list[float]()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        stop_if_asked(self._progress, self._hint)
        self.times.append(time.perf_counter())
        self.model.stop_training = len(self.times) > 1 and self.times[-1] - self.began > self._seconds

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        stop_if_asked(self._progress, self._hint)


def _measure_steps(model: keras.Model, stream: Stream, clock: _Clock, reading: Reading) -> tuple[float, float]:
    """Seconds per step, and the additional seconds of the first steps."""
    model.train_function = None  # each image size is measured with its own graph, as in training
    with reading.batches(stream.batches) as batches:
        model.fit(on_device(batches), steps_per_epoch=_WARM_UP + _MEASURED, callbacks=[clock], shuffle=False, verbose=0)
    warm_up = min(_WARM_UP, len(clock.times) // 2)
    warm = clock.times[warm_up - 1]
    step = (clock.times[-1] - warm) / (len(clock.times) - warm_up)
    return step, max(0.0, warm - clock.began - warm_up * step)
