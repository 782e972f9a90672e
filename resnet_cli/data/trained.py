"""Which images the networks of runs have learned from, known by their content (light: the standard library only).

In: runs and their splits.csv. Out: contents of training images, those of the runs whose weights they began with among them; and
sentences on held-out images among these.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from resnet_cli.errors import ResnetError
from resnet_cli.files import digest
from resnet_cli.runs import EARLIER, Content, Run, SplitRow, read_record, read_splits


def trained_contents(rows: Iterable[SplitRow]) -> set[Content]:
    """Of the pictures that a run was trained on, itself and not the runs that it began with."""
    return {row.content for row in rows if row.split == "train" and row.content}


def trained_before(run: Run) -> dict[Path, set[Content]]:
    """What the earlier runs learned from whose weights a run began with, by their folders, as far as these are there still."""
    found: dict[Path, set[Content]] = {}
    with suppress(OSError, ResnetError):  # gone, or damaged since
        if run.is_export and (kept := {row.content for row in read_splits(run) if row.split == EARLIER and row.content}):
            return {Path("an earlier run"): kept}
        while (weights := run.record.get("weights", {})).get("source") == "file":
            path = Path(weights["path"])
            run = Run(path.parent, read_record(path.parent / "run.json"))
            trained = trained_contents(read_splits(run))
            if digest(path) != weights["sha256"] or not trained:
                break
            found[run.folder] = trained
    return found


def is_validated_by_test(rows: Sequence[SplitRow]) -> bool:
    """Whether the test pictures of a run chose its epoch as well, as with --val-split 0."""
    places = {split: {(row.path, row.content) for row in rows if row.split == split} for split in ("val", "test")}
    return bool(places["test"]) and places["test"] == places["val"]


def trained(runs: Sequence[Run]) -> set[Content]:
    """What the networks of some runs have learned from."""
    return {
        content
        for run in runs
        for those in (trained_contents(read_splits(run)), *trained_before(run).values())
        for content in those
    }


def kind_of(split: str) -> str:
    """What a user is told that the images of a split are: "test", "training", or "held-out" of those that chose the epoch."""
    return {"test": "test", "train": "training"}.get(split, "held-out")


def copies_of_training(held: Sequence[Content | None], rows: Sequence[SplitRow], split: str) -> list[str]:
    """A sentence where images of a split hold the bytes of training images; `rows` are those of the run's splits.csv."""
    learned = trained_contents(rows)
    if not (count := sum(content in learned for content in held)):
        return []
    return [
        f"{count} of {len(held)} {kind_of(split)} images are copies of training images, so the figure is too good:"
        " `resnet check` lists them"
    ]


def seen_by_earlier_runs(held: Sequence[Content | None], run: Run, split: str) -> list[str]:
    """Sentences on images of a split that earlier runs were trained on, with whose weights a run began."""
    notes = []
    for earlier, learned in trained_before(run).items():
        if count := sum(content in learned for content in held):
            notes.append(
                f"{count} of {len(held)} {kind_of(split)} images are among those that {earlier} was trained on, whose weights"
                " this run began with, so the figure is too good: a test folder of its own gives a true one"
            )
    return notes
