"""The frozen part of a network: run once for every view of every picture, its outputs kept in files.

In: an engine and pictures. Out: `Stored` rows, files complete or absent; features come from the user's cache where they are.
"""

import hashlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.augment import augment, generator
from resnet_cli.data.decode import Geometry, Pixels, decode_square
from resnet_cli.data.pictures import Pictures, map_in_order
from resnet_cli.engines.base import Engine, good_batch
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.learning.feature_cache import KEY, FeatureCache
from resnet_cli.learning.material import AUGMENTATION, Material
from resnet_cli.learning.stored import Stored
from resnet_cli.networks.imagenet_files import digest
from resnet_cli.networks.weights import named_variables
from resnet_cli.progress import Progress

_VIEW = 3  # purpose of the generators that draw views
_LARGEST = float(np.finfo(np.float16).max)  # untrained networks of many layers go beyond it
_MERGED = 1024  # rows that are in memory at a time


@dataclass(frozen=True)
class Rows:
    """Every view of every picture of a split, picture after picture.

    Attributes:
        title: of the progress bar, and of the files.
        pictures: what is seen.
        geometry: input size.
        views: augmented views of a picture; 1 = as prediction sees it.
        seed: of the views.
        identities: SHA-256 of each picture's file, hexadecimal.
    """

    title: str
    pictures: Pictures
    geometry: Geometry
    views: int
    seed: int
    identities: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pictures) * self.views

    def keys(self) -> list[bytes]:
        """What tells the rows apart, whatever their order: the picture's content and how it is seen."""
        seen = ["square"] if self.views == 1 else [f"{self.seed} {view}" for view in range(self.views)]
        return [hashlib.sha256(f"{each} {how}".encode()).digest()[:KEY] for each in self.identities for how in seen]

    def readable(self, rows: Iterable[int], damaged: Mapping[int, str]) -> list[int]:
        """Those of some rows whose pictures are not damaged, which are given by their indices."""
        return [row for row in rows if row // self.views not in damaged]

    def squares(self, rows: Sequence[int], damaged: dict[int, str]) -> Iterator[Pixels]:
        """uint8 (size, size, 3) of some rows, given in order; all views of a picture together, so that it is decoded once.

        A picture that cannot be read has none; its index and the reason are put into `damaged`.
        """
        together = itertools.groupby(rows, key=lambda row: row // self.views)
        groups = ((index, list(each)) for index, each in together)
        for index, squares in map_in_order(self._squares_of_one, groups, ahead=16):
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
        if self.views == 1:
            return [decode_square(self.pictures.samples[index].path, self.geometry)]
        picture = self.pictures[index]
        # Drawn from the content, so that a picture looks the same whatever else is in the folder.
        number = int(self.identities[index][:14], 16)
        draw = (generator(self.seed, row % self.views, number, _VIEW) for row in rows)
        return [augment(picture, self.geometry, AUGMENTATION, random) for random in draw]


def rows_of(title: str, pictures: Pictures, geometry: Geometry, views: int, seed: int) -> Rows:
    """Name every picture by the content of its file."""
    paths = [sample.path for sample in pictures.samples]
    return Rows(title, pictures, geometry, views, seed, tuple(map_in_order(_identity, paths)))


def _identity(path: Path) -> str:
    try:
        return digest(path, "sha256")
    except OSError:  # whoever decodes it will say why
        return hashlib.sha256(os.fsencode(path)).hexdigest()


def room_on_disk(folder: Path, limit: int | None) -> int:
    """Bytes that stored activations may take: the limit, or half of the free disk; never more than nine tenths of it.

    What an interrupted run left in the folder counts as free: resumed, it decides as it did at first.
    """
    free = shutil.disk_usage(folder).free + sum(path.stat().st_size for path in folder.iterdir())
    return free // 2 if limit is None else min(limit, free * 9 // 10)


def views_that_fit(room: int, numbers: int, training: int, held_out: int) -> int:
    """Views of each training picture for which there is room, `numbers` fp16 numbers a view, beside the held-out pictures."""
    return max(0, room - 2 * numbers * held_out) // (2 * numbers * training)


def features_folder(material: Material, model: keras.Model, engine: Engine) -> Path | None:
    """Where features of this backbone, geometry and engine are kept from run to run."""
    if material.features is None:
        return None
    network = material.spec.network
    what = hashlib.sha256(f"{material.geometry} {AUGMENTATION} {engine.name} {engine.precision}".encode())
    what.update(str(network).encode())
    for name, variable in sorted(named_variables(model.get_layer(network.name)).items()):
        what.update(name.encode() + keras.ops.convert_to_numpy(variable).tobytes())
    return material.features / what.hexdigest()[:16]


def features_of(
    engine: Engine, rows: Rows, folder: Path, width: int, cache: FeatureCache, progress: Progress
) -> tuple[Stored, dict[int, str]]:
    """Pooled features of all readable rows, float16 (rows, width): from the cache, and computed where they are not in it.

    A picture whose features are in the cache was readable; it is not opened again.

    Returns:
        The features; indices of pictures that cannot be read, and why.
    """
    file = folder / f"{rows.title}-features.f16"
    keys = rows.keys()
    missing = cache.missing(keys)
    computed = file.with_name(f"{rows.title}-missing.f16") if len(missing) < len(keys) else file
    damaged: dict[int, str] = {}
    if missing:
        damaged = _compute(engine, rows, missing, (computed,), progress)
        missing = rows.readable(missing, damaged)
        cache.add([keys[row] for row in missing], computed)
    readable = rows.readable(range(len(rows)), damaged)
    if computed == file:
        return Stored(file, len(readable), (width,)), damaged
    new = Stored(computed, len(missing), (width,))
    place = {row: index for index, row in enumerate(missing)}
    with _storing(folder), file.open("wb") as opened:
        for first in range(0, len(readable), _MERGED):
            some = readable[first : first + _MERGED]
            is_new = np.array([row in place for row in some])
            merged = np.empty((len(some), width), np.float16)
            merged[~is_new] = cache.read(keys[row] for row in some if row not in place)
            if is_new.any():
                merged[is_new] = new.read([place[row] for row in some if row in place])
            opened.write(merged.tobytes())
    computed.unlink(missing_ok=True)
    return Stored(file, len(readable), (width,)), damaged


def features_and_boundary(
    engine: Engine, rows: Rows, folder: Path, shapes: Sequence[tuple[int, ...]], cache: FeatureCache, progress: Progress
) -> tuple[tuple[Stored, Stored], dict[int, str]]:
    """Pooled features and activations at the freeze boundary of all readable rows; what an interrupted run left whole is taken.

    Args:
        engine: gives both.
        rows: the pictures.
        folder: for the files.
        shapes: of one row of each.
        cache: gets the features, which are computed anyhow.
        progress: where to report.

    Returns:
        Both; indices of pictures that cannot be read, and why.
    """
    files = tuple(folder / f"{rows.title}-{name}.f16" for name in ("features", "boundary"))
    damaged: dict[int, str] = {}
    if not all(Stored(file, len(rows), shape).is_whole() for file, shape in zip(files, shapes, strict=True)):
        damaged = _compute(engine, rows, range(len(rows)), files, progress)
        every = rows.keys()
        keys = [every[row] for row in rows.readable(range(len(rows)), damaged)]
        if len(cache.missing(keys)) == len(keys):
            cache.add(keys, files[0])
    count = len(rows) - len(damaged) * rows.views
    features, boundary = (Stored(file, count, shape) for file, shape in zip(files, shapes, strict=True))
    return (features, boundary), damaged


def _compute(engine: Engine, rows: Rows, some: Sequence[int], files: tuple[Path, ...], progress: Progress) -> dict[int, str]:
    """Run some rows through the engine; each of its outputs becomes a file of float16, under its name when it is whole.

    Returns:
        Indices of the pictures that cannot be read, which have no rows in the files, and why.

    Raises:
        ResnetError: the disk is full.
        Interrupted: a signal asked to stop.
    """
    task = progress.start(f"features of {rows.title} pictures", len(some))
    partial = [file.with_suffix(".partial") for file in files]
    damaged: dict[int, str] = {}
    with _storing(files[0].parent, partial):
        with ExitStack() as stack:
            opened = [stack.enter_context(path.open("wb")) for path in partial]
            batches = _batched(rows.squares(some, damaged), good_batch(engine, rows.geometry.size))
            for outputs in engine.run_many(batches):
                if progress.stop_signal():
                    raise Interrupted(progress.stop_signal(), "type the same command with --resume; nothing was trained yet")
                for file, output in zip(opened, outputs, strict=True):
                    file.write(np.clip(output, -_LARGEST, _LARGEST).astype(np.float16).tobytes())
                task.advance(len(outputs[0]))
        for path, final in zip(partial, files, strict=True):
            path.replace(final)
    task.finish()
    return damaged


@contextmanager
def _storing(folder: Path, partial: Sequence[Path] = ()) -> Iterator[None]:
    """Name the folder where the disk is full; of partial files nothing is left, whatever happens."""
    try:
        yield
    except OSError as error:
        raise ResnetError(f"cannot store activations in {folder}: {error.strerror}", "free some disk") from error
    finally:
        for path in partial:
            path.unlink(missing_ok=True)


def _batched(squares: Iterator[Pixels], size: int) -> Iterator[NDArray[np.uint8]]:
    while batch := list(itertools.islice(squares, size)):
        yield np.stack(batch)
