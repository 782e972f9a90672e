"""The callback that watches `fit`: records epochs, keeps the best weights, saves checkpoints, stops when asked or lost.

In: Keras' calls. Out: metrics.jsonl, checkpoint/ and, if asked for, tensorboard/ in the run's folder.
"""

import math
import time

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.errors import ResnetError
from resnet_cli.files import write_text
from resnet_cli.history import EpochRecord, read_history
from resnet_cli.learning.checkpoints import add_metrics, has_checkpoint, save_checkpoint, write_whole
from resnet_cli.learning.config import TrainConfig, small_epochs
from resnet_cli.learning.optimizers import inner_optimizer
from resnet_cli.learning.schedules import plateau_scale
from resnet_cli.learning.stage import Stage, Stream
from resnet_cli.learning.tensorboard import EventFile
from resnet_cli.networks.weights import named_variables
from resnet_cli.progress import Progress, how_long, stop_if_asked

CHECKPOINT_SECONDS = 20  # between checkpoints, where epochs are shorter: they are written in a tenth to a whole second


class Recorder(keras.callbacks.Callback):  # type: ignore[misc]
    """Follows a whole training, over several calls of `fit`."""

    def __init__(
        self, stage: Stage, config: TrainConfig, stream: Stream, table: NDArray[np.float32], done: int, progress: Progress
    ) -> None:
        super().__init__()
        self._stage, self._config, self._progress, self._rates = stage, config, progress, table
        self._per_epoch, self._batch_size, self._step = stream.steps_per_epoch, stream.batch_size, done
        stage.checkpoints.mkdir(parents=True, exist_ok=True)
        self._metrics_file = stage.folder / "metrics.jsonl"
        self._best_file = stage.checkpoints / "best.npz"
        self._swapped = False
        self._best_values: dict[str, NDArray[np.float32]] = {}
        self._best_saved, self._saved_at = 0, -math.inf
        self.history = self._history_until(done // self._per_epoch)
        self._events = EventFile(stage.folder / "tensorboard" / stage.name, self.history) if stage.tensorboard else None

    @property
    def best_epoch(self) -> int:
        """Epoch of the best validation accuracy, from 1; the lower loss decides between equals; 0 before any epoch."""
        best = min(self.history, key=lambda record: (-record.val_accuracy, record.val_loss), default=None)
        return best.epoch if best else 0

    @property
    def stopped_early(self) -> bool:
        """Whether the validation accuracy has not risen for as many epochs as the configuration waits."""
        return bool(self._config.patience) and len(self.history) - self.best_epoch >= self._config.patience

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._began, self._first_step = time.perf_counter(), self._step
        self._trained_seconds = 0.0
        left = self._per_epoch - self._step % self._per_epoch
        self._task = self._progress.start(f"{self._stage.name} {epoch + 1}/{self._config.epochs}", left)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self._step == self._first_step and self._step % self._per_epoch:  # the first step after an interruption
            add_metrics(self._stage.checkpoints, self.model, self._step)
        self._step += 1
        loss = float((logs or {}).get("loss", 0.0))
        self._require_number(loss)
        self._trained_seconds = time.perf_counter() - self._began
        self._task.advance(1, {"loss": loss, "accuracy": float((logs or {}).get("accuracy", 0.0))})
        # After the last step of an epoch it is measured first: a checkpoint between two epochs stands for their records too.
        if self._step % self._per_epoch and self._progress.stop_signal():
            self._save()
            self._stop()

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        if self._config.ema and not self._swapped:
            self._swap_averages()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        figures = logs or {}
        self._require_number(figures["val_loss"])  # the last step shows here alone
        images = (self._step - self._first_step) * self._batch_size
        record = EpochRecord(
            stage=self._stage.name,
            epoch=epoch + 1,
            loss=figures["loss"],
            accuracy=figures["accuracy"],
            val_loss=figures["val_loss"],
            val_accuracy=figures["val_accuracy"],
            val_top5=figures.get("val_top5"),
            learning_rate=self._rate(),
            images_per_second=round(images / max(self._trained_seconds, 1e-9), 1),
            seconds=round(time.perf_counter() - self._began, 2),
        )
        self._task.finish()
        self.history.append(record)
        if self.best_epoch == record.epoch:
            variables = named_variables(self.model)
            self._best_values = {name: keras.ops.convert_to_numpy(value) for name, value in variables.items()}
        if self._swapped:
            self._swap_averages()
        if self._config.plateau:
            scale = plateau_scale([each.val_loss for each in self.history], self._config.plateau)
            inner_optimizer(self.model).scale.assign(scale)
        write_text(self._metrics_file, self._metrics_file.read_text() + record.to_line())
        if self._events is not None:
            self._events.append(record)
        # A stage that is done is not trained again, whatever stops what comes after it.
        done = record.epoch == self._config.epochs or self.stopped_early
        if self._config.ema or done or self._progress.stop_signal() or self._is_due():
            self._save()
        if self._stage.announce:
            self._progress.line(
                f"{self._stage.name} {record.epoch}/{self._config.epochs}"
                f"  loss {record.loss:.3f}  accuracy {record.accuracy:.1%}"
                f"  val loss {record.val_loss:.3f}  val accuracy {record.val_accuracy:.1%}"
                f"  {record.images_per_second:.0f} images/s{self._to_go(record)}"
            )
        if self._progress.stop_signal():
            self._stop()
        self.model.stop_training = self.stopped_early

    def restore_best(self, model: keras.Model) -> None:
        """Put the best epoch's weights into the model."""
        best = self._best_values
        if not best:  # no epoch of this process was better
            with np.load(self._best_file, allow_pickle=False) as archive:
                best = dict(archive)
        for name, variable in named_variables(model).items():
            variable.assign(best[name])

    def _to_go(self, record: EpochRecord) -> str:
        """How long the epochs take that are left, at most; nothing while pictures are smaller than they are going to be."""
        config = self._config
        if config.progressive and record.epoch <= small_epochs(config.epochs):
            return ""
        whole = record.seconds * self._per_epoch / (self._step - self._first_step)
        seconds = (config.epochs - record.epoch) * whole
        return f"  {how_long(seconds)} to go" if seconds >= 60 else ""

    def _is_due(self) -> bool:
        return time.perf_counter() - self._saved_at >= CHECKPOINT_SECONDS

    def _require_number(self, loss: float) -> None:
        if math.isfinite(loss):
            return
        rate = self._config.learning_rate
        # The head's rate is the program's own, and its inputs are of zero mean and unit variance.
        why, hint = "the weights to begin with hold values that are no numbers, or nearly none", "choose other --weights"
        if self._stage.name != "head":
            why, hint = f"the learning rate {rate:g} is too high", f"begin again with --learning-rate {rate / 10:g}"
        if has_checkpoint(self._stage.checkpoints):
            hint += f"; the last good checkpoint stays in {self._stage.checkpoints}"
        raise ResnetError(f"the loss is no longer a number at step {self._step}: {why}", hint)

    def _rate(self) -> float:
        """The rate of the last step; the optimizer is at the next one already, and in fp16 leaves out steps that overflow."""
        optimizer = inner_optimizer(self.model)
        last = max(0, int(optimizer.iterations) - 1)
        return min(float(self._rates[last]), float(self._rates.max()) * float(optimizer.scale))

    def _save(self) -> None:
        """Write the best weights, where they changed, and a checkpoint: together they stand for the records so far."""
        if self._best_values and self._best_saved != self.best_epoch:
            write_whole(self._best_file, self._best_values)
            self._best_saved = self.best_epoch
        save_checkpoint(self._stage.checkpoints, self.model, self._step)
        self._saved_at = time.perf_counter()

    def _stop(self) -> None:
        stop_if_asked(self._progress, "type the same command with --resume to go on where it stopped")

    def _swap_averages(self) -> None:
        """Exchange weights and their averages; batch-norm statistics are averages already."""
        averages = inner_optimizer(self.model)._model_variables_moving_average
        for variable, average in zip(self.model.trainable_variables, averages, strict=True):
            current = keras.ops.convert_to_numpy(variable)
            variable.assign(average)
            average.assign(current)
        self._swapped = not self._swapped

    def _history_until(self, epoch: int) -> list[EpochRecord]:
        """Records of this stage's epochs that the checkpoint holds; later lines are dropped from the file."""
        records = read_history(self._metrics_file)
        kept = [record for record in records if record.stage != self._stage.name or record.epoch <= epoch]
        write_text(self._metrics_file, "".join(record.to_line() for record in kept))
        return [record for record in kept if record.stage == self._stage.name]
