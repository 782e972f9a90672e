"""Batches for Keras: an endless training stream, where a batch depends only on its step, and a finite evaluation set.

In: `ImageSet`. Out: (uint8 images, float32 one-hot targets). Batch 4711 can be made without the 4710 before it, which makes
resuming exact.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.augment import MIX, ORDER, Augmentation, augment, generator, mix
from resnet_cli.data.decode import Geometry
from resnet_cli.data.images import ImageSet
from resnet_cli.data.threads import batches_ahead, map_in_order

Batch = tuple[NDArray[np.uint8], NDArray[np.float32]]


@dataclass(frozen=True)
class Part:
    """The rows of every batch that one of several processes makes: equal consecutive shares.

    Attributes:
        index: which of the processes, from 0.
        count: number of processes.
        devices: devices of all processes, a multiple of `count`. They share every batch equally.
    """

    index: int = 0
    count: int = 1
    devices: int = 1

    def rows(self, size: int) -> slice:
        """The rows of a batch of `size` rows, a multiple of `devices`."""
        share = size // self.count
        return slice(self.index * share, (self.index + 1) * share)


WHOLE = Part()


@dataclass(frozen=True)
class Order:
    """The images of each training step: every epoch is a permutation of all images, cut into batches of equal size.

    The size is the same for all batches, as TensorFlow traces and compiles a graph for each new size. It is the smallest size
    that needs no more steps per epoch than `batch_size`: 129 images at 64 give three steps of 43, not two of 64 and one of 1.
    If it does not divide the count, the last batch is filled up with the first images of the same epoch. These are fewer than
    the steps: 1 of 95 images at 64 (two steps of 48). Several devices need a multiple of their number: the size is rounded up.

    Attributes:
        count: images in the set, at least 1.
        batch_size: most images in a step, before it is rounded up.
        seed: random seed of the permutations.
        devices: devices that share every batch equally.
    """

    count: int
    batch_size: int
    seed: int
    devices: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return -(-self.count // self.batch_size)

    @property
    def images_per_step(self) -> int:
        """Images in every batch; on one device at most the number of images in the set."""
        return -(-self.count // (self.steps_per_epoch * self.devices)) * self.devices

    def drawn(self, step: int) -> Iterator[tuple[int, int]]:
        """(epoch, index) of every image in the batch of one step."""
        epoch, number = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, self.count)
        for place in range(number * self.images_per_step, (number + 1) * self.images_per_step):
            yield epoch, int(order[place % self.count])


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The permutation of an epoch; cached, as drawing it takes half a millisecond per batch with 45,000 images."""
    return generator(seed, epoch, 0, ORDER).permutation(count)


class Shuffled:
    """A stream whose batches are drawn by an `Order`."""

    @property
    def order(self) -> Order:
        """The images of each batch."""
        raise NotImplementedError

    @property
    def steps_per_epoch(self) -> int:
        """See `Order`."""
        return self.order.steps_per_epoch

    @property
    def images_per_step(self) -> int:
        """See `Order`."""
        return self.order.images_per_step


@dataclass(frozen=True)
class TrainStream(Shuffled):
    """Batches of shuffled and augmented training images.

    Every epoch contains every image; see `Order`.

    Attributes:
        images: the training images.
        classes: number of classes.
        batch_size: most images in a step.
        geometry: input size.
        augmentation: how each image is augmented.
        seed: random seed of order and augmentation.
        part: the rows that this process makes.
    """

    images: ImageSet
    classes: int
    batch_size: int
    geometry: Geometry
    augmentation: Augmentation
    seed: int
    part: Part = WHOLE

    @property
    def order(self) -> Order:
        """The images of each batch, of all processes."""
        return Order(len(self.images), self.batch_size, self.seed, self.part.devices)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class indices of all images (N,)."""
        return self.images.labels

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """Batches from a step on, without end, prefetched by threads."""
        size = self.batch_size * self.geometry.size**2 * 3
        return map_in_order(self.batch, itertools.count(first_step), batches_ahead(size))

    def batch(self, step: int) -> Batch:
        """The batch of one step, of this process: uint8 (N, size, size, 3) and one-hot float32 (N, classes)."""
        own, size = self.part.rows(self.images_per_step), self.geometry.size
        made = slice(None) if self.augmentation.mixup else own  # mixup needs images of other processes too
        drawn = list(self.order.drawn(step))[made]
        images = np.empty((len(drawn), size, size, 3), np.uint8)
        targets = np.zeros((len(drawn), self.classes), np.float32)
        for row, (epoch, index) in enumerate(drawn):
            random = generator(self.seed, epoch, index)
            images[row] = augment(self.images[index], self.geometry, self.augmentation, random)
            targets[row, self.images.samples[index].label] = 1
        if self.augmentation.mixup:
            mix(images, targets, self.augmentation.mixup, generator(self.seed, step, 0, MIX))
            images, targets = images[own], targets[own]
        return images, targets


class EvaluationBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Images as prediction sees them, in order, each exactly once.

    If several processes share them, the last batch is filled up with black images whose targets are 0.
    """

    def __init__(self, images: ImageSet, classes: int, batch_size: int, part: Part = WHOLE) -> None:
        super().__init__(workers=1)
        self._images, self._classes, self.batch_size = images, classes, batch_size
        self._labels, self._part = images.labels, part

    def __len__(self) -> int:
        return -(-len(self._images) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        first = index * self.batch_size
        rows = range(first, min(first + self.batch_size, len(self._images)))
        if self._part.count > 1:
            return self._shared(rows)
        images = np.stack(list(map_in_order(self._images.__getitem__, rows)))
        return images, np.eye(self._classes, dtype=np.float32)[self._labels[rows.start : rows.stop]]

    def _shared(self, rows: range) -> Batch:
        """This process's part of a batch."""
        full = -(-len(rows) // self._part.devices) * self._part.devices
        own = self._part.rows(full)
        made = list(map_in_order(self._images.__getitem__, rows[own]))
        side = made or [self._images[0]]
        images = np.zeros((own.stop - own.start, *side[0].shape), np.uint8)
        targets = np.zeros((len(images), self._classes), np.float32)
        for row, image in enumerate(made):
            images[row] = image
            targets[row, self._labels[rows[own][row]]] = 1
        return images, targets
