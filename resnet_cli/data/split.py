"""Choose the held-out images: by random seed and content, recorded in the run (light: the standard library only).

In: a scanned `Dataset`. Out: the same with train, val and (if the folder has one) test splits, and the copies among them.

The number of an image, 0..1, is a hash of the seed and of its content; images with a number below the share are held out. An
image therefore stays in its split when others are added, removed or renamed. How many images of a class are held out is random,
within bounds: below half of the share or above twice the share, the images with the nearest numbers change sides.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from resnet_cli.data.contents import group_same, sketches
from resnet_cli.data.dataset import Dataset, Sample, Sampling
from resnet_cli.errors import ResnetError
from resnet_cli.progress import how_many

_FEWEST_PHOTOS = 4


@dataclass(frozen=True)
class Alike:
    """Samples whose files contain the same bytes (most often one sample), and their number, 0..1."""

    samples: tuple[Sample, ...]
    number: float = 0.0

    @property
    def labels(self) -> set[int]:
        """Class indices of its samples; two or more are a conflict."""
        return {self.samples[0].label} if len(self.samples) == 1 else {sample.label for sample in self.samples}


def hold_out_photos(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Hold out about `share` of the images of a data set without labels, at least two, by the same numbers as `hold_out`.

    Raises:
        ResnetError: it has fewer than four different images, or share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ResnetError(f"--val-split {share:g} is not between 0 and 1", "some of the images must be held out")
    samples = dataset.splits["all"]
    known = _sketched(samples)
    groups = sorted(_numbered(samples, known, seed), key=lambda group: group.number)
    if len(groups) < _FEWEST_PHOTOS:
        raise ResnetError(f"{dataset.root} has {how_many(len(groups), 'different image')}: too few to train on", "add images")
    count = min(max(2, sum(group.number < share for group in groups)), len(groups) - 2)
    train, val = _sides(groups, range(count))
    return replace(dataset, splits={"train": train, "val": val})


def hold_out(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Add a validation split to a data set whose folder has none.

    A val folder is used as it is. With train and test only, or with no splits at all, about `share` of every class (at least
    one image, never all) is held out from training; copies of one file stay on one side, even in two classes. With `share` 0
    and a test folder, training validates on the test images, as the papers do.

    Args:
        dataset: as scanned.
        share: held-out share of each class, 0..1.
        seed: random seed of the choice.

    Raises:
        ResnetError: a class has no two different images, or share is 0 and there is neither a val nor a test folder.
    """
    splits = dict(dataset.splits)
    pool = splits.pop("train" if "train" in splits else "all")
    if not is_divided(splits):
        return _with_copies(dataset, {"train": pool, **splits})
    if share == 0:
        if "test" not in splits:
            raise ResnetError("--val-split 0 needs a test folder to measure on", "leave --val-split out, or add a test folder")
        return _with_copies(dataset, {"train": pool, "val": splits["test"], **splits})
    if not 0 < share < 1:
        raise ResnetError(f"--val-split {share:g} is not between 0 and 1")
    known = _sketched([*pool, *splits.get("test", ())])
    train, val = _divided(dataset, _numbered(pool, known, seed), share)
    return _with_copies(dataset, {"train": train, "val": val, **splits}, known)


def sampled(dataset: Dataset, fraction: float | None, per_class: int | None, seed: int) -> Dataset:
    """A sample of the training and validation images of every class, for a quick trial; test images stay.

    Images are chosen by the same numbers as `hold_out` uses: a larger sample contains a smaller one, and copies of one file are
    chosen together or not at all. A class keeps at least two training images and one validation image, if it has them.

    Args:
        dataset: as `hold_out` returns it.
        fraction: share of each class and split, 0..1, or None.
        per_class: most images of each class in each split, or None; with neither, nothing is left out.
        seed: random seed of the choice.

    Raises:
        ResnetError: both are given, one is out of range, or there are no classes to count by.
    """
    if fraction is None and per_class is None:
        return dataset
    if fraction is not None and per_class is not None:
        raise ResnetError("--fraction and --per-class both choose a sample", "leave one out")
    if fraction is not None and not 0 < fraction <= 1:
        raise ResnetError(f"--fraction {fraction:g} is not between 0 and 1", "such as --fraction 0.1")
    if per_class is not None and (per_class < 1 or not dataset.labelled):
        what = f"{per_class} is not a number of images" if dataset.labelled else "needs labels, which the images do not have"
        raise ResnetError(f"--per-class {what}", "such as --per-class 50" if dataset.labelled else "use --fraction instead")
    fewest = {"train": 2} if dataset.is_validated_by_test else {"train": 2, "val": 1}
    splits = dict(dataset.splits)
    for split, least in fewest.items():
        groups = sorted(_numbered(splits[split], _sketched(splits[split]), seed), key=lambda group: group.number)
        share = per_class if fraction is None else fraction
        splits[split] = _sides(groups, _sample(groups, share or 0, least))[1]
    left = {sample.path for samples in splits.values() for sample in samples}
    copies = (tuple(each for each in group if each[1].path in left) for group in dataset.copies)
    of = {split: len(dataset.splits[split]) for split in fewest}
    return replace(
        dataset,
        splits=splits,
        copies=tuple(group for group in copies if len(group) > 1),
        sampling=Sampling(fraction, per_class, of),
    )


def _sample(groups: Sequence[Alike], share: float, least: int) -> set[int]:
    """Indices of the groups in a sample: a share of every class if it is a float, else a number of images.

    Args:
        groups: sorted by number.
        share: share, 0..1, or number of images.
        least: fewest images of a class in a share.
    """
    by_label: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        for label in group.labels:
            by_label[label].append(index)
    chosen: set[int] = set()
    for label, indices in sorted(by_label.items()):
        sizes = {index: _count(groups[index], label) for index in indices}
        most = max(least, round(share * sum(sizes.values()))) if isinstance(share, float) else share
        count = sum(sizes[index] for index in indices if index in chosen)
        for index in indices:
            if index not in chosen and (not count or count + sizes[index] <= most):
                chosen.add(index)
                count += sizes[index]
    return chosen


def stratified_folds(dataset: Dataset, count: int, seed: int) -> dict[Path, int]:
    """The fold of every training and validation image, 0 to `count` - 1; test images are in no fold.

    Every fold has the same number of images of a class, or one more. Copies of one file are in the same fold, even in two
    classes; with copies, folds may differ by more.

    Args:
        dataset: as returned by `hold_out`.
        count: number of folds.
        seed: random seed of the choice.

    Raises:
        ResnetError: a class has fewer different images than there are folds.
    """
    pool = [*dataset.splits["train"], *(() if dataset.is_validated_by_test else dataset.splits["val"])]
    groups = _numbered(pool, _sketched(pool), seed)
    different = Counter(label for group in groups for label in group.labels)
    for label, name in enumerate(dataset.classes):
        if different[label] < count:
            fewest = min(different[each] for each in range(len(dataset.classes)))
            hint = f"--folds {fewest} is the most for these classes, or add images" if fewest > 1 else "add images"
            what = f"the class {name} has {how_many(different[label], 'different image')} for training and validation"
            raise ResnetError(f"{what}, fewer than --folds {count}", hint)
    of_class = [Counter[int]() for _ in range(count)]
    totals, fold_of = [0] * count, dict[Path, int]()
    for group in sorted(groups, key=lambda group: (-len(group.samples), group.number)):
        fold = min(range(count), key=lambda fold: (sum(of_class[fold][label] for label in group.labels), totals[fold], fold))
        totals[fold] += len(group.samples)
        of_class[fold].update(sample.label for sample in group.samples)
        fold_of.update({sample.path: fold for sample in group.samples})
    return fold_of


def _divided(dataset: Dataset, groups: list[Alike], share: float) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Kept and held-out samples, by class and path."""
    for label, why in indivisible(groups).items():
        raise ResnetError(f"the class {dataset.classes[label]} has {why}", "add images, or remove the class folder")
    held = _held(groups, share)
    for label in _one_sided(groups, held):
        message = f"the images of the class {dataset.classes[label]} are in other classes too, so they cannot be divided"
        raise ResnetError(message, "keep each image in one class; `resnet check` lists them")
    return _sides(groups, held)


def _sides(groups: Sequence[Alike], held: Collection[int]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Samples for training and held-out samples, each sorted by class and path; `held` has the indices of held-out groups."""
    sides: dict[bool, list[Sample]] = {True: [], False: []}
    for index, group in enumerate(groups):
        sides[index in held] += group.samples
    return tuple(sorted(sides[False], key=_place)), tuple(sorted(sides[True], key=_place))


def is_divided(splits: Collection[str]) -> bool:
    """Whether images are held out of a folder with these splits: not if it has a val folder."""
    return "val" not in splits


def alike(samples: Sequence[Sample], known: Mapping[Path, bytes | None] | None = None) -> list[Alike]:
    """Group samples whose files contain the same bytes, in the order of the first sample of each group.

    Args:
        samples: of any classes.
        known: sketches of their files, as far as they are known.
    """
    by_path: dict[Path, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_path[sample.path].append(sample)
    return [Alike(tuple(sample for path in group for sample in by_path[path])) for group in group_same(by_path, known)]


def indivisible(groups: Iterable[Alike]) -> dict[int, str]:
    """Labels of the classes that have no image to hold out, with a short reason."""
    by_label: dict[int, list[Alike]] = defaultdict(list)
    for group in groups:
        for label in group.labels:
            by_label[label].append(group)
    return {label: why for label, those in sorted(by_label.items()) if (why := _why_indivisible(label, those))}


def _why_indivisible(label: int, groups: Sequence[Alike]) -> str:
    if len(groups) > 1:
        return ""
    count = _count(groups[0], label)
    return f"{f'{count} copies of one image' if count > 1 else 'only one image'}, so none can be held out"


def _sketched(samples: Iterable[Sample]) -> dict[Path, bytes | None]:
    paths = [sample.path for sample in samples]
    return dict(zip(paths, sketches(paths), strict=True))


def _numbered(samples: Sequence[Sample], known: Mapping[Path, bytes | None], seed: int) -> list[Alike]:
    """Group samples whose files contain the same bytes, with their number by seed and content."""
    return [Alike(group.samples, _number(group.samples[0].path, known, seed)) for group in alike(samples, known)]


def _number(path: Path, known: Mapping[Path, bytes | None], seed: int) -> float:
    content = known[path] or f"{path.parent.name}/{path.name}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.sha256(f"{seed}/".encode() + content).digest()[:8]) / 2**64


def _held(groups: Sequence[Alike], share: float) -> set[int]:
    """Indices of the held-out groups: some of every class, never all of them."""
    held = {index for index, group in enumerate(groups) if group.number < share}
    by_label: dict[int, list[int]] = defaultdict(list)
    for index in sorted(range(len(groups)), key=lambda index: groups[index].number):
        for label in groups[index].labels:
            by_label[label].append(index)
    for label, indices in sorted(by_label.items()):
        _keep_in_bounds(label, indices, groups, share, held)
    return held


def _one_sided(groups: Sequence[Alike], held: set[int]) -> set[int]:
    """Labels of classes that are entirely on one side, which happens if classes share all of their images."""
    sides: dict[bool, set[int]] = {True: set(), False: set()}
    for index, group in enumerate(groups):
        sides[index in held] |= group.labels
    return sides[True] ^ sides[False]


def _keep_in_bounds(label: int, indices: list[int], groups: Sequence[Alike], share: float, held: set[int]) -> None:
    """Move groups of one class between the sides if too few or too many were held out by chance; changes `held`.

    Args:
        label: index of the class.
        indices: its groups, sorted by number. Groups that are in other classes too stay, unless the class has no others.
        groups: all groups.
        share: requested share.
        held: indices of the held-out groups.
    """
    sizes = {index: _count(groups[index], label) for index in indices}
    total = sum(sizes.values())
    goal = min(total - 1, max(1, round(share * total)))
    fewest, most = math.ceil(goal / 2), min(2 * goal, total - math.ceil((total - goal) / 2))
    count = sum(sizes[index] for index in indices if index in held)
    own = [index for index in indices if len(groups[index].labels) == 1] or indices
    for index in own:
        if count < fewest and index not in held and count + sizes[index] <= most:
            held.add(index)
            count += sizes[index]
    if not count:  # every group is larger than that
        held.add(min(own, key=sizes.__getitem__))
        return
    for index in reversed(own):
        if count > most and index in held and count - sizes[index] >= fewest:
            held.remove(index)
            count -= sizes[index]
    if count == total:
        held.remove(min(own, key=sizes.__getitem__))


def _with_copies(
    dataset: Dataset, splits: dict[str, tuple[Sample, ...]], known: Mapping[Path, bytes | None] | None = None
) -> Dataset:
    """The data set with these splits, and the groups of samples of all splits whose files contain the same bytes."""
    split_of: dict[Path, str] = {}
    for split in sorted(splits, key=("train", "test", "val").index):  # test images that also selected the epoch count as test
        for sample in splits[split]:
            split_of.setdefault(sample.path, split)
    sample_of = {sample.path: sample for samples in splits.values() for sample in samples}
    copies = [group for group in group_same(split_of, known) if len(group) > 1]
    return replace(
        dataset, splits=splits, copies=tuple(tuple((split_of[path], sample_of[path]) for path in group) for group in copies)
    )


def _count(group: Alike, label: int) -> int:
    return sum(sample.label == label for sample in group.samples)


def _place(sample: Sample) -> tuple[int, tuple[str, ...]]:
    return sample.label, sample.path.parts
