"""The published ImageNet weights as files: their names, where Keras keeps them, and how they are fetched (light).

In: a network's name. Out: the path of a file whose hash is right, in Keras' own cache, or an error that says how to bring it
there by hand. The one connection that is ever opened is to the host of the file.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from resnet_cli.downloads import answers, watch
from resnet_cli.errors import ResnetError
from resnet_cli.files import digest
from resnet_cli.progress import Progress

_BASE = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
_CLASS_INDEX = "https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json"
# MD5 of the whole network and of the one without its top: WEIGHTS_HASHES in keras/src/applications/resnet.py.
_MD5 = {
    "resnet50": ("2cb95161c43110f7111970584f804107", "4d473c1dd8becc155b73f8504c6f6626"),
    "resnet101": ("f1aeb4b969a6efcfb50fad2f0c20cfc5", "88cf7a10940856eca736dc7b7e228a21"),
    "resnet152": ("100835be76be38e30d865e96f2aaae62", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    "resnet50v2": ("3ef43a0b657b3be2300d5770ece849e0", "fac2f116257151a9d068a22e544a4917"),
    "resnet101v2": ("6343647c601c52e1368623803854d971", "c0ed64b8031c3730f411d2eb4eea35b5"),
    "resnet152v2": ("a49b44d1979771252814e80f8ec446f9", "ed17cf2e0169df9d443503ef94b23b33"),
}


@dataclass(frozen=True)
class PublishedFile:
    """A file of keras.applications: where it is published and the MD5 that it must have."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    @property
    def path(self) -> Path:
        """Where keras.applications looks for it too."""
        return keras_cache() / self.name


def weights_file(network: str, top: bool = False) -> PublishedFile:
    """The weights of one of the six networks, with or without the layer that tells the 1000 classes apart."""
    name = f"{network}_weights_tf_dim_ordering_tf_kernels{'' if top else '_notop'}.h5"
    return PublishedFile(_BASE + name, _MD5[network][0 if top else 1])


def class_index_file() -> PublishedFile:
    """The names of the 1000 classes: keras/src/applications/imagenet_utils.py."""
    return PublishedFile(_CLASS_INDEX, "c2c37ea517e94d9795004a39431a14cb")


def network_of_file(name: str) -> str:
    """The network that a published file name belongs to, or ""."""
    return next((network for network in _MD5 if name.startswith(f"{network}_weights_tf_dim_ordering_tf_kernels")), "")


def keras_cache() -> Path:
    """Keras' folder of downloaded weights: $KERAS_HOME/models, usually ~/.keras/models."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "models"


def is_cached(file: PublishedFile) -> bool:
    """Whether the file lies in Keras' cache.

    Raises:
        ResnetError: it does, but it is not the published one.
    """
    if not file.path.is_file():
        return False
    if digest(file.path, "md5") != file.md5:
        raise ResnetError(
            f"{file.path} is damaged: its MD5 is not the published {file.md5}",
            f"delete it to have it downloaded again, or replace it by {file.url}",
        )
    return True


def obtain(file: PublishedFile, network: str, progress: Progress) -> Path:
    """The path of a weights file in Keras' cache, downloaded if need be. Without a network the answer takes 3 seconds.

    Raises:
        ResnetError: it cannot be had; the message says which file is missing and where, the hint how to bring it there.
        Interrupted: a signal asked to stop during the download.
    """
    if is_cached(file):
        return file.path
    host = urlsplit(file.url).hostname
    reason = _download(file, progress) if answers(file.url) else f"{host} cannot be reached"
    if reason:
        raise ResnetError(
            f"the ImageNet weights of {network} are missing: {file.name} is not in {file.path.parent}, and {reason}",
            f"download {file.url} on a machine with a network and copy it to {file.path}",
        )
    return file.path


def _download(file: PublishedFile, progress: Progress) -> str:
    """Fetch a file through Keras, beside the cache first so that no partial file stays in it; why it failed, or ""."""
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        holder = tempfile.TemporaryDirectory(prefix=".download-", dir=file.path.parent, ignore_cleanup_errors=True)
    except OSError as error:
        return f"that folder cannot be written: {error.strerror}"
    progress.line(f"downloading {file.url}")
    with holder as folder:
        failure = _fetch(file, Path(folder), progress)
        if not failure:
            (Path(folder) / file.name).replace(file.path)
    return failure


def _fetch(file: PublishedFile, folder: Path, progress: Progress) -> str:
    import keras

    def download() -> None:
        # Keras' own bar goes to stdout, which belongs to results; the setting is this thread's alone.
        keras.config.disable_interactive_logging()
        keras.utils.get_file(file.name, file.url, cache_subdir=str(folder), file_hash=file.md5)

    return watch(download, lambda: sum(part.stat().st_size for part in folder.iterdir()), progress)
