"""Hold pictures out: stratified, seeded, recorded (light: the standard library only).

In: a scanned `Dataset`. Out: the same with train, val and (where the folder has one) test splits.
"""

import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from resnet_cli.data.same_files import group_same
from resnet_cli.data.scan import Dataset, Sample
from resnet_cli.errors import ResnetError


def hold_out(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Give the data set a validation split of its own where the folder has none.

    A folder with val keeps it. With train and test only, or with no splits at all, `share` of every class (at least one
    picture, never all) is held out from training; copies of one file stay on one side. `share` 0 with a test folder draws the
    curves on the test pictures, as the papers do.

    Args:
        dataset: as scanned.
        share: held-out share of each class, 0..1.
        seed: of the choice.

    Raises:
        ResnetError: a class has no two different pictures, or share is 0 without any folder to measure on.
    """
    splits = dict(dataset.splits)
    pool = splits.pop("train" if "train" in splits else "all")
    if not is_divided(splits):
        return replace(dataset, splits={"train": pool, **splits})
    if share == 0:
        if "test" not in splits:
            raise ResnetError("--val-split 0 needs a test folder to measure on", "leave --val-split out, or add a test folder")
        return replace(dataset, splits={"train": pool, "val": splits["test"], **splits})
    if not 0 < share < 1:
        raise ResnetError(f"--val-split {share:g} is no share between 0 and 1")
    train: list[Sample] = []
    val: list[Sample] = []
    by_class = groups_by_class(pool)
    for label, name in enumerate(dataset.classes):
        held, kept = _divide(by_class[label], name, share, seed)
        val += held
        train += kept
    return replace(dataset, splits={"train": tuple(sorted(train, key=_place)), "val": tuple(sorted(val, key=_place)), **splits})


def is_divided(splits: Collection[str]) -> bool:
    """Whether pictures are held out of a folder with these splits: a val folder of its own spares that."""
    return "val" not in splits


def groups_by_class(samples: Sequence[Sample]) -> dict[int, list[list[Sample]]]:
    """Samples whose files hold the same bytes, together, by label; groups in the order of their first samples."""
    by_class: dict[int, dict[Path, Sample]] = defaultdict(dict)
    for sample in samples:
        by_class[sample.label][sample.path] = sample
    return {label: [[by_path[path] for path in group] for group in group_same(by_path)] for label, by_path in by_class.items()}


def why_indivisible(groups: Sequence[Sequence[Sample]]) -> str:
    """Why none of a class's pictures can be held out; empty where some can.

    Args:
        groups: its samples, copies of one file together.
    """
    if len(groups) > 1:
        return ""
    count = sum(map(len, groups))
    return f"{f'{count} copies of one picture' if count > 1 else 'only one picture'}, so none can be held out"


def _divide(groups: list[list[Sample]], name: str, share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Held out and kept samples of one class; a group is never torn apart."""
    if why := why_indivisible(groups):
        raise ResnetError(f"the class {name} has {why}", "add pictures, or remove the class folder")
    count = sum(map(len, groups))
    # Seeded by class as well, so that a new class does not change what the others hold out.
    random.Random(f"{seed}/{name}").shuffle(groups)
    goal = min(count - 1, max(1, round(share * count)))
    held: list[Sample] = []
    kept: list[Sample] = []
    for group in groups:
        (held if len(held) + len(group) <= goal else kept).extend(group)
    if not held:  # every group is larger than the goal
        held = min(groups, key=len)
        kept = [sample for group in groups if group is not held for sample in group]
    return held, kept


def _place(sample: Sample) -> tuple[int, tuple[str, ...]]:
    return sample.label, sample.path.parts
