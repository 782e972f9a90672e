"""The one training function: Keras' `fit` on the deterministic stream, with exact resume.

In: a network that gives logits, a `TrainStream`, validation pictures and a `TrainConfig`. Out: the network holding its best
weights, and a line a epoch in metrics.jsonl. Used for training from scratch, for whole networks in fine-tuning, and for tails.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import keras

from resnet_cli.data.batches import EvaluationBatches, TrainStream
from resnet_cli.data.pictures import Pictures
from resnet_cli.learning.callbacks import EpochRecord, Recorder
from resnet_cli.learning.checkpoints import has_checkpoint, load_checkpoint
from resnet_cli.learning.config import TrainConfig
from resnet_cli.learning.schedules import make_optimizer, rates
from resnet_cli.progress import Progress

_SIDE_STEP = 8  # pixels: smaller training sizes stay divisible by what the stages halve


@dataclass(frozen=True)
class TrainResult:
    """What training came to.

    Attributes:
        history: a record an epoch.
        best_epoch: the epoch whose weights were kept, from 1.
    """

    history: tuple[EpochRecord, ...]
    best_epoch: int


@dataclass(frozen=True)
class _Segment:
    """A run of steps inside which pictures have one size."""

    first_step: int
    steps_per_epoch: int
    first_epoch: int
    last_epoch: int
    size: int


def train(
    model: keras.Model,
    stream: TrainStream,
    validation: Pictures,
    config: TrainConfig,
    folder: Path,
    progress: Progress,
    resume: bool = False,
) -> TrainResult:
    """Train every trainable layer of a network and leave it with its best weights.

    Args:
        model: uint8 images (N, H, W, 3) to logits (N, classes), not compiled.
        stream: the training pictures.
        validation: pictures that select the epoch to keep; all are measured after every epoch.
        config: recipe.
        folder: the run; metrics.jsonl and checkpoint/ are kept there.
        progress: where to report, and what asks to stop.
        resume: go on from the newest checkpoint in the folder, if there is one.

    Raises:
        ResnetError: the loss is no number any more, or the disk is full.
        Interrupted: a signal asked to stop; a checkpoint was written.
    """
    per_epoch = stream.steps_per_epoch
    model.compile(
        optimizer=make_optimizer(config, rates(config, config.epochs * per_epoch)),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.label_smoothing),
        metrics=_metrics(stream.classes),
    )
    model.optimizer.build(model.trainable_variables)
    checkpoints = folder / "checkpoint"
    done = load_checkpoint(checkpoints, model) if resume and has_checkpoint(checkpoints) else 0
    recorder = Recorder(folder, config, per_epoch, stream.batch_size, done, progress)
    held_out = EvaluationBatches(validation, stream.classes, min(256, max(32, stream.batch_size)))
    for segment in _segments(config, per_epoch, done, stream.geometry.size):
        if recorder.stopped_early:
            break
        sized = replace(stream, geometry=replace(stream.geometry, size=segment.size))
        recorder.begin_segment()
        model.fit(
            sized.batches(segment.first_step),
            steps_per_epoch=segment.steps_per_epoch,
            initial_epoch=segment.first_epoch,
            epochs=segment.last_epoch,
            validation_data=held_out,
            class_weight=balanced_weights(stream.pictures, stream.classes) if config.class_weights else None,
            callbacks=[recorder],
            verbose=0,
        )
    recorder.restore_best(model)
    return TrainResult(tuple(recorder.history), recorder.best_epoch)


def balanced_weights(pictures: Pictures, classes: int) -> dict[int, float]:
    """Weights that make every class count alike: N / (classes * pictures of the class)."""
    counts = [0] * classes
    for sample in pictures.samples:
        counts[sample.label] += 1
    return {label: len(pictures) / (classes * count) if count else 0.0 for label, count in enumerate(counts)}


def read_history(folder: Path) -> list[EpochRecord]:
    """The records of a run's metrics.jsonl, oldest first; none where there is no file."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [EpochRecord(**json.loads(line)) for line in path.read_text().splitlines() if line.endswith("}")]


def _metrics(classes: int) -> list[keras.metrics.Metric]:
    metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    if classes > 5:
        metrics.append(keras.metrics.TopKCategoricalAccuracy(5, name="top5"))
    return metrics


def _segments(config: TrainConfig, per_epoch: int, done: int, size: int) -> Iterator[_Segment]:
    """Cut the steps that are left where the size changes, and after an epoch that was begun before."""
    small = max(_SIDE_STEP, size * 3 // 4 // _SIDE_STEP * _SIDE_STEP)
    change = config.epochs // 2 if config.progressive else 0
    epoch, begun = divmod(done, per_epoch)
    if begun:
        yield _Segment(done, per_epoch - begun, epoch, epoch + 1, small if epoch < change else size)
        epoch += 1
    for last, side in ((change, small), (config.epochs, size)):
        if epoch < last:
            yield _Segment(epoch * per_epoch, per_epoch, epoch, last, side)
            epoch = last
