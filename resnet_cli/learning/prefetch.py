"""Training batches on the GPU before the step that needs them.

In: batches in main memory. Out: what `fit` takes them from.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import keras

from resnet_cli.networks.devices import has_gpu

_READY = 2  # batches on the GPU while a step runs on a third


def on_device(batches: Iterator[tuple[Any, ...]]) -> Any:
    """The same batches, copied to a GPU while the step before runs.

    Keras does so itself on JAX, and a CPU has nowhere to copy them to: there they are returned as they came.
    """
    if keras.backend.backend() != "tensorflow" or not has_gpu():
        return batches
    return copied_ahead(batches, "/GPU:0")


def copied_ahead(batches: Iterator[tuple[Any, ...]], device: str) -> Any:
    """A `tf.data.Dataset` of the same batches on a device; sizes differ in their first axis at most."""
    import tensorflow as tf

    first = next(batches)
    signature = tuple(tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in first)
    dataset = tf.data.Dataset.from_generator(lambda: itertools.chain([first], batches), output_signature=signature)
    return dataset.apply(tf.data.experimental.prefetch_to_device(device, _READY))
