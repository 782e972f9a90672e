"""Measuring the pace for --time-limit: it takes a small share of the limit, stops when asked, and leaves no trace."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from test_reading import CONFIG, Gone, GoneHeldOut
from training_material import HeldOut, Points, network, values

from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.learning.pace import measure_pace
from resnet_cli.progress import Silent

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
def test_a_picture_that_vanishes_meanwhile_is_named(stream: Points, held_out: HeldOut, said: str) -> None:
    with pytest.raises(ResnetError, match=said) as caught:
        measure_pace(network(), stream, held_out, CONFIG, 1e6, Silent())
    assert caught.value.hint == "put it back, then type the same command again"
