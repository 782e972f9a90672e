"""Which engine a user asks for, and whether it can be had (light: neither Keras nor OpenVINO nor a driver is loaded).

In: the word after `--engine`; device files, environment variables and installed packages. Out: the same word, or "keras" in
place of "auto" where OpenVINO cannot be used; and whether there is an NVIDIA GPU for which it is worth importing Keras.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from resnet_cli.errors import ResnetError
from resnet_cli.progress import Progress

MANY = 2000  # images from which on a GPU makes up for the import of TensorFlow and the start of CUDA

# The option of XLA by which operations on GPUs give the same results every time.
REPEATABLE_XLA = "xla_gpu_deterministic_ops"
_DEVICES = (("dev", "nvidia[0-9]*"), ("usr/lib/wsl/lib", "libcuda.so.1"))  # Linux, and Linux in Windows
# What pip installs with tensorflow[and-cuda] and with jax[cuda12] or jax[cuda13].
_PACKAGES = {
    "tensorflow": ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
    "jax": ("jax-cuda12-plugin", "jax-cuda13-plugin"),
}


@dataclass(frozen=True)
class Surroundings:
    """What a process can know of GPUs by looking.

    Attributes:
        has_device: whether there is an NVIDIA device.
        visible: `CUDA_VISIBLE_DEVICES`, None where it is not set.
        backend: of Keras.
        has_packages: whether the packages are installed by which that backend computes on one.
    """

    has_device: bool
    visible: str | None
    backend: str
    has_packages: bool


def surroundings(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Surroundings:
    """Those of this process; `root` is where its file system begins."""
    has_device = any(any((root / folder).glob(pattern)) for folder, pattern in _DEVICES)
    backend = keras_backend(environment)
    has_packages = has_device and any(map(_is_installed, _PACKAGES.get(backend, ())))
    return Surroundings(has_device, environment.get("CUDA_VISIBLE_DEVICES"), backend, has_packages)


def gpu_is_likely(seen: Surroundings) -> bool:
    """Whether Keras is going to see a GPU, most probably."""
    hidden = seen.visible is not None and seen.visible.strip() in ("", "-1", "none", "NoDevFiles")
    return seen.has_device and seen.has_packages and not hidden


def keras_backend(environment: Mapping[str, str] = os.environ) -> str:
    """The backend that Keras is going to choose, by the rules of Keras: the variable, its file, TensorFlow."""
    if chosen := environment.get("KERAS_BACKEND"):
        return chosen
    home = Path(environment.get("KERAS_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".keras")
    try:
        return str(json.loads((home / "keras.json").read_text())["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow"


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


EngineName = Literal["auto", "openvino", "keras"]


def is_worth_a_gpu(wish: EngineName, images: int, seen: Surroundings) -> bool:
    """Whether to import Keras for so many images, only because it may find a GPU.

    Args:
        wish: as it was asked for; whoever named an engine gets that one.
        images: to classify; 0 where nobody knows how many will come.
        seen: what is known of GPUs here.
    """
    return wish == "auto" and images >= MANY and gpu_is_likely(seen)


def settled(wish: EngineName, progress: Progress) -> EngineName:
    """What can be had of what was asked for, before any work begins.

    Args:
        wish: auto = OpenVINO wherever this machine has it; openvino, keras = that one, or an error.
        progress: is told why OpenVINO cannot be used.

    Raises:
        ResnetError: OpenVINO was asked for, and is missing or too old.
    """
    if wish == "keras":
        return wish
    from resnet_cli.engines.openvino import import_openvino

    try:
        import_openvino()
    except ResnetError as error:
        if wish == "openvino":
            raise
        progress.line(f"{error.message}, so Keras takes its place, which is slower; {error.hint}")
        return "keras"
    return wish
