"""Files of the same content, whatever they are called (light: the standard library only).

In: paths. Out: those of some that are copies of others. Only files of one size are read.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from resnet_cli.data.folders import file_size


def copies(some: Iterable[Path], others: Iterable[Path]) -> set[Path]:
    """Those of some files that hold what one of the others holds; a file that cannot be read is no copy."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in others:
        if (size := file_size(path)) is not None:
            by_size[size].append(path)

    @cache
    def contents(size: int) -> set[bytes]:
        return {_digest(path) for path in by_size[size]} - {b""}

    sized = ((path, file_size(path)) for path in some)
    return {path for path, size in sized if size in by_size and _digest(path) in contents(size)}


def _digest(path: Path) -> bytes:
    """Of a file's content; nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return b""
