"""Files of the same content, whatever they are called (light: the standard library only).

In: paths. Out: those whose bytes are equal, told by size, then by beginning, then by the whole: most files are never read.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

_HEAD = 16_384  # bytes that are compared before whole files are


def group_same(
    paths: Iterable[Path], matters: Callable[[Sequence[Path]], bool] = lambda group: len(group) > 1
) -> list[list[Path]]:
    """Paths whose files hold the same bytes, together; groups, and paths in them, in the order given.

    A file that cannot be read is alone.

    Args:
        paths: each once.
        matters: whether a group of candidates is worth reading; one that is not stays as it is.
    """
    order = {path: number for number, path in enumerate(paths)}
    groups = [list(order)]
    for key in (_size, _head, _content):
        groups = [part for group in groups for part in (_parts(group, key) if matters(group) else [group])]
    return sorted(filter(None, groups), key=lambda group: order[group[0]])


def copies(some: Iterable[Path], others: Iterable[Path]) -> set[Path]:
    """Those of some files that hold what one of the others holds; a file that cannot be read is no copy."""
    asked, known = set(some), set(others)

    def is_shared(group: Sequence[Path]) -> bool:
        return not (asked.isdisjoint(group) or known.isdisjoint(group))

    shared = filter(is_shared, group_same([*asked, *(known - asked)], is_shared))
    return {path for group in shared for path in group if path in asked}


def _parts(group: list[Path], key: Callable[[Path], Hashable]) -> list[list[Path]]:
    parts: dict[Hashable, list[Path]] = defaultdict(list)
    for path in group:
        try:
            parts[key(path)].append(path)
        except OSError:
            parts[path].append(path)
    return list(parts.values())


def _size(path: Path) -> Hashable:
    return path.stat().st_size


def _head(path: Path) -> Hashable:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(_HEAD)).digest()


def _content(path: Path) -> Hashable:
    if path.stat().st_size <= _HEAD:
        return b""  # the head was all of it
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
