"""Stochastic depth: in training, residual branches are left out at random (Huang et al. 2016).

In: the output of a residual branch, before it is added to the shortcut. Out: the same in inference; in training, nothing for
some pictures and a little more for the others. It belongs to training and not to the network: it has no weights, and what is
exported is built without it.
"""

from typing import Any

import keras
from keras import ops


class StochasticDepth(keras.layers.Layer):  # type: ignore[misc]
    """Drops a branch for each picture of a batch on its own, and scales what is left by 1 / (1 - rate).

    The paper drops a branch for the whole batch and scales it by 1 - rate in inference: the expectation is the same, and
    inference stays as it was. Keras' Dropout with a noise shape does not do: in half precision it draws multiples of 1/128,
    more than the rates of the first blocks of a deep network.

    Args:
        rate: probability that the branch is left out, 0..1, 1 excluded.
        name: layer name.
    """

    def __init__(self, rate: float, name: str) -> None:
        super().__init__(name=name)
        self.rate = rate
        # Its state is one of the model's variables, so a checkpoint keeps it and a resumed training draws as if never stopped.
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, branch: Any, training: bool | None = None) -> Any:
        """A branch (N, H, W, C) to the same shape."""
        if not training:
            return branch
        kept = 1.0 - self.rate
        draws = keras.random.uniform((ops.shape(branch)[0], 1, 1, 1), dtype="float32", seed=self.seed_generator)
        return branch * ops.cast(ops.floor(draws + kept) / kept, branch.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The branch's own shape; said here, Keras need not trace `call` for every block."""
        return input_shape
