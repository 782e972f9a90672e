"""Batches that the head phase and the fine-tuning phase learn from: of stored rows, or of activations computed as needed.

In: `Stored` rows with the labels of their images, or images and an engine. Out: (float32 activations, one-hot targets), endless
for training and finite for held-out images.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.batches import EvaluationBatches, Order
from resnet_cli.data.threads import batches_ahead, map_in_order
from resnet_cli.engines.base import Engine
from resnet_cli.training.checkpoints import Derived
from resnet_cli.transfer.store import Stored

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class StoredStream:
    """Training batches of stored rows; each epoch shows another view of an image, until they come round again.

    Attributes:
        stored: images * views rows, image after image.
        labels: class indices (images,).
        classes: number of classes.
        batch_size: images a step at most.
        seed: of the order.
    """

    stored: Stored
    labels: NDArray[np.int64]
    classes: int
    batch_size: int
    seed: int

    @property
    def order(self) -> Order:
        """Which images are in which batch."""
        return Order(len(self.labels), self.batch_size, self.seed)

    @property
    def steps_per_epoch(self) -> int:
        """See `Order`."""
        return self.order.steps_per_epoch

    @property
    def images_per_step(self) -> int:
        """See `Order`."""
        return self.order.images_per_step

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """Batches from a step on, read ahead by threads, without end."""
        size = 4 * self.batch_size * math.prod(self.stored.shape)
        return map_in_order(self.batch, itertools.count(first_step), batches_ahead(size, ready=2))

    def batch(self, step: int) -> Batch:
        """The batch of one step: float32 activations (N, ...) and one-hot targets (N, classes)."""
        views = self.stored.count // len(self.labels)
        places = list(self.order.drawn(step))
        # Neighbours start at different views, so that every batch mixes them.
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
    """Training batches of activations (N, ...); every epoch sees views of its own.

    Attributes:
        stream: the images.
        engine: the frozen part, with one output.
    """

    engine: Engine

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """Batches from a step on, computed ahead while the step before is trained, without end."""
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
