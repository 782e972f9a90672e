"""Half precision where the machine has it, repeatable results, and memory that is kept between steps.

In: a seed. Out: a process that trains in the fastest safe precision, and what run.json says of it.
"""

import ctypes
import os
import platform
import random
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_cli.engines.choice import REPEATABLE_XLA
from resnet_cli.networks.devices import Device, current_device, half_precision


def prepare(seed: int) -> str:
    """Seed everything, make operations repeatable, keep memory between steps, and turn on the fastest safe precision.

    On CPUs with AVX-512 BF16 or AMX, oneDNN rewrites TensorFlow's graph (1.3 to 1.6 times faster training). The variables, and
    so the weights, stay float32 in every precision.

    Returns:
        The precision: "mixed_bfloat16" or "mixed_float16" on GPUs, "bfloat16" by rewriting on CPUs, or "float32".
    """
    _seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Keras then leaves XLA out on this backend, whose compiled operations are not all repeatable (see docs/devices.md).
        tf.config.experimental.enable_op_determinism()
        keep_memory()
    precision = training_precision(current_device(), keras.backend.backend(), _cpu_has_bf16())
    if precision.startswith("mixed_"):
        keras.mixed_precision.set_dtype_policy(precision)
    elif precision == "bfloat16":
        from resnet_cli.networks.accelerations import set_rewriting

        set_rewriting(True)
    return precision


def training_precision(device: Device, backend: str, cpu_has_bf16: bool) -> str:
    """The fastest precision that is safe, as `prepare` returns it.

    Args:
        device: what Keras trains on.
        backend: of Keras: "tensorflow" or "jax", which has no rewriting.
        cpu_has_bf16: whether the CPU multiplies bf16.
    """
    if device.kind == "gpu":
        return half_precision(device) or "float32"
    return "bfloat16" if backend == "tensorflow" and cpu_has_bf16 else "float32"


def computed_on() -> dict[str, Any]:
    """What run.json says of the machine beside the precision: backend, device, and whether its operations are repeatable."""
    device = current_device()
    return {"backend": keras.backend.backend(), "device": device.name, "deterministic": _is_deterministic(device)}


def _is_deterministic(device: Device) -> bool:
    """TensorFlow refuses operations that are not; on CPUs none of XLA's is different, and on GPUs it has to be asked for."""
    return (
        keras.backend.backend() == "tensorflow"
        or device.kind == "cpu"
        or f"{REPEATABLE_XLA}=true" in os.environ.get("XLA_FLAGS", "")
    )


def _seed(seed: int) -> None:
    if keras.backend.backend() == "tensorflow":
        keras.utils.set_random_seed(seed)
        return
    # As Keras does it, which would import TensorFlow for its seed alone: seconds, and on a GPU most of the memory.
    random.seed(seed)
    np.random.seed(seed)


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # as mallopt(3) numbers them
_ALL = 2**31 - 1  # bytes


def keep_memory() -> None:
    """Have glibc's malloc keep what is freed, for the rest of the process; without glibc nothing is changed."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _ALL)
