"""What makes TensorFlow train faster: fused batch-norm, filter gradients of small maps, and rewriting to bf16.

Nothing here changes a network's variables or their names: weights go back and forth, and exports are built with Keras' own
layers.

- Batch-norm: Keras 3 writes it as a chain of element-wise operations; TensorFlow has one fused kernel for it. On two cores
  that is the difference between 208 and 240 images/s for resnet18-compact, and 304 and 390 with bf16.
- Filter gradients: in bf16 on a CPU, oneDNN under TensorFlow takes up to twice as long as it needs for the gradient of the
  filters where maps are small, as in the last stages (batches of 128 on two cores: 12.5 ms for 4x4x256, 10.5 ms for 8x8x128).
  That gradient is itself a convolution: of the input with the gradient of the output as its filters, batch and channels in
  each other's place. Asked for as such it takes the fast forward kernel (6.1 and 8.4 ms), and with a stride one whose filters
  are spread by it (5.1 in place of 14.3 ms from 8x8x128 to 4x4x256). Maps of 14 pixels gain nothing; in float32 those of 4
  would gain a fifth, but those of 8 lose: there Keras' way stays.
- Rewriting of graphs to bf16 by oneDNN, a switch of the whole process: training on CPUs with AVX-512 BF16 or AMX becomes 1.3
  to 1.6 times faster; variables, and so the weights, stay float32.
"""

from typing import Any

import keras

MOMENTUM = 0.9
EPSILON = 1.001e-5  # keras.applications' value, and the smallest that the fused kernel takes


def batch_norm(name: str, fused: bool) -> keras.layers.Layer:
    """A batch-norm layer over the channels.

    Args:
        name: layer name, as in keras.applications ("conv2_block1_1_bn").
        fused: use TensorFlow's fused kernel where TensorFlow is the backend; same mathematics.
    """
    layer = _fused_class() if fused and keras.backend.backend() == "tensorflow" else keras.layers.BatchNormalization
    return layer(momentum=MOMENTUM, epsilon=EPSILON, name=name)


def _fused_class() -> type[keras.layers.BatchNormalization]:
    import tensorflow as tf

    class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            if training and not self.trainable:
                # On GPUs the kernel has no repeatable gradient with fixed statistics; Keras' operations cost no more here.
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
                # (Of single rows: in bf16 the whole map would be cast to float32 to be counted.)
                count = tf.cast(tf.size(inputs[:, 0, 0, 0]) * tf.size(inputs[0, :, :, 0]), tf.float32)
                variance = variance * (count - 1.0) / count
                self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1.0 - self.momentum))
                self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1.0 - self.momentum))
            return outputs

    return FusedBatchNormalization


_SMALL = 8  # largest side in pixels of a map, after the stride, that gains


def convolution(filters: int, size: int, stride: int, bias: bool, name: str, fused: bool) -> keras.layers.Layer:
    """A convolution layer that keeps sides at stride 1 and pads nothing otherwise, initialised as in He et al. 2015b.

    Args:
        filters: output channels.
        size: side of its filters.
        stride: of both axes.
        bias: whether it adds one.
        name: layer name, as in keras.applications ("conv2_block1_1_conv").
        fused: whether it is to train as fast as it can; otherwise it is Keras' own layer.
    """
    gains = fused and keras.backend.backend() == "tensorflow" and size == 3
    layer = _small_map_class() if gains else keras.layers.Conv2D
    padding = "valid" if size > 1 and stride > 1 else "same"
    return layer(filters, size, strides=stride, padding=padding, use_bias=bias, kernel_initializer="he_normal", name=name)


def _small_map_class() -> type[keras.layers.Conv2D]:
    import tensorflow as tf

    def convolve(x: Any, kernel: Any, stride: int, padding: str) -> Any:
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
                # A row and a column more come where the last ones of the input are read by nothing.
                return of_input, tf.transpose(of_kernel[:, :3, :3], (1, 2, 0, 3))

            return tf.nn.conv2d(x, kernel, stride, padding), gradients

        return convolved(x, kernel)

    class SmallMapConv2D(keras.layers.Conv2D):  # type: ignore[misc]
        def convolution_op(self, inputs: Any, kernel: Any) -> Any:
            # Known when a graph is traced, also of networks for any size: the batches tell.
            side = self.compute_output_shape(inputs.shape)[1]
            if not rewrites() or side is None or side > _SMALL:
                return super().convolution_op(inputs, kernel)
            return convolve(inputs, tf.convert_to_tensor(kernel), self.strides[0], self.padding.upper())

    return SmallMapConv2D


_OPTION = "auto_mixed_precision_onednn_bfloat16"


def rewrites() -> bool:
    """Whether graphs are rewritten."""
    import tensorflow as tf

    return bool(tf.config.optimizer.get_experimental_options().get(_OPTION, False))


def set_rewriting(on: bool) -> None:
    """Turn it on or off, for graphs that are traced from now on."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({_OPTION: on})
