"""The store of the frozen layers' outputs: rows of fp16 numbers by key, in files that are either complete or absent.

    <run>/checkpoint/frozen/features/*.rows     pooled features, which the head phase learns from
    <run>/checkpoint/frozen/boundary/*.rows     activations where fine-tuning begins, if there is room for them
    <run>/checkpoint/frozen/resume.json         choices of the run, and images that could not be read
    ~/.cache/resnet-cli/features/<hash>/*.rows  features for later runs; the hash is of network, geometry and engine

A key identifies one view of one image (`Views.keys` in features.py). Only rows whose keys are missing are computed: by a first
run all of them, by a resumed run the rest, by a later run those of new images. Nothing depends on a row's position in a file.

In: keys and arrays. Out: `Stored`, the rows of some keys in their order. Without TensorFlow.
"""

import errno
import hashlib
import itertools
import json
import math
import os
import shutil
import struct
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from resnet_cli.engines.base import in_half
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.files import UNFINISHED, unfinished, write_text

FROZEN_FOLDER = Path("checkpoint", "frozen")  # in a run
KEY = 16  # bytes
_BLOCK = 1024  # rows that are in memory at a time
_WHOLE_EVERY = 60  # seconds between complete files: a killed process loses no more than that

Block = tuple[Sequence[bytes], Sequence[NDArray[Any]]]  # some keys, and an array (keys, ...) for each store


@dataclass(frozen=True)
class Stored:
    """A sequence of rows that lie in files. Files are read: a memory map would count every page touched as memory in use.

    Attributes:
        shape: of one row.
        numbers: number of each row (count,), counted through all files.
        files: the files.
        firsts: number of the first row of each file.
    """

    shape: tuple[int, ...]
    numbers: NDArray[np.int64]
    files: tuple[Path, ...]
    firsts: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.numbers)

    def read(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """The rows of these indices: float32 (len(rows), *shape).

        Raises:
            OSError: a file is missing or truncated.
        """
        size = 2 * math.prod(self.shape)
        content = bytearray(len(rows) * size)
        into = memoryview(content)
        with ExitStack() as stack:
            opened: dict[int, FileIO] = {}
            for place, number in enumerate(self.numbers[rows].tolist()):
                file = bisect_right(self.firsts, number) - 1
                if file not in opened:
                    opened[file] = stack.enter_context(self.files[file].open("rb", buffering=0))
                opened[file].seek(size * (number - self.firsts[file]))
                if opened[file].readinto(into[size * place : size * (place + 1)]) != size:
                    raise OSError(errno.EIO, "it was cut", str(self.files[file]))
        return np.frombuffer(content, np.float16).reshape(len(rows), *self.shape).astype(np.float32)

    def pieces(self) -> Iterator[NDArray[np.float32]]:
        """All rows, in order: float32 (up to 1024, *shape)."""
        for first in range(0, self.count, _BLOCK):
            yield self.read(range(first, min(first + _BLOCK, self.count)))

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


class Store:
    """Rows of one shape by key, in the files of a folder. A damaged file is deleted, and its rows count as missing.

    Args:
        folder: folder of the files; it is created with the first one.
        shape: of one row.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        self.folder, self.shape = folder, shape
        self._files: list[Path] = []
        self._firsts: list[int] = []
        self._numbers: dict[bytes, int] = {}
        self._count = 0
        for path in sorted(folder.glob("*.rows")):
            with suppress(OSError):  # deleted by another process, or unreadable: its rows are missing
                keys = _checked_keys(path, math.prod(shape))
                if keys is None:
                    path.unlink()
                else:
                    os.utime(path)  # mark as used: a cache deletes the least recently used files first
                    self._take_in(path, keys)

    def __contains__(self, key: bytes) -> bool:
        return key in self._numbers

    def rows(self, keys: Sequence[bytes]) -> Stored:
        """The rows of some keys, in that order; the store must contain them all."""
        numbers = np.fromiter((self._numbers[key] for key in keys), np.int64, len(keys))
        return Stored(self.shape, numbers, tuple(self._files), tuple(self._firsts))

    def blocks(self, keys: Iterable[bytes]) -> Iterator[Block]:
        """The rows of those keys that the store contains, for `write_rows`; blocks whose files are gone by now are skipped."""
        here = [key for key in dict.fromkeys(keys) if key in self]
        for first in range(0, len(here), _BLOCK):
            block = here[first : first + _BLOCK]
            try:
                rows = self.rows(block).read(range(len(block)))
            except OSError:
                continue
            yield block, (rows,)

    @contextmanager
    def new_file(self) -> Iterator["_NewFile"]:
        """A file for more rows: completed on exit and when a signal requests a stop, deleted after any other error."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stopped: Interrupted | None = None
        with unfinished(self.folder / "rows") as partial:
            with partial.open("wb") as opened:
                file = _NewFile(opened, math.prod(self.shape))
                try:
                    yield file
                except Interrupted as error:
                    stopped = error
                file.finish()
            path = self.folder / f"{hashlib.sha256(b''.join(file.keys)).hexdigest()[:16]}.rows"
            partial.replace(path)
            self._take_in(path, file.keys)
        if stopped is not None:
            raise stopped

    def _take_in(self, path: Path, keys: Sequence[bytes]) -> None:
        self._files.append(path)
        self._firsts.append(self._count)
        self._numbers.update(zip(keys, itertools.count(self._count)))
        self._count += len(keys)


def stores_of(run: Path, shapes: Sequence[tuple[int, ...]]) -> list[Store]:
    """The stores of a run, after deleting unfinished files of a killed process; the caller holds the run's lock.

    Args:
        run: the run folder.
        shapes: of a row of pooled features and, where activations at the freeze boundary are stored, of a row of those.
    """
    folder = run / FROZEN_FOLDER
    for left in folder.rglob(f"{UNFINISHED}*"):
        left.unlink()
    return [Store(folder / name, shape) for name, shape in zip(("features", "boundary"), shapes, strict=False)]


def write_rows(stores: Sequence[Store], blocks: Iterable[Block]) -> None:
    """Add rows to stores, the same keys to each. Rows are safe on disk every minute, and when a signal requests a stop.

    Raises:
        OSError: the disk is full.
    """
    blocks = iter(blocks)
    for first in blocks:
        with ExitStack() as stack:
            files = [stack.enter_context(store.new_file()) for store in stores]
            until = time.perf_counter() + _WHOLE_EVERY
            for keys, arrays in itertools.chain([first], blocks):
                for file, rows in zip(files, arrays, strict=True):
                    file.write(keys, rows)
                if time.perf_counter() >= until:
                    break


_FOOTER = struct.Struct("<16sQQI")  # magic, rows, numbers a row, CRC-32 of what comes before: rows, then keys
_MAGIC = b"resnet-rows-file"
_PIECE = 1 << 20


class _NewFile:
    """A file that rows are being written to."""

    def __init__(self, file: BinaryIO, width: int) -> None:
        self.keys: list[bytes] = []
        self._file, self._width, self._checksum = file, width, 0

    def write(self, keys: Sequence[bytes], rows: NDArray[Any]) -> None:
        """Append rows (keys, ...)."""
        self.keys += keys
        self._append(in_half(rows).tobytes())

    def finish(self) -> None:
        """Append the keys and the footer, and flush the file to disk."""
        self._append(b"".join(self.keys))
        self._file.write(_FOOTER.pack(_MAGIC, len(self.keys), self._width, self._checksum))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _append(self, content: bytes) -> None:
        self._file.write(content)
        self._checksum = zlib.crc32(content, self._checksum)


def _size(rows: int, width: int) -> int:
    """Size of a file, bytes."""
    return rows * (2 * width + KEY) + _FOOTER.size


def _checked_keys(path: Path, width: int) -> list[bytes] | None:
    """The keys of a file whose size and checksum are right, else None."""
    size = path.stat().st_size
    if size < _FOOTER.size:
        return None
    with path.open("rb") as file:
        file.seek(-_FOOTER.size, os.SEEK_END)
        magic, rows, numbers, expected = _FOOTER.unpack(file.read())
        if (magic, numbers, size) != (_MAGIC, width, _size(rows, width)):
            return None
        file.seek(0)
        checksum, left = 0, size - _FOOTER.size
        while left:
            piece = file.read(min(left, _PIECE))
            checksum = zlib.crc32(piece, checksum)
            left -= len(piece)
        file.seek(2 * width * rows)
        keys = file.read(KEY * rows)
    return [keys[place : place + KEY] for place in range(0, len(keys), KEY)] if checksum == expected else None


_LARGEST = 2_000_000_000  # bytes
_IN_USE = 24 * 60 * 60  # seconds for which a file may still be needed by a run that found it


class Cache(Store):
    """The user's cache of features, which later runs read.

    Args:
        folder: folder of one network, geometry and engine; the folders of others are its siblings.
        shape: of one row.
        limit: most bytes of all these folders together. The least recently used files are deleted first; files used within a
            day are kept, as another process may be about to read them, and if these leave no room nothing is added.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], limit: int) -> None:
        super().__init__(folder, shape)
        self._limit = limit

    def keep(self, keys: Iterable[bytes], source: Store) -> None:
        """Add the rows of another store that are missing here; without room for them, nothing is added or deleted."""
        new = [key for key in dict.fromkeys(keys) if key not in self]
        oldest = self._in_the_way(_size(len(new), math.prod(self.shape))) if new else None
        if oldest is None:
            return
        with suppress(OSError):
            write_rows([self], source.blocks(new))
            for path in oldest:
                path.unlink(missing_ok=True)

    def _in_the_way(self, size: int) -> list[Path] | None:
        """The least recently used files to delete for `size` more bytes; None if recently used files leave no room."""
        files = sorted(_files(self.folder.parent), key=lambda each: each[0].st_mtime_ns)
        over, going = size + sum(status.st_size for status, _ in files) - self._limit, list[Path]()
        for status, path in files:
            if over <= 0 or time.time() - status.st_mtime <= _IN_USE:
                break
            going.append(path)
            over -= status.st_size
        return going if over <= 0 else None


def room_for_features(folder: Path) -> int:
    """Most bytes of the files of all networks below a folder: half of what its disk has for them, 2 GB at most."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free + sum(status.st_size for status, _ in _files(folder))
    return min(free // 2, _LARGEST)


def _files(folder: Path) -> list[tuple[os.stat_result, Path]]:
    """The files of all networks, with size and times."""
    found = []
    for path in folder.glob("*/*.rows"):
        with suppress(OSError):
            found.append((path.stat(), path))
    return found


@dataclass(frozen=True)
class ResumeRecord:
    """What a resumed run needs besides its rows: one JSON file, written atomically, absent while it would be empty.

    Attributes:
        run: the run folder.
    """

    run: Path

    def once(self, name: str, choose: Callable[[], int]) -> int:
        """A choice made once for the whole run: made and written now, or read from the record of the interrupted run."""
        known = self._read()
        if name not in known:
            known[name] = choose()
            self._write(known)
        return int(known[name])

    def unreadable(self) -> dict[str, str]:
        """Reasons by path of unreadable images: they stay left out, even if they have become readable since."""
        return dict(self._read().get("unreadable", {}))

    def add_unreadable(self, reasons: dict[str, str]) -> None:
        """Add unreadable images to the record."""
        known = self._read()
        before = known.get("unreadable", {})
        if reasons.keys() - before.keys():
            self._write({**known, "unreadable": {**before, **reasons}})

    @property
    def _path(self) -> Path:
        return self.run / FROZEN_FOLDER / "resume.json"

    def _read(self) -> dict[str, Any]:
        try:
            known: dict[str, Any] = json.loads(self._path.read_text())
            return known
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ResnetError(f"{self._path} cannot be read, so the run cannot be resumed", "begin a new run") from error

    def _write(self, known: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, json.dumps(known))
