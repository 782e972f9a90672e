"""Find the pictures of a data set and name its classes and splits (light: the standard library only).

In: a folder in one of the layouts of docs/data.md. Out: a `Dataset`, with everything that was passed over and why.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from resnet_cli.errors import ResnetError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jpe", ".jfif"})
_SPLIT_NAMES = {
    "train": ("train", "training", "train_set", "training_set"),
    "val": ("val", "valid", "validation", "val_set", "valid_set", "validation_set"),
    "test": ("test", "testing", "test_set", "testing_set"),
}
_PASSED_OVER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints"})


@dataclass(frozen=True)
class Sample:
    """One picture: where it lies and the index of its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class LeftOut:
    """A file that is no sample, and why, in a few words."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Classes (sorted folder names), samples by split ("all" where the folder has none), and what was left out."""

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, tuple[Sample, ...]]
    left_out: tuple[LeftOut, ...] = ()
    passed_over: int = field(default=0)

    @property
    def name(self) -> str:
        return self.root.resolve().name or "dataset"

    def counts(self, split: str) -> list[int]:
        """Pictures per class of one split."""
        counts = [0] * len(self.classes)
        for sample in self.splits.get(split, ()):
            counts[sample.label] += 1
        return counts


def scan_dataset(root: Path) -> Dataset:
    """Read the layout of a folder; no picture is opened.

    Raises:
        ResnetError: no folder, no class folders, no pictures, one class, an empty class, or splits with other classes.
    """
    _require_folder(root)
    parts = _split_folders(root)
    if "train" not in parts:
        parts = {"all": root}
    names = {split: _class_folders(folder) for split, folder in parts.items()}
    main = "train" if "train" in parts else "all"
    classes = tuple(names[main])
    if not classes:
        raise ResnetError(
            f"{parts[main]} has no class folders", "make one folder of pictures for every class, such as cars/ and trucks/"
        )
    for split, found in names.items():
        if set(found) != set(classes):
            raise ResnetError(_mismatch(parts[main], classes, parts[split], found), "both need the same class folders")
    splits: dict[str, tuple[Sample, ...]] = {}
    left_out: list[LeftOut] = []
    passed_over = 0
    for split, folder in parts.items():
        samples: list[Sample] = []
        for label, name in enumerate(classes):
            pictures, others, hidden = list_pictures(folder / name)
            samples += [Sample(path, label) for path in pictures]
            left_out += [LeftOut(path, "not a picture") for path in others]
            passed_over += hidden
            if split == main and not pictures:
                raise ResnetError(f"the class folder {folder / name} has no pictures", "add pictures or remove the folder")
        splits[split] = tuple(samples)
    if len(classes) < 2:
        raise ResnetError(f"{parts[main]} has one class only ({classes[0]})", "a classifier needs at least two class folders")
    return Dataset(root, classes, splits, tuple(left_out), passed_over)


def list_pictures(folder: Path) -> tuple[list[Path], list[Path], int]:
    """Pictures below a folder (by file ending, recursively, sorted), other files, and how many hidden ones were passed over."""
    pictures: list[Path] = []
    others: list[Path] = []
    hidden = 0
    for path in _walk(folder):
        if _is_hidden(path.name) or any(_is_hidden(part) for part in path.relative_to(folder).parts):
            hidden += 1
        elif path.suffix.lower() in EXTENSIONS:
            pictures.append(path)
        else:
            others.append(path)
    return sorted(pictures), sorted(others), hidden


def _require_folder(root: Path) -> None:
    if not root.exists():
        raise ResnetError(f"there is no folder {root}", "give the folder that holds one folder of pictures per class")
    if not root.is_dir():
        raise ResnetError(f"{root} is a file, not a folder", "give the folder that holds one folder of pictures per class")


def _walk(folder: Path) -> Iterator[Path]:
    for parent, _, files in os.walk(folder, followlinks=False):
        for name in files:
            yield Path(parent) / name


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _PASSED_OVER


def _split_folders(root: Path) -> dict[str, Path]:
    """train, val and test folders below root, whatever they are called."""
    folders = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    found: dict[str, Path] = {}
    for split, names in _SPLIT_NAMES.items():
        present = [folders[name] for name in names if name in folders]
        if len(present) > 1:
            raise ResnetError(f"{root} has two {split} folders: {present[0].name} and {present[1].name}", "keep one of them")
        if present:
            found[split] = present[0]
    return found


def _class_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))


def _mismatch(main: Path, classes: tuple[str, ...], other: Path, found: list[str]) -> str:
    missing, extra = sorted(set(classes) - set(found)), sorted(set(found) - set(classes))
    words = []
    if missing:
        words.append(f"{other} lacks {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}")
    if extra:
        words.append(f"{other} has {', '.join(extra[:3])}{' ...' if len(extra) > 3 else ''}, which {main} has not")
    return " and ".join(words)
