"""Hold pictures out: stratified, seeded, recorded.

In: a scanned `Dataset`. Out: the same with train, val and (where the folder has one) test splits.
"""

import random
from dataclasses import replace

from resnet_cli.data.scan import Dataset, Sample
from resnet_cli.errors import ResnetError


def hold_out(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Give the data set a validation split of its own where the folder has none.

    A folder with val keeps it. With train and test only, or with no splits at all, `share` of every class (at least one
    picture, never all) is held out from training. `share` 0 with a test folder draws the curves on the test pictures, as the
    papers do.

    Args:
        dataset: as scanned.
        share: held-out share of each class, 0..1.
        seed: of the choice.

    Raises:
        ResnetError: a class has a single picture, or share is 0 without any folder to measure on.
    """
    splits = dict(dataset.splits)
    source = "train" if "train" in splits else "all"
    pool = splits.pop(source)
    if "val" in splits:
        return replace(dataset, splits={"train": pool, **splits})
    if share == 0:
        if "test" not in splits:
            raise ResnetError("--val-split 0 needs a test folder to measure on", "leave --val-split out, or add a test folder")
        return replace(dataset, splits={"train": pool, "val": splits["test"], **splits})
    if not 0 < share < 1:
        raise ResnetError(f"--val-split {share:g} is no share between 0 and 1")
    train: list[Sample] = []
    val: list[Sample] = []
    for label, name in enumerate(dataset.classes):
        members = [sample for sample in pool if sample.label == label]
        if len(members) < 2:
            raise ResnetError(
                f"the class {name} has {len(members)} readable picture(s), too few to hold one out",
                "add pictures, or remove the class folder",
            )
        # Seeded by class as well, so that a new class does not change what the others hold out.
        random.Random(f"{seed}/{name}").shuffle(members)
        held = min(len(members) - 1, max(1, round(share * len(members))))
        val += members[:held]
        train += members[held:]
    return replace(dataset, splits={"train": tuple(sorted(train, key=_place)), "val": tuple(sorted(val, key=_place)), **splits})


def _place(sample: Sample) -> tuple[int, str]:
    return sample.label, str(sample.path)
