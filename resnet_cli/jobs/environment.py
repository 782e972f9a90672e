"""The environment of a command: TensorFlow without its log messages, GPUs, and the user's cache (light).

TensorFlow does not use oneDNN on CPUs with AVX2 only. Training steps are 1.6 to 2.1 times faster with it there too
(resnet18-compact and resnet20, two cores), so it is always turned on.

During its import, TensorFlow logs messages about oneDNN, CPU flags and missing GPU drivers to stderr, before its own settings
apply. These messages are captured; known ones are dropped, and the rest is shown.
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

MANY = 2000  # images from which a GPU saves more time than importing TensorFlow and starting CUDA take

_DEVICES = (("dev", "nvidia[0-9]*"), ("usr/lib/wsl/lib", "libcuda.so.1"))  # Linux, and Linux in Windows
# What pip installs with tensorflow[and-cuda] and with jax[cuda12] or jax[cuda13].
_PACKAGES = {
    "tensorflow": ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
    "jax": ("jax-cuda12-plugin", "jax-cuda13-plugin"),
}


@dataclass(frozen=True)
class Surroundings:
    """Signs of a GPU that can be checked without importing Keras.

    Attributes:
        has_device: whether there is an NVIDIA device.
        visible: `CUDA_VISIBLE_DEVICES`; None if it is not set.
        backend: Keras' backend.
        has_packages: whether the packages that this backend needs for a GPU are installed.
    """

    has_device: bool
    visible: str | None
    backend: str
    has_packages: bool


def surroundings(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Surroundings:
    """The surroundings of this process; `root` is the root of its file system."""
    has_device = any(any((root / folder).glob(pattern)) for folder, pattern in _DEVICES)
    backend = keras_backend(environment)
    has_packages = has_device and any(map(_is_installed, _PACKAGES.get(backend, ())))
    return Surroundings(has_device, environment.get("CUDA_VISIBLE_DEVICES"), backend, has_packages)


def gpu_is_likely(seen: Surroundings) -> bool:
    """Whether Keras will probably see a GPU."""
    hidden = seen.visible is not None and seen.visible.strip() in ("", "-1", "none", "NoDevFiles")
    return seen.has_device and seen.has_packages and not hidden


def keras_backend(environment: Mapping[str, str] = os.environ) -> str:
    """The backend that Keras will choose, by its own rules: environment variable, configuration file, TensorFlow."""
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
    """Whether to import Keras for so many images, because it may find a GPU.

    Args:
        wish: the requested engine; only "auto" may be replaced.
        images: number of images to classify; 0 if it is unknown.
        seen: signs of a GPU.
    """
    return wish == "auto" and images >= MANY and gpu_is_likely(seen)


def settled(wish: EngineName, progress: Progress) -> EngineName:
    """Check the requested engine before any work begins.

    Args:
        wish: auto = OpenVINO if it is installed; openvino, keras = that engine, or an error.
        progress: where to report why OpenVINO cannot be used.

    Raises:
        ResnetError: OpenVINO was chosen by name, and is missing or too old.
    """
    if wish == "keras":
        return wish
    from resnet_cli.engines.openvino import import_openvino

    try:
        import_openvino()
    except ResnetError as error:
        if wish == "openvino":
            raise
        progress.line(f"{error.message}, so Keras is used instead, which is slower; {error.hint}")
        return "keras"
    return wish


_CHATTER = re.compile(
    r"^[IW]\d{4} "  # TensorFlow's own messages and warnings, if it was imported before its log level could be set
    r"|All log messages before absl::InitializeLog"
    r"|oneDNN custom operations are on|oneDNN supports DT_\w+ only on"
    r"|Could not find cuda drivers|cudart_stub|failed call to cuInit|cuda_diagnostics"
    r"|This TensorFlow binary is optimized|To enable the following instructions"
    r"|computation_placer|Unable to register cu"
    r"|Created TensorFlow Lite XNNPACK delegate"
    r"|Set ray log level from environment variable"
    r"|^fully_quantize: "  # LiteRT's converter, of its own settings
)

_BACKENDS = "set KERAS_BACKEND=tensorflow, or KERAS_BACKEND=jax after pip install 'resnet-cli[jax]'"


@contextmanager
def tensorflow_import() -> Iterator[None]:
    """The context of the first import of Keras; on exit, Keras has initialised its devices."""
    # From now on, only errors of TensorFlow are shown.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if "keras" in sys.modules:
        yield
        return
    _make_xla_repeatable()
    # Imported modules stay in memory: searching them for garbage would take a sixth of the import time.
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
    """Hide JAX if it is not the backend: TensorFlow imports it for a converter, which takes 0.3 of its 3.4 seconds."""
    if "jax" in sys.modules or keras_backend() == "jax":
        yield
        return
    # Python's own marker for a package that must not be found.
    sys.modules["jax"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["jax"]


def _make_xla_repeatable() -> None:
    """Set XLA's flag for deterministic GPU operations before JAX starts it, unless the user has set it."""
    flags = os.environ.get("XLA_FLAGS", "")
    seen = surroundings()
    if seen.backend == "jax" and gpu_is_likely(seen) and "xla_gpu_deterministic_ops" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()


def _import_keras() -> Any:
    """Import Keras with the settings that this program needs, whatever ~/.keras/keras.json says.

    Raises:
        ResnetError: its backend is not supported here, or not installed.
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
    """Capture everything that libraries write to stderr; on exit, show it without the known log messages.

    With --verbose, or where the user asked TensorFlow for all of its log, nothing is captured.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        yield
        return
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
    """A folder in the user's cache; None if the cache cannot be written."""
    try:
        return cache_folder() / name
    except ResnetError:
        return None


def dataset_folder(asked: Path | None, progress: Progress, labels: Path | None = None) -> Path:
    """The folder of a data set: as given; or in the cache if it is an archive, or a known name and no folder is called so.

    With a table of labels and no folder, it is the table's own. The first line of a command is reported here: a folder of a
    million images is scanned for a minute.

    A data set that is not in the cache yet is downloaded; only that opens a connection and imports Keras.

    Raises:
        ResnetError: it cannot be downloaded or unpacked, or there is no room for it.
        Interrupted: a signal requested a stop.
    """
    from resnet_cli.data.archives import is_archive, unpacked
    from resnet_cli.data.named import NAMED, lay_out, load_splits, require_source

    scanned = labels or asked
    if scanned is not None and (scanned.exists() or str(asked) in NAMED):
        progress.line(f"scanning {scanned}")
    if asked is None:
        return labels.parent if labels is not None else Path()
    if is_archive(asked):
        return unpacked(asked, cache_folder(), progress)
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
