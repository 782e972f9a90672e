"""What a training is made of beside its network and recipe: the stream of its batches, and where it belongs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.batches import TrainStream


class Stream(Protocol):
    """Training batches as a function of the step alone."""

    @property
    def classes(self) -> int: ...

    @property
    def images_per_step(self) -> int: ...

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def labels(self) -> NDArray[np.int64]: ...

    def batches(self, first_step: int = 0) -> Iterator[tuple[Any, NDArray[np.float32]]]: ...


@dataclass(frozen=True)
class Derived:
    """Part of a stream that shows the images of another one otherwise: what both have in common.

    Attributes:
        stream: the other one.
    """

    stream: TrainStream

    @property
    def classes(self) -> int:
        return self.stream.classes

    @property
    def images_per_step(self) -> int:
        return self.stream.images_per_step

    @property
    def steps_per_epoch(self) -> int:
        return self.stream.steps_per_epoch

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.stream.labels


@dataclass(frozen=True)
class Stage:
    """Where a training belongs.

    Attributes:
        name: "train", "head" or "tail": its records and checkpoints carry it.
        folder: the run; metrics.jsonl and checkpoint/<name>/ are kept there.
        resume: go on from the newest checkpoint, if there is one.
        announce: report a line an epoch.
        tensorboard: write TensorBoard's event files into tensorboard/<name>/.
    """

    name: str
    folder: Path
    resume: bool = False
    announce: bool = True
    tensorboard: bool = False

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoint" / self.name
