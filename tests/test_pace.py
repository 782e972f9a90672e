"""Measuring the pace for --time-limit: it takes a small share of the limit, stops when asked, and leaves no trace."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from test_reading import CONFIG, Gone, GoneHeldOut
from training_material import HeldOut, Points, network, values

from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.progress import Silent, how_long
from resnet_cli.training.checkpoints import Stage
from resnet_cli.training.config import TrainConfig
from resnet_cli.training.loop import train
from resnet_cli.training.pace import measure_pace

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


class Counted(Points):
    """Batches that take a tenth of a second each, and are counted."""

    made = 0

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        for batch in super().batches(first_step):
            time.sleep(0.1)
            type(self).made += 1
            yield batch


class Asked(Silent):
    def stop_signal(self) -> int:
        return 2


@pytest.mark.slow
def test_it_ends_after_a_tenth_of_the_limit_and_leaves_the_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "made", 0)
    model, untouched = network(), network()
    pace = measure_pace(model, Counted(), HeldOut(), CONFIG, 0.1, Silent())
    assert Counted.made < 10  # two steps, and what is made ahead of them
    assert pace.small_step == pace.step > 0 and pace.validation > 0
    for value, other in zip(values(model), values(untouched), strict=True):
        np.testing.assert_array_equal(value, other)


def test_a_signal_ends_it_at_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "made", 0)
    with pytest.raises(Interrupted) as caught:
        measure_pace(network(), Counted(), HeldOut(), CONFIG, 1e6, Asked())
    assert caught.value.hint == "nothing was trained yet: type the same command again"
    assert Counted.made < 10


@pytest.mark.parametrize(
    ("stream", "held_out", "said"),
    [(Gone(step=2), HeldOut(), "7.jpg"), (Points(), GoneHeldOut(), "8.jpg")],
)
def test_an_image_that_vanishes_meanwhile_is_named(stream: Points, held_out: HeldOut, said: str) -> None:
    with pytest.raises(ResnetError, match=said) as caught:
        measure_pace(network(), stream, held_out, CONFIG, 1e6, Silent())
    assert caught.value.hint == "put it back, then type the same command again"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("progressive", "told"), [(False, ["3 min to go", "2 min to go", "60 s to go", ""]), (True, ["", "", "60 s to go", ""])]
)
def test_every_epoch_says_how_long_the_others_take_at_full_size(
    progressive: bool, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0, 10)  # an epoch of five steps takes a minute
    watches = SimpleNamespace(perf_counter=lambda: float(next(clock)), monotonic=time.monotonic)
    monkeypatch.setattr("resnet_cli.training.callbacks.time", watches)
    lines: list[str] = []
    progress = Silent()
    monkeypatch.setattr(progress, "line", lines.append)
    config = TrainConfig(epochs=4, progressive=progressive)
    stage, small = Stage("train", tmp_path, False), Points() if progressive else None
    train(network(), Points(), HeldOut(), config, stage, progress, small)
    assert [line.rpartition("%")[2].strip() for line in lines] == told


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min")]
)
def test_a_length_of_time_is_told_in_two_units_at_most(seconds: float, words: str) -> None:
    assert how_long(seconds) == words
