"""The convolution that networks are trained with: Keras' own, with a faster gradient where TensorFlow computes it slowly.

In bf16 on a CPU, oneDNN under TensorFlow takes up to twice as long as it needs for the gradient of the filters where maps are
small, as in the last stages (batches of 128 on two cores: 12.5 ms for 4x4x256, 10.5 ms for 8x8x128). That gradient is itself a
convolution: of the input with the gradient of the output as its filters, batch and channels in each other's place. Asked for as
such it takes the fast forward kernel (6.1 and 8.4 ms), and with a stride one whose filters are spread by it (5.1 in place of
14.3 ms from 8x8x128 to 4x4x256). Maps of 14 pixels gain nothing; in float32 those of 4 would gain a fifth, but those of 8
lose: there Keras' way stays.
"""

from typing import Any

import keras

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

    from resnet_cli.networks.rewriting import rewrites

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
