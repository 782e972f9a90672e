"""What a command needs of the machine: TensorFlow without its chatter, and the user's cache (light).

TensorFlow leaves oneDNN off where the CPU has AVX2 alone. Training steps are 1.6 to 2.1 times faster with it there too
(resnet18-compact and resnet20, two cores), so it is turned on everywhere.

TensorFlow writes about oneDNN, CPU flags and absent GPU drivers to stderr while it is imported, before any of its own settings
apply. What it writes in that time is held back, known chatter dropped, and the rest shown.
"""

import gc
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from resnet_cli.engines import EngineName
from resnet_cli.errors import ResnetError
from resnet_cli.progress import Progress

MANY = 2000  # images from which on a GPU makes up for the import of TensorFlow and the start of CUDA

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


_CHATTER = re.compile(
    r"^[IW]\d{4} "  # TensorFlow's own remarks and warnings, where it was imported before its level could be set
    r"|All log messages before absl::InitializeLog"
    r"|oneDNN custom operations are on"
    r"|Could not find cuda drivers|cudart_stub|failed call to cuInit|cuda_diagnostics"
    r"|This TensorFlow binary is optimized|To enable the following instructions"
    r"|computation_placer|Unable to register cu"
    r"|Created TensorFlow Lite XNNPACK delegate"
    r"|^fully_quantize: "  # LiteRT's converter, of its own settings
)

_BACKENDS = "set KERAS_BACKEND=tensorflow, or KERAS_BACKEND=jax after pip install 'resnet-cli[jax]'"


@contextmanager
def tensorflow_import() -> Iterator[None]:
    """Everything that imports Keras first belongs inside; on leaving, Keras knows its devices."""
    # From here on only errors of TensorFlow are shown.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if "keras" in sys.modules:
        yield
        return
    _make_xla_repeatable()
    # What is imported comes to stay: looking through it again and again for garbage would take a sixth of the time.
    gc.disable()
    try:
        with without_chatter():
            keras = _import_keras()
            yield
            keras.distribution.list_devices()
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _without_jax() -> Iterator[None]:
    """On another backend JAX is not imported: TensorFlow does it for a converter, which takes 0.3 of its 3.4 seconds."""
    if "jax" in sys.modules or keras_backend() == "jax":
        yield
        return
    # What Python itself puts there for a package that is not to be found.
    sys.modules["jax"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["jax"]


def _make_xla_repeatable() -> None:
    """Ask XLA, before JAX starts it, for operations on GPUs that give the same results every time, unless the user decided."""
    flags = os.environ.get("XLA_FLAGS", "")
    seen = surroundings()
    if seen.backend == "jax" and gpu_is_likely(seen) and "xla_gpu_deterministic_ops" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()


def _import_keras() -> Any:
    """Import Keras as this program needs it, whatever the user's other projects made of ~/.keras/keras.json.

    Raises:
        ResnetError: its backend is none that trains here, or is not installed.
    """
    try:
        with _without_jax():
            import keras
    except (ImportError, ValueError) as error:  # not installed, or no backend at all
        backend = os.environ.get("KERAS_BACKEND", "the one of ~/.keras/keras.json")
        raise ResnetError(f"Keras cannot start its backend {backend}: {error}", _BACKENDS) from error
    if keras.backend.backend() not in ("tensorflow", "jax"):
        raise ResnetError(f"this program does not train with Keras' backend {keras.backend.backend()}", _BACKENDS)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    return keras


@contextmanager
def without_chatter() -> Iterator[None]:
    """Hold back what libraries write to stderr, by whatever way, until the end; then show what is no known chatter."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines():
                if not _CHATTER.search(line):
                    sys.stderr.write(line + "\n")


def cache_folder() -> Path:
    """The user's cache folder of this program ($XDG_CACHE_HOME, or ~/.cache)."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnet-cli"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResnetError(f"cannot write to the cache {folder}: {error.strerror}", "set XDG_CACHE_HOME") from error
    return folder


def kept_in_cache(name: str) -> Path | None:
    """Where something is kept for later commands; nowhere on a machine whose cache cannot be written."""
    try:
        return cache_folder() / name
    except ResnetError:
        return None


def dataset_folder(asked: Path, progress: Progress) -> Path:
    """The folder of a data set: as it was given, or in the cache where it is a known name and no folder here.

    What is not in the cache yet is fetched and laid out there; only that opens a connection and imports Keras.

    Raises:
        ResnetError: it cannot be fetched, or there is no room for it.
        Interrupted: a signal asked to stop.
    """
    from resnet_cli.data.named import NAMED, lay_out, load_splits, require_source

    data = NAMED.get(str(asked))
    if data is None or asked.is_dir():
        return asked
    folder = cache_folder() / "datasets" / data.name
    if not folder.is_dir():
        require_source(data)
        with tensorflow_import():
            import keras  # noqa: F401
        lay_out(data, load_splits(data, progress), folder, progress)
    return folder
