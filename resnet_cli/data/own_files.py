"""Tell what this program wrote from images to learn from, wherever it lies in a data set (light: the standard library only).

In: a folder or a file. Out: whether all in it is of this program.
"""

from pathlib import Path

from resnet_cli.files import UNFINISHED
from resnet_cli.runs import EVALUATIONS, LITTER, is_evaluation, is_run_like

LABELS = "labels.txt"  # of an export: a class a line, in the order of the probabilities
EXAMPLE = "classify.py"  # of an export: how an image reaches the model, as a program
COMPARISON = "compare.png"  # what `compare` draws
COMPARED_BY = "resnet compare"  # the creator that its figures name
OWN_FILES = "files of this program: runs, figures or exports"  # why such folders are left out, which needs no warning
_MARKED = 4096  # bytes at a figure's beginning, which name its creator
_EXPORTED = {".txt", ".py", ".json", ".csv", ".html", ".xml", ".bin", ".keras", ".onnx", ".tflite", ".pb"}
_EXPORTED_FOLDERS = {"variables", "assets", EVALUATIONS}


def holds_runs(folder: Path) -> bool:
    """Whether all in a folder was written by this program: a run, an evaluation, an export, a search for a learning rate or
    comparisons, or folders of these. It is no class, wherever it is.
    """
    try:
        if is_run_like(folder) or is_evaluation(folder) or is_export_like(folder):
            return True
        inside = False
        for path in folder.iterdir():
            if path.name.startswith("."):
                continue
            if not (holds_runs(path) if path.is_dir() else is_comparison(path)):
                return False
            inside = True
    except OSError:  # whoever lists its images will say why
        return False
    return inside


def is_export_like(folder: Path) -> bool:
    """Whether a folder holds what `export` writes, in any format, and nothing that could be an image."""
    if not all((folder / name).is_file() for name in (LABELS, EXAMPLE)):
        return False
    inside = [path for path in folder.iterdir() if not path.name.startswith((UNFINISHED, *LITTER))]
    return all(path.suffix in _EXPORTED or path.name in _EXPORTED_FOLDERS for path in inside)


def is_comparison(path: Path) -> bool:
    """Whether a file is a figure that `compare` drew."""
    if path.suffix.lower() not in (".png", ".svg"):
        return False
    try:
        with path.open("rb") as file:
            return COMPARED_BY.encode() in file.read(_MARKED)
    except OSError:
        return False
