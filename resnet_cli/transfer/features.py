"""Features: every view of every image goes through the frozen layers once, and their outputs are stored.

In: an engine, images, and how they are augmented. Out: `Stored` rows of the readable images. Rows that are in the run's store
or in the user's cache are not computed again; see store.py.
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

from resnet_cli.data import Resize
from resnet_cli.data.augment import Augmentation, augment, generator
from resnet_cli.data.decode import Geometry, Pixels
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
    """The augmentation of training images: the preset named by `augment`, with the keys that the configuration sets itself.

    A single view is the image as prediction sees it.

    Prediction with `crop` sees about half of a photo's area; with `pad` and `squash` it sees all of it. The random crops of
    these two are therefore larger: the smallest area is the square root of that of `crop`, 0.71 and 0.5. With the crops of
    `crop`, objects would be larger in training than in prediction (Touvron et al. 2019): a linear classifier on features of
    squashed stripes of three widths had an accuracy of 82 %, with the larger crops 91 %.
    """
    if not config.augments:
        return AS_IT_IS
    how = STRONG if config.augment == "strong" else LIGHT
    how = replace(how, flip=config.flip, scale=how.scale if resize == "crop" else round(how.scale**0.5, 2))
    own = {name: getattr(config, name) for name in VIEW_KEYS}
    return replace(how, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class Material:
    """The images and settings that both phases share.

    Attributes:
        spec: the classifier.
        geometry: how images are brought to the input size.
        augmentation: of the training images.
        training: training images, as `reader_for_training` reads them for this augmentation.
        held_out: held-out images as squares; they select the weights to keep.
        folder: the run folder.
        features: folder of the cache of features for later runs; None for no cache.
        cache_limit: most bytes of stored activations; None = half of the free disk.
        tensorboard: write event files as well.
        folds: the fold of each image by path, for a cross-validation; None for none.
        squares: training images of which features as `predict` sees them are stored too, evenly drawn.
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
    folds: Mapping[Path, int] | None = None
    squares: int = 0


_VIEW = 3  # purpose of the generators that draw views


@dataclass(frozen=True)
class Views:
    """Every view of every image of a split, in order: view `view` of image `index` is row `index * per_image + view`.

    Attributes:
        title: name of the split in the progress bar.
        images: the images, as `reader_for_training` reads them for the augmentation.
        geometry: input size.
        augmentation: how each view is augmented.
        per_image: views of an image; 1 where the augmentation changes nothing.
        seed: random seed of the views.
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
        """The key of each row in a store: a hash of the image's content and of its view, independent of its path."""
        # The size at which images are decoded decides how sharp a random crop is.
        how = f"{self.augmentation} {self.images.read} {self.seed}"
        seen = ["square"] if self.augmentation == AS_IT_IS else [f"{how} {view}" for view in range(self.per_image)]
        return [hashlib.sha256(f"{each} {how}".encode()).digest()[:KEY] for each in self.identities for how in seen]

    def readable(self, rows: Iterable[int], unreadable: Mapping[int, str]) -> Iterator[int]:
        """The rows whose images are not among the unreadable ones, which are given by image index."""
        return (row for row in rows if row // self.per_image not in unreadable)

    def squares(self, rows: Sequence[int], unreadable: dict[int, str]) -> Iterator[Pixels]:
        """Squares of some rows, uint8 (size, size, 3), in order; an image is decoded once for all of its views.

        An unreadable image gives no square; its index and the reason are added to `unreadable`.
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
        # Seeded by the content: the views of an image do not depend on the rest of the folder.
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
    """Make `Views`: hash the file of every image; the arguments are the attributes of `Views`.

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
    except OSError:  # decoding will report the reason
        return hashlib.sha256(os.fsencode(path)).hexdigest()


def batched(squares: Iterator[Pixels], size: int) -> Iterator[NDArray[np.uint8]]:
    """Squares of one size as uint8 (up to `size`, H, W, 3)."""
    while batch := list(itertools.islice(squares, size)):
        yield np.stack(batch)


def room_on_disk(folder: Path, limit: int | None) -> int:
    """Most bytes of stored activations: the limit, or half of the free disk; never more than 90 % of the free disk."""
    free = shutil.disk_usage(folder).free
    return free // 2 if limit is None else min(limit, free * 9 // 10)


def views_that_fit(room: int, numbers: int, training: int, held_out: int) -> int:
    """Views of each training image that fit into `room` bytes with the held-out images, at `numbers` fp16 numbers a view."""
    return max(0, room - 2 * numbers * held_out) // (2 * numbers * training)


def frozen_rows(
    engine: Engine,
    views: Views,
    stores: Sequence[Store],
    cache: Cache | None,
    record: ResumeRecord,
    progress: Progress,
) -> tuple[tuple[Stored, ...], dict[int, str]]:
    """The outputs of the frozen layers for all views of readable images; stored and cached rows are not computed again.

    An image whose features are in the cache was readable; it is not opened again.

    Args:
        engine: the frozen layers, with one output for each store; further outputs are not stored.
        views: the images.
        stores: the run's stores: of pooled features and, if there are two, of activations at the freeze boundary.
        cache: the user's cache of features, or None. It is read where only features are needed; missing rows are added to it.
        record: the run's resume record; images listed there as unreadable are not opened again.
        progress: where to report.

    Returns:
        The rows of each output; the indices of unreadable images, with the reasons.

    Raises:
        ResnetError: the disk is full.
        Interrupted: a signal requested a stop.
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
            write_rows(stores, _computed(engine, views, missing, keys, len(stores), unreadable, progress))
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
    outputs_kept: int,
    unreadable: dict[int, str],
    progress: Progress,
) -> Iterator[Block]:
    """Run the rows that are not stored yet through the engine; unreadable images are added to `unreadable`."""
    task = progress.start(f"features of {views.title} images", len(views))
    task.advance(len(views) - len(missing))
    # Read further rows only once outputs have arrived: by then it is known which of the images before are readable.
    rows = views.readable(missing, unreadable)
    for outputs in engine.run_many(batched(views.squares(missing, unreadable), good_batch(engine, views.geometry.size))):
        yield [keys[row] for row in itertools.islice(rows, len(outputs[0]))], outputs[:outputs_kept]
        progress.unsaved()
        task.advance(len(outputs[0]))
        stop_if_asked(progress, GO_ON)  # raised inside `write_rows`, which first makes the file whole
    task.finish()


@contextmanager
def _storing(folder: Path) -> Iterator[None]:
    """Raise a `ResnetError` that names the folder where the disk is full."""
    try:
        yield
    except OSError as error:
        raise ResnetError(f"cannot store activations in {folder}: {error.strerror}", "free some disk") from error
