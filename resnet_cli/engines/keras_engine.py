"""Keras itself as an engine: for GPUs, and where OpenVINO is absent.

In: a Keras model. Out: an `Engine`.
"""

from collections.abc import Iterable, Iterator

import keras
import numpy as np

from resnet_cli.engines.base import Images, Outputs


class KerasEngine:
    """A Keras model run forward, on whatever device Keras uses."""

    name = "keras"

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self.precision = str(keras.mixed_precision.dtype_policy().compute_dtype)

    def run(self, images: Images) -> tuple[Outputs, ...]:
        """See `Engine.run`."""
        outputs = self._model.predict_on_batch(images)
        several = outputs if isinstance(outputs, list | tuple) else (outputs,)
        return tuple(np.asarray(output, dtype=np.float32) for output in several)

    def run_many(self, batches: Iterable[Images]) -> Iterator[tuple[Outputs, ...]]:
        """See `Engine.run_many`; a device queue of its own keeps a GPU busy."""
        for images in batches:
            yield self.run(images)
