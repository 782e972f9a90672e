"""Check every image of a data set and list all problems before time is spent on training.

In: a folder in any state. Out: an `Inspection`: classes, counts, and all `Problem`s; the search continues after each one.
Duplicate images are found by their pixels, even after re-encoding or scaling.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_cli.data.dataset import IMBALANCE, SMALL_CLASS, Sample, Survey, faults, survey
from resnet_cli.data.decode import Header, Pixels, decode, read_header
from resnet_cli.data.folders import MISSING, LeftOut
from resnet_cli.data.labels import survey_labels
from resnet_cli.data.split import alike, indivisible, is_divided
from resnet_cli.data.threads import map_in_order
from resnet_cli.data.warnings import TWELVE_BITS, dark_sixteen_bit, mirror_sensitive
from resnet_cli.errors import ResnetError
from resnet_cli.progress import Progress, how_many

_SIDE = 16  # pixels of the small grey image that is compared
_BANDS = 4  # parts of the 64 bits; two images that differ in 3 bits share at least one part
_NEIGHBOURS = 32  # comparisons per image in a bucket: many white images must not take quadratic time
# Measured on photos, drawings and images of 32 pixels that were saved again as JPEG of quality 50 to 95, or at 0.5 to 0.7
# of their size: 95 of 100 differ by at most 5 bits, 1.7 grey levels on average, 15 in one place, 2.4 in mean colour.
_MOST_BITS, _MOST_MEAN, _MOST_ANYWHERE, _MOST_COLOUR = 8, 2.5, 18, 4.5
_MOST_ASPECT = 0.03


@dataclass(frozen=True)
class Fingerprint:
    """The features of an image that are compared to find duplicates.

    Attributes:
        identity: hash of size and pixels.
        bits: difference hash, 64 bits: whether a pixel of a 9 x 8 grey image is brighter than its right neighbour (Krawetz
            2013).
        small: uint8 (16, 16) grey.
        colour: float32 (3,), mean RGB.
        aspect: width / height.
    """

    identity: bytes
    bits: int
    small: NDArray[np.uint8]
    colour: NDArray[np.float32]
    aspect: float


def fingerprint(pixels: Pixels) -> Fingerprint:
    """The fingerprint of an image, uint8 (H, W, 3)."""
    height, width = pixels.shape[:2]
    identity = blake2b(f"{width}x{height}".encode(), digest_size=16)
    identity.update(pixels.tobytes())
    grey = Image.fromarray(pixels).convert("L")
    steps = np.asarray(grey.resize((9, 8), Image.Resampling.BILINEAR), np.int16)
    bits = int.from_bytes(np.packbits(steps[:, 1:] < steps[:, :-1]).tobytes())
    small = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    # An exact sum, as float32 is off by several grey levels from two megapixels on; column by column, which is fast.
    colour = (pixels.sum(0, dtype=np.uint64).sum(0) / (height * width)).astype(np.float32)
    return Fingerprint(identity.digest(), bits, small, colour, width / height)


def same(prints: Sequence[Fingerprint]) -> list[list[int]]:
    """Groups of two or more images with the same pixels, as indices, each group in order."""
    groups: dict[bytes, list[int]] = {}
    for index, each in enumerate(prints):
        groups.setdefault(each.identity, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def nearly_same(prints: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """Pairs (earlier, later) of images that look the same but differ in pixels; each image is the later one at most once.

    Images are put into buckets of equal bits, sorted by brightness, and each is compared with its next neighbours there: the
    time grows with n log n.
    """
    unique = sorted({each.identity: index for index, each in reversed(list(enumerate(prints)))}.values())
    if len(unique) < 2:
        return []
    table = _table([prints[index] for index in unique])
    brightness = table.small.mean(1)
    first: dict[int, int] = {}
    for band in range(_BANDS):
        bucket = (table.bits >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.lexsort((brightness, bucket))
        for offset in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            one, other = order[:-offset], order[offset:]
            close = (bucket[one] == bucket[other]) & (brightness[other] - brightness[one] <= _MOST_MEAN)
            for pair in _alike(table, one[close], other[close]):
                earlier, later = sorted(pair)
                first[later] = min(earlier, first.get(later, earlier))
    return sorted((unique[earlier], unique[later]) for later, earlier in first.items())


@dataclass(frozen=True)
class _Table:
    """Fingerprints as columns: bits (N,), small (N, 256), colour (N, 3), aspect (N,)."""

    bits: NDArray[np.uint64]
    small: NDArray[np.uint8]
    colour: NDArray[np.float32]
    aspect: NDArray[np.float64]


def _table(prints: Sequence[Fingerprint]) -> _Table:
    return _Table(
        np.array([each.bits for each in prints], np.uint64),
        np.stack([each.small.reshape(-1) for each in prints]),
        np.stack([each.colour for each in prints]),
        np.array([each.aspect for each in prints]),
    )


def _alike(table: _Table, one: NDArray[np.int64], other: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The pairs one[i], other[i] that look the same."""
    quick = np.bitwise_count(table.bits[one] ^ table.bits[other]) <= _MOST_BITS
    quick &= np.abs(np.log(table.aspect[one] / table.aspect[other])) <= _MOST_ASPECT
    quick &= np.abs(table.colour[one] - table.colour[other]).max(1, initial=0) <= _MOST_COLOUR
    one, other = one[quick], other[quick]
    difference = np.abs(table.small[one].astype(np.int16) - table.small[other])
    close = (difference.mean(1) <= _MOST_MEAN) & (difference.max(1, initial=0) <= _MOST_ANYWHERE)
    return list(zip(one[close].tolist(), other[close].tolist(), strict=True))


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
    """A problem, its path and a short description; an error is certain to spoil training or its results, a warning may."""

    kind: str
    path: Path
    detail: str
    severity: Severity


@dataclass(frozen=True)
class Inspection:
    """Class names, image counts by split and class (by file extension), the number of skipped hidden files, and problems."""

    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    passed_over: int
    problems: tuple[Problem, ...]

    @property
    def images(self) -> int:
        """Number of images of all splits and classes."""
        return sum(sum(counts.values()) for counts in self.counts.values())

    def to_json(self) -> dict[str, Any]:
        """The JSON output of `check`."""
        problems = [
            {"kind": problem.kind, "path": str(problem.path), "detail": problem.detail, "severity": problem.severity}
            for problem in self.problems
        ]
        return {"classes": list(self.classes), "images": self.images, "counts": self.counts, "problems": problems}


@dataclass(frozen=True)
class _Place:
    """An image with its split and class."""

    path: Path
    split: str
    label: str


def inspect_dataset(root: Path, progress: Progress, labels: Path | None = None) -> Inspection:
    """Decode every image of a folder, or of a table of labels, once, on threads, and compare all of them.

    Raises:
        ResnetError: the path is not a folder, or cannot be read.
    """
    found = survey(root) if labels is None else survey_labels(labels, root)
    places = [
        _Place(path, split, name)
        for split, listings in found.classes.items()
        for name, listing in listings.items()
        for path in listing.images
    ]
    problems = [Problem(fault.kind, fault.path, fault.message, "error") for fault in faults(found)]
    problems += [Problem("labels", labels or root, note, "warning") for note in found.notes]
    problems += _indivisible(found)
    good: list[_Place] = []
    prints: list[Fingerprint] = []
    task = progress.start("looking at images", len(places))
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
    counts = {split: {name: len(listing.images) for name, listing in found.classes[split].items()} for split in found.classes}
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
        yield Problem("tiny-image", path, f"{header.width} x {header.height} pixels", "warning")


def _copies(places: list[_Place], prints: list[Fingerprint]) -> Iterator[Problem]:
    alike = [_by_pixels([places[index] for index in group]) for group in same(prints)]
    for first, *others in alike:
        for group in others:
            detail = f"looks like {first[0].path}{_apart(group[0], first[0])}"
            yield Problem("near-duplicate", group[0].path, detail, "warning")
    for group in itertools.chain.from_iterable(alike):
        for number, place in enumerate(group[1:], 1):
            before = group[:number]
            # Report the most serious relation to an earlier copy: another class, then another split, then the same folder.
            other = next((p for p in before if p.label != place.label), None)
            other = other or next((p for p in before if p.split != place.split), None) or before[0]
            yield _copy(place, other)
    for earlier, later in nearly_same(prints):
        place, other = places[later], places[earlier]
        if len(_by_pixels([other, place])) == 1:  # equal at full size: one file was decoded at a reduced size
            yield _copy(place, other)
            continue
        yield Problem("near-duplicate", place.path, f"looks like {other.path}{_apart(place, other)}", "warning")


def _by_pixels(places: list[_Place]) -> list[list[_Place]]:
    """Group images by their pixels at full size; fingerprints may be of JPEGs decoded at a reduced size."""
    groups: dict[bytes, list[_Place]] = {}
    for place in places:
        groups.setdefault(fingerprint(decode(place.path)).identity, []).append(place)
    return list(groups.values())


def _copy(place: _Place, other: _Place) -> Problem:
    detail = f"the same image as {other.path}{_apart(place, other)}"
    if place.label != other.label:
        return Problem("conflict", place.path, detail, "error")
    if place.split != other.split:
        return Problem("leak", place.path, detail, "error")
    return Problem("duplicate", place.path, detail, "warning")


def _apart(place: _Place, other: _Place) -> str:
    """How class and split of two copies differ, such as ", which is in train, not test"."""
    words = [f"in the class {other.label}, not {place.label}"] if place.label != other.label else []
    words += [f"in {other.split}, not {place.split}"] if place.split != other.split else []
    return f", which is {' and '.join(words)}" if words else ""


def _about_left_out(file: LeftOut) -> Problem:
    if file.reason == "not an image" and (header := read_header(file.path)):
        return Problem("wrong-extension", file.path, f"is in {header.format} format, and is skipped", "warning")
    if file.reason == MISSING:
        return Problem("missing", file.path, file.reason, "error")
    kind = "not-a-image" if file.reason == "not an image" else "left-out"
    return Problem(kind, file.path, file.reason, "warning")


def _hidden(found: Survey) -> Iterator[Problem]:
    for each in found.all_hidden_folders:
        what = f"{how_many(each.images, 'image')} in a hidden folder, which is skipped"
        yield Problem("hidden-folder", each.path, what, "warning")


def _about_classes(found: Survey) -> Iterator[Problem]:
    """Classes whose images look black, and classes that mirroring would change."""
    for name, listing in found.classes[found.main].items():
        if dark_sixteen_bit(listing.images):
            detail = f"16-bit greyscale images with no value above {TWELVE_BITS} of 65535 (12 bits), which look black"
            yield Problem("dark-16-bit", found.place(found.main, name), detail, "warning")
    for name in mirror_sensitive(list(found.classes[found.main])):
        what = "a mirrored image may belong to another class or to none"
        yield Problem("mirror-sensitive", found.place(found.main, name), what, "warning")


def _indivisible(found: Survey) -> Iterator[Problem]:
    """Classes with images from which `train` and `finetune` cannot hold out any."""
    if not is_divided(found.folders):
        return
    classes = list(found.classes[found.main].items())
    samples = [Sample(path, label) for label, (_, listing) in enumerate(classes) for path in listing.images]
    for label, why in indivisible(alike(samples)).items():
        yield Problem("indivisible", found.place(found.main, classes[label][0]), why, "error")


def _sizes(found: Survey, good: list[_Place]) -> Iterator[Problem]:
    """Classes that are small, or much smaller than others, counted in readable training images."""
    counts = dict.fromkeys(found.classes[found.main], 0)
    for place in good:
        if place.split == found.main:
            counts[place.label] += 1
    filled = {name: count for name, count in counts.items() if found.classes[found.main][name].images}
    for name, count in filled.items():
        if count < SMALL_CLASS:
            readable = how_many(count, "readable image")
            yield Problem("small-class", found.place(found.main, name), readable, "warning")
    if filled:
        largest, smallest = max(filled, key=filled.__getitem__), min(filled, key=filled.__getitem__)
        if filled[largest] > IMBALANCE * filled[smallest]:
            detail = f"{how_many(filled[smallest], 'image')}, and {largest} has {filled[largest]}"
            yield Problem("imbalance", found.place(found.main, smallest), detail, "warning")
