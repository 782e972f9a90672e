"""Activations that are computed when a batch needs them: for data sets whose activations do not fit on the disk.

In: batches of pictures and the engine of the frozen part. Out: batches of its activations.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.batches import EvaluationBatches
from resnet_cli.engines.base import Engine
from resnet_cli.learning.stage import Derived

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


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
        pictures, batches = itertools.tee(self.stream.batches(first_step))
        activations = self.engine.run_many(images for images, _ in pictures)
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
