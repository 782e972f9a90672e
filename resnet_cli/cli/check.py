"""`resnet check`: find the problems of a data set before time is spent on training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from resnet_cli.cli import console
from resnet_cli.cli.options import DatasetFolder, Json, Labels, Quiet
from resnet_cli.cli.reporter import Reporter
from resnet_cli.cli.results import Column, print_table
from resnet_cli.jobs.environment import dataset_folder
from resnet_cli.progress import how_many

if TYPE_CHECKING:
    from resnet_cli.data.check import Inspection, Problem

# Kinds of problems in the order of the report, with advice.
_ADVICE = {
    "unreadable": "check the permissions of the folder",
    "bad-name": "rename the folder",
    "two-splits": "keep one of the folders",
    "beside-train": "rename the train folder if it is a class; otherwise move the others into it, or away",
    "split-or-class": "rename the folder if it is a class; otherwise move the others into a folder train",
    "no-train": "name the folder of training images train",
    "no-classes": "make one folder of images for every class, such as cars/ and trucks/",
    "no-images": "add JPEG or PNG files, or remove the folder",
    "class-mismatch": "give train, val and test the same class folders",
    "empty-class": "add images, or remove the class folder",
    "indivisible": "add images, remove the class folder, or add a val folder",
    "one-class": "add a second class folder",
    "no-path": "write the path of an image in the row, or remove it",
    "outside": "give the folder that holds all images as DATASET, or write absolute paths",
    "unknown-split": "write train, val or test",
    "two-labels": "keep one of the rows",
    "in-two-splits": "keep each image in one split",
    "two-spellings": "write a label the same in every row",
    "missing": "correct the paths or remove the rows; training leaves them out",
    "corrupt": "remove or replace them; training leaves them out",
    "conflict": "keep each image in one class",
    "leak": "remove the copies from training; they make the held-out accuracy too high",
    "duplicate": "remove the copies",
    "near-duplicate": "compare them, and keep one if they show the same photo",
    "labels": "see whether it is meant",
    "small-class": "add images; ten per class are few, a hundred are good",
    "imbalance": "add images to the small classes, or train with --set class_weights=true",
    "mirror-sensitive": "train with --no-flip if mirrored images are wrong",
    "dark-16-bit": "multiply the values by 16",
    "hidden-folder": "rename the folder without the dot if it is a class",
    "tiny-image": "replace them by larger ones",
    "wrong-extension": "rename them, so that other programs can open them",
    "not-a-image": "nothing, or move them elsewhere; training skips them",
    "left-out": "see the reasons; training skips them",
}
_SHOWN_PATHS, _SHOWN_CLASSES = 3, 30


def check(
    dataset: DatasetFolder = None,
    labels: Labels = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 on warnings too.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a data set for problems: damaged files, copies, leaks, small classes.

    Errors, which spoil training or its results (exit code 1): corrupt images, the same image in two classes (conflict) or
    in two splits (leak), class folders that differ between splits (class-mismatch), are empty, or cannot be read; folders that
    may be classes or splits (split-or-class, beside-train, two-splits); and, without a val folder, a class of one image or of
    copies of one, so that none can be held out (indivisible). In a table of labels also missing files (missing), two labels or
    splits of one file (two-labels, in-two-splits), and rows that cannot be understood.

    Warnings (exit code 0): copies in one folder (duplicate), images that look the same (near-duplicate), fewer than 10
    images in a class (small-class), a class more than 5 times as large as another (imbalance), images below 16 pixels
    (tiny-image), file extensions of another format (wrong-extension), 12-bit values in 16-bit files (dark-16-bit), class
    names which suggest that a mirrored image is wrong (mirror-sensitive), hidden folders with images (hidden-folder), and files
    that are skipped.
    """
    if dataset is None and labels is None:
        raise typer.BadParameter("name a folder of images", param_hint="DATASET")
    from resnet_cli.data.check import inspect_dataset

    reporter = Reporter(quiet or json)
    found = inspect_dataset(dataset_folder(dataset, reporter, labels), reporter, labels)
    if json:
        console.print_json(found.to_json())
    else:
        _print(found)
    if any(strict or problem.severity == "error" for problem in found.problems):
        raise typer.Exit(1)


def _print(found: Inspection) -> None:
    if found.classes:
        _print_counts(found)
    words = f"{how_many(found.images, 'image')} in {how_many(len(found.classes), 'class')}"
    if found.passed_over:
        words += f"; skipped {how_many(found.passed_over, 'hidden entry')}"
    console.out.print(words)
    for kind, advice in _ADVICE.items():
        problems = [problem for problem in found.problems if problem.kind == kind]
        if problems:
            _print_kind(kind, problems, advice)
    errors = sum(problem.severity == "error" for problem in found.problems)
    warnings = len(found.problems) - errors
    if not found.problems:
        console.out.print("\n[green]no problems found[/]")
    else:
        console.out.print(f"\n{how_many(errors, 'error')}, {how_many(warnings, 'warning')}")


def _print_kind(kind: str, problems: list[Problem], advice: str) -> None:
    colour = "red" if problems[0].severity == "error" else "yellow"
    console.out.print(f"\n[bold {colour}]{problems[0].severity}: {kind}[/] ({len(problems)})  {advice}")
    for problem in problems[:_SHOWN_PATHS]:
        # Messages about folders already name the path.
        line = problem.detail if str(problem.path) in problem.detail else f"{problem.path}: {problem.detail}"
        console.out.print(f"  {console.escape(line)}")
    if len(problems) > _SHOWN_PATHS:
        console.out.print(f"  ... and {len(problems) - _SHOWN_PATHS} more; --json lists them all")


def _print_counts(found: Inspection) -> None:
    names = found.classes[:_SHOWN_CLASSES]
    columns = [Column("class", [*names, "all"])]
    for split, counts in found.counts.items():
        cells = [_count(counts.get(name)) for name in names]
        columns.append(Column("images" if split == "all" else split, [*cells, f"{sum(counts.values()):,}"], is_number=True))
    left = len(found.classes) - len(names)
    more = f"and {how_many(left, 'more class')}; --json lists them all" if left else ""
    print_table(columns, caption=more, total=True)


def _count(number: int | None) -> str:
    return "missing" if number is None else f"{number:,}"
