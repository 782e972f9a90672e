"""The batch-norm that networks are trained with: Keras' own, made fast on TensorFlow.

Keras 3 writes batch-norm as a chain of element-wise operations; TensorFlow has one fused kernel for it. On two cores
that is the difference between 208 and 240 images/s for the compact network, and 304 and 390 with bf16. The variables
and their names are Keras' own, so weights go back and forth and exports are built with Keras' plain layer.
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
