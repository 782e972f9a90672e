"""Features that outlive their run: rows of a frozen network, found again by the content of the picture and the view of it.

In: keys and rows. Out: files in the user's cache, each complete or absent, checked by its hash before it is trusted. The name
of the folder stands for network, geometry and engine; a run adds at most one file a split, of what it had to compute.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KEY = 16  # bytes
_MAGIC = b"resnet features\n"
_HEAD = struct.Struct("<16sQQ")  # magic, rows, numbers a row
_PIECE = 1 << 20


class FeatureCache:
    """Rows of fp16 numbers by key.

    Args:
        folder: where the files of this network, geometry and engine lie; None remembers and finds nothing.
        width: numbers a row.
        limit: bytes that the files of all networks beside it may take together; the oldest go first, but for those that this
            object found: their rows are still to be read.
    """

    def __init__(self, folder: Path | None, width: int, limit: int) -> None:
        self._folder, self._width, self._limit = folder, width, limit
        self._places: dict[bytes, tuple[Path, int]] = {}
        for path in sorted(folder.glob("*.rows")) if folder is not None else ():
            self._open(path)

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Indices of the keys that are not here."""
        return [index for index, key in enumerate(keys) if key not in self._places]

    def read(self, keys: Iterable[bytes]) -> NDArray[np.float16]:
        """The rows of keys that are here: float16 (keys, width)."""
        rows = []
        size = 2 * self._width
        for key in keys:
            path, offset = self._places[key]
            with path.open("rb") as file:
                file.seek(offset)
                rows.append(np.frombuffer(file.read(size), np.float16))
        return np.stack(rows) if rows else np.empty((0, self._width), np.float16)

    def add(self, keys: Sequence[bytes], rows: Path) -> None:
        """Keep the rows of a file, one a key; where the disk is full or read-only nothing is kept, and nothing is lost.

        Args:
            keys: one a row.
            rows: a file of float16 numbers (keys, width).
        """
        if self._folder is None or not keys or rows.stat().st_size > self._limit:
            return
        partial = self._folder / f".partial-{os.getpid()}"
        digest = hashlib.sha256()
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as file:
                    for piece in (_HEAD.pack(_MAGIC, len(keys), self._width), b"".join(keys), *_pieces(rows)):
                        file.write(piece)
                        digest.update(piece)
                    file.write(digest.digest())
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(self._folder / f"{digest.hexdigest()[:16]}.rows")
            finally:
                partial.unlink(missing_ok=True)
            self._prune()

    def _open(self, path: Path) -> None:
        """Take in a file; one that is damaged, or of another width, is deleted: its rows are computed again."""
        with suppress(OSError):
            keys = _checked_keys(path, self._width)
            if keys is None:
                path.unlink()
                return
            first = _HEAD.size + KEY * len(keys)
            self._places.update((key, (path, first + 2 * self._width * row)) for row, key in enumerate(keys))
            os.utime(path)  # used now: what was used longest ago is pruned first

    def _prune(self) -> None:
        assert self._folder is not None
        needed = {path for path, _ in self._places.values()}
        files = [(path.stat(), path) for path in self._folder.parent.glob("*/*.rows")]
        left = sum(status.st_size for status, _ in files) - self._limit
        for status, path in sorted(files, key=lambda each: each[0].st_mtime_ns):
            if left <= 0:
                return
            if path not in needed:
                path.unlink()
                left -= status.st_size


def _checked_keys(path: Path, width: int) -> list[bytes] | None:
    """The keys of a file whose size and hash are right, else None."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        magic, rows, numbers = _HEAD.unpack(head)
        if (magic, numbers, size) != (_MAGIC, width, _HEAD.size + rows * (KEY + 2 * width) + hashlib.sha256().digest_size):
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
