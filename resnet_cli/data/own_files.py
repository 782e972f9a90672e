"""Tell what this program wrote from images to learn from, wherever it lies in a data set (light: the standard library only).

In: a folder or a file. Out: whether all in it is of this program.
"""

from collections.abc import Callable
from pathlib import Path

from resnet_cli.files import UNFINISHED
from resnet_cli.runs import EVALUATIONS, LITTER, is_evaluation, is_run_like

LABELS = "labels.txt"  # of an export: a class a line, in the order of the probabilities
EXAMPLE = "classify.py"  # of an export: how an image reaches the model, as a program
CREATOR = "resnet "  # how the creator begins that figures of this program name: it is followed by the command
COMPARED_BY = f"{CREATOR}compare"
OWN_FILES = "files of this program: runs, figures or exports"  # why such folders are left out, which needs no warning
_MARKED = 1024  # bytes at a figure's beginning, which name its creator
_EXPORTED = {".txt", ".py", ".json", ".csv", ".html", ".xml", ".bin", ".keras", ".onnx", ".tflite", ".pb"}
_EXPORTED_FOLDERS = {"variables", "assets", EVALUATIONS}


def holds_runs(folder: Path, is_image: Callable[[Path], bool]) -> bool:
    """Whether a folder holds files of this program and no images to learn from: a run, an evaluation, an export, a search for a
    learning rate or comparisons, or folders of these. It is no class, wherever it is, whatever notes are kept beside them.

    Args:
        folder: any.
        is_image: whether a file could be an image, by its name.
    """
    try:
        if is_run_like(folder) or is_evaluation(folder) or is_export_like(folder):
            return True
        inside = is_own(folder)
        for path in folder.iterdir():
            if path.name.startswith("."):
                continue
            if is_figure(path) or (path.is_dir() and holds_runs(path, is_image)):
                inside = True
            elif any(map(is_image, path.rglob("*") if path.is_dir() else [path])):
                return False
    except OSError:  # whoever lists its images will say why
        return False
    return inside


def is_own(folder: Path) -> bool:
    """Whether a folder has the files that tell a run or an export, among whatever else."""
    names = [{"run.json", "splits.csv"}, {LABELS, EXAMPLE}]
    return any(all((folder / name).is_file() for name in those) for those in names)


def is_export_like(folder: Path) -> bool:
    """Whether a folder holds what `export` writes, in any format, and nothing that could be an image."""
    if not all((folder / name).is_file() for name in (LABELS, EXAMPLE)):
        return False
    inside = [path for path in folder.iterdir() if not path.name.startswith((UNFINISHED, *LITTER))]
    return all(path.suffix in _EXPORTED or path.name in _EXPORTED_FOLDERS for path in inside)


def is_figure(path: Path, creator: str = CREATOR) -> bool:
    """Whether a file is a figure that this program drew: curves, a comparison or a search for a learning rate.

    Args:
        path: a file of any kind.
        creator: of the figure, or how its name begins.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        return False
    try:
        with path.open("rb", buffering=0) as file:
            start = file.read(_MARKED)
        return any(mark + creator.encode() in start for mark in (b"Software\0", b">"))  # of PNG and SVG
    except OSError:
        return False
