"""Keras itself as an engine: for GPUs, and where OpenVINO is absent.

In: a Keras model. Out: an `Engine`.
"""

from collections.abc import Iterable, Iterator

import keras
import numpy as np

from resnet_cli.data.threads import Pause
from resnet_cli.engines.base import Images, Outputs
from resnet_cli.networks.devices import has_gpu, multiply_exactly

_ON_CPU = 32 * 224 * 224  # 8 images of 224 x 224 instead of 32 take up to a fifth more time each on two cores (ResNet-50)
_ON_GPU = 2 * _ON_CPU
_SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


class KerasEngine:
    """A Keras model run forward, on whatever device Keras uses."""

    name = "keras"

    def __init__(self, model: keras.Model, exact: bool = False) -> None:
        """Take a model as it is.

        Args:
            model: uint8 pictures to one or more outputs.
            exact: multiply in the model's own precision, whatever training turned on in this process.
        """
        self._model = model
        self.pixels = _ON_GPU if has_gpu() else _ON_CPU
        rewritten = False
        if exact:
            multiply_exactly()
        if keras.backend.backend() == "tensorflow":
            from resnet_cli.networks.rewriting import rewrites, set_rewriting

            model.jit_compile = False  # by XLA the CPU takes a fifth longer, and seconds for every new size of a batch
            if exact:
                set_rewriting(False)
            rewritten = rewrites()
        self.precision = "bf16" if rewritten else _SHORT[model.compute_dtype]

    def run(self, images: Images) -> tuple[Outputs, ...]:
        """See `Engine.run`."""
        outputs = self._model.predict_on_batch(images)
        several = outputs if isinstance(outputs, list | tuple) else (outputs,)
        return tuple(np.asarray(output, dtype=np.float32) for output in several)

    def run_many(self, batches: Iterable[Images | Pause]) -> Iterator[tuple[Outputs, ...]]:
        """See `Engine.run_many`; batches are decoded meanwhile, by threads."""
        for images in batches:
            if not isinstance(images, Pause):
                yield self.run(images)
