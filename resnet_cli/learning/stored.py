"""Stored activations: what a frozen prefix gives, computed once per picture and view, and the batches made of it.

In: an engine and pictures. Out: files of rows (pictures * views, ...) and streams over them.
"""

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.augment import Augmentation, augment, generator
from resnet_cli.data.batches import drawn
from resnet_cli.data.decode import Geometry, Pixels
from resnet_cli.data.pictures import Pictures, map_in_order
from resnet_cli.engines.base import Engine
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.progress import Progress

_VIEW = 3  # purpose of the generators that draw views
_BATCH = 32


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

    def read(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """The rows of these indices: float32 (len(rows), *shape)."""
        size = 2 * math.prod(self.shape)
        with self.path.open("rb", buffering=0) as file:
            content = b"".join(os.pread(file.fileno(), size, row * size) for row in rows)
        return np.frombuffer(content, np.float16).reshape(len(rows), *self.shape).astype(np.float32)

    def moments(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and variance over the rows, in one pass: two float32 arrays (*shape)."""
        total = np.zeros(self.shape, np.float64)
        squares = np.zeros(self.shape, np.float64)
        for first in range(0, self.count, 1024):
            rows = self.read(range(first, min(first + 1024, self.count))).astype(np.float64)
            total += rows.sum(0)
            squares += (rows * rows).sum(0)
        mean = total / self.count
        return mean.astype(np.float32), np.maximum(squares / self.count - mean * mean, 0).astype(np.float32)


def compute(
    engine: Engine,
    squares: Iterator[Pixels],
    count: int,
    files: tuple[Path, ...],
    progress: Progress,
    title: str,
) -> tuple[Stored, ...]:
    """Run pictures through a frozen network and store each of its outputs as fp16 on disk.

    Args:
        engine: the frozen network.
        squares: uint8 (size, size, 3) pictures, `count` of them.
        count: number of pictures.
        files: one file an output.
        progress: where to report.
        title: of the bar.

    Returns:
        Stored rows (count, ...), one an output.

    Raises:
        ResnetError: the disk is full.
        Interrupted: a signal asked to stop.
    """
    task = progress.start(title, count)
    shapes: list[tuple[int, ...]] = []
    try:
        with ExitStack() as stack:
            opened = [stack.enter_context(path.open("wb")) for path in files]
            for outputs in engine.run_many(_batched(squares)):
                if progress.stop_signal():
                    raise Interrupted(progress.stop_signal(), "type the same command with --resume; nothing was trained yet")
                for file, output in zip(opened, outputs, strict=True):
                    file.write(output.astype(np.float16).tobytes())
                shapes = [output.shape[1:] for output in outputs]
                task.advance(len(outputs[0]))
    except OSError as error:
        raise ResnetError(f"cannot store activations in {files[0].parent}: {error.strerror}", "free some disk") from error
    task.finish()
    return tuple(Stored(path, count, shape) for path, shape in zip(files, shapes, strict=True))


def views_of(pictures: Pictures, geometry: Geometry, how: Augmentation, views: int, seed: int) -> Iterator[Pixels]:
    """Augmented squares, all views of a picture together, so that its file is decoded once; what a view shows depends on
    (seed, view, index) alone."""

    def views_of_one(index: int) -> list[Pixels]:
        picture = pictures[index]
        return [augment(picture, geometry, how, generator(seed, view, index, _VIEW)) for view in range(views)]

    return itertools.chain.from_iterable(map_in_order(views_of_one, range(len(pictures)), ahead=16))


def squares_of(pictures: Pictures) -> Iterator[Pixels]:
    """Pictures as they were read, in order."""
    return map_in_order(pictures.__getitem__, range(len(pictures)))


@dataclass(frozen=True)
class StoredStream:
    """Training batches of stored rows; each epoch shows another view of a picture, until they come round again.

    Attributes:
        stored: pictures * views rows, picture after picture.
        labels: class indices (pictures,).
        classes: number of classes.
        batch_size: pictures a step.
        seed: of the order.
    """

    stored: Stored
    labels: NDArray[np.int64]
    classes: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return max(1, round(len(self.labels) / self.batch_size))

    def batches(self, first_step: int = 0) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Batches from a step on, read ahead by threads, without end."""
        return map_in_order(self.batch, itertools.count(first_step), ahead=4)

    def batch(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The batch of one step: float32 activations (N, ...) and one-hot targets (N, classes)."""
        views = self.stored.count // len(self.labels)
        places = list(drawn(self.seed, len(self.labels), self.batch_size, step))
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


def _batched(squares: Iterator[Pixels]) -> Iterator[NDArray[np.uint8]]:
    while batch := list(itertools.islice(squares, _BATCH)):
        yield np.stack(batch)
