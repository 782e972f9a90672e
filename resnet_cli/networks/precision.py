"""The device that Keras computes on, the fastest precision that is safe there, and repeatable results.

In: a random seed. Out: a process that trains in that precision, and its description for run.json. The choice by compute
capability is tested with fake devices; docs/devices.md lists the hardware it was run on.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_cli.networks.accelerations import ACCELERATIONS, engages, keep_memory, set_rewriting


@dataclass(frozen=True)
class Device:
    """The device of Keras' backend; of several GPUs the least capable.

    Attributes:
        kind: "gpu" or "cpu".
        name: such as "NVIDIA A100-SXM4-40GB"; "cpu" for all CPUs.
        capability: compute capability of an NVIDIA GPU, such as (8, 0); None for a CPU, for other makes, and if unknown.
    """

    kind: str
    name: str
    capability: tuple[int, int] | None = None


CPU = Device("cpu", "cpu")


def has_gpu() -> bool:
    """Whether Keras' backend sees a GPU."""
    try:
        return bool(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # raised by jax if there is none
        return False


def current_device() -> Device:
    """The device that Keras trains on."""
    if not has_gpu():
        return CPU
    return least_capable(_tensorflow_gpus() if keras.backend.backend() == "tensorflow" else _jax_gpus())


def least_capable(gpus: list[tuple[str, tuple[int, int] | str | None]]) -> Device:
    """The least capable of several GPUs, as the chosen precision must work on each of them.

    Args:
        gpus: name and compute capability of each: (8, 0) in TensorFlow, "8.0" in JAX, or "gfx90a" for an AMD GPU in JAX.
    """
    devices = [Device("gpu", name, _as_numbers(capability)) for name, capability in gpus]
    return min(devices, key=lambda device: device.capability or (0, 0))


def half_precision(device: Device) -> str | None:
    """Keras' policy for training in half precision: "mixed_bfloat16", "mixed_float16", or None if float32 is as fast.

    NVIDIA's tensor cores support fp16 from compute capability 7.0 (Volta) and bf16 from 8.0 (Ampere). Older GPUs have no tensor
    cores; GPUs of other makes are not known here.

    Source: NVIDIA, "CUDA C++ Programming Guide", table "Technical specifications per compute capability".
    """
    if device.kind != "gpu" or device.capability is None or device.capability < (7, 0):
        return None
    return "mixed_bfloat16" if device.capability >= (8, 0) else "mixed_float16"


def multiply_exactly() -> None:
    """From now on, multiply float32 in full precision on a GPU too, which otherwise rounds to TF32's 10 bits."""
    if not has_gpu():
        return
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
    else:
        import jax

        jax.config.update("jax_default_matmul_precision", "float32")


def _tensorflow_gpus() -> list[tuple[str, tuple[int, int] | str | None]]:
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.get_visible_devices("GPU"))
    return [(each.get("device_name", "gpu"), each.get("compute_capability")) for each in details]


def _jax_gpus() -> list[tuple[str, tuple[int, int] | str | None]]:
    import jax

    return [(each.device_kind, getattr(each, "compute_capability", None)) for each in jax.devices("gpu")]


def _as_numbers(capability: tuple[int, int] | str | None) -> tuple[int, int] | None:
    if not isinstance(capability, str):
        return capability
    major, _, minor = capability.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def prepare(seed: int) -> str:
    """Set random seeds, make operations deterministic, keep memory between steps, and turn on the fastest safe precision.

    On CPUs with AVX-512 BF16 or AMX, oneDNN rewrites TensorFlow's graph (1.3 to 1.6 times faster training). The variables, and
    so the weights, stay float32 in every precision.

    Returns:
        The precision: "mixed_bfloat16" or "mixed_float16" on GPUs, "bfloat16" by rewriting on CPUs, or "float32".
    """
    _seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Keras then does not use XLA on this backend: not all of its operations are deterministic (see docs/devices.md).
        tf.config.experimental.enable_op_determinism()
        if engages("kept-memory"):
            keep_memory()
    precision = training_precision(current_device(), keras.backend.backend(), _cpu_has_bf16() and engages("bf16"))
    if precision.startswith("mixed_"):
        keras.mixed_precision.set_dtype_policy(precision)
    elif precision == "bfloat16":
        set_rewriting(True)
    return precision


@contextmanager
def settings_put_back() -> Iterator[None]:
    """Restore on exit what `prepare` sets for the process: random states, Keras' policy, TensorFlow's rewriting.

    Operations stay deterministic, which TensorFlow cannot undo.
    """
    python, arrays, policy = random.getstate(), np.random.get_state(), keras.mixed_precision.dtype_policy()
    rewriting = None
    if keras.backend.backend() == "tensorflow":
        from resnet_cli.networks.accelerations import rewrites, set_rewriting

        rewriting = rewrites()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        keras.mixed_precision.set_dtype_policy(policy)
        if rewriting is not None:
            set_rewriting(rewriting)


def training_precision(device: Device, backend: str, cpu_has_bf16: bool) -> str:
    """The fastest precision that is safe, as `prepare` returns it.

    Args:
        device: the device that Keras trains on.
        backend: Keras' backend: "tensorflow" or "jax", which has no graph rewriting.
        cpu_has_bf16: whether the CPU multiplies bf16.
    """
    if device.kind == "gpu":
        return half_precision(device) or "float32"
    return "bfloat16" if backend == "tensorflow" and cpu_has_bf16 else "float32"


def computed_on() -> dict[str, Any]:
    """The description of the machine in run.json: backend, device, whether operations are deterministic, and the accelerations
    in use.
    """
    device = current_device()
    return {
        "backend": keras.backend.backend(),
        "device": device.name,
        "deterministic": _is_deterministic(device),
        "accelerations": [name for name in ACCELERATIONS if engages(name)],
    }


def _is_deterministic(device: Device) -> bool:
    """Whether operations are deterministic: in TensorFlow always, with XLA on CPUs always, on GPUs only if requested."""
    return (
        keras.backend.backend() == "tensorflow"
        or device.kind == "cpu"
        or "xla_gpu_deterministic_ops=true" in os.environ.get("XLA_FLAGS", "")
    )


def _seed(seed: int) -> None:
    if keras.backend.backend() == "tensorflow":
        keras.utils.set_random_seed(seed)
        return
    # Like Keras' own function, which would import TensorFlow just to seed it: seconds, and on a GPU most of the memory.
    random.seed(seed)
    np.random.seed(seed)


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
