"""Find the splits and the class folders of a data set (light: the standard library only).

In: a folder. Out: a `Layout`: the folder of each split, or "all" if there are none, and a `Fault` for every ambiguity. Nothing
is guessed: docs/data.md lists the layouts that are recognised, by the words in folder names, and those that are refused.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_cli.data.folders import LeftOut, count_images, folder_names, list_folder
from resnet_cli.errors import ResnetError
from resnet_cli.progress import how_many

_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "eval", "evaluation", "dev", "holdout", "heldout"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
# Words that do not describe a class: `train_images` and `Training Data` are splits, `steam_train` may be a class.
_FILLERS = {
    *("set", "sets", "data", "dataset", "datasets", "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures"),
    *("split", "splits", "folder", "folders", "sample", "samples", "file", "files"),
}
_UNLABELLED = {"pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled", "unsupervised", "inference"}


def words_of(name: str) -> list[str]:
    """The words of a name, in lower case: "Training-Data2" and "TrainingData" both give training and data."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = " ".join(re.findall(r"[^\W\d_]+", parted)).lower()
    return re.sub(r"\b(hold|held) out\b", r"\1out", words).split()


def some_names(names: Sequence[str], most: int = 4) -> str:
    """Names as a phrase, at most `most` items: "a, b and c", or "a, b, c and 5 more"."""
    shown = [*names[: most - 1], f"{len(names) - most + 1} more"] if len(names) > most else list(names)
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def split_of(name: str) -> tuple[str, bool] | None:
    """The split in a name, and whether the name says nothing else; None if it names no split or two."""
    words = words_of(name)
    told = {_WORDS[word] for word in words if word in _WORDS}
    return (told.pop(), all(word in _WORDS or word in _FILLERS for word in words)) if len(told) == 1 else None


def rest_of(name: str) -> list[str]:
    """The words of a name that may describe a class."""
    return [word for word in words_of(name) if word not in _WORDS and word not in _FILLERS]


def says_nothing(name: str) -> bool:
    """Whether a name consists of words such as `images` only."""
    words = words_of(name)
    return bool(words) and all(word in _FILLERS for word in words)


def is_unlabelled(name: str) -> bool:
    """Whether a name marks unlabelled images, such as `seg_pred`."""
    return not _UNLABELLED.isdisjoint(words_of(name))


AMBIGUOUS = ("beside-train", "split-or-class", "two-splits")  # faults that leave open which folders are class folders

_DEEPEST = 8  # folders that may wrap a data set


@dataclass(frozen=True)
class Fault:
    """A fault in the structure of a folder that makes training impossible."""

    kind: str
    path: Path
    message: str
    hint: str


@dataclass(frozen=True)
class Layout:
    """Where the classes of each split are.

    Attributes:
        folders: the folder with the class folders of each split, in the order train, val, test; or "all".
        between: folders that wrap these, the data set's own first.
        left_out: folders that are neither split nor class, with reasons.
        faults: why the layout cannot be trained on.
    """

    folders: dict[str, Path]
    between: tuple[Path, ...]
    left_out: tuple[LeftOut, ...] = ()
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class _Named:
    """A folder whose name contains a split word.

    Attributes:
        path: the folder.
        split: train, val or test.
        is_plain: its name says nothing else.
        wraps: the folder itself, and the folders in it that only wrap the next one; the last contains the class folders.
        classes: names of the class folders.
        has_images: the last of `wraps` contains images and no folders.
        is_other: it contains only files of other kinds.
    """

    path: Path
    split: str
    is_plain: bool
    wraps: tuple[Path, ...]
    classes: frozenset[str] = frozenset()
    has_images: bool = False
    is_other: bool = False

    @property
    def may_be_class(self) -> bool:
        """Whether it may be a class, such as a railway's train: named just `train`, with images in it and no folders."""
        return self.path.name.lower() == "train" and self.has_images and len(self.wraps) == 1

    def is_twin(self, other: "_Named") -> bool:
        """Whether another split has the same class folders, or names the same class: train_cats and test_cats."""
        rest = rest_of(self.path.name)
        alike = self.classes & other.classes or (
            self.has_images and other.has_images and rest and rest == rest_of(other.path.name)
        )
        return self.split != other.split and bool(alike)


def find_layout(root: Path) -> Layout:
    """Find the splits of a folder by the words in folder names.

    Raises:
        ResnetError: the folder itself cannot be read.
    """
    between = _unwrapped_root(root)
    top = between[-1]
    folders = [top / name for name in folder_names(top)]
    named = [each for each in map(_look, folders) if each]
    splits, faults = _chosen_splits(top, named, len(folders))
    if not splits:
        return Layout({"all": top}, between, (), tuple(_split_or_class(top, named, folders)))
    if "train" not in splits:
        faults.append(_without_train(top, splits))
    taken = {each.path for each in splits.values()}
    left_out, refused = _beside([folder for folder in folders if folder not in taken], splits)
    if refused and not faults:
        faults.append(_beside_train(top, splits, refused))
    wraps = [folder for each in splits.values() for folder in each.wraps[:-1]]
    places = {split: each.wraps[-1] for split, each in splits.items()}
    return Layout(places, (*between, *wraps), tuple(left_out), tuple(faults))


def _look(folder: Path) -> _Named | None:
    told = split_of(folder.name)
    if told is None:
        return None
    try:
        wraps = [folder]
        while (inner := _only_folder(wraps[-1])) and len(wraps) < _DEEPEST and _wraps(folder, inner, told[0]):
            wraps.append(inner)
        classes = folder_names(wraps[-1])
        inside = list_folder(wraps[-1], deep=False)
    except ResnetError:  # listing it will report the reason
        return _Named(folder, *told, (folder,))
    has_images = not classes and bool(inside.images)
    return _Named(
        folder, *told, tuple(wraps), frozenset(classes), has_images, not (classes or has_images) and bool(inside.left_out)
    )


def _wraps(outer: Path, inner: Path, split: str) -> bool:
    """Whether the only folder in a split is a wrapper, not a class: it is named like the split, or like `images`."""
    told = split_of(inner.name)
    return inner.name.lower() == outer.name.lower() or says_nothing(inner.name) or (told is not None and told[0] == split)


def _only_folder(folder: Path) -> Path | None:
    """The only subfolder of a folder that contains no images itself; None if there are more."""
    names = folder_names(folder)
    return folder / names[0] if len(names) == 1 and not list_folder(folder, deep=False).images else None


def _unwrapped_root(root: Path) -> tuple[Path, ...]:
    """A data set's folder, and the folders in it that only wrap the next one.

    A single subfolder is a wrapper if it has the same name, a name like `images`, or contains a training folder. Any other may
    be a class, whose subfolders are not classes.
    """
    chain = [root]
    while len(chain) < _DEEPEST and (inner := _only_folder(chain[-1])):
        try:
            is_same = inner.name.lower() == chain[-1].resolve().name.lower() or says_nothing(inner.name)
            told = [split_of(name) for name in folder_names(inner)]
        except ResnetError:
            break
        if split_of(inner.name) or not (is_same or any(each and each[0] == "train" for each in told)):
            break
        if not told:  # it is a class folder, or empty
            break
        chain.append(inner)
    return tuple(chain)


def _chosen_splits(top: Path, named: list[_Named], among: int) -> tuple[dict[str, _Named], list[Fault]]:
    """The folder of each split, in the order train, val, test; none if the named folders are classes.

    A folder with further words in its name is a split if another split has the same class folders, or if there are no others.
    """
    found = [each for each in named if _is_split(each, named, among)]
    if all(each.split != "train" for each in found) and len(found) < among:
        # All folders are splits, some with images instead of class folders; otherwise they are among class folders.
        found = named if len(named) == among and all(each.is_plain for each in named) else []
    splits: dict[str, _Named] = {}
    faults = []
    for split in ("train", "val", "test"):
        present = [each for each in found if each.split == split]
        present.sort(key=lambda each: (not each.is_plain, each.path.name.lower()))
        if len(present) > 1:
            message = f"{top} has two {split} folders: {present[0].path.name} and {present[1].path.name}"
            faults.append(Fault("two-splits", present[1].path, message, "keep one of them"))
        if present:
            splits[split] = present[0]
    return splits, faults


def _is_split(each: _Named, named: list[_Named], among: int) -> bool:
    if each.is_plain:
        may_be = not each.has_images and not each.is_other
        shares = any(each.classes & other.classes for other in named if other is not each)
        return may_be and (shares or not each.classes or count_images(each.path) > 0)  # eval/results/ holds no images
    return bool(each.classes) and (among == 1 or any(each.is_twin(other) for other in named))


def _without_train(top: Path, splits: dict[str, _Named]) -> Fault:
    name = next(iter(splits.values())).path.name
    return Fault("no-train", top, f"{top} has a {name} folder but no train folder", "name the folder of training images train")


def _beside(folders: list[Path], splits: dict[str, _Named]) -> tuple[list[LeftOut], list[tuple[Path, int]]]:
    """Folders next to the splits: those that cannot be classes, and those that may be, with their numbers of images."""
    beside = f"beside the {next(iter(splits.values())).path.name} folder"
    left_out, refused = [], []
    for folder in folders:
        told, count = split_of(folder.name), count_images(folder)
        if told and told[1] and told[0] != "train":
            left_out.append(LeftOut(folder, f"{how_many(count, 'image')} in no class folder"))
        elif count and not is_unlabelled(folder.name):
            refused.append((folder, count))
        else:
            left_out.append(LeftOut(folder, f"{how_many(count, 'image')} {beside}" if count else beside))
    return left_out, refused


def _beside_train(top: Path, splits: dict[str, _Named], refused: list[tuple[Path, int]]) -> Fault:
    split = (splits.get("train") or next(iter(splits.values()))).path
    names, count = some_names([folder.name for folder, _ in refused]), sum(count for _, count in refused)
    them = "them" if len(refused) > 1 else "it"
    message = f"{top} has {names} with {how_many(count, 'image')} beside {split.name}, which holds folders of its own"
    hint = f"rename {split.name} if it is a class; otherwise move {names} into it as classes, or move {them} out of {top}"
    return Fault("beside-train", top, message, hint)


def _split_or_class(top: Path, named: list[_Named], folders: list[Path]) -> list[Fault]:
    """Faults for folders that are named like splits but lie among class folders, without a folder of training images."""
    names = {folder.name for folder in folders}
    doubtful = [each.path for each in named if _is_doubtful(each, named, names)]
    counts = {folder.name: count for folder in doubtful if (count := count_images(folder))}
    if not counts:
        return []
    called, others = some_names(list(counts)), some_names(sorted(names - set(counts)))
    beside = f" beside {others}" if others else ""
    kinds = ("a split", "a class") if len(counts) == 1 else ("splits", "classes")
    message = (
        f"{top} has {called} with {how_many(sum(counts.values()), 'image')}{beside}: {kinds[0]} by name, {kinds[1]} by place"
    )
    move = (
        f"move {others} into a new folder {top / 'train'}" if others else "make folders train and test that hold class folders"
    )
    hint = f"rename {called} if {'it is' if len(counts) == 1 else 'they are'} {kinds[1]}; otherwise {move}"
    return [Fault("split-or-class", top, message, hint)]


def _is_doubtful(each: _Named, named: list[_Named], names: set[str]) -> bool:
    """Whether a folder among class folders may be intended as a split."""
    if each.is_plain:
        return not each.may_be_class
    return bool(each.classes & (names - {each.path.name})) or any(each.is_twin(other) for other in named)
