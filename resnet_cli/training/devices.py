"""Train on several devices at once: all GPUs of a machine and, with several processes, those of all machines.

In: a network, held-out batches and metrics. Out: a copy of the network on every device, and batches that can be divided among
them. Every device computes an equal share of the images of a step, and gradients and batch-norm statistics are those of all
images: the losses are those of one device with the same batch. On one device, everything is returned unchanged.

JAX uses `keras.distribution.DataParallel`. TensorFlow uses `tf.distribute.MirroredStrategy`, with Keras' synchronized
batch-norm in place of the fused kernel, which knows only the images of its own device. CPUs count as one device, unless the
user has divided them (XLA_FLAGS=--xla_force_host_platform_device_count=2).
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import keras
import numpy as np

from resnet_cli.data.batches import WHOLE, Part
from resnet_cli.networks.precision import has_gpu
from resnet_cli.networks.weights import settle
from resnet_cli.progress import how_many
from resnet_cli.training import processes


def device_count() -> int:
    """Number of devices that train together, over all processes."""
    if keras.backend.backend() == "tensorflow":
        return max(1, len(_tensorflow_devices()))
    return len(keras.distribution.list_devices())


def _tensorflow_devices() -> list[str]:
    import tensorflow as tf

    return [device.name for device in tf.config.list_logical_devices("GPU" if has_gpu() else "CPU")]


def trained_on() -> dict[str, int]:
    """The description in run.json: how many devices train together, and in how many processes."""
    return {"devices": device_count(), "processes": processes.group().count}


def in_words() -> str:
    """Who shares every batch, in one line; empty if nobody does."""
    devices, count = device_count(), processes.group().count
    together = f"{how_many(devices, 'device')} of {how_many(count, 'process')}" if count > 1 else how_many(devices, "device")
    return f"every batch is shared by {together}" if devices > 1 else ""


def own_part() -> Part:
    """The part of every batch that this process makes, in batches that all devices can share."""
    devices, group = device_count(), processes.group()
    return Part(group.index, group.count, devices) if devices > 1 else WHOLE


@contextmanager
def on_all_devices(model: keras.Model) -> Iterator[keras.Model]:
    """A copy of a functional model on every device, whose variables are copied back on exit; on one device the model itself.

    Args:
        model: not compiled; what is computed with it outside, such as a prediction, stays on one device.
    """
    if device_count() == 1:
        yield model
        return
    values = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    with _scope():
        copy = keras.models.clone_model(model, clone_function=_copied, recursive=True)
        _assign(copy, values)
        yield copy
    _assign(model, [keras.ops.convert_to_numpy(variable) for variable in copy.variables])


def _scope() -> AbstractContextManager[Any]:
    """The context in which Keras makes variables on every device, and divides batches among them."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.distribute.MirroredStrategy(_tensorflow_devices()).scope()  # type: ignore[no-any-return]
    # Every process makes batches of its own part: nothing is left to divide among processes.
    return keras.distribution.DataParallel(auto_shard_dataset=False).scope()  # type: ignore[no-any-return]


def _copied(layer: keras.layers.Layer) -> keras.layers.Layer:
    config = layer.get_config()
    if isinstance(layer, keras.layers.BatchNormalization) and keras.backend.backend() == "tensorflow":
        return keras.layers.BatchNormalization.from_config({**config, "synchronized": True})
    return layer.__class__.from_config(config)


def _assign(model: keras.Model, values: Sequence[Any]) -> None:
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)
    settle(model)


def divisible(batches: keras.utils.PyDataset) -> keras.utils.PyDataset:
    """Held-out batches that all devices can share: filled up with rows whose targets are 0, which `of_images` leaves out."""
    devices = device_count() // processes.group().count
    return batches if devices == 1 else _Padded(batches, devices)


class _Padded(keras.utils.PyDataset):  # type: ignore[misc]
    def __init__(self, batches: keras.utils.PyDataset, devices: int) -> None:
        super().__init__(workers=1)
        self._batches, self._devices = batches, devices

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        images, targets = self._batches[index]
        missing = -len(images) % self._devices
        return tuple(np.pad(each, [(0, missing)] + [(0, 0)] * (each.ndim - 1)) for each in (images, targets))


def of_images(metrics: list[keras.metrics.MeanMetricWrapper]) -> list[keras.metrics.Metric]:
    """The same metrics without the rows that `divisible` adds."""
    return metrics if device_count() == 1 else [_OfImages(metric) for metric in metrics]


class _OfImages(keras.metrics.MeanMetricWrapper):  # type: ignore[misc]
    def __init__(self, metric: keras.metrics.MeanMetricWrapper) -> None:
        super().__init__(metric._fn, name=metric.name, **metric._fn_kwargs)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """See `keras.metrics.Metric`."""
        is_image = keras.ops.cast(keras.ops.any(y_true > 0, axis=-1), self.dtype)
        return super().update_state(y_true, y_pred, is_image)
