"""Which pictures an evaluation scores: those that a run held out, or a folder's, matched with the run's classes by name.

In: runs that answer together (mostly one), and a folder or none. Out: a `Scored`. A picture that one of the runs was trained on
is never scored, nor one of the runs whose weights they began with (light: the standard library only).
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_cli.data.layout import AMBIGUOUS
from resnet_cli.data.same_files import among, contents
from resnet_cli.data.scan import Sample
from resnet_cli.data.survey import Survey, survey
from resnet_cli.errors import ResnetError
from resnet_cli.runs import Content, Run, SplitRow, is_validated_by_test, read_splits, trained_before, trained_contents

TEST_CHOSE = "the test pictures chose the epoch as well (--val-split 0), so their figure is a little too good"
VAL_CHOSE = "the same pictures chose the best epoch: a test folder beside train gives an untouched figure"


@dataclass(frozen=True)
class Scored:
    """Pictures to score.

    Attributes:
        name: of the data set.
        split: train, val or test, or "all" of a folder without splits.
        classes: the first run's; labels of samples index into them.
        samples: the pictures.
        notes: what the user must know: classes that are not shared, pictures that were passed over.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    notes: tuple[str, ...]


def held_out(runs: Sequence[Run]) -> Scored:
    """The first run's own test pictures, or the validation pictures that it held out, less what another run was trained on.

    Args:
        runs: one or more, of the same classes.

    Raises:
        ResnetError: they are not where they were, or none is left.
    """
    run = runs[0]
    rows = read_splits(run)
    split = "test" if any(row.split == "test" for row in rows) else "val"
    place = {name: index for index, name in enumerate(run.classes)}
    if unknown := sorted({row.label for row in rows} - set(place)):
        raise ResnetError(f"{run.splits} has a class that {run.path.name} does not know: {unknown[0]}", "name it alike in both")
    held = [row for row in rows if row.split == split]
    elsewhere = _trained(runs[1:])
    samples = [Sample(run.data / row.path, place[row.label]) for row in held if row.content not in elsewhere]
    if not samples:
        what = f"the other runs were trained on all of {run.folder}'s" if held else f"the run {run.folder} has no"
        raise ResnetError(f"{what} held-out pictures", "give a folder: resnet evaluate FOLDER")
    missing = [sample.path for sample in samples if not sample.path.exists()]
    if missing:
        raise ResnetError(
            f"{len(missing)} of {len(samples)} held-out pictures are no longer there, such as {missing[0]}",
            "put the data set back, or give a folder: resnet evaluate FOLDER",
        )
    taken = len(held) - len(samples)
    notes = [f"{taken} held-out pictures of {run.folder} that another run was trained on are not scored"] if taken else []
    if is_validated_by_test(rows):
        notes.append(TEST_CHOSE)
    elif split == "val":
        notes.append(VAL_CHOSE)
    notes += seen_before(contents(sample.path for sample in samples), run, rows, split)
    return Scored(run.data.name, split, run.classes, tuple(samples), tuple(notes))


def folder(runs: Sequence[Run], root: Path) -> Scored:
    """Any folder with class folders: its test split, else its val split, else all of it but what a run was trained on.

    Args:
        runs: one or more, of the same classes.
        root: the folder.

    Raises:
        ResnetError: no class in common, or nothing left to score.
    """
    run, who = runs[0], "the run was" if len(runs) == 1 else "the runs were"
    found = survey(root.absolute())
    split = next(name for name in ("test", "val", "all", "train") if name in found.classes)
    _require_readable(found, split)
    present = {_composed(name): listing.pictures for name, listing in found.classes[split].items() if listing.pictures}
    shared = [name for name in run.classes if _composed(name) in present]
    if not shared:
        raise ResnetError(
            f"{root} has no pictures of a class that the run {run.folder} knows ({some(run.classes)})",
            "class folders are matched by name",
        )
    notes = _class_notes(present.keys() - set(map(_composed, shared)), [name for name in run.classes if name not in shared])
    if passed := [each for listing in found.classes[split].values() for each in listing.left_out]:
        notes.append(f"passed over {len(passed)} file(s), such as {passed[0].path}: {passed[0].reason}")
    samples = tuple(Sample(path, label) for label, name in enumerate(run.classes) for path in present.get(_composed(name), ()))
    seen = among([sample.path for sample in samples], _trained(runs))
    unseen = tuple(sample for sample in samples if sample.path not in seen)
    if len(unseen) < len(samples):
        notes.append(f"{len(samples) - len(unseen)} pictures that {who} trained on are not scored")
    if not unseen:
        raise ResnetError(f"{who} trained on every picture of {root}", "leave the folder out to score what was held out")
    return Scored(root.resolve().name, split, run.classes, unseen, tuple(notes))


def kind_of(split: str) -> str:
    """What a user is told that the pictures of a split are: "test", or "held-out" of those that chose the epoch."""
    return "test" if split == "test" else "held-out"


def seen_before(held: Sequence[Content | None], run: Run, rows: Sequence[SplitRow], split: str) -> list[str]:
    """Sentences on pictures of a split that a run's network has learned from: copies of training pictures, and pictures that
    a run was trained on whose weights it began with; `rows` are those of the run's splits.csv.
    """
    kind = kind_of(split)
    trained = trained_contents(rows)
    notes = []
    if count := sum(content in trained for content in held):
        notes.append(
            f"{count} of {len(held)} {kind} pictures are copies of training pictures, so the figure is too good:"
            " `resnet check` lists them"
        )
    for earlier, trained in trained_before(run).items():
        if count := sum(content in trained for content in held):
            notes.append(
                f"{count} of {len(held)} {kind} pictures are among those that {earlier} was trained on, whose weights"
                " this run began with, so the figure is too good: a test folder of its own gives a true one"
            )
    return notes


def some(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _trained(runs: Sequence[Run]) -> set[Content]:
    """What the networks of some runs have learned from."""
    return {
        content
        for run in runs
        for those in (trained_contents(read_splits(run)), *trained_before(run).values())
        for content in those
    }


def _composed(name: str) -> str:
    """A name as most systems spell it: macOS takes letters and their accents apart."""
    return unicodedata.normalize("NFC", name)


def _require_readable(found: Survey, split: str) -> None:
    """A class folder that cannot be read must not be taken for one without images, nor one of two test folders for all."""
    place = found.folders[split]
    for fault in found.broken:
        if fault.kind in AMBIGUOUS or (fault.kind == "unreadable" and place in (fault.path, *fault.path.parents)):
            raise ResnetError(fault.message, fault.hint)


def _class_notes(unknown: set[str], absent: Sequence[str]) -> list[str]:
    notes = []
    if unknown:
        notes.append(f"not scored, unknown to the run: {some(sorted(unknown))}")
    if absent:
        notes.append(f"the folder has no pictures of: {some(absent)}")
    return notes
