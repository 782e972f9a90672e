"""TensorFlow's rewriting of graphs to bf16 by oneDNN: a switch of the whole process.

It makes training on CPUs with AVX-512 BF16 or AMX 1.3 to 1.6 times faster; variables, and so the weights, stay float32.
"""

import tensorflow as tf

_OPTION = "auto_mixed_precision_onednn_bfloat16"


def rewrites() -> bool:
    """Whether graphs are rewritten."""
    return bool(tf.config.optimizer.get_experimental_options().get(_OPTION, False))


def set_rewriting(on: bool) -> None:
    """Turn it on or off, for graphs that are traced from now on."""
    tf.config.optimizer.set_experimental_options({_OPTION: on})
