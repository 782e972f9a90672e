"""The fine-tuning phase: the last stage and the head on activations at the boundary, or every layer on pixels.

In: a network whose head is trained, its batch-norm frozen. Out: the layers to train, their batches and the recipe. Batches are
made of stored rows, as in the head phase; of activations computed for each step, where the disk has no room to store them; or
of pixels.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.batches import EvaluationBatches, Order, Shuffled, TrainStream
from resnet_cli.data.threads import batches_ahead, map_in_order
from resnet_cli.engines.base import Engine
from resnet_cli.networks.classifier import tail_model
from resnet_cli.training.checkpoints import Derived, Stream
from resnet_cli.training.config import FinetuneConfig, TrainConfig
from resnet_cli.training.devices import own_part
from resnet_cli.transfer.features import Material
from resnet_cli.transfer.store import Stored

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]  # activations (N, ...) and one-hot targets (N, classes)


@dataclass(frozen=True)
class StoredStream(Shuffled):
    """Training batches of stored rows; each epoch uses the next view of an image, and starts again after the last one.

    Attributes:
        stored: images * views rows: all views of the first image, then of the next.
        labels: class indices (images,).
        classes: number of classes.
        batch_size: most images in a step.
        seed: random seed of the order.
        devices: devices that share every batch.
    """

    stored: Stored
    labels: NDArray[np.int64]
    classes: int
    batch_size: int
    seed: int
    devices: int = 1

    @property
    def order(self) -> Order:
        """The images of each batch."""
        return Order(len(self.labels), self.batch_size, self.seed, self.devices)

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """Batches from a step on, read ahead by threads, without end."""
        size = 4 * self.batch_size * math.prod(self.stored.shape)
        return map_in_order(self.batch, itertools.count(first_step), batches_ahead(size, ready=2))

    def batch(self, step: int) -> Batch:
        """The batch of one step: float32 activations (N, ...) and one-hot targets (N, classes)."""
        views = self.stored.count // len(self.labels)
        places = list(self.order.drawn(step))
        # Consecutive images start at different views, so that every batch mixes views.
        rows = [index * views + (epoch + index) % views for epoch, index in places]
        targets = np.eye(self.classes, dtype=np.float32)[self.labels[[index for _, index in places]]]
        return self.stored.read(rows), targets


class StoredBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Held-out stored rows, in order, each exactly once."""

    def __init__(self, stored: Stored, labels: NDArray[np.int64], classes: int, batch_size: int = 128) -> None:
        super().__init__(workers=1)
        self._stored, self._labels, self._classes, self._batch_size = stored, labels, classes, batch_size

    def __len__(self) -> int:
        return -(-len(self._labels) // self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        first = index * self._batch_size
        rows = range(first, min(first + self._batch_size, len(self._labels)))
        return self._stored.read(rows), np.eye(self._classes, dtype=np.float32)[self._labels[rows.start : rows.stop]]


@dataclass(frozen=True)
class EngineStream(Derived):
    """Training batches of activations (N, ...); every epoch draws new views.

    Attributes:
        stream: the images.
        engine: the frozen part, with one output.
    """

    engine: Engine

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """Batches from a step on, without end; each is computed while the step before is trained."""
        shown, batches = itertools.tee(self.stream.batches(first_step))
        activations = self.engine.run_many(images for images, _ in shown)
        return ((outputs[0], targets) for outputs, (_, targets) in zip(activations, batches, strict=False))


class EngineBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Held-out activations, in order, each exactly once."""

    def __init__(self, pixels: EvaluationBatches, engine: Engine) -> None:
        super().__init__(workers=1)
        self._pixels, self._engine = pixels, engine

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Batch:
        images, targets = self._pixels[index]
        return self._engine.run(images)[0], targets


# Images over all epochs of the phase; fewer for all layers, which cost more and converge sooner.
_IMAGES, _OF_ALL_LAYERS = 30_000, 15_000


@dataclass(frozen=True)
class Tail:
    """A fine-tuning phase that is ready to begin; its model shares layers with the whole network."""

    model: keras.Model
    stream: Stream
    held_out: keras.utils.PyDataset
    recipe: TrainConfig


def tail_on_stored(model: keras.Model, boundary: Stored, held_out: Stored, material: Material, config: FinetuneConfig) -> Tail:
    """The last stage and the head on stored activations."""
    labels = material.training.labels
    stream = StoredStream(boundary, labels, material.spec.classes, config.batch_size, config.seed, own_part().devices)
    batches = StoredBatches(held_out, material.held_out.labels, material.spec.classes)
    return Tail(tail_model(model, material.spec.network), stream, batches, _recipe(config, material))


def tail_on_engine(model: keras.Model, engine: Engine, material: Material, config: FinetuneConfig) -> Tail:
    """The last stage and the head on activations that the engine computes for each batch."""
    stream = EngineStream(_pixels(config, material), engine)
    batches = EngineBatches(EvaluationBatches(material.held_out, material.spec.classes, 64), engine)
    return Tail(tail_model(model, material.spec.network), stream, batches, _recipe(config, material))


def tail_on_pixels(model: keras.Model, material: Material, config: FinetuneConfig) -> Tail:
    """Every layer, on images that are augmented differently in every epoch."""
    batches = EvaluationBatches(material.held_out, material.spec.classes, 64)
    return Tail(model, _pixels(config, material), batches, _recipe(config, material))


def _pixels(config: FinetuneConfig, material: Material) -> TrainStream:
    source, classes = material.training, material.spec.classes
    geometry, how = material.geometry, material.augmentation
    return TrainStream(source, classes, config.batch_size, geometry, how, config.seed, own_part())


def _recipe(config: FinetuneConfig, material: Material) -> TrainConfig:
    shown = _OF_ALL_LAYERS if config.unfreeze == "all" else _IMAGES
    return TrainConfig(
        epochs=config.epochs or int(np.clip(round(shown / len(material.training)), 6, 20)),
        optimizer=config.optimizer,
        learning_rate=config.rate,
        schedule="one-cycle",
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        label_smoothing=config.label_smoothing,
        patience=config.patience,
        class_weights=config.class_weights,
        seed=config.seed,
    )
