"""The store of what a frozen network gave: rows of fp16 numbers in files, and the batches made of them.

Activations lie in files of the run that grow side by side, row by row, until they are whole; a note says how far, so that a
later process goes on. Features outlive their run: they are found again in the user's cache by the content of the image and its
view. The name of the folder there stands for network, geometry and engine, and each file is checked by its hash before it is
trusted.
"""

import hashlib
import itertools
import json
import math
import os
import shutil
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.batches import Order
from resnet_cli.data.threads import batches_ahead, map_in_order
from resnet_cli.engines.base import in_half
from resnet_cli.errors import Interrupted
from resnet_cli.files import unfinished, write_text


@dataclass(frozen=True)
class Stored:
    """An array of fp16 rows in a file, read row by row: a memory map would count every page it ever touched as memory.

    Attributes:
        path: the file.
        count: rows.
        shape: of one row.
    """

    path: Path
    count: int
    shape: tuple[int, ...]

    def is_whole(self) -> bool:
        """Whether the file is there with all its rows."""
        return self.path.is_file() and self.path.stat().st_size == self.count * self._row

    def read(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """The rows of these indices: float32 (len(rows), *shape)."""
        content = bytearray()
        with self.path.open("rb", buffering=0) as file:
            for row in rows:
                file.seek(row * self._row)
                content += file.read(self._row)
        return np.frombuffer(content, np.float16).reshape(len(rows), *self.shape).astype(np.float32)

    @property
    def _row(self) -> int:
        return 2 * math.prod(self.shape)

    def pieces(self) -> Iterator[NDArray[np.float32]]:
        """All rows, in order: float32 (up to 1024, *shape)."""
        for first in range(0, self.count, 1024):
            yield self.read(range(first, min(first + 1024, self.count)))

    def moments(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and variance over the rows, in one pass: two float32 arrays (*shape)."""
        total = np.zeros(self.shape, np.float64)
        squares = np.zeros(self.shape, np.float64)
        for piece in self.pieces():
            rows = piece.astype(np.float64)
            total += rows.sum(0)
            squares += (rows * rows).sum(0)
        mean = total / self.count
        return mean.astype(np.float32), np.maximum(squares / self.count - mean * mean, 0).astype(np.float32)


@dataclass(frozen=True)
class StoredStream:
    """Training batches of stored rows; each epoch shows another view of an image, until they come round again.

    Attributes:
        stored: images * views rows, image after image.
        labels: class indices (images,).
        classes: number of classes.
        batch_size: images a step at most.
        seed: of the order.
    """

    stored: Stored
    labels: NDArray[np.int64]
    classes: int
    batch_size: int
    seed: int

    @property
    def order(self) -> Order:
        """Which images are in which batch."""
        return Order(len(self.labels), self.batch_size, self.seed)

    @property
    def steps_per_epoch(self) -> int:
        """See `Order`."""
        return self.order.steps_per_epoch

    @property
    def images_per_step(self) -> int:
        """See `Order`."""
        return self.order.images_per_step

    def batches(self, first_step: int = 0) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Batches from a step on, read ahead by threads, without end."""
        size = 4 * self.batch_size * math.prod(self.stored.shape)
        return map_in_order(self.batch, itertools.count(first_step), batches_ahead(size, ready=2))

    def batch(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The batch of one step: float32 activations (N, ...) and one-hot targets (N, classes)."""
        views = self.stored.count // len(self.labels)
        places = list(self.order.drawn(step))
        # Neighbours start at different views, so that every batch mixes them.
        rows = [index * views + (epoch + index) % views for epoch, index in places]
        targets = np.eye(self.classes, dtype=np.float32)[self.labels[[index for _, index in places]]]
        return self.stored.read(rows), targets


class StoredBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Held-out stored rows, in order, each exactly once."""

    def __init__(self, stored: Stored, labels: NDArray[np.int64], classes: int, batch_size: int = 128) -> None:
        super().__init__(workers=1)
        self._stored, self._labels, self._classes, self._batch_size = stored, labels, classes, batch_size

    def __len__(self) -> int:
        return -(-len(self._labels) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        first = index * self._batch_size
        rows = range(first, min(first + self._batch_size, len(self._labels)))
        return self._stored.read(rows), np.eye(self._classes, dtype=np.float32)[self._labels[rows.start : rows.stop]]


_NOTED = 60  # seconds between notes: a process that is killed leaves the last one


class RowFiles:
    """A context in which files are written; on leaving it without an error they are whole.

    Args:
        files: one an output.
        keys: what tells the rows apart, in order. Partial files of other rows are written anew.

    Attributes:
        count: rows that are in the files.
        damaged: images that have no rows, by index, and why; whoever finds one puts it there.
    """

    def __init__(self, files: Sequence[Path], keys: Sequence[bytes]) -> None:
        self._files, self._what = files, hashlib.sha256(b"".join(keys)).hexdigest()
        self._partial = [file.with_suffix(".partial") for file in files]
        self._note = files[0].with_suffix(".json")
        self._opened: list[BinaryIO] = []
        self._noted_at = time.perf_counter()
        self.count = 0
        self.damaged: dict[int, str] = {}

    def __enter__(self) -> "RowFiles":
        sizes = self._go_on()
        self._opened = [path.open("r+b" if self.count else "wb") for path in self._partial]
        for file, size in zip(self._opened, sizes, strict=True):
            file.truncate(size)
            file.seek(size)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        stopped = isinstance(error, Interrupted)
        if stopped:
            self._take_note()
        for opened in self._opened:
            opened.close()
        if error is None:  # whoever relies on the files sees to it that they are on the disk
            for path, file in zip(self._partial, self._files, strict=True):
                path.replace(file)
        if not stopped:
            for path in (*self._partial, self._note):
                path.unlink(missing_ok=True)

    def write(self, outputs: Sequence[NDArray[Any]]) -> None:
        """Append some rows: an array (rows, ...) a file."""
        for file, output in zip(self._opened, outputs, strict=True):
            file.write(in_half(output).tobytes())
        self.count += len(outputs[0])
        if time.perf_counter() - self._noted_at >= _NOTED:
            self._take_note()

    def _take_note(self) -> None:
        for file in self._opened:
            file.flush()
            os.fsync(file.fileno())
        note = {"of": self._what, "rows": self.count, "bytes": [file.tell() for file in self._opened], "damaged": self.damaged}
        write_text(self._note, json.dumps(note))
        self._noted_at = time.perf_counter()

    def _go_on(self) -> list[int]:
        """Where to go on in each file; at its beginning, where nothing is noted of these rows."""
        try:
            note = json.loads(self._note.read_text())
            if note["of"] != self._what or any(
                path.stat().st_size < size for path, size in zip(self._partial, note["bytes"], strict=True)
            ):
                return [0] * len(self._files)
            self.damaged = {int(index): reason for index, reason in note["damaged"].items()}
            self.count = note["rows"]
            return list(note["bytes"])
        except (OSError, ValueError, KeyError):
            return [0] * len(self._files)


KEY = 16  # bytes
_MAGIC = b"resnet features\n"
_HEAD = struct.Struct("<16sQQ")  # magic, rows, numbers a row
_PIECE = 1 << 20
_LARGEST = 2_000_000_000  # bytes
_IN_USE = 24 * 60 * 60  # seconds in which a run that found a file has read it


def room_for_features(folder: Path | None) -> int:
    """Bytes that the files of all networks below a folder may take: half of what its disk has for them, 2 GB at most."""
    if folder is None:
        return 0
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free + sum(status.st_size for status, _ in _files(folder))
    return min(free // 2, _LARGEST)


class FeatureCache:
    """Rows of fp16 numbers by key.

    Args:
        folder: where the files of this network, geometry and engine lie; None remembers and finds nothing.
        width: numbers a row.
        limit: bytes that the files of all networks beside it may take together. Those go first that were used longest ago;
            none goes that was used within a day, for another process may be about to read it, and where these leave no room
            nothing is added.
    """

    def __init__(self, folder: Path | None, width: int, limit: int) -> None:
        self._folder, self._width, self._limit = folder, width, limit
        self._places: dict[bytes, tuple[Path, int]] = {}
        for path in sorted(folder.glob("*.rows")) if folder is not None else ():
            self._open(path)

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Indices of the keys that are not here."""
        return [index for index, key in enumerate(keys) if key not in self._places]

    def read(self, keys: Sequence[bytes]) -> tuple[list[int], NDArray[np.float16]]:
        """Indices of the keys that are still here, and their rows: float16 (indices, width)."""
        found, rows = [], []
        size = 2 * self._width
        with ExitStack() as stack:
            opened: dict[Path, BinaryIO] = {}
            for index, key in enumerate(keys):
                if key not in self._places:
                    continue
                path, offset = self._places[key]
                with suppress(OSError):  # another process may have deleted the file
                    if path not in opened:
                        opened[path] = stack.enter_context(path.open("rb"))
                    opened[path].seek(offset)
                    rows.append(np.frombuffer(opened[path].read(size), np.float16))
                    found.append(index)
        return found, np.stack(rows) if rows else np.empty((0, self._width), np.float16)

    def add(self, keys: Sequence[bytes], rows: Path) -> None:
        """Keep the rows of a file, one a key; where there is no room for them nothing is kept, and nothing is lost.

        Args:
            keys: one a row.
            rows: a file of float16 numbers (keys, width).
        """
        if self._folder is None or not keys:
            return
        oldest = self._in_the_way(self._folder.parent, _size(len(keys), self._width))
        if oldest is None:
            return
        digest = hashlib.sha256()
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with unfinished(self._folder / "rows") as partial:
                with partial.open("wb") as file:
                    for piece in (_HEAD.pack(_MAGIC, len(keys), self._width), b"".join(keys), *_pieces(rows)):
                        file.write(piece)
                        digest.update(piece)
                    file.write(digest.digest())
                    file.flush()
                    os.fsync(file.fileno())
                for path in oldest:
                    path.unlink(missing_ok=True)
                partial.replace(self._folder / f"{digest.hexdigest()[:16]}.rows")

    def _open(self, path: Path) -> None:
        """Take in a file; one that is damaged, or of another width, is deleted: its rows are computed again."""
        with suppress(OSError):
            keys = _checked_keys(path, self._width)
            if keys is None:
                path.unlink()
                return
            first = _HEAD.size + KEY * len(keys)
            self._places.update((key, (path, first + 2 * self._width * row)) for row, key in enumerate(keys))
            os.utime(path)  # used now: what was used longest ago goes first

    def _in_the_way(self, folder: Path, size: int) -> list[Path] | None:
        """What has to go for so many more bytes, used longest ago first; None where what was used of late leaves no room."""
        files = sorted(_files(folder), key=lambda each: each[0].st_mtime_ns)
        over, going = size + sum(status.st_size for status, _ in files) - self._limit, list[Path]()
        for status, path in files:
            if over <= 0 or time.time() - status.st_mtime <= _IN_USE:
                break
            going.append(path)
            over -= status.st_size
        return going if over <= 0 else None


def _files(folder: Path) -> list[tuple[os.stat_result, Path]]:
    """The files of all networks, and what is known of them."""
    found = []
    for path in folder.glob("*/*.rows"):
        with suppress(OSError):
            found.append((path.stat(), path))
    return found


def _size(rows: int, width: int) -> int:
    """Bytes of a file."""
    return _HEAD.size + rows * (KEY + 2 * width) + hashlib.sha256().digest_size


def _checked_keys(path: Path, width: int) -> list[bytes] | None:
    """The keys of a file whose size and hash are right, else None."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        magic, rows, numbers = _HEAD.unpack(head)
        if (magic, numbers, size) != (_MAGIC, width, _size(rows, width)):
            return None
        keys = file.read(KEY * rows)
        digest = hashlib.sha256(head + keys)
        left = 2 * width * rows
        while left:
            piece = file.read(min(left, _PIECE))
            digest.update(piece)
            left -= len(piece)
        if file.read() != digest.digest():
            return None
    return [keys[place : place + KEY] for place in range(0, len(keys), KEY)]


def _pieces(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(_PIECE), b"")
