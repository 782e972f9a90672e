"""Files of the same content, whatever they are called (light: the standard library only).

In: paths. Out: those whose bytes are equal, told by size, then by beginning, then by the whole: most files are never read; or
what tells a file's bytes from all others, to be kept.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from pathlib import Path

from resnet_cli.data.folders import file_size
from resnet_cli.data.threads import map_in_order
from resnet_cli.files import digest
from resnet_cli.runs import Content

_HEAD = 16_384  # bytes that are compared before whole files are


def group_same(paths: Iterable[Path]) -> list[list[Path]]:
    """Paths whose files hold the same bytes, together; groups, and paths in them, in the order given.

    A file that cannot be read is alone.
    """
    order = {path: number for number, path in enumerate(paths)}
    groups = [list(order)]
    for key in (_size, _head, _whole):
        groups = [part for group in groups for part in (_parts(group, key) if len(group) > 1 else [group])]
    return sorted(filter(None, groups), key=lambda group: order[group[0]])


def contents(paths: Iterable[Path]) -> list[Content | None]:
    """Size and digest of every file, in order; None of one that cannot be read."""
    return list(map_in_order(_content, paths))


def among(paths: Sequence[Path], known: Collection[Content]) -> set[Path]:
    """Those of some files whose content is known; only files of a known size are read."""
    sizes = {size for size, _ in known}
    candidates = [path for path in paths if file_size(path) in sizes]
    return {path for path, content in zip(candidates, contents(candidates), strict=True) if content in known}


def _content(path: Path) -> Content | None:
    try:
        return path.stat().st_size, digest(path)
    except OSError:
        return None


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


def _whole(path: Path) -> Hashable:
    return digest(path) if path.stat().st_size > _HEAD else ""  # the head was all of it
