"""Choose the images that an evaluation scores: a run's held-out images, or those of a folder, matched by class name.

In: runs of an ensemble (often just one), a folder or none, a split or none. Out: a `Scored`. Training images of one of the
runs, or of a run whose weights it started from, are scored only if they are requested; images that have changed since they were
held out only if that is allowed (light).
"""

import hashlib
import os
import unicodedata
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from resnet_cli.data.bulk_folder import CHUNK, Chunk, Input, find_input
from resnet_cli.data.contents import (
    among,
    contents,
    copies_of_training,
    is_validated_by_test,
    kind_of,
    seen_by_earlier_runs,
    trained,
)
from resnet_cli.data.dataset import LeftOut, Sample, Survey, survey
from resnet_cli.data.folders import EXTENSIONS, list_folder, meant
from resnet_cli.data.labels import survey_labels
from resnet_cli.data.layout import AMBIGUOUS, some_names
from resnet_cli.data.storage import PARQUET, Place, Sources, find_place
from resnet_cli.errors import ResnetError
from resnet_cli.files import at_home
from resnet_cli.progress import how_many
from resnet_cli.runs.folder import Run, SplitRow, read_splits

SplitName = Literal["val", "test", "train"]

TEST_CHOSE = "the test images also selected the epoch (--val-split 0), so their figure is a little too good"
VAL_CHOSE_TOO = "the same images selected the best epoch: the figure of the test images is unbiased"
VAL_CHOSE = "the same images selected the best epoch: a test folder next to train gives an unbiased figure"
_GIVE_A_FOLDER = "give a folder: resnet evaluate FOLDER"
_NAMED = 5  # images named in a sentence


@dataclass(frozen=True)
class Scored:
    """Images to score.

    Attributes:
        name: name of the data set.
        split: train, val or test; "all" for a folder without splits.
        classes: classes of the first run; labels of samples index into them.
        samples: the images.
        notes: remarks on the figures: classes that are not shared, images that are left out.
        root: the data set's folder.
        is_headline: whether these images give the run's headline figure: the test images, or else the validation images.
        changed: images of the run that have changed since they were held out, scored or not.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    notes: tuple[str, ...]
    root: Path
    is_headline: bool = False
    changed: tuple[Path, ...] = ()


def held_out(runs: Sequence[Run], split: SplitName | None = None, allow_changed: bool = False) -> Scored:
    """The test images of the first run, or else its validation images, without training images of the other runs.

    Args:
        runs: one or more, of the same classes.
        split: score this split of the run instead; "train" includes the training images of other runs.
        allow_changed: score images whose content has changed since training, as they are now.

    Raises:
        ResnetError: the run has no such images, they have been moved, or none is left.
    """
    run = runs[0]
    root, rows = run.data, read_splits(run)
    label_of = _labels(run, rows)
    headline = "test" if any(row.split == "test" for row in rows) else "val"
    chosen = split or headline
    held = [row for row in rows if row.split == chosen]
    if not held:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(Counter(row.split for row in rows).items()))
        raise ResnetError(f"the run {run.folder} has no {chosen} images", f"it has {counts}" if split else _GIVE_A_FOLDER)
    if not all(row.label for row in held):
        raise ResnetError(
            f"the {kind_of(chosen)} images of {run.folder} have no labels: it learned from a teacher", _GIVE_A_FOLDER
        )
    elsewhere = set() if chosen == "train" else trained(runs[1:])
    untouched = [row for row in held if row.content not in elsewhere]
    if not untouched:
        raise ResnetError(f"the other runs were trained on all of {run.folder}'s held-out images", _GIVE_A_FOLDER)
    _require_present(root, untouched, kind_of(chosen))
    now = dict(zip(untouched, contents(root / row.path for row in untouched), strict=True))
    changed = {row for row, content in now.items() if row.content and content and content != row.content}
    kept = [row for row in untouched if allow_changed or row not in changed]
    if not kept:
        images = f"{kind_of(chosen)} image{'' if len(changed) == 1 else 's'} of {root}"
        which = f"the only {images} has" if len(changed) == 1 else f"all {len(changed)} {images} have"
        hint = "put the data set back, or score them as they are with --allow-changed"
        raise ResnetError(f"{which} changed since training", hint)
    notes = []
    if taken := len(held) - len(untouched):
        are = "is" if taken == 1 else "are"
        notes.append(f"{how_many(taken, 'held-out image')} of {run.folder} that another run was trained on {are} not scored")
    if changed:
        notes.append(_changed_note(changed, len(untouched), root, kind_of(chosen), allow_changed))
    if chosen == "train":
        these = "this image was" if len(kept) == 1 else f"these {len(kept)} images were"
        notes.append(f"{these} trained on, so the figures do not show how well new images are classified")
    else:
        chose = TEST_CHOSE if is_validated_by_test(rows) else VAL_CHOSE if chosen == headline == "val" else ""
        chose = chose or (VAL_CHOSE_TOO if chosen == "val" else "")
        held_now = [now[row] for row in kept]
        notes += [chose] if chose else []
        # The run's own warnings already report those of its headline figure, with their paths.
        notes += [] if chosen == headline and run.warnings else copies_of_training(held_now, rows, chosen)
        notes += seen_by_earlier_runs(held_now, run, chosen)
    samples = tuple(Sample(root / row.path, label_of[row.label]) for row in kept)
    paths = tuple(sorted(root / row.path for row in changed))
    return Scored(root.name, chosen, run.classes, samples, tuple(notes), root, chosen == headline, paths)


def folder(
    runs: Sequence[Run], root: Path, split: SplitName | None = None, labels: Path | None = None, strict: bool = False
) -> Scored:
    """Images of a folder with class folders, or of a table of labels, without the runs' training images: its test split, else
    its val split, else all.

    Args:
        runs: one or more, of the same classes.
        root: the folder.
        split: score this split of the folder instead; "train" includes training images of the runs.
        labels: the table of labels, whose relative paths start from the folder, in place of class folders.
        strict: a row of the table whose file is missing is an error.

    Raises:
        ResnetError: no such split, no class in common, or nothing left to score.
    """
    run, who = runs[0], "the run was" if len(runs) == 1 else "the runs were"
    found = survey(root.absolute()) if labels is None else survey_labels(labels, root.absolute(), strict)
    if split and split not in found.classes:
        present = ", ".join(name for name in found.classes if name != "all")
        kind = "class folders" if labels is None else "labels"
        hint = f"it has {present}" if present else f"it has {kind} and no splits: leave --split out"
        raise ResnetError(f"{root} has no {split} folder" if labels is None else f"{labels} has no split {split}", hint)
    name = root.resolve().name + ("" if labels is None else f"-{labels.stem}")
    chosen: str = split or next(name for name in ("test", "val", "all", "train") if name in found.classes)
    _require_readable(found, chosen)
    # ImageNet's own folders have WordNet's numbers as names.
    named = dict(zip(run.record.get("wordnet", ()), run.classes, strict=False))
    listings = {
        _composed(named.get(name, name)): listing.images for name, listing in found.classes[chosen].items() if listing.images
    }
    shared = [name for name in run.classes if _composed(name) in listings]
    if not shared:
        raise _no_known_class(root, run) if labels is None else _no_known_label(found, labels, run)
    absent = [name for name in run.classes if name not in shared]
    notes = [*found.notes, *_class_notes(listings.keys() - set(map(_composed, shared)), absent, labels)]
    notes += _skipped_notes(found, chosen)
    samples = tuple(Sample(path, label) for label, name in enumerate(run.classes) for path in listings.get(_composed(name), ()))
    seen = among([sample.path for sample in samples], trained(runs))
    if chosen == "train" and split and seen:
        notes.append(
            f"{who} trained on {len(seen)} of these {how_many(len(samples), 'image')}, so the figures do not show how well"
            " new images are classified"
        )
        return Scored(name, chosen, run.classes, samples, tuple(notes), root.absolute())
    unseen = tuple(sample for sample in samples if sample.path not in seen)
    if len(unseen) < len(samples):
        notes.append(_trained_note(len(samples) - len(unseen), who))
    if not unseen:
        hint = "leave the folder out to score what was held out" if not run.is_export else "give a folder of other images"
        raise ResnetError(f"{who} trained on every image of {labels or root}", hint)
    return Scored(name, chosen, run.classes, unseen, tuple(notes), root.absolute())


def labelled(word: str, runs: Sequence[Run], split: SplitName | None) -> tuple[Scored, Input]:
    """Images to score, for a bulk evaluation: those that `folder` chooses, or the rows of a table with a column of classes.

    The rows of classes that the runs do not know are left out, and so are files that they were trained on, as by `folder`;
    files on another machine are not compared with those.

    Args:
        word: a folder with class folders; or Parquet files, as a path, pattern or URL.
        runs: one or more, of the same classes.
        split: as for `folder`; a table has no splits.

    Returns:
        What is scored, without its samples; and its list, whose end raises a ResnetError if a file had two labels.
    """
    root, classes = at_home(word), runs[0].classes
    if root.is_dir() and not any(root.glob(f"*{PARQUET}")):
        scored = folder(runs, root, split)

        def chunks() -> Iterator[Chunk]:
            for first in range(0, len(scored.samples), CHUNK):
                some = scored.samples[first : first + CHUNK]
                yield [str(sample.path) for sample in some], [classes[sample.label] for sample in some]

        return scored, Input(str(root.absolute()), find_place("."), chunks, None, lambda: list(scored.notes))
    found = find_input(word, True)
    if found.fingerprint is None:
        raise ResnetError(
            f"{word} has no classes", "give a folder with class folders, or a .parquet file with a column `label`"
        )
    if split:
        raise ResnetError(f"--split {split} is for a folder, and {word} is a table", "leave --split out")
    kept = _Kept(runs, Sources(found.base))

    def known_rows() -> Iterator[Chunk]:
        yield from map(kept, found.chunks())
        kept.refuse_two_labels(word, found.chunks())

    known = replace(found, chunks=known_rows, notes=kept.notes)
    return Scored(root.stem, "all", classes, (), (), root), known


class _Kept:
    """The rows of a table that are scored, and notes on the others."""

    def __init__(self, runs: Sequence[Run], sources: Sources) -> None:
        self._runs, self._sources, self._trained = runs, sources, trained(runs)
        self._classes = {_composed(name): name for name in runs[0].classes}
        self._seen, self._unknown = 0, dict[str, None]()
        # Of every row, 64 bits of the hash of its place and of its label: 16 bytes, as the names may not fit into memory.
        self._hashes = array("Q"), array("Q")

    def __call__(self, chunk: Chunk) -> Chunk:
        rows = [(name, _composed(label)) for name, label in zip(chunk[0], chunk[1] or [], strict=True)]
        self._unknown.update(dict.fromkeys(label for _, label in rows if label not in self._classes))
        places = {name: self._place(name) for name, _ in rows}
        self._hashes[0].extend(_hash(_text(places[name])) for name, _ in rows)
        self._hashes[1].extend(_hash(label) for _, label in rows)
        known = [(name, self._classes[label]) for name, label in rows if label in self._classes]
        seen = among([place for name, _ in known if isinstance(place := places[name], Path)], self._trained)
        kept = [(name, label) for name, label in known if places[name] not in seen]
        self._seen += len(known) - len(kept)
        return [name for name, _ in kept], [label for _, label in kept]

    def _place(self, name: str) -> Path | str:
        """Where a name leads: a local path, or a URL; the name itself if it cannot be opened, which its row will say."""
        try:
            place = self._sources.find(name)
            return place.name if isinstance(place, Place) else place
        except ResnetError:
            return name

    def refuse_two_labels(self, table: str, chunks: Iterator[Chunk]) -> None:
        """Refuse a file with two labels, among the rows so far; only if there may be one, these are read again.

        Raises:
            ResnetError: there is one.
        """
        import numpy as np

        places, labels = map(np.array, self._hashes)
        order = np.argsort(places, kind="stable")
        places, labels = places[order], labels[order]
        suspects = set(places[1:][(places[1:] == places[:-1]) & (labels[1:] != labels[:-1])].tolist())
        first: dict[str, str] = {}
        for names, classes in chunks if suspects else ():
            for name, label in zip(names, map(_composed, classes or []), strict=True):
                place = _text(self._place(name))
                if _hash(place) in suspects and first.setdefault(place, label) != label:
                    message = f"{table} says {label} for {name}, and an earlier row says {first[place]}"
                    raise ResnetError(message, "keep one of the rows")

    def notes(self) -> list[str]:
        who = "the run was" if len(self._runs) == 1 else "the runs were"
        notes = [f"not scored, unknown to the run: {some_names(sorted(self._unknown))}"] if self._unknown else []
        return notes + ([_trained_note(self._seen, who)] if self._seen else [])


def _text(place: Path | str) -> str:
    return os.path.normpath(place) if isinstance(place, Path) else place


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest(), "big")


def _trained_note(count: int, who: str) -> str:
    return f"{how_many(count, 'image')} that {who} trained on {'is' if count == 1 else 'are'} not scored"


def unreadable_note(left_out: Sequence[LeftOut]) -> str:
    """A note on the unreadable images: the first ones by name, with reasons."""
    more = f"; and {len(left_out) - _NAMED} more, which `resnet check` lists" if len(left_out) > _NAMED else ""
    reasons = "; ".join(each.reason for each in left_out[:_NAMED])
    return f"left out {how_many(len(left_out), 'unreadable image')}: {reasons}{more}"


def _labels(run: Run, rows: Sequence[SplitRow]) -> dict[str, int]:
    place = {name: index for index, name in enumerate(run.classes)}
    if unknown := sorted({row.label for row in rows if row.label} - set(place)):
        raise ResnetError(f"{run.splits} has a class that {run.path.name} does not know: {unknown[0]}", "name it alike in both")
    return place


def _require_present(root: Path, rows: Sequence[SplitRow], kind: str) -> None:
    missing = [path for row in rows if not (path := root / row.path).exists()]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise ResnetError(
            f"{len(missing)} of {how_many(len(rows), f'{kind} image')} {are} no longer there, such as {missing[0]}",
            f"put the data set back, or {_GIVE_A_FOLDER}",
        )


def _changed_note(changed: Collection[SplitRow], count: int, root: Path, kind: str, allowed: bool) -> str:
    has, it, was = ("has", "it is", "is") if len(changed) == 1 else ("have", "they are", "are")
    what = f"{len(changed)} of {how_many(count, f'{kind} image')} in {root} {has} changed since training"
    names = some_names(sorted(row.path for row in changed), _NAMED + 1)
    if allowed:
        return f"{what}, and {was} scored as {it} now: {names}"
    return f"{what}, and {was} left out (--allow-changed scores them): {names}"


def _composed(name: str) -> str:
    """A name in composed Unicode form, as most systems store it: macOS stores accents separately."""
    return unicodedata.normalize("NFC", name)


def _require_readable(found: Survey, split: str) -> None:
    """Refuse unreadable class folders, which must not count as empty, and ambiguous layouts such as two test folders; and rows
    of a table that contradict each other.
    """
    place = found.folders[split]
    for fault in found.broken:
        if (
            found.labels
            or fault.kind in AMBIGUOUS
            or (fault.kind == "unreadable" and place in (fault.path, *fault.path.parents))
        ):
            raise ResnetError(fault.message, fault.hint)


def _no_known_class(root: Path, run: Run) -> ResnetError:
    """The error for a folder without known classes: most often it is a class folder, given instead of its parent."""
    if _composed(root.resolve().name) in map(_composed, run.classes):
        above = root.parent if root.name not in ("", "..") else root / ".."
        return ResnetError(
            f"{root} is the folder of one class, and has no class folders in it",
            f"give the folder above: resnet evaluate {above}",
        )
    names = some_names(run.classes)
    if list_folder(root, deep=False).images:
        return ResnetError(f"{root} holds images and no class folders", f"put each image into a folder of its class: {names}")
    return ResnetError(
        f"{root} has no images of a class that the run {run.name} knows ({names})", "class folders are matched by name"
    )


def _no_known_label(found: Survey, labels: Path, run: Run) -> ResnetError:
    """The error for a table without known classes, or without any image that can be used."""
    if left := found.all_left_out if not any(each.images for some in found.classes.values() for each in some.values()) else ():
        what = f"{labels} names no image that can be scored, such as {left[0].path}: {left[0].reason}"
        return ResnetError(what, meant(left[0].path, found.root) or "its paths are relative to DATASET")
    names = some_names(run.classes)
    return ResnetError(
        f"{labels} has no images of a class that the run {run.folder} knows ({names})", "labels are matched by name"
    )


def _skipped_notes(found: Survey, split: str) -> list[str]:
    """Notes on skipped files of the scored folder: images in no class folder, and files that are not images."""
    place = found.folders[split]
    skipped = [each for each in found.left_out if each.path.parent == place and each.path.suffix.lower() in EXTENSIONS]
    skipped += [each for listing in found.classes[split].values() for each in listing.left_out]
    if not skipped:
        return []
    return [f"skipped {how_many(len(skipped), 'file')} (first: {skipped[0].path}: {skipped[0].reason})"]


def _class_notes(unknown: set[str], absent: Sequence[str], labels: Path | None) -> list[str]:
    notes = [f"not scored, unknown to the run: {some_names(sorted(unknown))}"] if unknown else []
    if absent:
        notes.append(f"the {'folder' if labels is None else 'table'} has no images of: {some_names(absent)}")
    return notes
