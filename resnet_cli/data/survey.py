"""Read the layout of a folder in any state: its splits, its class folders, and every fault in them (light: standard library).

In: a folder. Out: a `Survey`, and from it the `Fault`s that training cannot work with: `scan_dataset` stops at the first, and
`resnet check` lists them all.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resnet_cli.data.folders import (
    LeftOut,
    Listing,
    entries,
    has_control_characters,
    is_folder,
    is_hidden,
    is_printable,
    list_folder,
    printable,
)
from resnet_cli.errors import ResnetError
from resnet_cli.runs import holds_runs

_SPLIT_NAMES = {
    "train": ("train", "training", "train_set", "training_set"),
    "val": ("val", "valid", "validation", "val_set", "valid_set", "validation_set"),
    "test": ("test", "testing", "test_set", "testing_set"),
}


@dataclass(frozen=True)
class Fault:
    """Something in the structure of a folder that training cannot work with."""

    kind: str
    path: Path
    message: str
    hint: str


@dataclass(frozen=True)
class Survey:
    """What a folder holds, whether it is a sound data set or not.

    Attributes:
        root: the folder.
        folders: the folder of each split; "all" is the root itself.
        classes: what each class folder of each split holds, by name, sorted.
        left_out: files in no class folder, with reasons; those in class folders stand in their listings.
        hidden: how many hidden files and folders were passed over outside of class folders.
        broken: folders that could not be read, and splits that stand there twice.
    """

    root: Path
    folders: dict[str, Path]
    classes: dict[str, dict[str, Listing]]
    left_out: tuple[LeftOut, ...]
    hidden: int
    broken: tuple[Fault, ...]

    @property
    def main(self) -> str:
        """The split whose classes count: train, or "all"."""
        return "all" if "all" in self.folders else "train"


def survey(root: Path) -> Survey:
    """List every split and class folder of a folder in any state.

    Raises:
        ResnetError: it is no folder, or cannot be read itself.
    """
    _require_folder(root)
    broken: list[Fault] = []
    folders = _split_folders(root, broken)
    top = list_folder(root, deep=False)
    left_out, hidden = list(_loose(top)), top.hidden
    if "all" not in folders:
        left_out += [LeftOut(root / name, f"beside the {folders['train'].name} folder") for name in _others(root, folders)]
    classes: dict[str, dict[str, Listing]] = {}
    for split, folder in folders.items():
        classes[split] = {}
        try:
            if folder != root:
                loose = list_folder(folder, deep=False)
                left_out += _loose(loose)
                hidden += loose.hidden
            left_out += _runs(folder)
            names = _folder_names(folder)
            broken += _misnamed(folder)
        except ResnetError as error:
            broken.append(Fault("unreadable", folder, error.message, error.hint))
            continue
        for name in names:
            try:
                classes[split][name] = list_folder(folder / name)
            except ResnetError as error:
                broken.append(Fault("unreadable", folder / name, error.message, error.hint))
                classes[split][name] = Listing((), (), 0)
    return Survey(root, folders, classes, tuple(left_out), hidden, tuple(broken))


def faults(found: Survey) -> Iterator[Fault]:
    """Everything in the structure that training cannot work with, the weightiest first."""
    yield from found.broken
    main, folder = found.classes[found.main], found.folders[found.main]
    if not main:
        hint = "make one folder of pictures for every class, such as cars/ and trucks/"
        yield Fault("no-classes", folder, f"{folder} has no class folders", hint)
        return
    if not any(listing.pictures for listing in main.values()):
        left = [file for listing in main.values() for file in listing.left_out]
        hint = "add JPEG or PNG files"
        if left:
            hint = f"{len(left)} files there are passed over, such as {left[0].path}: {left[0].reason}"
        yield Fault("no-pictures", folder, f"{folder} has no pictures in its class folders", hint)
        return
    for split, listings in found.classes.items():
        place = found.folders[split]
        if set(listings) != set(main):
            message = _mismatch(folder, set(main), place, set(listings))
            yield Fault("class-mismatch", place, message, "both need the same class folders")
        elif not any(listing.pictures for listing in listings.values()):
            yield Fault(
                "no-pictures", place, f"{place} has no pictures in its class folders", "add pictures or remove the folder"
            )
    # A class may be rare enough to be absent from val or test; without training pictures it cannot be learned.
    for name, listing in main.items():
        if not listing.pictures:
            hint = "add pictures or remove the folder"
            yield Fault("empty-class", folder / name, f"the class folder {folder / name} has no pictures", hint)
    if len(main) == 1:
        hint = "a classifier needs at least two class folders"
        (name,) = main
        if len(_folder_names(folder / name)) > 1:
            hint += f"; if those are in {folder / name}, give that folder"
        yield Fault("one-class", folder, f"{folder} has one class only ({name})", hint)


def _require_folder(root: Path) -> None:
    hint = "give the folder that holds one folder of pictures per class"
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


def _split_folders(root: Path, broken: list[Fault]) -> dict[str, Path]:
    """train, val and test folders below root, whatever they are called; {"all": root} where there are none.

    A folder `train` with pictures and no folders in it may be a class (a railway's), not a split.
    """
    folders = [root / name for name in _folder_names(root)]
    found: dict[str, Path] = {}
    for split, names in _SPLIT_NAMES.items():
        present = [folder for name in names for folder in folders if folder.name.lower() == name and _may_be_split(folder)]
        if len(present) > 1:
            message = f"{root} has two {split} folders: {present[0].name} and {present[1].name}"
            broken.append(Fault("two-splits", present[1], message, "keep one of them"))
        if present:
            found[split] = present[0]
    splits = {name: split for split, names in _SPLIT_NAMES.items() for name in names}
    if folders and "train" not in found and {folder.name.lower() for folder in folders} <= set(splits):
        broken.append(_without_train(root, {splits[folder.name.lower()]: folder for folder in folders}))
    return found if "train" in found else {"all": root}


def _without_train(root: Path, named: dict[str, Path]) -> Fault:
    if "train" in named:
        hint = f"make one folder of pictures for every class in {named['train']}, such as cars/ and trucks/"
        return Fault("no-classes", named["train"], f"{named['train']} has no class folders", hint)
    message = f"{root} has a {next(iter(named.values())).name} folder but no train folder"
    return Fault("no-train", root, message, "name the folder of training pictures train")


def _may_be_split(folder: Path) -> bool:
    try:
        return bool(_folder_names(folder)) or not list_folder(folder, deep=False).pictures
    except ResnetError:
        return True


def _folder_names(folder: Path) -> list[str]:
    return sorted(name for name in _all_folder_names(folder) if not holds_runs(folder / name))


def _all_folder_names(folder: Path) -> list[str]:
    names = (entry.name for entry in entries(folder) if is_folder(entry) and not is_hidden(entry.name))
    return [name for name in names if not _wrong_name(name)]


def _runs(folder: Path) -> Iterator[LeftOut]:
    """What this program wrote among the classes, as it does where it is told to work in the data set's folder."""
    for name in sorted(set(_all_folder_names(folder)) - set(_folder_names(folder))):
        yield LeftOut(folder / name, "runs of this program, no class")


def _misnamed(folder: Path) -> list[Fault]:
    named = ((entry, _wrong_name(entry.name)) for entry in entries(folder))
    wrong = [(printable(folder / entry.name), why) for entry, why in named if why and is_folder(entry)]
    return [Fault("bad-name", path, f"the name of the folder {path} {why}", "rename it") for path, why in wrong]


def _wrong_name(name: str) -> str:
    """What is wrong with the name of a class; empty where it is right."""
    if not is_printable(Path(name)):
        return "is not valid UTF-8"
    return "holds a line break or another control character" if has_control_characters(name) else ""


def _others(root: Path, folders: dict[str, Path]) -> list[str]:
    splits = {folder.name for folder in folders.values()}
    return [name for name in _folder_names(root) if name not in splits]


def _loose(listing: Listing) -> tuple[LeftOut, ...]:
    return tuple(LeftOut(path, "in no class folder") for path in listing.pictures) + listing.left_out


def _mismatch(main: Path, classes: set[str], other: Path, found: set[str]) -> str:
    words = []
    if missing := sorted(classes - found):
        words.append(f"{other} lacks {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}")
    if extra := sorted(found - classes):
        words.append(f"{other} has {', '.join(extra[:3])}{' ...' if len(extra) > 3 else ''}, which {main} has not")
    return " and ".join(words)
