"""The callback of `fit`: records epochs, keeps the best weights, saves checkpoints, stops early or on a signal.

In: Keras' calls. Out: metrics.jsonl, checkpoint/ and, if requested, tensorboard/ in the run folder.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.files import write_text
from resnet_cli.networks.weights import named_variables
from resnet_cli.progress import GO_ON, Epoch, Field, Progress, how_long
from resnet_cli.runs.folder import EpochRecord, read_history
from resnet_cli.training.checkpoints import (
    Point,
    Stage,
    Stream,
    has_checkpoint,
    metrics_from_first,
    save_checkpoint,
    write_whole,
)
from resnet_cli.training.config import CHECKPOINT_SECONDS, MID_EPOCH_SECONDS, TrainConfig, small_epochs
from resnet_cli.training.optimizers import inner_optimizer, plateau_scale
from resnet_cli.training.processes import group
from resnet_cli.training.tensorboard import EventFile

SURE = 0.05  # nats: the right class has a probability of 95 % in the geometric mean over the validation images


def is_perfect(record: EpochRecord) -> bool:
    """Whether validation can show no further gain: every image is right, at a mean cross-entropy below `SURE`."""
    return record.val_accuracy == 1 and record.val_loss < SURE


def epochs_without_gain(history: Sequence[EpochRecord], reference: EpochRecord | None = None) -> int:
    """Epochs since validation last gained, counted at the earliest from the peak of the learning rate.

    An epoch gains if its validation accuracy is higher or its validation loss lower than in all epochs before it. Warm-up does
    not count: while the rate rises, the loss often rises for some epochs; it falls below its start once the rate is lowered.

    Args:
        history: the epochs of a phase so far.
        reference: an epoch of an earlier phase that must be surpassed too.
    """
    accuracy, loss = (reference.val_accuracy, reference.val_loss) if reference else (-1.0, math.inf)
    peak = max(range(len(history)), key=lambda index: history[index].learning_rate, default=0)
    last = peak
    for index, record in enumerate(history):
        if record.val_accuracy > accuracy or record.val_loss < loss:
            last = max(peak, index)
        accuracy, loss = max(accuracy, record.val_accuracy), min(loss, record.val_loss)
    return max(0, len(history) - 1 - last)


CROSS_ENTROPY = "cross_entropy"  # the metric whose value on validation images is recorded as val_loss


class Diverged(ResnetError):
    """The loss is NaN or Inf."""


class Recorder(keras.callbacks.Callback):  # type: ignore[misc]
    """The callback of a whole training, which may call `fit` several times."""

    def __init__(
        self,
        stage: Stage,
        config: TrainConfig,
        stream: Stream,
        table: NDArray[np.float32],
        begun: Point,
        progress: Progress,
        reference: EpochRecord | None = None,
    ) -> None:
        super().__init__()
        self._stage, self._config, self._progress, self._rates = stage, config, progress, table
        self._reference = reference
        self._per_epoch, self._images = stream.steps_per_epoch, stream.images_per_step
        self._step, self._validated, self._seconds_before = begun.step, begun.validated, begun.seconds
        self._group = group()  # the first process alone writes; all decide alike
        if self._group.is_first:
            stage.checkpoints.mkdir(parents=True, exist_ok=True)
        self._metrics_file = stage.folder / "metrics.jsonl"
        self._best_file = stage.checkpoints / "best.npz"
        self._swapped = False
        self._best_values: dict[str, NDArray[np.float32]] = {}
        self._best_saved, self._saved, self._saved_at = 0, True, time.monotonic()
        self._metrics: list[NDArray[np.float32]] | None = None  # of an epoch that is being validated
        self._has_validated = False
        epoch = begun.step // self._per_epoch - (not begun.validated)
        lines = self._group.from_first(lambda: [asdict(record) for record in self._history_until(epoch)])
        self.history = [EpochRecord(**line) for line in lines]
        writes_events = stage.tensorboard and self._group.is_first
        self._events = EventFile(stage.folder / "tensorboard" / stage.name, self.history) if writes_events else None
        progress.saved(GO_ON)

    @property
    def best_epoch(self) -> int:
        """Epoch with the best validation accuracy, from 1; of equal ones that with the lower loss; 0 before the first epoch."""
        best = min(self.history, key=lambda record: record.rank, default=None)
        return best.epoch if best else 0

    @property
    def stopped_early(self) -> bool:
        """Whether validation has gained nothing for `patience` epochs."""
        patience = self._config.patience
        return bool(patience) and epochs_without_gain(self.history, self._reference) >= patience

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._began, self._first_step = time.perf_counter(), self._step
        self._trained_seconds = 0.0
        left = self._per_epoch - self._step % self._per_epoch if self._validated else 0
        self._task = self._progress.start(f"{self._stage.step} {epoch + 1}/{self._config.epochs}", left)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        if self._step == self._first_step and self._step % self._per_epoch:  # the first step after an interruption
            for variable, value in metrics_from_first(self._stage.checkpoints, self.model, self._step):
                variable.assign_add(value)
        self._step += 1
        self._changed()
        loss = float((logs or {}).get("loss", 0.0))
        self._require_number(loss)
        self._trained_seconds = time.perf_counter() - self._began
        self._task.advance(1, {"loss": loss, "accuracy": float((logs or {}).get("accuracy", 0.0))})
        self._validated = self._step % self._per_epoch > 0
        if not self._validated:  # validation resets the same metrics
            self._metrics = [keras.ops.convert_to_numpy(variable) for variable in self.model.metrics_variables]
        self._save_or_stop()

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        if not self._has_validated and not self._saved:
            self._save()  # compiling the graph may take minutes: a signal in this time loses nothing
        self._has_validated = True
        if self._config.ema and not self._swapped:
            self._swap_averages()

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._save_or_stop()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        figures = logs or {}
        val_loss = figures[f"val_{CROSS_ENTROPY}"]
        self._require_number(val_loss)  # only validation shows the effect of the last step
        images = self._per_epoch * self._images
        record = EpochRecord(
            stage=self._stage.name,
            epoch=epoch + 1,
            loss=figures["loss"],
            accuracy=figures["accuracy"],
            val_loss=val_loss,
            val_accuracy=figures["val_accuracy"],
            val_top5=figures.get("val_top5"),
            learning_rate=self._rate(),
            images_per_second=round(images / max(self._seconds_before + self._trained_seconds, 1e-9), 1),
            seconds=round(time.perf_counter() - self._began, 2),
        )
        self._task.finish()
        self.history.append(record)
        self._validated, self._metrics, self._seconds_before = True, None, 0.0
        self._changed()
        if self.best_epoch == record.epoch:
            variables = named_variables(self.model)
            self._best_values = {name: keras.ops.convert_to_numpy(value) for name, value in variables.items()}
        if self._swapped:
            self._swap_averages()
        if self._config.plateau:
            scale = plateau_scale([each.val_loss for each in self.history], self._config.plateau)
            inner_optimizer(self.model).scale.assign(scale)
        if self._group.is_first:
            write_text(self._metrics_file, self._metrics_file.read_text() + record.to_line())
        if self._events is not None:
            self._events.append(record)
        # A finished stage is not trained again, even if the process is stopped right after it.
        done = record.epoch == self._config.epochs or self.stopped_early
        stop = self._agreed_signal()
        if done or stop or self._is_due(CHECKPOINT_SECONDS):
            self._save()
        if self._stage.announce:
            self._progress.epoch(self._reported(record))
        self._stop(stop)
        self.model.stop_training = self.stopped_early

    def restore_best(self, model: keras.Model) -> None:
        """Put the best epoch's weights into the model."""
        best = self._best_values
        if not best and not self._group.is_first:
            return  # the first process alone writes the network
        if not best:  # the best epoch was trained by an earlier process
            with np.load(self._best_file, allow_pickle=False) as archive:
                best = dict(archive)
        for name, variable in named_variables(model).items():
            variable.assign(best[name])

    def _reported(self, record: EpochRecord) -> Epoch:
        total, to_go = self._config.epochs, self._to_go(record)
        fields = [
            Field(f"loss {record.loss:.3f}", 3),
            Field(f"accuracy {record.accuracy:6.1%}", 2),
            Field(f"val loss {record.val_loss:.3f}", 1),
            Field(f"val accuracy {record.val_accuracy:6.1%}"),
            *([Field(to_go)] if to_go else []),
        ]
        title = f"{self._stage.step} {record.epoch:{len(str(total))}}/{total}"
        return Epoch(title, fields, [each.val_accuracy for each in self.history], total, self.best_epoch)

    def _to_go(self, record: EpochRecord) -> str:
        """The longest time that the remaining epochs take; empty while `progressive` still trains on smaller images."""
        config = self._config
        if config.progressive and record.epoch <= small_epochs(config.epochs):
            return ""
        steps = self._step - self._first_step
        if not steps:  # an interrupted epoch that only lacked its validation
            return ""
        seconds = (config.epochs - record.epoch) * record.seconds * self._per_epoch / steps
        return f"{how_long(seconds)} to go" if seconds >= 60 else ""

    def _is_due(self, seconds: float) -> bool:
        return time.monotonic() - self._saved_at >= seconds

    def _changed(self) -> None:
        """Note that there are changes which no checkpoint contains."""
        self._saved = False
        self._progress.unsaved()

    def _save_or_stop(self) -> None:
        """During an epoch or its validation: save a checkpoint if one is due, and stop if a signal requested it."""
        stop = self._agreed_signal()
        if not self._saved and (stop or self._is_due(MID_EPOCH_SECONDS)):
            self._save()
        self._stop(stop)

    def _agreed_signal(self) -> int:
        """The signal at which all processes stop after this step; 0 for none."""
        return self._group.stop_signal(self._progress.stop_signal())

    def _require_number(self, loss: float) -> None:
        if math.isfinite(loss):
            return
        rate = self._config.learning_rate
        # The head's rate is fixed, and its inputs have zero mean and unit variance: its rate is not to blame.
        why, hint = "the initial weights contain NaN or Inf, or values near the largest", "choose other --weights"
        if self._stage.name != "head":
            why, hint = f"the learning rate {rate:g} is too high", f"begin again with --learning-rate {rate / 10:g}"
        if has_checkpoint(self._stage.checkpoints):
            hint += f"; the last good checkpoint stays in {self._stage.checkpoints}"
        raise Diverged(f"the loss is no longer a number at step {self._step}: {why}", hint)

    def _rate(self) -> float:
        """The rate of the last step; the optimizer already counts the next one, and in fp16 skips steps that overflow."""
        optimizer = inner_optimizer(self.model)
        last = max(0, int(keras.ops.convert_to_numpy(optimizer.iterations)) - 1)
        return min(float(self._rates[last]), float(self._rates.max()) * float(keras.ops.convert_to_numpy(optimizer.scale)))

    def _save(self) -> None:
        """Write the best weights, if they changed, and a checkpoint: together they match the records so far."""
        if not self._group.is_first:
            return self._note_saved()
        if self._best_values and self._best_saved != self.best_epoch:
            write_whole(self._best_file, self._best_values)
            self._best_saved = self.best_epoch
        averaged = self._swapped
        if averaged:  # during validation, which changes no weights: the checkpoint is that of the epoch's last step
            self._swap_averages()
        point = Point(self._step, self._validated, self._seconds_before + self._trained_seconds, self._images)
        save_checkpoint(self._stage.checkpoints, self.model, point, self._metrics)
        if averaged:
            self._swap_averages()
        return self._note_saved()

    def _note_saved(self) -> None:
        self._saved, self._saved_at = True, time.monotonic()
        self._progress.saved(GO_ON)

    def _stop(self, signal: int) -> None:
        if signal:
            raise Interrupted(signal, GO_ON)

    def _swap_averages(self) -> None:
        """Exchange weights and their averages; batch-norm statistics are averages already."""
        averages = inner_optimizer(self.model)._model_variables_moving_average
        for variable, average in zip(self.model.trainable_variables, averages, strict=True):
            # Not through NumPy: the first process alone may do this, and JAX compares arrays of all processes.
            current = keras.ops.copy(variable)
            variable.assign(keras.ops.copy(average))
            average.assign(current)
        self._swapped = not self._swapped

    def _history_until(self, epoch: int) -> list[EpochRecord]:
        """Records of this stage's epochs that the checkpoint contains; later lines are dropped from the file."""
        records = read_history(self._metrics_file)
        kept = [record for record in records if record.stage != self._stage.name or record.epoch <= epoch]
        write_text(self._metrics_file, "".join(record.to_line() for record in kept))
        return [record for record in kept if record.stage == self._stage.name]
