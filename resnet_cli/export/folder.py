"""The folder of an export: it is complete or absent, replaces nothing else, and with an OpenVINO model `predict` can use it
(light: the standard library only).

In: a run. Out: a folder with the model, labels.txt, classify.py, and for OpenVINO export.json and splits.csv. It can be shared:
no file in it contains an absolute path or the name of an image.
"""

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resnet_cli.data.contents import trained_before
from resnet_cli.data.folders import EXAMPLE, LABELS
from resnet_cli.errors import ResnetError
from resnet_cli.export.formats import FormatName, example, is_export
from resnet_cli.files import UNFINISHED, unfinished, write_csv, write_text
from resnet_cli.runs.folder import EARLIER, EXPORT_RECORD, SPLITS, Run, read_splits


def check_free(folder: Path, force: bool) -> None:
    """Refuse a folder that must not be overwritten.

    Raises:
        ResnetError: it is not empty; with `force`, it contains something other than an export.
    """
    if not folder.exists() or _is_empty(folder):
        return
    if not force:
        raise ResnetError(f"{folder} exists already", "choose another --output, or add --force to replace it")
    if not is_export(folder):
        raise ResnetError(f"{folder} holds more than an export, so --force does not replace it", "choose another --output")


@contextmanager
def new_folder(folder: Path, force: bool) -> Iterator[Path]:
    """A temporary folder to write into: its files are moved to `folder` on success, and deleted on an error.

    Raises:
        ResnetError: it cannot be written, or another export was written there meanwhile; see `check_free`.
    """
    folder = folder.resolve()
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        # An empty folder is filled, not replaced: a mounted volume cannot be replaced, and its parent may be read-only.
        fill = _is_empty(folder)
        with unfinished(folder / LABELS if fill else folder) as work:
            new = work / "new"
            new.mkdir(parents=True)
            yield new
            # Another export may have been finished while this one was written and checked.
            check_free(folder, force and not fill)
            if fill:
                _fill(folder, new)
            else:
                _replace(folder, new, work / "old")
    except BaseException as error:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise ResnetError(f"cannot write to {folder}: {reason}", "choose another --output") from error
        raise


def _is_empty(folder: Path) -> bool:
    """Whether a folder exists and contains nothing but leftovers of a killed process."""
    return folder.is_dir() and all(path.name.startswith(UNFINISHED) for path in folder.iterdir())


def _fill(folder: Path, new: Path) -> None:
    """Move the files of `new` to the folder; those that identify an export come last."""
    moved: list[Path] = []
    try:
        for path in sorted(new.iterdir(), key=lambda path: path.name in (EXPORT_RECORD, LABELS)):
            path.rename(folder / path.name)
            moved.append(path)
    except BaseException:
        for path in moved:
            (folder / path.name).rename(path)
        raise


def _replace(folder: Path, new: Path, old: Path) -> None:
    """Replace the folder by `new`; the folder is moved to `old`."""
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise


def describe(folder: Path, run: Run, name: FormatName, precision: str) -> int:
    """Write the files that accompany an exported model, and return the size of the folder, bytes.

    Args:
        folder: the export.
        run: the exported run; its results are not those of the export and are left out, like paths and names of images.
        name: the format.
        precision: number format of the model, "float" or "int8".
    """
    from resnet_cli.data.decode import run_geometry

    (folder / LABELS).write_text("".join(f"{each}\n" for each in run.classes), "utf-8", "surrogateescape", "\n")
    program = example(name, run_geometry(run), len(run.classes))
    (folder / EXAMPLE).write_text(program, "utf-8")
    if name == "openvino":
        made = {"format": name, "precision": precision, "run": run.folder.resolve().name}
        if run.splits.exists():
            _write_hashes(folder, run)
        write_text(folder / EXPORT_RECORD, json.dumps({**_without_paths(run.record), "export": made}, indent=2) + "\n")
    return size(folder)


def _write_hashes(folder: Path, run: Run) -> None:
    """splits.csv: split, bytes and SHA-256 of every image, sorted: enough to recognise training images in an evaluation."""
    known = {(row.split, row.content) for row in read_splits(run) if row.content}
    known |= {(EARLIER, content) for trained in trained_before(run).values() for content in trained}
    write_csv(folder / SPLITS, [("split", "bytes", "sha256"), *sorted((split, *content) for split, content in known)])


def _without_paths(record: dict[str, Any]) -> dict[str, Any]:
    """A run's record without results and without paths of this machine: the command, folders, the message of a failed download,
    the path of a recipe.
    """
    kept = {key: value for key, value in record.items() if key != "results"}
    data = {key: value for key, value in record.get("data", {}).items() if key not in ("path", "labels", "archive")}
    weights = {**record.get("weights", {}), "path": "", "fallback": ""}
    config = {key: Path(value).name if isinstance(value, str) else value for key, value in record.get("config", {}).items()}
    return {**kept, "command": "", "data": data, "weights": weights, "config": config}


def size(folder: Path) -> int:
    """Size of all files in a folder, bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
