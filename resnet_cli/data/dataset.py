"""Scan a data set: its splits, its classes, its samples, and every fault in its layout (light: the standard library only).

In: a folder in any state. Out: a `Survey` with all `Fault`s, which `resnet check` lists. `scan_dataset` returns a `Dataset`, or
raises the first fault as an error.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_cli.data.folders import (
    EXTENSIONS,
    OWN_FILES,
    Hidden,
    LeftOut,
    Listing,
    all_folder_names,
    entries,
    folder_names,
    is_folder,
    is_printable,
    list_folder,
    meant,
    printable,
    wrong_name,
)
from resnet_cli.data.layout import Fault, find_layout
from resnet_cli.errors import ResnetError
from resnet_cli.progress import how_many


@dataclass(frozen=True)
class LabelsFile:
    """A table of labels that was read in place of class folders: its path, and SHA-256, hexadecimal."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Survey:
    """The contents of a folder or of a table of labels, which may or may not be a valid data set.

    Attributes:
        root: the folder; with a table, the one that its relative paths start from.
        folders: the folder of each split; "all" is the root itself.
        classes: the listing of each class folder of each split, by name, sorted.
        left_out: files in no class folder, with reasons; those in class folders are in the listings.
        hidden: number of hidden files and folders that were skipped outside of class folders.
        hidden_folders: those of them that contain images; those in class folders are in the listings.
        broken: folders that cannot be read, and layouts that can be read in two ways; rows of a table that contradict others.
        labels: the table, if there is one.
        notes: remarks on the table.
    """

    root: Path
    folders: dict[str, Path]
    classes: dict[str, dict[str, Listing]]
    left_out: tuple[LeftOut, ...]
    hidden: int
    hidden_folders: tuple[Hidden, ...]
    broken: tuple[Fault, ...]
    labels: LabelsFile | None = None
    notes: tuple[str, ...] = ()

    def place(self, split: str, name: str) -> Path:
        """The folder of a class, or the table with the name of the class."""
        return self.folders[split] / name if self.labels is None else Path(f"{self.labels.path} ({name})")

    @property
    def main(self) -> str:
        """The split that defines the classes: train, or "all"; in a folder without these, its only split."""
        return next(iter(self.folders))

    @property
    def all_left_out(self) -> tuple[LeftOut, ...]:
        """Files that are not samples, including those in class folders."""
        return self.left_out + tuple(file for listing in self._listings() for file in listing.left_out)

    @property
    def all_hidden(self) -> int:
        """Number of hidden files and folders, including those in class folders."""
        return self.hidden + sum(listing.hidden for listing in self._listings())

    @property
    def all_hidden_folders(self) -> tuple[Hidden, ...]:
        """Hidden folders that contain images, including those in class folders."""
        return self.hidden_folders + tuple(each for listing in self._listings() for each in listing.hidden_folders)

    def _listings(self) -> list[Listing]:
        return [listing for listings in self.classes.values() for listing in listings.values()]


def survey(root: Path) -> Survey:
    """List every split and class folder of a folder in any state.

    Raises:
        ResnetError: it is not a folder, or cannot be read.
    """
    require_folder(root)
    layout = find_layout(root)
    broken, left_out = list(layout.faults), list(layout.left_out)
    places = dict.fromkeys((*layout.between, *layout.folders.values()))
    hidden = 0
    hidden_folders: list[Hidden] = []
    classes: dict[str, dict[str, Listing]] = {split: {} for split in layout.folders}
    for place in places:
        try:
            loose = list_folder(place, deep=False)
            broken += _misnamed(place)
        except ResnetError as error:
            broken.append(Fault("unreadable", place, error.message, error.hint))
            continue
        left_out += [LeftOut(path, "in no class folder") for path in loose.images] + list(loose.left_out)
        hidden += loose.hidden
        hidden_folders += loose.hidden_folders
    for split, folder in layout.folders.items():
        try:
            left_out += _runs(folder)
            names = folder_names(folder)
        except ResnetError:  # already reported above
            continue
        for name in names:
            try:
                classes[split][name] = list_folder(folder / name)
            except ResnetError as error:
                broken.append(Fault("unreadable", folder / name, error.message, error.hint))
                classes[split][name] = Listing((), (), 0)
    return Survey(root, layout.folders, classes, tuple(left_out), hidden, tuple(hidden_folders), tuple(broken))


def faults(found: Survey) -> Iterator[Fault]:
    """Everything in the structure that makes training impossible, the most serious fault first."""
    yield from found.broken
    if found.labels is not None:
        yield from _faults_of_labels(found, found.labels.path)
        return
    main, folder = found.classes[found.main], found.folders[found.main]
    if not main:
        hint = "make one folder of images for every class, such as cars/ and trucks/"
        yield Fault("no-classes", folder, f"{folder} has no class folders", hint)
        return
    if not any(listing.images for listing in main.values()):
        left = [file for listing in main.values() for file in listing.left_out]
        hint = "add JPEG or PNG files"
        if left:
            are = "is" if len(left) == 1 else "are"
            hint = f"{how_many(len(left), 'file')} there {are} skipped, such as {left[0].path}: {left[0].reason}"
        yield Fault("no-images", folder, f"{folder} has no images in its class folders", hint)
        return
    for split, listings in found.classes.items():
        place = found.folders[split]
        if set(listings) != set(main):
            message = _mismatch(folder, set(main), place, set(listings))
            yield Fault("class-mismatch", place, message, "both need the same class folders")
        elif not any(listing.images for listing in listings.values()):
            yield Fault("no-images", place, f"{place} has no images in its class folders", "add images or remove the folder")
    # A class may be rare enough to be absent from val or test; without training images it cannot be learned.
    for name, listing in main.items():
        if not listing.images:
            hint = "add images or remove the folder"
            yield Fault("empty-class", folder / name, f"the class folder {folder / name} has no images", hint)
    if len(main) == 1:
        hint = "a classifier needs at least two class folders"
        (name,) = main
        if len(folder_names(folder / name)) > 1:
            hint += f"; if those are in {folder / name}, give that folder"
        yield Fault("one-class", folder, f"{folder} has one class only ({name})", hint)


def _faults_of_labels(found: Survey, table: Path) -> Iterator[Fault]:
    """What makes training with a table of labels impossible, besides rows that contradict each other."""
    main = found.classes[found.main]
    if found.main not in ("train", "all"):
        yield Fault("no-train", table, f"{table} has no row with the split train", "write train in the rows to train on")
    for split, listings in found.classes.items():
        if not any(listing.images for listing in listings.values()):
            of = "" if split == "all" else f" of the split {split}"
            hint = "name JPEG or PNG files in it"
            if left := [*found.left_out, *(file for listing in listings.values() for file in listing.left_out)]:
                hint = meant(left[0].path, found.root) or "see where its paths start: they are relative to DATASET"
                of += f", such as {left[0].path}: {left[0].reason}"
            yield Fault("no-images", table, f"{table} names no image{of}", hint)
            return
    for name, listing in main.items():
        if not listing.images:
            where = "" if found.main == "all" else f" in {found.main}"
            hint = "add images, or remove its rows"
            yield Fault("empty-class", found.place(found.main, name), f"the label {name} in {table} has no images{where}", hint)
    if len(main) == 1:
        hint = "a classifier needs at least two classes"
        yield Fault("one-class", table, f"{table} has one label only ({next(iter(main))})", hint)


def require_folder(root: Path) -> None:
    """Refuse what is no folder, or a folder that cannot be read.

    Raises:
        ResnetError: it is none.
    """
    hint = "give the folder that holds one folder of images per class, or a .zip or .tar (.gz, .bz2, .xz) of it"
    if not is_printable(Path(os.path.abspath(root))):  # noqa: PTH100 -- Path.resolve fails on links in a circle
        raise ResnetError(f"the name of the folder {printable(root)} is not valid UTF-8", "rename it")
    try:
        is_dir = stat.S_ISDIR(root.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise ResnetError(f"there is no folder {root}", hint) from None
    except OSError as error:
        hint = "mind its permissions" if isinstance(error, PermissionError) else ""
        raise ResnetError(f"the folder {root} cannot be read: {error.strerror}", hint) from error
    if not is_dir:
        raise ResnetError(f"{root} is a file, not a folder", hint)


def _runs(folder: Path) -> Iterator[LeftOut]:
    """Files that this program wrote among the classes, which happens when it runs inside the data set's folder."""
    for name in sorted(set(all_folder_names(folder)) - set(folder_names(folder))):
        yield LeftOut(folder / name, OWN_FILES)


def _misnamed(folder: Path) -> list[Fault]:
    named = ((entry, wrong_name(entry.name)) for entry in entries(folder))
    wrong = [(printable(folder / entry.name), why) for entry, why in named if why and is_folder(entry)]
    return [Fault("bad-name", path, f"the name of the folder {path} {why}", "rename it") for path, why in wrong]


def _mismatch(main: Path, classes: set[str], other: Path, found: set[str]) -> str:
    words = []
    if missing := sorted(classes - found):
        words.append(f"{other} lacks {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}")
    if extra := sorted(found - classes):
        words.append(f"{other} has {', '.join(extra[:3])}{' ...' if len(extra) > 3 else ''}, which {main} has not")
    return " and ".join(words)


__all__ = ["EXTENSIONS", "IMBALANCE", "SMALL_CLASS", "UNKNOWN", "Dataset", "LeftOut", "Sample", "scan_dataset", "scan_photos"]

SMALL_CLASS = 10  # images; with fewer, neither training nor the held-out accuracy is reliable
UNKNOWN = -1  # label of an unlabelled sample
IMBALANCE = 5.0  # largest class / smallest; beyond it plain training begins to neglect the small ones


@dataclass(frozen=True)
class Sample:
    """One image: its path and the index of its class, or `UNKNOWN`."""

    path: Path
    label: int


def spread(samples: Sequence[Sample], most: int) -> tuple[Sample, ...]:
    """All samples, or `most` of them at equal distances: in a list sorted by class, every class by its share."""
    count = min(most, len(samples))
    return tuple(samples[place * len(samples) // count] for place in range(count))


@dataclass(frozen=True)
class Sampling:
    """A sample of the training and validation images for a quick trial: a share, 0..1, or a number of images per class.

    Attributes:
        fraction: the share, or None.
        per_class: the number, or None.
        of: number of images of each sampled split before.
    """

    fraction: float | None
    per_class: int | None
    of: dict[str, int]


@dataclass(frozen=True)
class Dataset:
    """Classes, samples by split, and the files left out.

    Attributes:
        root: the folder.
        classes: names of the class folders or labels, sorted.
        splits: samples of train, val and test; of "all" if the folder has no splits.
        left_out: files that are not samples, with reasons.
        passed_over: number of hidden files and folders that were skipped.
        hidden_folders: those of them that contain images.
        labelled: whether the classes of the images are known.
        copies: groups of samples whose files contain the same bytes, each with its split; known once images are held out.
        labels: the table of labels, if there are no class folders.
        notes: remarks on the table.
        sampling: how the training and validation images were sampled, if they were.
    """

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, tuple[Sample, ...]]
    left_out: tuple[LeftOut, ...] = ()
    passed_over: int = 0
    hidden_folders: tuple[Hidden, ...] = ()
    labelled: bool = True
    copies: tuple[tuple[tuple[str, Sample], ...], ...] = ()
    labels: LabelsFile | None = None
    notes: tuple[str, ...] = ()
    sampling: Sampling | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.resolve().name or "dataset"

    @property
    def is_validated_by_test(self) -> bool:
        """Whether the test images also select the epoch, as with --val-split 0."""
        return "test" in self.splits and self.splits["test"] == self.splits.get("val")

    def relative(self, path: Path) -> str:
        """The path of an image from the folder, with slashes; absolute if a table of labels names it elsewhere."""
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()

    def counts(self, split: str) -> list[int]:
        """Images per class of one split."""
        counts = [0] * len(self.classes)
        for sample in self.splits.get(split, ()):
            if sample.label != UNKNOWN:
                counts[sample.label] += 1
        return counts


def scan_dataset(root: Path) -> Dataset:
    """Read the layout of a folder; no image is opened.

    Raises:
        ResnetError: no folder, no class folders, no images, one class, an empty class, splits with different classes, or an
            ambiguous layout.
    """
    return usable(survey(root))


def usable(found: Survey) -> Dataset:
    """The data set of a survey.

    Raises:
        ResnetError: the first of its `faults`.
    """
    for fault in faults(found):
        raise ResnetError(fault.message, fault.hint)
    classes = tuple(found.classes[found.main])
    splits = {
        split: tuple(Sample(path, label) for label, name in enumerate(classes) for path in listings[name].images)
        for split, listings in found.classes.items()
    }
    left_out, hidden = found.all_left_out, found.all_hidden
    return Dataset(
        found.root, classes, splits, left_out, hidden, found.all_hidden_folders, labels=found.labels, notes=found.notes
    )


def scan_photos(root: Path, classes: tuple[str, ...]) -> Dataset:
    """Read any tree of images as an unlabelled data set, to be labelled by a teacher; no image is opened.

    Args:
        root: the folder.
        classes: class names of the teacher.

    Raises:
        ResnetError: no folder, or no images in it.
    """
    found = list_folder(root)
    if not found.images:
        raise ResnetError(f"{root} contains no images", "give a folder with images in it, or in its subfolders")
    samples = tuple(Sample(path, UNKNOWN) for path in found.images)
    return Dataset(root, classes, {"all": samples}, found.left_out, found.hidden, found.hidden_folders, labelled=False)
