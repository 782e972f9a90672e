"""Try something on a network and leave it exactly as it was: its weights, batch-norm statistics and random states."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def untouched(model: keras.Model) -> Iterator[None]:
    """Put every variable of the model back at the end, also after an error."""
    before = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    try:
        yield
    finally:
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)
