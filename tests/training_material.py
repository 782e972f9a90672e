"""A training that takes a second: a small network on points instead of images, for tests of the training function itself."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.progress import Progress, Silent, Task
from resnet_cli.training.checkpoints import Stage
from resnet_cli.training.config import TrainConfig
from resnet_cli.training.loop import TrainResult, train
from resnet_cli.transfer.store import KEY, Store, Stored, write_rows

CLASSES, FEATURES = 3, 8
STEPS = 5  # an epoch


@dataclass(frozen=True)
class Points:
    """A stream whose batches depend on the step alone."""

    seed: int = 0
    classes: int = CLASSES
    images_per_step: int = 16
    steps_per_epoch: int = STEPS

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.concatenate([self.batch(step)[1].argmax(1) for step in range(STEPS)])

    def batch(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        random = np.random.default_rng((self.seed, step))
        labels = random.integers(0, CLASSES, self.images_per_step)
        centres = np.random.default_rng(99).normal(size=(CLASSES, FEATURES))
        points = centres[labels] + random.normal(size=(self.images_per_step, FEATURES))
        return points.astype(np.float32), np.eye(CLASSES, dtype=np.float32)[labels]

    def batches(self, first_step: int = 0) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        yield from map(self.batch, itertools.count(first_step))


class HeldOut(keras.utils.PyDataset):  # type: ignore[misc]
    """Two batches that no stream draws."""

    def __init__(self) -> None:
        super().__init__(workers=1)
        self.points = Points(seed=1)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.points.batch(index)


class StopAfter(Silent):
    """Progress that asks to stop, as a signal does, after a number of steps."""

    def __init__(self, steps: int, signal: int = 15, title: str = "") -> None:
        super().__init__()
        self.left, self.signal, self.title = steps, signal, title

    def start(self, title: str, total: int | None) -> Task:
        outer = self

        class Counting:
            def advance(self, steps: int = 1, figures: object = None) -> None:
                outer.left -= 1 if title.startswith(outer.title) else 0

            def finish(self) -> None:
                return

        return Counting()

    def stop_signal(self) -> int:
        return self.signal if self.left <= 0 else 0


def network(seed: int = 0) -> keras.Model:
    """With batch-norm and dropout, whose states have to survive an interruption."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((FEATURES,))
    x = layers.Dense(12, name="first")(inputs)
    x = layers.Dropout(0.3, name="dropout")(layers.ReLU()(layers.BatchNormalization(name="bn", momentum=0.9)(x)))
    return keras.Model(inputs, layers.Dense(CLASSES, name="logits")(x))


def run(
    folder: Path,
    config: TrainConfig,
    progress: Progress | None = None,
    resume: bool = False,
    stream: Points | None = None,
    held_out: keras.utils.PyDataset | None = None,
) -> tuple[keras.Model, TrainResult]:
    """Train the network in a folder; (network, result)."""
    model = network()
    stage = Stage("train", folder, resume, announce=False)
    return model, train(model, stream or Points(), held_out or HeldOut(), config, stage, progress or Silent())


def values(model: keras.Model) -> list[NDArray[np.float32]]:
    return [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in model.weights]


def stored(folder: Path, rows: NDArray[np.float16]) -> Stored:
    """Rows as the frozen layers would have left them in a folder, in their order."""
    store, keys = Store(folder, rows.shape[1:]), [number.to_bytes(KEY) for number in range(len(rows))]
    write_rows([store], [(keys, (rows,))])
    return store.rows(keys)
