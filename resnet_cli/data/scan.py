"""Find the pictures of a data set and name its classes and splits (light: the standard library only).

In: a folder in one of the layouts of docs/data.md. Out: a `Dataset`, with everything that was passed over and why.
"""

from dataclasses import dataclass
from pathlib import Path

from resnet_cli.data.folders import EXTENSIONS, Hidden, LeftOut, list_folder
from resnet_cli.data.survey import faults, survey
from resnet_cli.errors import ResnetError

__all__ = ["EXTENSIONS", "IMBALANCE", "SMALL_CLASS", "UNKNOWN", "Dataset", "LeftOut", "Sample", "scan_dataset", "scan_photos"]

SMALL_CLASS = 10  # pictures; with fewer, neither training nor the held-out figure says much
UNKNOWN = -1  # label of a sample whose class nobody has told
IMBALANCE = 5.0  # largest class / smallest; beyond it plain training begins to neglect the small ones


@dataclass(frozen=True)
class Sample:
    """One picture: where it lies and the index of its class, or `UNKNOWN`."""

    path: Path
    label: int


@dataclass(frozen=True)
class Dataset:
    """Classes, samples by split, and what was left out.

    Attributes:
        root: the folder.
        classes: names of the class folders, sorted.
        splits: samples of train, val and test; of "all" where the folder has no splits.
        left_out: files that are no samples, with reasons.
        passed_over: how many hidden files and folders were skipped.
        hidden_folders: those of them that hold images.
        labelled: whether the folders of the images say what is on them.
        copies: samples whose files hold the same bytes, together, each with its split; known once images are held out.
    """

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, tuple[Sample, ...]]
    left_out: tuple[LeftOut, ...] = ()
    passed_over: int = 0
    hidden_folders: tuple[Hidden, ...] = ()
    labelled: bool = True
    copies: tuple[tuple[tuple[str, Sample], ...], ...] = ()

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
            if sample.label != UNKNOWN:
                counts[sample.label] += 1
        return counts


def scan_dataset(root: Path) -> Dataset:
    """Read the layout of a folder; no picture is opened.

    Raises:
        ResnetError: no folder, no class folders, no images, one class, an empty class, splits with other classes, or a layout
            that can be read in two ways.
    """
    found = survey(root)
    for fault in faults(found):
        raise ResnetError(fault.message, fault.hint)
    classes = tuple(found.classes[found.main])
    splits = {
        split: tuple(Sample(path, label) for label, name in enumerate(classes) for path in listings[name].pictures)
        for split, listings in found.classes.items()
    }
    return Dataset(root, classes, splits, found.all_left_out, found.all_hidden, found.all_hidden_folders)


def scan_photos(root: Path, classes: tuple[str, ...]) -> Dataset:
    """Any tree of images without labels, as a data set of classes that somebody else will tell; no image is opened.

    Args:
        root: the folder.
        classes: names of the classes that the images may be of.

    Raises:
        ResnetError: no folder, or no images in it.
    """
    found = list_folder(root)
    if not found.pictures:
        raise ResnetError(f"{root} holds no images", "name a folder with images in it, or in folders below it")
    samples = tuple(Sample(path, UNKNOWN) for path in found.pictures)
    return Dataset(root, classes, {"all": samples}, found.left_out, found.hidden, found.hidden_folders, labelled=False)
