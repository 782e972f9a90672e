"""Find the pictures of a data set and name its classes and splits (light: the standard library only).

In: a folder in one of the layouts of docs/data.md. Out: a `Dataset`, with everything that was passed over and why.
"""

from dataclasses import dataclass, field
from pathlib import Path

from resnet_cli.data.folders import EXTENSIONS, LeftOut
from resnet_cli.data.survey import faults, survey
from resnet_cli.errors import ResnetError

__all__ = ["EXTENSIONS", "IMBALANCE", "SMALL_CLASS", "Dataset", "LeftOut", "Sample", "scan_dataset"]

SMALL_CLASS = 10  # pictures; with fewer, neither training nor the held-out figure says much
IMBALANCE = 5.0  # largest class / smallest; beyond it plain training begins to neglect the small ones


@dataclass(frozen=True)
class Sample:
    """One picture: where it lies and the index of its class."""

    path: Path
    label: int


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

    @property
    def is_validated_by_test(self) -> bool:
        """Whether the test pictures choose the epoch as well, as with --val-split 0."""
        return "test" in self.splits and self.splits["test"] == self.splits.get("val")

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
    found = survey(root)
    for fault in faults(found):
        raise ResnetError(fault.message, fault.hint)
    classes = tuple(found.classes[found.main])
    splits = {
        split: tuple(Sample(path, label) for label, name in enumerate(classes) for path in listings[name].pictures)
        for split, listings in found.classes.items()
    }
    listings = [listing for split in found.classes.values() for listing in split.values()]
    left_out = found.left_out + tuple(file for listing in listings for file in listing.left_out)
    return Dataset(root, classes, splits, left_out, found.hidden + sum(listing.hidden for listing in listings))
