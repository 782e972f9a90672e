"""Look at every picture of a data set and name what is wrong with it, before an hour is spent on it.

In: a folder in any state. Out: an `Inspection`: classes, counts, and `Problem`s, none of which ends the search for others.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resnet_cli.data.copies import Fingerprint, fingerprint, nearly_same, same
from resnet_cli.data.decode import Header, decode, read_header
from resnet_cli.data.folders import LeftOut
from resnet_cli.data.scan import IMBALANCE, SMALL_CLASS, Sample
from resnet_cli.data.split import alike, indivisible, is_divided
from resnet_cli.data.survey import Survey, faults, survey
from resnet_cli.data.threads import map_in_order
from resnet_cli.data.warnings import TWELVE_BITS, dark_sixteen_bit, mirror_sensitive
from resnet_cli.data.words import counted
from resnet_cli.errors import ResnetError
from resnet_cli.progress import Progress

Severity = Literal["error", "warning"]

TINY = 16  # pixels of the short side

_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIC": (".heic", ".heif", ".hif"),
}
_ENOUGH = 64  # pixels of the short side that a fingerprint needs


@dataclass(frozen=True)
class Problem:
    """Something wrong, where, in a few words; an error is certain to spoil training or its figures, a warning may."""

    kind: str
    path: Path
    detail: str
    severity: Severity


@dataclass(frozen=True)
class Inspection:
    """Classes by name, pictures by split and class (found by their endings), hidden files passed over, and problems."""

    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    passed_over: int
    problems: tuple[Problem, ...]

    @property
    def images(self) -> int:
        return sum(sum(counts.values()) for counts in self.counts.values())


@dataclass(frozen=True)
class _Place:
    """A picture and where it stands."""

    path: Path
    split: str
    label: str


def inspect_dataset(root: Path, progress: Progress) -> Inspection:
    """Decode every picture of a folder once, on threads, and compare all of them.

    Raises:
        ResnetError: the folder is none, or cannot be read itself.
    """
    found = survey(root)
    places = [
        _Place(path, split, name)
        for split, listings in found.classes.items()
        for name, listing in listings.items()
        for path in listing.pictures
    ]
    problems = [Problem(fault.kind, fault.path, fault.message, "error") for fault in faults(found)]
    problems += _indivisible(found)
    good: list[_Place] = []
    prints: list[Fingerprint] = []
    task = progress.start("looking at pictures", len(places))
    for place, (seen, header) in zip(places, map_in_order(_look, places), strict=True):
        task.advance()
        if isinstance(seen, ResnetError):
            problems.append(Problem("corrupt", place.path, seen.message.removeprefix(f"{place.path} "), "error"))
            continue
        good.append(place)
        prints.append(seen)
        problems += _about_header(place.path, header)
    task.finish()
    problems += _copies(good, prints)
    problems += [_about_left_out(file) for file in found.all_left_out]
    problems += _hidden(found)
    problems += _about_classes(found)
    problems += _sizes(found, good)
    counts = {split: {name: len(listing.pictures) for name, listing in found.classes[split].items()} for split in found.classes}
    classes = tuple(sorted({name for split in counts.values() for name in split}))
    return Inspection(classes, counts, found.all_hidden, tuple(problems))


def _look(place: _Place) -> tuple[Fingerprint | ResnetError, Header | None]:
    try:
        return fingerprint(decode(place.path, _ENOUGH)), read_header(place.path)
    except ResnetError as error:
        return error, None


def _about_header(path: Path, header: Header | None) -> Iterator[Problem]:
    if header is None:
        return
    if path.suffix.lower() not in _ENDINGS[header.format]:
        yield Problem("wrong-extension", path, f"is in {header.format} format", "warning")
    if min(header.width, header.height) < TINY:
        yield Problem("tiny-picture", path, f"{header.width} x {header.height} pixels", "warning")


def _copies(places: list[_Place], prints: list[Fingerprint]) -> Iterator[Problem]:
    alike = [_by_pixels([places[index] for index in group]) for group in same(prints)]
    for first, *others in alike:
        for group in others:
            detail = f"looks like {first[0].path}{_apart(group[0], first[0])}"
            yield Problem("near-duplicate", group[0].path, detail, "warning")
    for group in itertools.chain.from_iterable(alike):
        for number, place in enumerate(group[1:], 1):
            before = group[:number]
            # The weightiest relation to any copy before: another class, then another split, then the same folder.
            other = next((p for p in before if p.label != place.label), None)
            other = other or next((p for p in before if p.split != place.split), None) or before[0]
            yield _copy(place, other)
    for earlier, later in nearly_same(prints):
        place, other = places[later], places[earlier]
        if len(_by_pixels([other, place])) == 1:  # in files of two kinds, of which one is decoded smaller than it is
            yield _copy(place, other)
            continue
        yield Problem("near-duplicate", place.path, f"looks like {other.path}{_apart(place, other)}", "warning")


def _by_pixels(places: list[_Place]) -> list[list[_Place]]:
    """Pictures that are alike where each is decoded no larger than it takes, in groups of those that are alike in full."""
    groups: dict[bytes, list[_Place]] = {}
    for place in places:
        groups.setdefault(fingerprint(decode(place.path)).identity, []).append(place)
    return list(groups.values())


def _copy(place: _Place, other: _Place) -> Problem:
    detail = f"the same picture as {other.path}{_apart(place, other)}"
    if place.label != other.label:
        return Problem("conflict", place.path, detail, "error")
    if place.split != other.split:
        return Problem("leak", place.path, detail, "error")
    return Problem("duplicate", place.path, detail, "warning")


def _apart(place: _Place, other: _Place) -> str:
    """How the places of two copies differ: ', but in cars' or ', which is in train'."""
    words = [f"in the class {other.label}, not {place.label}"] if place.label != other.label else []
    words += [f"in {other.split}, not {place.split}"] if place.split != other.split else []
    return f", which is {' and '.join(words)}" if words else ""


def _about_left_out(file: LeftOut) -> Problem:
    if file.reason == "not a picture" and (header := read_header(file.path)):
        return Problem("wrong-extension", file.path, f"is in {header.format} format, and is skipped", "warning")
    kind = "not-a-picture" if file.reason == "not a picture" else "left-out"
    return Problem(kind, file.path, file.reason, "warning")


def _hidden(found: Survey) -> Iterator[Problem]:
    for each in found.all_hidden_folders:
        yield Problem("hidden-folder", each.path, f"{counted(each.images)} in a hidden folder, which is skipped", "warning")


def _about_classes(found: Survey) -> Iterator[Problem]:
    """Classes whose images look black, and those that a mirror would change."""
    folder = found.folders[found.main]
    for name, listing in found.classes[found.main].items():
        if dark_sixteen_bit(listing.pictures):
            detail = f"16-bit greyscale images with no value above {TWELVE_BITS} of 65535 (12 bits), which look black"
            yield Problem("dark-16-bit", folder / name, detail, "warning")
    for name in mirror_sensitive(list(found.classes[found.main])):
        yield Problem("mirror-sensitive", folder / name, "a mirrored image may belong to another class or to none", "warning")


def _indivisible(found: Survey) -> Iterator[Problem]:
    """Classes with pictures, none of which `train` and `finetune` could hold out."""
    if not is_divided(found.folders):
        return
    classes = list(found.classes[found.main].items())
    samples = [Sample(path, label) for label, (_, listing) in enumerate(classes) for path in listing.pictures]
    for label, why in indivisible(alike(samples)).items():
        yield Problem("indivisible", found.folders[found.main] / classes[label][0], why, "error")


def _sizes(found: Survey, good: list[_Place]) -> Iterator[Problem]:
    """Classes that are small, or much smaller than others, counted by readable pictures to train on."""
    folder = found.folders[found.main]
    counts = dict.fromkeys(found.classes[found.main], 0)
    for place in good:
        if place.split == found.main:
            counts[place.label] += 1
    filled = {name: count for name, count in counts.items() if found.classes[found.main][name].pictures}
    for name, count in filled.items():
        if count < SMALL_CLASS:
            yield Problem(
                "small-class", folder / name, f"{count} readable {'picture' if count == 1 else 'pictures'}", "warning"
            )
    if filled:
        largest, smallest = max(filled, key=filled.__getitem__), min(filled, key=filled.__getitem__)
        if filled[largest] > IMBALANCE * filled[smallest]:
            detail = f"{filled[smallest]} pictures, and {largest} has {filled[largest]}"
            yield Problem("imbalance", folder / smallest, detail, "warning")
