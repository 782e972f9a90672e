"""Data sets by name: downloaded through `keras.datasets` and written as folders of PNG files (light to import).

In: a name. Out: root/{train,test}/<class>/NNNNN.png, where NNNNN is the image's position in its published split, from 1. The
only network connection is to the host of the archive.
"""

import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from resnet_cli.downloads import answers, watch
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.files import unfinished
from resnet_cli.progress import Progress, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Splits = dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]

# The class names in the archives' meta files, in the order of the labels.
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""

_TOLD = 500  # images between two updates of the progress bar and checks for signals


@dataclass(frozen=True)
class NamedDataset:
    """A data set of `keras.datasets`.

    Attributes:
        name: name of the Keras module.
        url: URL of its archive.
        size: size of the archive, bytes.
        target: name of its files in Keras' cache: <target>_archive, extracted into the folder <target>.
        classes: the published names, in the order of the labels.
    """

    name: str
    url: str
    size: int
    target: str
    classes: tuple[str, ...]

    @property
    def archive(self) -> Path:
        """Where Keras keeps its archive."""
        return _keras_datasets() / f"{self.target}_archive"

    @property
    def extracted(self) -> Path:
        """Where Keras extracts it to."""
        return _keras_datasets() / self.target


# Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
NAMED = {
    "cifar10": NamedDataset(
        "cifar10",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        170_498_071,
        "cifar-10-batches-py-target",
        tuple(_CIFAR10.split()),
    ),
    "cifar100": NamedDataset(
        "cifar100",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        169_001_437,
        "cifar-100-python-target",
        tuple(_CIFAR100.split()),
    ),
}


def no_name(path: Path, typed: str) -> Path:
    """The path of a data set, made absolute where it would read as a name: only the bare word `cifar10` is one."""
    return path.absolute() if str(path) in NAMED and str(path) != typed else path


def require_source(data: NamedDataset) -> None:
    """Check that the archive is in Keras' cache or that its host can be reached. Without a network this takes 3 seconds.

    Raises:
        ResnetError: neither; the hint says how to copy the archive into the cache.
    """
    if data.archive.is_file() or answers(data.url):
        return
    raise ResnetError(
        f"{data.name} is neither a folder here nor on this machine yet, and {urlsplit(data.url).hostname} cannot be reached",
        f"connect to the internet, or download {data.url} on a machine with a network and copy it to {data.archive}",
    )


def load_splits(data: NamedDataset, progress: Progress) -> "Splits":
    """Images (N, 32, 32, 3) of 0..255 and labels (N, 1) of "train" and "test"; Keras downloads the archive if need be.

    Keras checks the hash of the archive and stores it in its cache; a failed download leaves no partial files there.

    Raises:
        ResnetError: the archive cannot be downloaded, is not the published one, or does not fit on the disk.
        Interrupted: a signal requested a stop during the download.
    """
    import keras

    loaded: list[Any] = []
    was_there = {path for path in (data.archive, data.extracted) if path.exists()}

    def load() -> None:
        # Keras' progress bar goes to stdout, which is for results; the setting is local to this thread.
        keras.config.disable_interactive_logging()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns that the archives were pickled by Python 2
            loaded.extend(getattr(keras.datasets, data.name).load_data())

    if data.archive not in was_there:
        progress.line(f"{data.name} is no folder here: downloading {data.url}")
    try:
        failure = watch(load, lambda: _bytes(data.archive), progress, data.size)
        if failure:
            raise ResnetError(
                f"{data.name} cannot be fetched: {failure}",
                f"try again, or download {data.url} and copy it to {data.archive}",
            )
    finally:
        # Keras extracts the archive in every call: only the archive needs to stay on disk.
        if data.extracted not in was_there:
            shutil.rmtree(data.extracted, ignore_errors=True)
        if not loaded and data.archive not in was_there:
            data.archive.unlink(missing_ok=True)
    return dict(zip(("train", "test"), loaded, strict=True))


def lay_out(data: NamedDataset, splits: "Splits", folder: Path, progress: Progress) -> None:
    """Write images as PNG files into class folders; `folder` only exists once all of them are written.

    Raises:
        ResnetError: the disk is full, or the folder cannot be written.
        Interrupted: a signal requested a stop.
    """
    task = progress.start(f"laying out {data.name}", sum(len(labels) for _, labels in splits.values()))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(folder) as partial:
            for split, (images, labels) in splits.items():
                _write(partial / split, data.classes, images, labels.ravel(), progress, task)
            if not folder.is_dir():  # another process may have written it first
                partial.rename(folder)
    except OSError as error:
        raise ResnetError(
            f"cannot write {folder}: {error.strerror or error}", "300 MB are needed; set XDG_CACHE_HOME to a folder with room"
        ) from error
    finally:
        task.finish()
    progress.line(f"{data.name} is laid out in {folder}")


def _write(
    folder: Path,
    classes: tuple[str, ...],
    images: "NDArray[np.uint8]",
    labels: "NDArray[np.uint8]",
    progress: Progress,
    task: Task,
) -> None:
    from PIL import Image

    for name in classes:
        (folder / name).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True), 1):
        Image.fromarray(image).save(folder / classes[label] / f"{number:05d}.png")
        if number % _TOLD == 0 or number == len(labels):
            task.advance((number - 1) % _TOLD + 1)
            if progress.stop_signal():
                raise Interrupted(progress.stop_signal(), "the next run writes all images again")


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # not there yet, or already deleted
        return 0


def _keras_datasets() -> Path:
    """Keras' folder of data sets: $KERAS_HOME/datasets, usually ~/.keras/datasets; in /tmp/.keras if that is read-only."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    above = next(path for path in (home, *home.parents) if path.exists())
    return (home if os.access(above, os.W_OK) else Path(tempfile.gettempdir(), ".keras")) / "datasets"
