"""Half precision where the machine has it: bf16 convolutions on CPUs, mixed precision on GPUs.

One of the two files that speak to TensorFlow directly; on another backend it only sets Keras' policy.
"""

from pathlib import Path

import keras


def use_fast_precision() -> str:
    """Turn on the fastest safe precision and name it: "bfloat16", "mixed_bfloat16" or "float32".

    On CPUs with AVX-512 BF16 or AMX, oneDNN rewrites TensorFlow's graph (1.3 to 1.6 times faster training); the variables, and
    so the weights, stay float32.
    """
    if _has_gpu():
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
        return "mixed_bfloat16"
    if keras.backend.backend() != "tensorflow" or not _cpu_has_bf16():
        return "float32"
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    return "bfloat16"


def _has_gpu() -> bool:
    return bool(keras.distribution.list_devices("gpu")) if keras.backend.backend() != "torch" else False


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
