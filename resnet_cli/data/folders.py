"""List folders: images by file extension, and the files left out, with reasons (light: the standard library only).

In: a folder. Out: a `Listing`. Of files, at most the first bytes are read, to recognise HEIC images and figures drawn by this
program.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_cli.errors import ResnetError
from resnet_cli.files import UNFINISHED
from resnet_cli.runs.folder import EVALUATIONS, LITTER, is_evaluation, is_run_like

if TYPE_CHECKING:
    pass

HEIF_ENDINGS = frozenset({".heic", ".heif", ".hif"})
HEIF_INSTALL = "pip install 'resnet-cli[heif]'"


@cache
def heif_is_installed() -> bool:
    """Whether the `heif` extra is installed; it is not imported."""
    return importlib.util.find_spec("pillow_heif") is not None


EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jpe", ".jfif"})
_OTHER_IMAGES = frozenset({".svg", ".jp2", ".jxl", ".psd", ".dng", ".cr2", ".nef", ".arw"})
NO_IMAGE = "not an image"
MISSING = "there is no such file"  # though a table of labels names it
_CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}
_NO_TEXT = "its name is not valid UTF-8; rename it"
_PASSED_OVER = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
# Hidden folders of systems and tools, which contain copies, previews or deleted images: counted, but never reported by name.
_LITTER = {
    *("__macosx", ".ipynb_checkpoints", ".trash", ".trashes", ".recycle", ".git", ".svn", ".hg", ".dvc", ".cache", ".config"),
    *(".thumbnails", ".thumbs", ".spotlight-v100", ".fseventsd", ".temporaryitems", ".documentrevisions-v100", ".appledouble"),
    *(".idea", ".vscode", ".venv", ".picasaoriginals", ".snapshot", ".snapshots", ".zfs"),
}
_COMPARED = 5000  # most names that are compared with that of a missing file
_LITTER_BEGINNINGS = (".trash-", ".nfs", UNFINISHED)


@dataclass(frozen=True)
class LeftOut:
    """A file that is not a sample, with a short reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Hidden:
    """A hidden folder and the number of images in it."""

    path: Path
    images: int


@dataclass(frozen=True)
class Listing:
    """The contents of a folder.

    Attributes:
        images: files with the extension of an image, sorted.
        left_out: other files, sorted, with reasons.
        hidden: number of hidden files and folders that were skipped.
        hidden_folders: those of them that contain images, sorted, except folders known to contain only copies.
    """

    images: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]
    hidden: int
    hidden_folders: tuple[Hidden, ...] = ()


def list_folder(folder: Path, deep: bool = True) -> Listing:
    """List a folder and its subfolders, following links; with `deep` false, only the files in the folder itself.

    Raises:
        ResnetError: a folder cannot be read.
    """
    images: list[Path] = []
    left_out: list[LeftOut] = []
    hidden = 0
    hidden_folders: list[Hidden] = []
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        parent = waiting.pop()
        if not _is_new(parent, seen):
            continue  # a link back to a folder that was already listed
        for entry in entries(parent):
            path = parent / entry.name
            if is_hidden(entry.name):
                hidden += 1
                hidden_folders += _with_images(entry, path)
            elif is_folder(entry):
                if deep and not is_printable(Path(entry.name)):
                    left_out.append(LeftOut(printable(path), _NO_TEXT))
                elif deep and holds_runs(path, has_ending):
                    left_out.append(LeftOut(path, OWN_FILES))
                elif deep:
                    waiting.append(path)
            elif reason := why_no_image(entry):
                left_out.append(LeftOut(printable(path), reason))
            elif is_figure(path):
                left_out.append(LeftOut(path, OWN_FILES))
            else:
                images.append(path)
    return Listing(
        tuple(sorted(images, key=lambda path: path.parts)),
        tuple(sorted(left_out, key=lambda file: file.path.parts)),
        hidden,
        tuple(sorted(hidden_folders, key=lambda each: each.path.parts)),
    )


def walk_images(folder: Path, skipped: Callable[[LeftOut], None]) -> Iterator[Path]:
    """Yield the images of `list_folder`, in its order, one folder at a time: memory does not grow with their number.

    Args:
        folder: a folder.
        skipped: called with each file that is left out, except hidden ones.

    Raises:
        ResnetError: a folder cannot be read.
    """
    yield from _walk(folder, skipped, set())


def _walk(folder: Path, skipped: Callable[[LeftOut], None], seen: set[tuple[int, int]]) -> Iterator[Path]:
    if not _is_new(folder, seen):
        return
    for entry in sorted(entries(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if is_hidden(entry.name):
            continue
        if is_folder(entry) and is_printable(Path(entry.name)) and not holds_runs(path, has_ending):
            yield from _walk(path, skipped, seen)
        elif is_folder(entry):
            skipped(LeftOut(printable(path), OWN_FILES if is_printable(Path(entry.name)) else _NO_TEXT))
        elif reason := why_no_image(entry) or (OWN_FILES if is_figure(path) else ""):
            skipped(LeftOut(printable(path), reason))
        else:
            yield path


def folder_names(folder: Path) -> list[str]:
    """Names of the folders that may be classes or splits, sorted.

    Raises:
        ResnetError: it cannot be read.
    """
    return sorted(name for name in all_folder_names(folder) if not holds_runs(folder / name, has_ending))


def all_folder_names(folder: Path) -> list[str]:
    """Like `folder_names`, including folders that this program wrote."""
    names = (entry.name for entry in entries(folder) if is_folder(entry) and not is_hidden(entry.name))
    return [name for name in names if not wrong_name(name)]


def wrong_name(name: str) -> str:
    """What is wrong with the name of a class; empty if it is valid."""
    if not is_printable(Path(name)):
        return "is not valid UTF-8"
    return "holds a line break or another control character" if has_control_characters(name) else ""


def count_images(folder: Path) -> int:
    """Number of images in a folder and its subfolders; 0 if it cannot be read."""
    try:
        return len(list_folder(folder).images)
    except ResnetError:
        return 0


def _with_images(entry: os.DirEntry[str], path: Path) -> list[Hidden]:
    """The hidden entry if it is a folder of images that a user may miss, else nothing."""
    name = entry.name.lower()
    if not is_folder(entry) or name in _LITTER or name.startswith(_LITTER_BEGINNINGS) or not is_printable(path):
        return []
    inside = [Path(name) for _, _, files in os.walk(path) for name in files if not is_hidden(name)]
    images = sum(file.suffix.lower() in EXTENSIONS for file in inside)
    return [Hidden(path, images)] if images else []


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder.

    Raises:
        ResnetError: it cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        raise ResnetError(f"the folder {printable(folder)} cannot be read: {error.strerror}", "mind its permissions") from error


def meant(path: Path, root: Path) -> str:
    """A hint for a missing file: a file with a similar name, or the file in a folder above or below the root; else empty."""
    names: list[str] = []
    with suppress(ValueError, ResnetError):  # there is no such folder
        names = sorted(entry.name for entry in entries(path.parent))
    close = [name for name in names if Path(name).stem in (path.name, path.stem)]
    if close or (close := get_close_matches(path.name, names[:_COMPARED], 1)):
        return f"{path.parent / close[0]} exists: write the name of the file, with its ending"
    below = path.relative_to(root) if path.is_relative_to(root) else path
    for other in (*(root / name for name in folder_names(root)), root / "..", root / ".." / ".."):
        if other / below != path and file_size(other / below) is not None:
            return f"{other / below} exists: give {other} as DATASET"
    return ""


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a circular link is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def has_ending(path: Path) -> bool:
    """Whether a file has the extension of an image."""
    return path.suffix.lower() in EXTENSIONS


def file_size(path: Path) -> int | None:
    """Size of a file in bytes; None if it is missing."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # a NUL in the path is a ValueError
        return None


def is_hidden(name: str) -> bool:
    """Files that operating systems and editors leave behind."""
    return name.startswith(".") or name.lower() in _PASSED_OVER


def is_printable(path: Path) -> bool:
    """Whether a path is valid text; file systems allow names that are not."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(path: Path) -> Path:
    """A path as one line of text; other characters are escaped."""
    return Path(str(path).translate(_CONTROL).encode(errors="backslashreplace").decode())


def has_control_characters(name: str) -> bool:
    """Whether a name contains control characters such as line breaks, which would break a list of names."""
    return name != name.translate(_CONTROL)


def _is_new(folder: Path, seen: set[tuple[int, int]]) -> bool:
    try:
        status = folder.stat()
    except OSError as error:
        raise ResnetError(f"the folder {printable(folder)} cannot be read: {error.strerror}", "mind its permissions") from error
    place = (status.st_dev, status.st_ino)
    is_new = place not in seen
    seen.add(place)
    return is_new


def why_no_image(entry: os.DirEntry[str]) -> str:
    """A short reason to leave a file out; empty for an image."""
    suffix = Path(entry.name).suffix.lower()
    try:
        is_file = entry.is_file()
    except OSError:
        is_file = False
    if not is_file:
        return "a broken link" if entry.is_symlink() else "not a file"
    if suffix in HEIF_ENDINGS and not heif_is_installed():
        return f"HEIC images need: {HEIF_INSTALL}"
    if suffix in _OTHER_IMAGES:
        return f"{suffix[1:].upper()} images are not read; convert it to JPEG"
    if suffix not in EXTENSIONS | HEIF_ENDINGS:
        return NO_IMAGE
    if not is_printable(Path(entry.name)):
        return _NO_TEXT
    return ""


LABELS = "labels.txt"  # of an export: a class a line, in the order of the probabilities
EXAMPLE = "classify.py"  # of an export: an example program that classifies an image
CREATOR = "resnet "  # prefix of the creator recorded in figures of this program; the command follows
COMPARED_BY = f"{CREATOR}compare"
OWN_FILES = "files of this program: runs, figures or exports"  # the reason for leaving such folders out, without a warning
_MARKED = 1024  # first bytes of a figure, which contain its creator
_EXPORTED = {".txt", ".py", ".md", ".json", ".csv", ".html", ".xml", ".bin", ".keras", ".onnx", ".tflite", ".pb"}
_EXPORTED_FOLDERS = {"variables", "assets", EVALUATIONS}


def holds_runs(folder: Path, is_image: Callable[[Path], bool]) -> bool:
    """Whether a folder has files of this program and no images to train on.

    Such files are a run, an evaluation, an export, a learning-rate range test or comparisons, or folders of these. The folder
    is never a class, even if it also contains text files.

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
    except OSError:  # listing its images will report the reason
        return False
    return inside


def is_own(folder: Path) -> bool:
    """Whether a folder has the characteristic files of a run or an export, possibly among others."""
    names = [{"run.json", "splits.csv"}, {LABELS, EXAMPLE}]
    return any(all((folder / name).is_file() for name in those) for those in names)


def is_export_like(folder: Path) -> bool:
    """Whether a folder contains the files of an export, in any format, and nothing that could be an image."""
    if not all((folder / name).is_file() for name in (LABELS, EXAMPLE)):
        return False
    inside = [path for path in folder.iterdir() if not path.name.startswith((UNFINISHED, *LITTER))]
    return all(path.suffix in _EXPORTED or path.name in _EXPORTED_FOLDERS for path in inside)


def is_figure(path: Path, creator: str = CREATOR) -> bool:
    """Whether a file is a figure that this program drew: curves, a comparison or a learning-rate range test.

    Args:
        path: a file of any kind.
        creator: creator of the figure, or a prefix of it.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        return False
    try:
        with path.open("rb", buffering=0) as file:
            start = file.read(_MARKED)
        return any(mark + creator.encode() in start for mark in (b"Software\0", b">"))  # of PNG and SVG
    except OSError:
        return False
