"""The one training function: Keras' `fit` on a deterministic stream, with exact resume.

In: a network that gives logits, a stream of batches, held-out batches and a `TrainConfig`. Out: the network holding its best
weights, and one line per epoch in metrics.jsonl. It is used for training from scratch, for the head on stored features, for the
last layers on stored activations, and for whole networks in fine-tuning.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.errors import ResnetError
from resnet_cli.progress import Progress, how_many
from resnet_cli.runs.folder import EpochRecord
from resnet_cli.training.callbacks import CROSS_ENTROPY, Recorder
from resnet_cli.training.checkpoints import Point, Stage, Stream, has_checkpoint, load_checkpoint, metrics_from_first
from resnet_cli.training.config import TrainConfig, small_epochs
from resnet_cli.training.devices import divisible, in_words, of_images, on_all_devices
from resnet_cli.training.distillation import loss_of, metrics_of_labels
from resnet_cli.training.optimizers import make_optimizer, rates
from resnet_cli.training.processes import group
from resnet_cli.training.reading import Reading, on_device


@dataclass(frozen=True)
class TrainResult:
    """The result of a training: one record per epoch, and the epoch whose weights were kept, counted from 1."""

    history: tuple[EpochRecord, ...]
    best_epoch: int

    @property
    def best(self) -> EpochRecord:
        """The record of the epoch that was kept."""
        return self.history[self.best_epoch - 1]


@dataclass(frozen=True)
class _Segment:
    """Consecutive steps that read one stream."""

    stream: Stream
    first_step: int
    steps_per_epoch: int
    first_epoch: int
    last_epoch: int


def train(
    model: keras.Model,
    stream: Stream,
    held_out: keras.utils.PyDataset,
    config: TrainConfig,
    stage: Stage,
    progress: Progress,
    small: Stream | None = None,
    reference: EpochRecord | None = None,
) -> TrainResult:
    """Train the trainable layers of a network, then restore the weights of the best epoch.

    Args:
        model: a network that gives logits (N, classes), not compiled.
        stream: the training batches.
        held_out: held-out batches, all evaluated after every epoch; they select the epoch to keep.
        config: recipe.
        stage: where records and checkpoints go.
        progress: where to report; it also tells when a stop was requested.
        small: a stream of smaller images for the first epochs (`config.progressive`).
        reference: an epoch of an earlier phase that an epoch must surpass to count as a gain (`config.patience`).

    Raises:
        ResnetError: the loss is NaN or Inf, an image can no longer be read, the disk is full, or a run is resumed whose steps
            had another number of images, because other devices shared them.
        Interrupted: a signal requested a stop; a checkpoint was written.
    """
    if stage.name == "head":  # a few small matrices
        return _train(model, stream, held_out, config, stage, progress, small, reference)
    if words := in_words():
        progress.line(words)
    with on_all_devices(model) as copy:
        return _train(copy, stream, divisible(held_out), config, stage, progress, small, reference)


def _train(
    model: keras.Model,
    stream: Stream,
    held_out: keras.utils.PyDataset,
    config: TrainConfig,
    stage: Stage,
    progress: Progress,
    small: Stream | None,
    reference: EpochRecord | None,
) -> TrainResult:
    """See `train`; the model is on its devices, and the batches can be divided among them."""
    per_epoch = stream.steps_per_epoch
    table = rates(config, config.epochs * per_epoch)
    model.compile(
        optimizer=make_optimizer(config, table, model.trainable_variables),
        loss=loss_of(config),
        metrics=_metrics(stream.classes, config),
    )
    model.optimizer.build(model.trainable_variables)
    is_resumed = group().from_first(lambda: stage.resume and has_checkpoint(stage.checkpoints))
    begun = load_checkpoint(stage.checkpoints, model) if is_resumed else Point(0)
    if begun.images not in (0, stream.images_per_step):
        raise ResnetError(
            f"the run trained {how_many(begun.images, 'image')} a step, and these devices can only share"
            f" {stream.images_per_step} equally",
            "resume it on as many devices as it began with",
        )
    recorder = Recorder(stage, config, stream, table, begun, progress, reference)
    weights = balanced_weights(stream.labels, stream.classes) if config.class_weights else None
    reading = Reading()
    if not begun.validated:
        with reading.told():
            _validate(model, reading.held_out(held_out), recorder, stage, begun.step, per_epoch)
    for segment in _segments(config, per_epoch, begun.step, stream, small):
        if recorder.stopped_early:
            break
        model.train_function = None  # else `fit` would retrace it with unknown image sizes, which is slower
        with reading.told(), reading.batches(partial(_batches, segment, weights)) as batches:
            model.fit(
                on_device(batches),
                steps_per_epoch=segment.steps_per_epoch,
                initial_epoch=segment.first_epoch,
                epochs=segment.last_epoch,
                validation_data=reading.held_out(held_out),
                callbacks=[recorder],
                shuffle=False,  # the stream is already shuffled
                verbose=0,
            )
    if (last := len(recorder.history)) < config.epochs:
        progress.line(f"stopped after epoch {last} of {config.epochs}: no gain in {how_many(config.patience, 'epoch')}")
    recorder.restore_best(model)
    return TrainResult(tuple(recorder.history), recorder.best_epoch)


def _validate(
    model: keras.Model, held_out: keras.utils.PyDataset, recorder: Recorder, stage: Stage, step: int, per_epoch: int
) -> None:
    """Validate and record an epoch that was interrupted after its last step, as `fit` would have done."""
    epoch = step // per_epoch - 1
    recorder.set_model(model)
    recorder.on_epoch_begin(epoch)
    validation = model.evaluate(held_out, callbacks=[recorder], return_dict=True, verbose=0)
    for variable, value in metrics_from_first(stage.checkpoints, model, step):
        variable.assign(value)
    figures = {name: float(value) for name, value in model.get_metrics_result().items()}
    recorder.on_epoch_end(epoch, figures | {f"val_{name}": value for name, value in validation.items()})


def balanced_weights(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Weights (classes,) that give every class the same total weight: N / (classes * images of the class)."""
    counts = np.bincount(labels, minlength=classes)
    return np.where(counts, len(labels) / (classes * np.maximum(counts, 1)), 0).astype(np.float32)


def _batches(segment: _Segment, weights: NDArray[np.float32] | None) -> Iterator[tuple[Any, ...]]:
    """The batches of a segment from its first step on."""
    batches = segment.stream.batches(segment.first_step)
    return batches if weights is None else _weighed(batches, weights)


def _weighed(batches: Iterator[tuple[Any, NDArray[np.float32]]], weights: NDArray[np.float32]) -> Iterator[tuple[Any, ...]]:
    """The same batches with sample weights: Keras accepts no class weights with a generator, nor with mixed targets."""
    for images, targets in batches:
        yield images, targets, targets[:, : len(weights)] @ weights  # a teacher's probabilities may follow the labels


def _metrics(classes: int, config: TrainConfig) -> list[keras.metrics.Metric]:
    # Keras validates with the training loss, label smoothing included; phases and runs are compared by this metric instead.
    cross_entropy = keras.metrics.CategoricalCrossentropy(name=CROSS_ENTROPY, from_logits=True)
    metrics = [keras.metrics.CategoricalAccuracy(name="accuracy"), cross_entropy]
    if classes > 5:
        metrics.append(keras.metrics.TopKCategoricalAccuracy(5, name="top5"))
    return of_images(metrics_of_labels(metrics) if config.teacher_weight else metrics)


def _segments(config: TrainConfig, per_epoch: int, done: int, stream: Stream, small: Stream | None) -> Iterator[_Segment]:
    """Split the remaining steps where the stream changes, and after an epoch that an interrupted process began."""
    change = small_epochs(config.epochs) if small is not None else 0
    first = small or stream
    epoch, begun = divmod(done, per_epoch)
    if begun:
        yield _Segment(first if epoch < change else stream, done, per_epoch - begun, epoch, epoch + 1)
        epoch += 1
    for last, source in ((change, first), (config.epochs, stream)):
        if epoch < last:
            yield _Segment(source, epoch * per_epoch, per_epoch, epoch, last)
            epoch = last
