"""Which pictures an evaluation scores: those that a run held out, or a folder's, matched with the run's classes by name.

In: runs that answer together (mostly one), and a folder or none. Out: a `Scored`. A picture that one of the runs was trained on
is never scored (light: the standard library only).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_cli.data.scan import Sample
from resnet_cli.data.survey import survey
from resnet_cli.errors import ResnetError
from resnet_cli.runs import Run, read_splits


@dataclass(frozen=True)
class Scored:
    """Pictures to score.

    Attributes:
        name: of the data set.
        split: train, val or test, or "all" of a folder without splits.
        classes: names that are scored, in the first run's order; labels of samples index into them.
        columns: the classifier's index of each of those classes.
        samples: the pictures.
        notes: what the user must know: classes that are not shared, training pictures that were passed over.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    columns: tuple[int, ...]
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
    held = tuple(Sample(run.data / row.path, place[row.label]) for row in rows if row.split == split)
    samples = _unseen(held, runs[1:])
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
    notes = (f"{taken} held-out pictures of {run.folder} that another run was trained on are not scored",) if taken else ()
    return Scored(run.data.name, split, run.classes, tuple(range(len(run.classes))), samples, notes)


def folder(runs: Sequence[Run], root: Path) -> Scored:
    """Any folder with class folders: its test split, else its val split, else all of it but what a run was trained on.

    Args:
        runs: one or more, of the same classes.
        root: the folder.

    Raises:
        ResnetError: no class in common, or nothing left to score.
    """
    run, who = runs[0], "the run was" if len(runs) == 1 else "the runs were"
    found = survey(root)
    split = next(name for name in ("test", "val", "all", "train") if name in found.classes)
    present = {name: listing.pictures for name, listing in found.classes[split].items()}
    columns = tuple(index for index, name in enumerate(run.classes) if present.get(name))
    if not columns:
        raise ResnetError(
            f"{root} has no pictures of a class that the run {run.folder} knows ({some(run.classes)})",
            "class folders are matched by name",
        )
    classes = tuple(run.classes[column] for column in columns)
    notes = _class_notes(present.keys() - set(run.classes), [name for name in run.classes if name not in classes])
    samples = tuple(Sample(path, label) for label, name in enumerate(classes) for path in present[name])
    unseen = _unseen(samples, runs)
    if len(unseen) < len(samples):
        notes.append(f"{len(samples) - len(unseen)} pictures that {who} trained on are not scored")
    if not unseen:
        raise ResnetError(f"{who} trained on every picture of {root}", "leave the folder out to score what was held out")
    return Scored(root.resolve().name, split, classes, columns, unseen, tuple(notes))


def some(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _unseen(samples: tuple[Sample, ...], runs: Sequence[Run]) -> tuple[Sample, ...]:
    """The samples that none of the runs was trained on."""
    if not runs:
        return samples
    trained = {(run.data / row.path).resolve() for run in runs for row in read_splits(run) if row.split == "train"}
    return tuple(sample for sample in samples if sample.path.resolve() not in trained)


def _class_notes(unknown: set[str], absent: Sequence[str]) -> list[str]:
    notes = []
    if unknown:
        notes.append(f"not scored, unknown to the run: {some(sorted(unknown))}")
    if absent:
        notes.append(f"the folder has no pictures of: {some(absent)}; scored among the classes it shares with the run")
    return notes
