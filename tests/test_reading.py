"""An image that cannot be read any more in the middle of a training: one sentence, and a checkpoint to go on from."""

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from training_material import STEPS, HeldOut, Points, network, run, values

from resnet_cli.data.threads import map_in_order
from resnet_cli.errors import ResnetError
from resnet_cli.progress import Silent
from resnet_cli.training.checkpoints import Stage
from resnet_cli.training.config import TrainConfig
from resnet_cli.training.loop import train

CONFIG = TrainConfig(epochs=3, optimizer="sgd", learning_rate=0.03)
Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Gone(Points):
    """Points whose batch of one step fails."""

    step: int = STEPS + 2
    error: type[Exception] = ResnetError

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        for step, batch in enumerate(super().batches(first_step), first_step):
            if step == self.step:
                raise ResnetError("photos/7.jpg cannot be read: gone") if self.error is ResnetError else _os_error()
            yield batch


class GoneHeldOut(HeldOut):
    def __getitem__(self, index: int) -> Batch:
        if index == 1:
            raise ResnetError("photos/8.jpg is damaged")
        return super().__getitem__(index)


def _os_error() -> OSError:
    return OSError(5, "Input/output error", "training-boundary.f16")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "said"),
    [(ResnetError, "photos/7.jpg cannot be read: gone"), (OSError, "training-boundary.f16 cannot be read: Input/output error")],
)
def test_the_image_is_named_and_the_training_goes_on_when_it_is_back(
    error: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_cli.training.callbacks.CHECKPOINT_SECONDS", 0)
    with pytest.raises(ResnetError) as told:
        _train(tmp_path / "broken", Gone(error=error), HeldOut())
    assert (told.value.message, told.value.hint) == (said, "put it back, then type the same command with --resume")
    model, _ = run(tmp_path / "broken", CONFIG, resume=True)
    whole, _ = run(tmp_path / "whole", CONFIG)
    for value, other in zip(values(model), values(whole), strict=True):
        np.testing.assert_array_equal(value, other)


def test_a_held_out_image_is_named_too(tmp_path: Path) -> None:
    with pytest.raises(ResnetError, match=r"photos/8\.jpg is damaged") as told:
        _train(tmp_path, Points(), GoneHeldOut())
    assert told.value.hint == "put it back, then type the same command with --resume"


def test_the_threads_that_make_batches_end_with_the_training(tmp_path: Path) -> None:
    class Threaded(Points):
        def batches(self, first_step: int = 0) -> Iterator[Batch]:
            return map_in_order(self.batch, itertools.count(first_step), ahead=6)

    before = set(threading.enumerate())
    _train(tmp_path, Threaded(), HeldOut())
    assert not set(threading.enumerate()) - before


def _train(folder: Path, stream: Points, held_out: keras.utils.PyDataset) -> None:
    keras.utils.set_random_seed(CONFIG.seed)
    train(network(), stream, held_out, CONFIG, Stage("train", folder), Silent())
