"""Identify files by content, whatever their names (light: the standard library only).

In: paths. Out: files with equal bytes, compared by size, then by a sketch, then in full, so that most files are never read in
full; and the images that earlier runs were trained on.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from resnet_cli.data.folders import file_size
from resnet_cli.data.threads import Result, map_in_order
from resnet_cli.errors import ResnetError
from resnet_cli.files import digest
from resnet_cli.progress import how_many
from resnet_cli.runs.folder import EARLIER, Content, Run, SplitRow, read_record, read_splits

_PIECE = 4096  # bytes that a sketch reads at the beginning, middle and end of a file: its cost does not grow with the file
_AT_ONCE = 64  # files per task of a thread


def sketches(paths: Iterable[Path]) -> list[bytes | None]:
    """32 bytes per file, in order, that depend on its size and three pieces of its content; None if it is empty or unreadable.

    Equal files have equal sketches; different compressed images have different ones.
    """
    return list(_by_threads(_sketch, paths))


def group_same(paths: Iterable[Path], known: Mapping[Path, bytes | None] | None = None) -> list[list[Path]]:
    """Group paths whose files contain the same bytes; groups, and the paths in them, are in the order given.

    A file that is empty or unreadable is a group of its own.

    Args:
        paths: of files.
        known: their sketches, if they are known; otherwise only files of equal size are read.
    """
    order = {path: number for number, path in enumerate(paths)}
    groups = [list(order)]
    if known is None:
        groups = _parted(groups, lambda those: map(file_size, those))
    groups = _parted(groups, lambda those: sketches(those) if known is None else [known[path] for path in those])
    groups = _parted(groups, lambda those: _by_threads(_whole, those))
    return sorted(groups, key=lambda group: order[group[0]])


def contents(paths: Iterable[Path]) -> list[Content | None]:
    """Size and digest of every file, in order; None for one that cannot be read."""
    return list(map_in_order(_content, paths))


def among(paths: Sequence[Path], known: Collection[Content]) -> set[Path]:
    """The files whose content is in `known`; only files of a known size are read."""
    sizes = {size for size, _ in known}
    candidates = [path for path in paths if file_size(path) in sizes]
    return {path for path, content in zip(candidates, contents(candidates), strict=True) if content in known}


def _content(path: Path) -> Content | None:
    try:
        return path.stat().st_size, digest(path)
    except OSError:
        return None


def _parted(groups: list[list[Path]], keys_of: Callable[[list[Path]], Iterable[Hashable]]) -> list[list[Path]]:
    """Split groups of several paths by their keys; a path without a key is a group of its own."""
    alone = [group for group in groups if len(group) == 1]
    together = [group for group in groups if len(group) > 1]
    keys = iter(keys_of([path for group in together for path in group]))
    for group in together:
        parts: dict[Hashable, list[Path]] = defaultdict(list)
        for path, key in zip(group, keys, strict=False):
            parts[path if key is None else key].append(path)
        alone += parts.values()
    return alone


def _by_threads(work: Callable[[Path], Result], paths: Iterable[Path]) -> Iterator[Result]:
    waiting = list(paths)
    parts = (waiting[first : first + _AT_ONCE] for first in range(0, len(waiting), _AT_ONCE))
    for part in map_in_order(lambda those: list(map(work, those)), parts):
        yield from part


def _sketch(path: Path) -> bytes | None:
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            found = hashlib.sha256(f"{size}/".encode())
            if size <= 3 * _PIECE:
                found.update(file.read(3 * _PIECE))
            else:
                for place in (0, (size - _PIECE) // 2, size - _PIECE):
                    file.seek(place)
                    found.update(file.read(_PIECE))
    except OSError:
        return None
    return found.digest() if size else None


def _whole(path: Path) -> Hashable:
    try:
        return digest(path) if path.stat().st_size > 3 * _PIECE else ""  # the sketch covered the whole file
    except OSError:
        return None


def trained_contents(rows: Iterable[SplitRow]) -> set[Content]:
    """Contents of the images that a run was trained on, without those of the runs whose weights it started from."""
    return {row.content for row in rows if row.split == "train" and row.content}


def trained_before(run: Run) -> dict[Path, set[Content]]:
    """Training images of the earlier runs whose weights a run started from, by run folder; runs that are gone are left out."""
    found: dict[Path, set[Content]] = {}
    with suppress(OSError, ResnetError):  # deleted or damaged since then
        if run.is_export and (kept := {row.content for row in read_splits(run) if row.split == EARLIER and row.content}):
            return {Path("an earlier run"): kept}
        while (weights := run.record.get("weights", {})).get("source") == "file":
            path = Path(weights["path"])
            run = Run(path.parent, read_record(path.parent / "run.json"))
            trained = trained_contents(read_splits(run))
            if digest(path) != weights["sha256"] or not trained:
                break
            found[run.folder] = trained
    return found


def is_validated_by_test(rows: Sequence[SplitRow]) -> bool:
    """Whether the test images of a run also selected its epoch, as with --val-split 0."""
    places = {split: {(row.path, row.content) for row in rows if row.split == split} for split in ("val", "test")}
    return bool(places["test"]) and places["test"] == places["val"]


def trained(runs: Sequence[Run]) -> set[Content]:
    """Contents of all images that the networks of some runs were trained on."""
    return {
        content
        for run in runs
        for those in (trained_contents(read_splits(run)), *trained_before(run).values())
        for content in those
    }


def kind_of(split: str) -> str:
    """The name of a split's images in messages: "test", "training", or "held-out" for those that selected the epoch."""
    return {"test": "test", "train": "training"}.get(split, "held-out")


def copies_of_training(held: Sequence[Content | None], rows: Sequence[SplitRow], split: str) -> list[str]:
    """A warning if images of a split are copies of training images; `rows` are those of the run's splits.csv."""
    learned = trained_contents(rows)
    if not (count := sum(content in learned for content in held)):
        return []
    return [
        f"{count} of {len(held)} {kind_of(split)} images are copies of training images, so the figure is too good:"
        " `resnet check` lists them"
    ]


def seen_by_earlier_runs(held: Sequence[Content | None], run: Run, split: str) -> list[str]:
    """Warnings about images of a split that were training images of the earlier runs whose weights a run started from."""
    notes = []
    for earlier, learned in trained_before(run).items():
        if count := sum(content in learned for content in held):
            are = "is a training image" if count == 1 else "are training images"
            notes.append(
                f"{count} of {how_many(len(held), f'{kind_of(split)} image')} {are} of {earlier}, whose weights this run"
                " started from, so the figure is too good: a test folder of other images gives a true one"
            )
    return notes
