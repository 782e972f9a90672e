"""The folder of an export: complete or absent, never over anything else, and with OpenVINO's model a classifier for `predict`
(light: the standard library only).

In: a run. Out: a folder with the model, labels.txt, classify.py, and for OpenVINO export.json and splits.csv.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resnet_cli.data.own_files import EXAMPLE, LABELS
from resnet_cli.errors import ResnetError
from resnet_cli.files import UNFINISHED, unfinished, write_text
from resnet_cli.inference.example import example
from resnet_cli.inference.formats import FormatName, is_export
from resnet_cli.runs import EXPORT_RECORD, SPLITS, Run, load_run, read_record


def check_free(folder: Path, force: bool) -> None:
    """Refuse a folder that an export may not take.

    Raises:
        ResnetError: it holds something; with `force`, something that is no export.
    """
    if not folder.exists() or _is_empty(folder):
        return
    if not force:
        raise ResnetError(f"{folder} exists already", "choose another --output, or add --force to replace it")
    if not is_export(folder):
        raise ResnetError(f"{folder} holds more than an export, so --force does not replace it", "choose another --output")


@contextmanager
def new_folder(folder: Path, force: bool) -> Iterator[Path]:
    """A folder to write into: what is in it comes to `folder` when all went well, and vanishes otherwise.

    Raises:
        ResnetError: it cannot be written, or another export has taken it meanwhile; see `check_free`.
    """
    folder = folder.resolve()
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        # An empty folder stays and is filled: one that is a mounted volume can be neither replaced nor written beside.
        fill = _is_empty(folder)
        with unfinished(folder / LABELS if fill else folder) as work:
            new = work / "new"
            new.mkdir(parents=True)
            yield new
            # While this one was written and checked, another may have been finished.
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
    """Whether a folder is there and holds nothing but what a killed process left."""
    return folder.is_dir() and all(path.name.startswith(UNFINISHED) for path in folder.iterdir())


def _fill(folder: Path, new: Path) -> None:
    """Move what is in `new` to the folder, last of all what makes it an export."""
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
    """Put `new` in the place of the folder, which goes to `old`."""
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise


def describe(folder: Path, run: Run, name: FormatName, precision: str) -> int:
    """Write what stands beside an exported model, and return the size of the folder, bytes.

    Args:
        folder: the export.
        run: what it was made from; its results are not the export's and stay out.
        name: the format.
        precision: what the model multiplies in, "float" or "int8".
    """
    (folder / LABELS).write_text("".join(f"{each}\n" for each in run.classes), "utf-8", "surrogateescape", "\n")
    shape = run.record["input"]
    program = example(name, run.record["image_size"], shape["resize"], shape["fraction"], len(run.classes))
    (folder / EXAMPLE).write_text(program, "utf-8")
    if name == "openvino":
        kept = {key: value for key, value in run.record.items() if key != "results"}
        made = {"format": name, "precision": precision, "run": str(run.folder.resolve())}
        # With its pictures: they are what must not be scored, whatever becomes of the run.
        if run.splits.exists():
            shutil.copyfile(run.splits, folder / SPLITS)
        write_text(folder / EXPORT_RECORD, json.dumps({**kept, "export": made}, indent=2) + "\n")
    return size(folder)


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def load_classifier(folder: Path) -> Run:
    """Open a run, or an OpenVINO export of one, wherever it was moved to.

    Raises:
        ResnetError: see `load_run`; or it is an export that OpenVINO does not load.
    """
    path = folder / EXPORT_RECORD
    if path.exists():
        return Run(folder, read_record(path))
    if is_export(folder):
        raise ResnetError(
            f"{folder} is an export for other programs; this one answers with runs, and with exports to OpenVINO alone",
            "name a run with --run, or what `resnet export --format openvino` wrote",
        )
    return load_run(folder)
