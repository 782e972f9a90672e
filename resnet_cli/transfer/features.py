"""The frozen part of a network: run once for every view of every image, its outputs kept in files.

In: an engine, images, and how they are augmented. Out: `Stored` rows, files complete or absent; features come from the user's
cache where they are, and what an interrupted run computed is not computed again.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.augment import Augmentation, augment, generator
from resnet_cli.data.decode import Geometry, Pixels, Resize
from resnet_cli.data.images import ImageSet
from resnet_cli.data.threads import items_ahead, map_in_order
from resnet_cli.engines.base import Engine, good_batch
from resnet_cli.errors import ResnetError
from resnet_cli.files import digest, write_text
from resnet_cli.networks.catalogue import ClassifierSpec
from resnet_cli.networks.weights import named_variables
from resnet_cli.progress import Progress, stop_if_asked
from resnet_cli.runs.folder import versions
from resnet_cli.training.config import FinetuneConfig
from resnet_cli.transfer.store import KEY, FeatureCache, RowFiles, Stored

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
    own = {name: getattr(config, name) for name in ("scale", "rotate", "shift", "color", "sharpness", "cutout")}
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


NOT_YET = "type the same command with --resume; nothing was trained yet"
_VIEW = 3  # purpose of the generators that draw views


@dataclass(frozen=True)
class Rows:
    """Every view of every image of a split, image after image.

    Attributes:
        title: of the progress bar, and of the files.
        images: what is seen, as `reader_for_training` gives it for the augmentation.
        geometry: input size.
        augmentation: what happens to each view.
        views: of an image; one where the augmentation leaves it as prediction sees it.
        seed: of the views.
        identities: SHA-256 of each image's file, hexadecimal.
    """

    title: str
    images: ImageSet
    geometry: Geometry
    augmentation: Augmentation
    views: int
    seed: int
    identities: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images) * self.views

    def keys(self) -> list[bytes]:
        """What tells the rows apart, whatever their order: the image's content and how it is seen."""
        # How large images are read decides how sharp a random part of them is.
        how = f"{self.augmentation} {self.images.read} {self.seed}"
        seen = ["square"] if self.augmentation == AS_IT_IS else [f"{how} {view}" for view in range(self.views)]
        return [hashlib.sha256(f"{each} {how}".encode()).digest()[:KEY] for each in self.identities for how in seen]

    def readable(self, rows: Iterable[int], damaged: Mapping[int, str]) -> list[int]:
        """Those of some rows whose images are not damaged, which are given by their indices."""
        return [row for row in rows if row // self.views not in damaged]

    def squares(self, rows: Sequence[int], damaged: dict[int, str]) -> Iterator[Pixels]:
        """uint8 (size, size, 3) of some rows, given in order; all views of an image together, so that it is decoded once.

        An image that cannot be read has none; its index and the reason are put into `damaged`.
        """
        together = itertools.groupby(rows, key=lambda row: row // self.views)
        groups = ((index, list(each)) for index, each in together)
        for index, squares in map_in_order(self._squares_of_one, groups, items_ahead(16)):
            if isinstance(squares, ResnetError):
                damaged[index] = squares.message
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
        draw = (generator(self.seed, row % self.views, number, _VIEW) for row in rows)
        return [augment(image, self.geometry, self.augmentation, random) for random in draw]


def rows_of(
    title: str,
    images: ImageSet,
    geometry: Geometry,
    augmentation: Augmentation,
    views: int,
    seed: int,
    progress: Progress,
) -> Rows:
    """Name every image by the content of its file; the arguments are the attributes of `Rows`.

    Raises:
        Interrupted: a signal asked to stop.
    """
    identities: list[str] = []
    for identity in map_in_order(_identity, [sample.path for sample in images.samples]):
        stop_if_asked(progress, NOT_YET)
        identities.append(identity)
    return Rows(title, images, geometry, augmentation, views, seed, tuple(identities))


def _identity(path: Path) -> str:
    try:
        return digest(path)
    except OSError:  # whoever decodes it will say why
        return hashlib.sha256(os.fsencode(path)).hexdigest()


def batched(squares: Iterator[Pixels], size: int) -> Iterator[NDArray[np.uint8]]:
    """Squares of one size as uint8 (up to `size`, H, W, 3)."""
    while batch := list(itertools.islice(squares, size)):
        yield np.stack(batch)


_MERGED = 1024  # rows that are in memory at a time


def room_on_disk(folder: Path, limit: int | None) -> int:
    """Bytes that stored activations may take: the limit, or half of the free disk; never more than nine tenths of it.

    What an interrupted run left in the folder counts as free.
    """
    free = shutil.disk_usage(folder).free + sum(path.stat().st_size for path in folder.iterdir())
    return free // 2 if limit is None else min(limit, free * 9 // 10)


def views_that_fit(room: int, numbers: int, training: int, held_out: int) -> int:
    """Views of each training image for which there is room, `numbers` fp16 numbers a view, beside the held-out images."""
    return max(0, room - 2 * numbers * held_out) // (2 * numbers * training)


def as_it_began(note: Path, views: int) -> int:
    """The number of views that was noted when the run began, whatever there is room for by now; noted now, if it begins."""
    if note.exists():
        return int(json.loads(note.read_text()))
    write_text(note, json.dumps(views))
    return views


def features_folder(material: Material, model: keras.Model, engine: Engine) -> Path | None:
    """Where features of this backbone, geometry, engine and versions are kept from run to run; see `Rows.keys` for the rest."""
    if material.features is None:
        return None
    network = material.spec.network
    what = hashlib.sha256(f"{material.geometry} {engine.name} {engine.precision} {versions()}".encode())
    what.update(str(network).encode())
    for name, variable in sorted(named_variables(model.get_layer(network.name)).items()):
        what.update(name.encode() + keras.ops.convert_to_numpy(variable).tobytes())
    return material.features / what.hexdigest()[:16]


def frozen_rows(
    engine: Engine, rows: Rows, folder: Path, shapes: Sequence[tuple[int, ...]], cache: FeatureCache, progress: Progress
) -> tuple[tuple[Stored, ...], dict[int, str]]:
    """What the frozen layers give for all readable rows, float16; what an interrupted run left whole in the folder is taken.

    Args:
        engine: gives pooled features and, if there are two shapes, activations at the freeze boundary.
        rows: the images.
        folder: for the files.
        shapes: of one row of each output.
        cache: gets the features. Features alone are taken from it, and only those computed that are not in it.
        progress: where to report.

    Returns:
        Each output's rows; indices of images that cannot be read, and why.

    Raises:
        ResnetError: the disk is full.
        Interrupted: a signal asked to stop.
    """
    files = tuple(folder / f"{rows.title}-{name}.f16" for name in ("features", "boundary")[: len(shapes)])
    note, keys = folder / f"{rows.title}-rows.json", rows.keys()
    what = hashlib.sha256(b"".join(keys)).hexdigest()

    def stored(damaged: dict[int, str]) -> tuple[Stored, ...]:
        count = len(rows) - len(damaged) * rows.views
        return tuple(Stored(file, count, shape) for file, shape in zip(files, shapes, strict=True))

    damaged = _noted(note, what)
    if damaged is None or not all(each.is_whole() for each in stored(damaged)):
        note.unlink(missing_ok=True)
        if len(files) > 1:
            damaged = _compute(engine, rows, range(len(rows)), keys, files, progress)
            readable = [keys[row] for row in rows.readable(range(len(rows)), damaged)]
            if len(cache.missing(readable)) == len(readable):
                cache.add(readable, files[0])
        else:
            damaged = _features(engine, rows, keys, files[0], shapes[0][0], cache, progress)
        _note(note, what, damaged, files)
    return stored(damaged), damaged


def _noted(note: Path, what: str) -> dict[int, str] | None:
    """The images that an earlier process could not read, if it left all other rows of just these keys; None if not."""
    try:
        noted = json.loads(note.read_text())
        return {int(index): reason for index, reason in noted["damaged"].items()} if noted["of"] == what else None
    except (OSError, ValueError, KeyError):
        return None


def _note(note: Path, what: str, damaged: dict[int, str], files: Sequence[Path]) -> None:
    """Note that files are whole, once they are on the disk."""
    with _storing(note.parent):
        for file in files:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    write_text(note, json.dumps({"of": what, "damaged": damaged}))


def _features(
    engine: Engine, rows: Rows, keys: Sequence[bytes], file: Path, width: int, cache: FeatureCache, progress: Progress
) -> dict[int, str]:
    """Write the pooled features of all readable rows (rows, width): from the cache, and computed where they are not in it.

    An image whose features are in the cache was readable; it is not opened again.

    Returns:
        Indices of images that cannot be read, and why.
    """
    known, computed = (file.with_name(f"{rows.title}-{what}.f16") for what in ("known", "missing"))
    old = _copy_known(cache, keys, known)
    missing = [row for row in range(len(keys)) if row not in old]
    damaged: dict[int, str] = {}
    if missing:
        damaged = _compute(engine, rows, missing, keys, (computed,), progress)
        missing = rows.readable(missing, damaged)
        cache.add([keys[row] for row in missing], computed)
    if old and (missing or damaged):
        readable = rows.readable(range(len(rows)), damaged)
        new = {row: index for index, row in enumerate(missing)}
        _merge(readable, (Stored(known, len(old), (width,)), old), (Stored(computed, len(new), (width,)), new), file)
    else:
        (known if old else computed).replace(file)
    for path in (known, computed):
        path.unlink(missing_ok=True)
    return damaged


def _merge(some: Sequence[int], old: tuple[Stored, dict[int, int]], new: tuple[Stored, dict[int, int]], file: Path) -> None:
    """Write some rows, each from the one of two files whose places know it, in the order given."""
    (old_rows, old_places), (new_rows, new_places) = old, new
    with _storing(file.parent), file.open("wb") as opened:
        for first in range(0, len(some), _MERGED):
            piece = some[first : first + _MERGED]
            is_new = np.array([row in new_places for row in piece])
            merged = np.empty((len(piece), *old_rows.shape), np.float16)
            if not is_new.all():
                merged[~is_new] = old_rows.read([old_places[row] for row in piece if row not in new_places])
            if is_new.any():
                merged[is_new] = new_rows.read([new_places[row] for row in piece if row in new_places])
            opened.write(merged.tobytes())


def _copy_known(cache: FeatureCache, keys: Sequence[bytes], file: Path) -> dict[int, int]:
    """Write what the cache has of some keys into a file, before another process can delete it.

    Returns:
        For the index of each key whose row is in the file, its place there.
    """
    found: list[int] = []
    with _storing(file.parent), file.open("wb") as opened:
        for first in range(0, len(keys), _MERGED):
            some, rows = cache.read(keys[first : first + _MERGED])
            found += [first + index for index in some]
            opened.write(rows.tobytes())
    return {index: place for place, index in enumerate(found)}


def _compute(
    engine: Engine, rows: Rows, some: Sequence[int], keys: Sequence[bytes], files: tuple[Path, ...], progress: Progress
) -> dict[int, str]:
    """Run some rows, of all that have keys, through the engine; each of its outputs becomes a file of float16.

    What an interrupted run computed of the same rows is not computed again.

    Returns:
        Indices of the images that cannot be read, which have no rows in the files, and why.

    Raises:
        ResnetError: the disk is full.
        Interrupted: a signal asked to stop.
    """
    progress.saved(NOT_YET)
    task = progress.start(f"features of {rows.title} images", len(some))
    with _storing(files[0].parent), RowFiles(files, [keys[row] for row in some]) as stored:
        task.advance(stored.count)
        left = rows.readable(some, stored.damaged)[stored.count :]
        for outputs in engine.run_many(batched(rows.squares(left, stored.damaged), good_batch(engine, rows.geometry.size))):
            stored.write(outputs)
            progress.unsaved()
            task.advance(len(outputs[0]))
            stop_if_asked(progress, NOT_YET)
    progress.saved(NOT_YET)
    task.finish()
    return stored.damaged


@contextmanager
def _storing(folder: Path) -> Iterator[None]:
    """Name the folder where the disk is full."""
    try:
        yield
    except OSError as error:
        raise ResnetError(f"cannot store activations in {folder}: {error.strerror}", "free some disk") from error
