"""Features that outlive their run: rows of a frozen network, found again by the content of the picture and the view of it.

In: keys and rows. Out: files in the user's cache, each complete or absent, checked by its hash before it is trusted. The name
of the folder stands for network, geometry and engine; a run adds at most one file a split, of what it had to compute.
"""

import hashlib
import os
import shutil
import struct
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from resnet_cli.files import unfinished

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
