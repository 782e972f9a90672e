"""The frozen layers' part: every view of every image goes through them once, and what they give is stored.

In: an engine, images, and how they are augmented. Out: `Stored` rows of the images that can be read. What the store of the run
or the user's cache has is not computed again; see store.py.
"""

import hashlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.augment import Augmentation, augment, generator
from resnet_cli.data.decode import Geometry, Pixels, Resize
from resnet_cli.data.images import ImageSet
from resnet_cli.data.threads import items_ahead, map_in_order
from resnet_cli.engines.base import Engine, good_batch
from resnet_cli.errors import ResnetError
from resnet_cli.files import digest
from resnet_cli.networks.catalogue import ClassifierSpec
from resnet_cli.progress import GO_ON, Progress, stop_if_asked
from resnet_cli.training.config import VIEW_KEYS, FinetuneConfig
from resnet_cli.transfer.store import KEY, Block, Cache, ResumeRecord, Store, Stored, write_rows

LIGHT = Augmentation("resized", scale=0.5)
STRONG = Augmentation("resized", scale=0.25, rotate=15.0, sharpness=1.0)
AS_IT_IS = Augmentation("none", flip=False)


def augmentation_of(config: FinetuneConfig, resize: Resize) -> Augmentation:
    """What happens to training images: as `augment` says, but for what the configuration sets itself.

    A single view is the image as prediction sees it.

    Prediction with `crop` sees about half of a photo's area, with `pad` and `squash` all of it: there the random parts are
    larger too, by the square root of the share, 0.71 and 0.5. With those of `crop` training would show everything larger than
    prediction does (Touvron et al. 2019): a linear classifier of the features of squashed stripes of three widths was right for
    82 %, with these for 91 %.
    """
    if not config.augments:
        return AS_IT_IS
    how = STRONG if config.augment == "strong" else LIGHT
    how = replace(how, flip=config.flip, scale=how.scale if resize == "crop" else round(how.scale**0.5, 2))
    own = {name: getattr(config, name) for name in VIEW_KEYS}
    return replace(how, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class Material:
    """What both phases learn from.

    Attributes:
        spec: the classifier.
        geometry: how images reach the input size.
        augmentation: what happens to training images.
        training: images as `reader_for_training` gives them for that.
        held_out: squares that select what to keep.
        folder: the run.
        features: folder that keeps features for later runs; None for none.
        cache_limit: bytes that stored activations may take; None = half of the free disk.
        tensorboard: write event files as well.
    """

    spec: ClassifierSpec
    geometry: Geometry
    augmentation: Augmentation
    training: ImageSet
    held_out: ImageSet
    folder: Path
    features: Path | None = None
    cache_limit: int | None = None
    tensorboard: bool = False


_VIEW = 3  # purpose of the generators that draw views


@dataclass(frozen=True)
class Views:
    """Every view of every image of a split, image after image: row `index * per_image + view` of what the frozen layers give.

    Attributes:
        title: of the progress bar.
        images: what is seen, as `reader_for_training` gives it for the augmentation.
        geometry: input size.
        augmentation: what happens to each view.
        per_image: views of an image; one where the augmentation leaves it as prediction sees it.
        seed: of the views.
        identities: SHA-256 of each image's file, hexadecimal.
    """

    title: str
    images: ImageSet
    geometry: Geometry
    augmentation: Augmentation
    per_image: int
    seed: int
    identities: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images) * self.per_image

    def keys(self) -> list[bytes]:
        """The key of each row in a store: the image's content and how it is seen, whatever its name and place are."""
        # How large images are read decides how sharp a random part of them is.
        how = f"{self.augmentation} {self.images.read} {self.seed}"
        seen = ["square"] if self.augmentation == AS_IT_IS else [f"{how} {view}" for view in range(self.per_image)]
        return [hashlib.sha256(f"{each} {how}".encode()).digest()[:KEY] for each in self.identities for how in seen]

    def readable(self, rows: Iterable[int], unreadable: Mapping[int, str]) -> Iterator[int]:
        """Those of some rows whose images can be read; the others are given by their indices."""
        return (row for row in rows if row // self.per_image not in unreadable)

    def squares(self, rows: Sequence[int], unreadable: dict[int, str]) -> Iterator[Pixels]:
        """uint8 (size, size, 3) of some rows, given in order; all views of an image together, so that it is decoded once.

        An image that cannot be read has none; its index and the reason are put into `unreadable`.
        """
        together = itertools.groupby(rows, key=lambda row: row // self.per_image)
        groups = ((index, list(each)) for index, each in together)
        for index, squares in map_in_order(self._squares_of_one, groups, items_ahead(16)):
            if isinstance(squares, ResnetError):
                unreadable[index] = squares.message
            else:
                yield from squares

    def _squares_of_one(self, group: tuple[int, list[int]]) -> tuple[int, list[Pixels] | ResnetError]:
        index, rows = group
        try:
            return index, self._views_of(index, rows)
        except ResnetError as error:
            return index, error

    def _views_of(self, index: int, rows: Sequence[int]) -> list[Pixels]:
        image = self.images[index]
        # Drawn from the content, so that an image looks the same whatever else is in the folder.
        number = int(self.identities[index][:14], 16)
        draw = (generator(self.seed, row % self.per_image, number, _VIEW) for row in rows)
        return [augment(image, self.geometry, self.augmentation, random) for random in draw]


def views_of(
    title: str,
    images: ImageSet,
    geometry: Geometry,
    augmentation: Augmentation,
    per_image: int,
    seed: int,
    progress: Progress,
) -> Views:
    """Name every image by the content of its file; the arguments are the attributes of `Views`.

    Raises:
        Interrupted: a signal asked to stop.
    """
    identities: list[str] = []
    for identity in map_in_order(_identity, [sample.path for sample in images.samples]):
        stop_if_asked(progress, GO_ON)
        identities.append(identity)
    return Views(title, images, geometry, augmentation, per_image, seed, tuple(identities))


def _identity(path: Path) -> str:
    try:
        return digest(path)
    except OSError:  # whoever decodes it will say why
        return hashlib.sha256(os.fsencode(path)).hexdigest()


def batched(squares: Iterator[Pixels], size: int) -> Iterator[NDArray[np.uint8]]:
    """Squares of one size as uint8 (up to `size`, H, W, 3)."""
    while batch := list(itertools.islice(squares, size)):
        yield np.stack(batch)


def room_on_disk(folder: Path, limit: int | None) -> int:
    """Bytes that stored activations may take: the limit, or half of the free disk; never more than nine tenths of it."""
    free = shutil.disk_usage(folder).free
    return free // 2 if limit is None else min(limit, free * 9 // 10)


def views_that_fit(room: int, numbers: int, training: int, held_out: int) -> int:
    """Views of each training image for which there is room, `numbers` fp16 numbers a view, beside the held-out images."""
    return max(0, room - 2 * numbers * held_out) // (2 * numbers * training)


def frozen_rows(
    engine: Engine,
    views: Views,
    stores: Sequence[Store],
    cache: Cache | None,
    record: ResumeRecord,
    progress: Progress,
) -> tuple[tuple[Stored, ...], dict[int, str]]:
    """What the frozen layers give for all views of readable images; what is stored or in the cache is not computed again.

    An image whose features are in the cache was readable; it is not opened again.

    Args:
        engine: gives an output for each store.
        views: the images.
        stores: of the run: of pooled features and, if there are two, of activations at the freeze boundary.
        cache: of features. It gets those that it lacks, and gives what it has where features alone are needed; None for none.
        record: of the run; images that it knows to be unreadable are not opened again.
        progress: where to report.

    Returns:
        Each output's rows; indices of images that cannot be read, and why.

    Raises:
        ResnetError: the disk is full.
        Interrupted: a signal asked to stop.
    """
    keys, features = views.keys(), stores[0]
    paths, known = [str(sample.path) for sample in views.images.samples], record.unreadable()
    unreadable = {index: known[path] for index, path in enumerate(paths) if path in known}
    with _storing(features.folder.parent):
        if cache is not None and len(stores) == 1:
            write_rows(stores, cache.blocks(key for key in keys if key not in features))
        missing = [row for row, key in enumerate(keys) if not all(key in store for store in stores)]
        missing = list(views.readable(missing, unreadable))
        if missing:
            progress.saved(GO_ON)
            write_rows(stores, _computed(engine, views, missing, keys, unreadable, progress))
            progress.saved(GO_ON)
    record.add_unreadable({paths[index]: reason for index, reason in unreadable.items()})
    readable = [keys[row] for row in views.readable(range(len(views)), unreadable)]
    if cache is not None:
        cache.keep(readable, features)
    return tuple(store.rows(readable) for store in stores), unreadable


def _computed(
    engine: Engine,
    views: Views,
    missing: Sequence[int],
    keys: Sequence[bytes],
    unreadable: dict[int, str],
    progress: Progress,
) -> Iterator[Block]:
    """Run the missing rows, of all that have keys, through the engine; images that cannot be read are put into `unreadable`."""
    task = progress.start(f"features of {views.title} images", len(views))
    task.advance(len(views) - len(missing))
    # Read on only when outputs have come: whether the images before them can be read is known by then.
    rows = views.readable(missing, unreadable)
    for outputs in engine.run_many(batched(views.squares(missing, unreadable), good_batch(engine, views.geometry.size))):
        yield [keys[row] for row in itertools.islice(rows, len(outputs[0]))], outputs
        progress.unsaved()
        task.advance(len(outputs[0]))
        stop_if_asked(progress, GO_ON)  # raised inside `write_rows`, which first makes the file whole
    task.finish()


@contextmanager
def _storing(folder: Path) -> Iterator[None]:
    """Name the folder where the disk is full."""
    try:
        yield
    except OSError as error:
        raise ResnetError(f"cannot store activations in {folder}: {error.strerror}", "free some disk") from error
