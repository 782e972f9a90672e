"""Warnings about a data set before training (light: the standard library only; numpy and Pillow are imported if an image may
have 16 bits).

In: a `Dataset` with its held-out split. Out: warnings, each one sentence that names a file, folder or class and counts.
"""

import itertools
import struct
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from resnet_cli.data.dataset import Dataset, Sample
from resnet_cli.data.folders import OWN_FILES, LeftOut
from resnet_cli.data.layout import some_names, words_of
from resnet_cli.data.threads import map_in_order
from resnet_cli.progress import how_many

_LOOKED_AT = 24  # images of a class whose headers are read
TWELVE_BITS = 4095  # the largest value of 12 bits; 16 bits go to 65535
_PAIRS = (
    *(("left", "right"), ("l", "r"), ("links", "rechts")),
    *(("gauche", "droite"), ("izquierda", "derecha"), ("sinistra", "destra")),
)
_TURNED = ({"b", "d"}, {"p", "q"})  # letters that are mirror images of each other
_NUMBERS = {"two", "three", "four", "five", "six", "seven", "nine"}  # zero, one and eight look about the same when mirrored
_SIGNS = {"arrow", "arrows", "clockwise", "anticlockwise", "counterclockwise", "digit", "digits", "letter", "letters"}
_LETTERS = 4  # single letters that are taken for letters; fewer may just be labels such as a, b, c


def dataset_warnings(dataset: Dataset, flips: bool) -> list[str]:
    """Warnings about unused files, copies, dark 16-bit images, and classes that mirroring would change.

    Args:
        dataset: as `hold_out` returns it.
        flips: training images are mirrored at random.
    """
    of_files = [*dataset.notes, *_about_left_out(dataset.left_out), *_about_hidden(dataset), *_about_dark(dataset)]
    if not dataset.labelled:
        return of_files
    mirrored = mirror_sensitive(dataset.classes) if flips else []
    return [
        *of_files,
        *_about_conflicts(dataset),
        *_about_leaks(dataset),
        *_about_same_folders(dataset),
        *([f"{mirror_sentence(mirrored)}: --no-flip keeps training images as they are"] if mirrored else []),
    ]


def _about_left_out(left_out: Iterable[LeftOut]) -> list[str]:
    by_reason: dict[str, list[LeftOut]] = defaultdict(list)
    for each in left_out:
        if each.reason != OWN_FILES:
            by_reason[each.reason].append(each)
    parts = [
        f"{those[0].path}: {reason}" if len(those) == 1 else f"{len(those)} (first: {those[0].path}: {reason})"
        for reason, those in by_reason.items()
    ]
    if not parts:
        return []
    count = sum(map(len, by_reason.values()))
    if len(parts) == 1:
        which = f" ({parts[0]})" if count == 1 else parts[0].removeprefix(str(count))
        return [f"skipped {how_many(count, 'file')}{which}"]
    return [f"skipped {how_many(count, 'file')}: {', '.join(parts)}"]


def _about_hidden(dataset: Dataset) -> list[str]:
    folders = dataset.hidden_folders
    if not folders:
        return []
    named = some_names([f"{each.path} ({how_many(each.images, 'image')})" for each in folders])
    which = "the hidden folder" if len(folders) == 1 else f"{len(folders)} hidden folders:"
    return [f"skipped {which} {named}: rename it without the dot to use its images"]


def _about_conflicts(dataset: Dataset) -> list[str]:
    groups = [group for group in dataset.copies if len({sample.label for _, sample in group}) > 1]
    if not groups:
        return []
    examples = []
    for group in groups[:2]:
        first = group[0][1]
        other = next(sample for _, sample in group if sample.label != first.label)
        examples.append(f"{first.path} and {other.path}")
    are = "1 image is in more than one class" if len(groups) == 1 else f"{len(groups)} images are in more than one class"
    return [f"{are}, byte for byte: {_listed(examples, len(groups))}"]


def _about_leaks(dataset: Dataset) -> Iterator[str]:
    pairs: dict[tuple[str, str], list[tuple[Sample, Sample]]] = defaultdict(list)
    for group in dataset.copies:
        by_split = dict(reversed(group))  # the first of each split
        for split, held in itertools.combinations(sorted(by_split, key=("train", "val", "test").index), 2):
            pairs[split, held] += [(sample, by_split[split]) for which, sample in group if which == held]
    for (split, held), copies in sorted(pairs.items()):
        examples = [f"{sample.path} of {original.path}" for sample, original in copies[:2]]
        are = (
            f"{how_many(len(copies), 'image')} in {held} {'is a copy' if len(copies) == 1 else 'are copies'} of {split} images"
        )
        yield f"{are}, so the {held} figures are too good: {_listed(examples, len(copies))}"


def _listed(examples: Sequence[str], count: int) -> str:
    more = count - len(examples)
    return "; ".join(examples) + (f"; and {more} more, which `resnet check` lists" if more else "")


def _about_dark(dataset: Dataset) -> list[str]:
    by_class: dict[int, list[Path]] = defaultdict(list)
    for samples in dataset.splits.values():
        for sample in samples:
            by_class[sample.label].append(sample.path)
    dark = [label for label in sorted(by_class) if dark_sixteen_bit(by_class[label])]
    if not dark:
        return []
    if not dataset.labelled:
        classes = str(dataset.root)
    else:
        names = [dataset.classes[label] for label in dark]
        classes = f"the class {names[0]}" if len(names) == 1 else f"the classes {some_names(names)}"
    return [
        f"16-bit greyscale images of {classes} look black, as no value is above {TWELVE_BITS} of 65535 (12 bits):"
        " multiply the values by 16"
    ]


def _about_same_folders(dataset: Dataset) -> list[str]:
    """Classes that all contain the same folders may be splits, such as the folds of a cross-validation."""
    if dataset.labels is not None:
        return []
    inside: dict[int, set[str]] = defaultdict(set)
    for samples in dataset.splits.values():
        for sample in samples:
            parts = sample.path.relative_to(dataset.root).parts
            below = parts[parts.index(dataset.classes[sample.label]) + 1 :]
            if len(below) == 1:
                return []  # an image lies in the class folder itself, as in most data sets
            inside[sample.label].add(below[0])
    names = inside[0]
    if len(names) < 2 or any(those != names for those in inside.values()):
        return []
    return [
        f"the classes {some_names(dataset.classes)} all contain the folders {some_names(sorted(names))}: if these are the"
        " classes, give a folder that contains them, or name the upper folders train, val and test"
    ]


def dark_sixteen_bit(paths: Sequence[Path]) -> int:
    """How many 16-bit greyscale images of a sample of a class there are, if all are dark: no value above 12 bits; else 0.

    The sample is spread evenly. Of PNG and TIFF files the first bytes are read, and 16-bit images are decoded.

    Args:
        paths: images of one class.
    """
    candidates = [path for path in paths if path.suffix.lower() in (".png", ".tif", ".tiff")]
    step = -(-len(candidates) // _LOOKED_AT) or 1
    deep = [path for path in candidates[::step] if _may_be_sixteen_bit(path)]
    brightest = [value for value in map_in_order(_brightest, deep) if value is not None]
    return len(brightest) if brightest and 0 < max(brightest) <= TWELVE_BITS else 0


def _may_be_sixteen_bit(path: Path) -> bool:
    """Whether a PNG's header says 16-bit greyscale; always true for a TIFF, whose first bytes do not say."""
    try:
        with path.open("rb", buffering=0) as file:
            head = file.read(26)
    except OSError:
        return False
    if head.startswith(b"\x89PNG") and len(head) == 26:
        return struct.unpack("BB", head[24:26]) == (16, 0)  # bit depth, colour type (PNG specification, 11.2.1)
    return head[:4] in (b"II*\0", b"MM\0*")


def _brightest(path: Path) -> int | None:
    """The largest value of a 16-bit greyscale image; None for other and for damaged images."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "TIFF")) as image:
            if not image.mode.startswith("I;16"):
                return None
            return int(np.asarray(image).max())
    except Exception:  # parsers raise errors of any type; decoding will report the reason
        return None


def mirror_sensitive(classes: Sequence[str]) -> list[str]:
    """Classes whose names suggest that a mirrored image belongs to another class or to none.

    These are names with left and right, arrows, digits, and letters. A few single letters, or only 0 and 1, are taken for mere
    labels.
    """
    words = {name: {*words_of(name)} for name in classes}
    every = set().union(*words.values())
    telling = {word for pair in _PAIRS if {*pair} <= every for word in pair} | ({"left"} & every) | _SIGNS
    single = {name: unicodedata.normalize("NFC", name).casefold() for name in classes}
    single = {name: text for name, text in single.items() if len(text) == 1}
    letters = {name for name, text in single.items() if text.isalpha()}
    digits = {name for name, text in single.items() if text.isdecimal()}
    numbers = {name for name in classes if name.lower() in _NUMBERS}
    are_letters = len(letters) >= max(_LETTERS, len(classes) / 2) or any(pair <= {*single.values()} for pair in _TURNED)
    are_digits = len(digits) >= len(classes) / 2 and not {single[name] for name in digits} <= {"0", "1", "8"}
    found = {
        *(letters if are_letters else ()),
        *(digits if are_digits else ()),
        *(numbers if len(numbers) > 2 else ()),
        *(name for name in classes if words[name] & telling or any("ARROW" in unicodedata.name(sign, "") for sign in name)),
    }
    return [name for name in classes if name in found]


def mirror_sentence(names: Sequence[str]) -> str:
    """A sentence that mirrored images of these classes may no longer belong to their class."""
    what = f"the class {names[0]}" if len(names) == 1 else f"the classes {some_names(names)}"
    return f"mirrored images of {what} may belong to another class or to none"
