"""What Keras computes on, and what of that decides how fast and how exactly it multiplies.

Untested on hardware: no GPU is part of the tests, which stand in for one where TensorFlow and JAX are asked (docs/devices.md).
"""

from dataclasses import dataclass

import keras


@dataclass(frozen=True)
class Device:
    """The device of Keras' backend; of several GPUs the least capable.

    Attributes:
        kind: "gpu" or "cpu".
        name: such as "NVIDIA A100-SXM4-40GB"; "cpu" for all CPUs.
        capability: compute capability of an NVIDIA GPU, such as (8, 0); None of a CPU, of other makes, and where it is unknown.
    """

    kind: str
    name: str
    capability: tuple[int, int] | None = None


CPU = Device("cpu", "cpu")


def has_gpu() -> bool:
    """Whether Keras' backend sees a GPU."""
    try:
        return bool(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # jax's answer where there is none
        return False


def current_device() -> Device:
    """The device that Keras trains on."""
    if not has_gpu():
        return CPU
    return least_capable(_tensorflow_gpus() if keras.backend.backend() == "tensorflow" else _jax_gpus())


def least_capable(gpus: list[tuple[str, tuple[int, int] | str | None]]) -> Device:
    """One device for all GPUs: each must be able to do what is chosen.

    Args:
        gpus: name and compute capability of each, as (8, 0) by TensorFlow and "8.0" by JAX, whose AMD GPUs say "gfx90a".
    """
    devices = [Device("gpu", name, _as_numbers(capability)) for name, capability in gpus]
    return min(devices, key=lambda device: device.capability or (0, 0))


def half_precision(device: Device) -> str | None:
    """Keras' policy for training in half precision: "mixed_bfloat16", "mixed_float16", or None where float32 is as fast.

    NVIDIA's tensor cores take fp16 from compute capability 7.0 (Volta) on and bf16 from 8.0 (Ampere) on. Before that there are
    none, and what GPUs of other makes do is not known here.

    Source: NVIDIA, "CUDA C++ Programming Guide", table "Technical specifications per compute capability".
    """
    if device.kind != "gpu" or device.capability is None or device.capability < (7, 0):
        return None
    return "mixed_bfloat16" if device.capability >= (8, 0) else "mixed_float16"


def multiply_exactly() -> None:
    """From here on float32 is multiplied as float32 on a GPU too, which would round to TF32's 10 bits otherwise."""
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
