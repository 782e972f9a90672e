"""The folder of an export: complete or absent, never over anything else, and with OpenVINO's model a classifier for `predict`
(light: the standard library only).

In: a run. Out: a folder with the model, labels.txt, and for OpenVINO export.json and splits.csv.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resnet_cli.errors import ResnetError
from resnet_cli.inference.formats import LABELS, FormatName, is_export
from resnet_cli.runs import EXPORT_RECORD, SPLITS, Run, load_run, read_record, write_text


def check_free(folder: Path, force: bool) -> None:
    """Refuse a folder that an export may not take.

    Raises:
        ResnetError: it holds something; with `force`, something that is no export.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not force:
        raise ResnetError(f"{folder} exists already", "choose another --output, or add --force to replace it")
    if not is_export(folder):
        raise ResnetError(f"{folder} holds more than an export, so --force does not replace it", "choose another --output")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into; it takes that place when all went well and vanishes otherwise."""
    folder = folder.resolve()
    partial, old = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "old"))
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        # What an earlier export left that was killed outright.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise ResnetError(f"cannot write to {folder}: {reason}", "choose another --output") from error
        raise


def describe(folder: Path, run: Run, name: FormatName, precision: str) -> int:
    """Write what stands beside an exported model, and return the size of the folder, bytes.

    Args:
        folder: the export.
        run: what it was made from; its results are not the export's and stay out.
        name: the format.
        precision: what the model multiplies in, "float" or "int8".
    """
    (folder / LABELS).write_text("".join(f"{each}\n" for each in run.classes), "utf-8", errors="surrogateescape")
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
        openvino = "what `resnet export --format openvino` wrote"
        raise ResnetError(f"{folder} is an export without {EXPORT_RECORD}", f"name a run with --run, or {openvino}")
    return load_run(folder)
