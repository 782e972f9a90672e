"""Accelerations of training with TensorFlow on a CPU, each with a switch, a check that it works, and a fallback.

In: layers to build. Out: layers with the same mathematics and variables as Keras' own, computed faster. Weights are
interchangeable, and exports are built with Keras' own layers.

- fused-batch-norm: Keras 3 writes batch-norm as a chain of element-wise operations; TensorFlow has one fused kernel for it.
- filter-gradients: in bf16 on a CPU, oneDNN under TensorFlow takes up to twice as long as necessary for the filter gradients of
  small feature maps, as in the last stages (batches of 128 on two cores: 12.5 ms for 4x4x256, 10.5 ms for 8x8x128). The filter
  gradient is itself a convolution: of the input with the output's gradient as filters, batch and channels exchanged. Written as
  such, it runs in the fast forward kernel (6.1 and 8.4 ms); with a stride, the filters are dilated by it (5.1 instead of
  14.3 ms from 8x8x128 to 4x4x256). Maps of 14 pixels gain nothing; in float32, maps of 4 pixels would gain a fifth, but maps of
  8 pixels lose. Keras' own gradient is used there.
- bf16: oneDNN rewrites graphs for CPUs with AVX-512 BF16 or AMX; variables, and so the weights, stay float32.
- kept-memory: glibc's malloc keeps freed memory, so that no step waits for the system to clear pages.

benchmarks/accelerations.py measures each of them end to end; docs/performance.md has the figures. The environment variable
`RESNET_WITHOUT`, names separated by commas, switches some off. One that the installed TensorFlow no longer supports is skipped
automatically: `engages` tries each of them once.
"""

import ctypes
import os
import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import numpy as np

from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import KERAS_EPSILON

MOMENTUM = 0.9
SWITCH = "RESNET_WITHOUT"


def engages(name: str) -> bool:
    """Whether an acceleration is used: it is not switched off, and it works with the installed TensorFlow.

    Args:
        name: one of `ACCELERATIONS`.

    Raises:
        ResnetError: `RESNET_WITHOUT` names one that does not exist.
    """
    return keras.backend.backend() == "tensorflow" and name not in _switched_off() and _works(name)


def _switched_off() -> set[str]:
    names = {word.strip() for word in os.environ.get(SWITCH, "").split(",")} - {""}
    if unknown := sorted(names - set(ACCELERATIONS)):
        raise ResnetError(f"{SWITCH} names an unknown acceleration: {unknown[0]}", f"there are {', '.join(ACCELERATIONS)}")
    return names


@cache
def _works(name: str) -> bool:
    """Try it on a few numbers: a newer TensorFlow or Keras may have changed what it relies on."""
    try:
        return ACCELERATIONS[name]()
    except Exception:  # whatever the error, training continues without it
        return False


def batch_norm(name: str, fused: bool, epsilon: float = KERAS_EPSILON) -> keras.layers.Layer:
    """A batch-norm layer over the channels.

    Args:
        name: layer name, as in keras.applications ("conv2_block1_1_bn").
        fused: train with TensorFlow's fused kernel, if it works here; same mathematics.
        epsilon: added to the variance; the fused kernel raises smaller values to 1.001e-5.
    """
    layer = _fused_class() if fused and engages("fused-batch-norm") else keras.layers.BatchNormalization
    return layer(momentum=MOMENTUM, epsilon=epsilon, name=name)


def _fused_class() -> type[keras.layers.BatchNormalization]:
    import tensorflow as tf

    class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            if training and not self.trainable:
                # On GPUs the kernel's gradient with fixed statistics is not deterministic; Keras' operations are as fast here.
                return super().call(inputs, training=False)
            learn = bool(training)
            outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs,
                tf.cast(tf.convert_to_tensor(self.gamma), tf.float32),
                tf.cast(tf.convert_to_tensor(self.beta), tf.float32),
                mean=None if learn else tf.convert_to_tensor(self.moving_mean),
                variance=None if learn else tf.convert_to_tensor(self.moving_variance),
                epsilon=self.epsilon,
                is_training=learn,
            )
            if learn:
                # The kernel returns the unbiased variance; Keras keeps the biased one.
                # (Counted on single rows: in bf16 the whole map would be cast to float32 for it.)
                count = tf.cast(tf.size(inputs[:, 0, 0, 0]) * tf.size(inputs[0, :, :, 0]), tf.float32)
                variance = variance * (count - 1.0) / count
                self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1.0 - self.momentum))
                self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1.0 - self.momentum))
            return outputs

    return FusedBatchNormalization


def _fused_batch_norm_works() -> bool:
    results = []
    for kind in (_fused_class(), keras.layers.BatchNormalization):
        layer = kind(epsilon=KERAS_EPSILON, dtype="float32", name="tried")
        outputs = layer(_numbers(2, 3, 3, 2), training=True)
        results.append([outputs, *layer.non_trainable_variables])
    return _all_near(*results)


_WIDE = 128  # fewest filters for which it pays: the 64 of resnet20's last stage would lose 6 %
_SMALL = 8  # largest side in pixels of a map, after the stride, that gains


def convolution(filters: int, size: int, stride: int, bias: bool, name: str, fused: bool) -> keras.layers.Layer:
    """A convolution layer with "same" padding at stride 1 and no padding otherwise, initialised as in He et al. 2015b.

    Args:
        filters: output channels.
        size: side of its filters.
        stride: stride of both axes.
        bias: whether to add a bias.
        name: layer name, as in keras.applications ("conv2_block1_1_conv").
        fused: use the faster filter gradients, if they work here; otherwise Keras' own layer.
    """
    gains = fused and size == 3 and filters >= _WIDE and engages("filter-gradients")
    layer = _small_map_class() if gains else keras.layers.Conv2D
    padding = "valid" if size > 1 and stride > 1 else "same"
    return layer(filters, size, strides=stride, padding=padding, use_bias=bias, kernel_initializer="he_normal", name=name)


def _small_map_class() -> type[keras.layers.Conv2D]:
    import tensorflow as tf

    class SmallMapConv2D(keras.layers.Conv2D):  # type: ignore[misc]
        def convolution_op(self, inputs: Any, kernel: Any) -> Any:
            # Sizes are known when a graph is traced, from the batches, even in networks for any size.
            side = self.compute_output_shape(inputs.shape)[1]
            if not rewrites() or side is None or side > _SMALL:
                return super().convolution_op(inputs, kernel)
            return _convolve(inputs, tf.convert_to_tensor(kernel), self.strides[0], self.padding.upper())

    return SmallMapConv2D


def _convolve(x: Any, kernel: Any, stride: int, padding: str) -> Any:
    """A convolution of 3x3 whose filter gradient is a forward convolution."""
    import tensorflow as tf

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def convolved(x: Any, kernel: Any) -> Any:
        def gradients(upstream: Any) -> tuple[Any, Any]:
            of_input = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x),
                filter=kernel,
                out_backprop=upstream,
                strides=[1, stride, stride, 1],
                padding=padding,
            )
            beside = [1, 1] if padding == "SAME" else [0, 0]
            padded = tf.pad(tf.transpose(x, (3, 1, 2, 0)), [[0, 0], beside, beside, [0, 0]])
            of_kernel = tf.nn.conv2d(padded, tf.transpose(upstream, (1, 2, 0, 3)), 1, "VALID", dilations=stride)
            # There is one row and column too many if no filter reads the last ones of the input.
            return of_input, tf.transpose(of_kernel[:, :3, :3], (1, 2, 0, 3))

        return tf.nn.conv2d(x, kernel, stride, padding), gradients

    return convolved(x, kernel)


def _filter_gradients_work() -> bool:
    import tensorflow as tf

    results = []
    for compute in (_convolve, tf.nn.conv2d):
        maps, kernel = tf.Variable(_numbers(2, 6, 6, 2)), tf.Variable(_numbers(3, 3, 2, 3))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(compute(maps, kernel, 2, "VALID") ** 2)
        results.append(tape.gradient(loss, [maps, kernel]))
    return _all_near(*results)


_OPTION = "auto_mixed_precision_onednn_bfloat16"


def rewrites() -> bool:
    """Whether graphs are rewritten to bf16."""
    import tensorflow as tf

    return bool(tf.config.optimizer.get_experimental_options().get(_OPTION, False))


def set_rewriting(on: bool) -> None:
    """Turn rewriting to bf16 on or off for graphs traced from now on."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({_OPTION: on})


def _rewriting_works() -> bool:
    before = rewrites()
    set_rewriting(True)
    known = rewrites()
    set_rewriting(before)
    return known


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # as mallopt(3) numbers them
_ALL = 2**31 - 1  # bytes


def keep_memory() -> None:
    """Make glibc's malloc keep freed memory, for the rest of the process."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _ALL)


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


def _numbers(*shape: int) -> Any:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def _all_near(ours: list[Any], theirs: list[Any]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(np.allclose(np.asarray(mine), np.asarray(keras_own), rtol=1e-3, atol=1e-4) for mine, keras_own in pairs)


# Each with the check that it works on the installed TensorFlow.
ACCELERATIONS: dict[str, Callable[[], bool]] = {
    "fused-batch-norm": _fused_batch_norm_works,
    "filter-gradients": _filter_gradients_work,
    "bf16": _rewriting_works,
    "kept-memory": _has_glibc,
}
