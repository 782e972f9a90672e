"""Stored activations: rows of fp16 numbers in a file, and the batches made of them.

In: files that `frozen.py` wrote, rows of (pictures * views, ...). Out: streams over them.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.batches import Order
from resnet_cli.data.threads import batches_ahead, map_in_order


@dataclass(frozen=True)
class Stored:
    """An array of fp16 rows in a file, read row by row: a memory map would count every page it ever touched as memory.

    Attributes:
        path: the file.
        count: rows.
        shape: of one row.
    """

    path: Path
    count: int
    shape: tuple[int, ...]

    def is_whole(self) -> bool:
        """Whether the file is there with all its rows."""
        return self.path.is_file() and self.path.stat().st_size == self.count * self._row

    def read(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """The rows of these indices: float32 (len(rows), *shape)."""
        content = bytearray()
        with self.path.open("rb", buffering=0) as file:
            for row in rows:
                file.seek(row * self._row)
                content += file.read(self._row)
        return np.frombuffer(content, np.float16).reshape(len(rows), *self.shape).astype(np.float32)

    @property
    def _row(self) -> int:
        return 2 * math.prod(self.shape)

    def pieces(self) -> Iterator[NDArray[np.float32]]:
        """All rows, in order: float32 (up to 1024, *shape)."""
        for first in range(0, self.count, 1024):
            yield self.read(range(first, min(first + 1024, self.count)))

    def moments(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and variance over the rows, in one pass: two float32 arrays (*shape)."""
        total = np.zeros(self.shape, np.float64)
        squares = np.zeros(self.shape, np.float64)
        for piece in self.pieces():
            rows = piece.astype(np.float64)
            total += rows.sum(0)
            squares += (rows * rows).sum(0)
        mean = total / self.count
        return mean.astype(np.float32), np.maximum(squares / self.count - mean * mean, 0).astype(np.float32)


@dataclass(frozen=True)
class StoredStream:
    """Training batches of stored rows; each epoch shows another view of a picture, until they come round again.

    Attributes:
        stored: pictures * views rows, picture after picture.
        labels: class indices (pictures,).
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
        return Order(len(self.labels), self.batch_size, self.seed)

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    @property
    def images_per_step(self) -> int:
        return self.order.images_per_step

    def batches(self, first_step: int = 0) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Batches from a step on, read ahead by threads, without end."""
        size = 4 * self.batch_size * math.prod(self.stored.shape)
        return map_in_order(self.batch, itertools.count(first_step), batches_ahead(size, ready=2))

    def batch(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
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

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        first = index * self._batch_size
        rows = range(first, min(first + self._batch_size, len(self._labels)))
        return self._stored.read(rows), np.eye(self._classes, dtype=np.float32)[self._labels[rows.start : rows.stop]]
