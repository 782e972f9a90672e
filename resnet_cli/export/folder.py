"""The folder of an export: it is complete or absent, replaces nothing else, and `predict` and `evaluate` can use it (light: the
standard library only).

In: a run. Out: a folder with the model, labels.txt, classify.py, README.md, export.json and splits.csv. It can be shared: no
file in it contains an absolute path or the name of an image.
"""

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_cli.data.contents import trained_before
from resnet_cli.data.folders import EXAMPLE, LABELS
from resnet_cli.errors import ResnetError
from resnet_cli.export.formats import ENCODED, ENCODED_INPUT, FORMATS, README, FormatName, is_export, require_packages
from resnet_cli.files import UNFINISHED, digest, unfinished, write_csv, write_text
from resnet_cli.progress import how_many
from resnet_cli.runs.folder import EARLIER, EXPORT_RECORD, SPLITS, Run, read_record, read_splits

if TYPE_CHECKING:
    from resnet_cli.engines.base import Engine
    from resnet_cli.export.parity import Accuracy, Parity


@dataclass(frozen=True)
class Wanted:
    """What is exported, and where to.

    Attributes:
        name: the format.
        output: folder to write; None for export/<format>[-<quantize>][-with-resize] in the run.
        force: replace an existing export, and keep an int8 model that loses more than it may.
        half: store weights in half precision.
        with_resize: the model resizes images itself.
        min_accuracy: held-out top-1, 0..1, below which nothing is kept; None keeps any.
    """

    name: FormatName
    output: Path | None = None
    force: bool = False
    half: bool = False
    with_resize: bool = False
    min_accuracy: float | None = None

    def folder(self, run: Run, precision: str) -> Path:
        """The folder to write."""
        words = [self.name, *([precision] if precision != "float" else []), *(["with-resize"] if self.with_resize else [])]
        return self.output or run.folder / "export" / "-".join(words)


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
            reason = error.strerror or str(error).partition("\n")[0]
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


@dataclass(frozen=True)
class Description:
    """What is recorded about an exported model.

    Attributes:
        name: the format.
        precision: "float", "float16" (of the weights) or "int8".
        with_resize: whether it resizes images itself.
        parity: comparison with the run; of int8 with the float export.
        accuracy: its held-out accuracy; None if it was not measured.
    """

    name: FormatName
    precision: str
    with_resize: bool
    parity: "Parity"
    accuracy: "Accuracy | None"

    def to_record(self, run: Run, folder: Path) -> dict[str, Any]:
        """The entry `export` of export.json; `folder` contains the model."""
        made = {"format": self.name, "precision": self.precision, "run": run.folder.resolve().name}
        found = {} if self.accuracy is None else {"accuracy": {**asdict(self.accuracy), "top1": self.accuracy.top1}}
        hashes = {name: digest(path) for name, path in _model_files(folder, self.name).items()}
        return {**made, "with_resize": self.with_resize, "parity": asdict(self.parity), **found, "sha256": hashes}

    def facts(self, run: Run) -> list[str]:
        """Sentences for README.md."""
        parity, other = self.parity, "the float export" if self.precision == "int8" else "the run in float32"
        facts = [
            f"Checked on {parity.images} {parity.source}: probabilities differ from those of {other} by at most"
            f" {parity.max_probability_difference:.1e}, and the best class agrees on {parity.top1_agreement:.1%}."
        ]
        if self.accuracy is not None:
            count, split = self.accuracy.count, self.accuracy.split
            facts.append(f"Top-1 accuracy {self.accuracy.top1:.1%} on {how_many(count, 'image')} held out ({split}).")
        if self.name == "savedmodel":
            answer = "`probabilities`, `classes` (their names) and `label`, the best class"
            facts.append(
                f"The signature `{ENCODED}` takes bytes of JPEG, PNG, GIF and BMP files as `{ENCODED_INPUT}`, as TensorFlow"
                f' Serving gets them in {{"b64": "..."}}, and answers with {answer}.'
            )
        if "calibration" in run.record:
            temperature = run.record["calibration"]["temperature"]
            facts.append(f"Probabilities are calibrated: logits are divided by {temperature:.3f}, inside the model.")
        return facts


def describe(folder: Path, run: Run, made: Description) -> int:
    """Write the files that accompany an exported model, and return the size of the folder, bytes.

    Args:
        folder: the export.
        run: the exported run; its results are not those of the export and are left out, like paths and names of images.
        made: the exported model.
    """
    from resnet_cli.data.decode import run_geometry
    from resnet_cli.export.example import example, readme

    geometry, classes, record = run_geometry(run), run.classes, run.record
    (folder / LABELS).write_text("".join(f"{each}\n" for each in classes), "utf-8", "surrogateescape", "\n")
    (folder / EXAMPLE).write_text(example(made.name, geometry, len(classes), made.with_resize), "utf-8")
    title, network = Path(run.name).resolve().name, record["network"]["name"]
    text = readme(made.name, title, network, made.precision, geometry, classes, made.with_resize, made.facts(run))
    (folder / README).write_text(text, "utf-8", "backslashreplace")
    if run.splits.exists():
        _write_hashes(folder, run)
    write_text(
        folder / EXPORT_RECORD, json.dumps({**_without_paths(record), "export": made.to_record(run, folder)}, indent=2) + "\n"
    )
    return size(folder)


def _model_files(folder: Path, name: FormatName, file: str = "") -> dict[str, Path]:
    """The files of a model that change its answers, by their names in an export; `file` is its name if it was renamed."""
    if name == "savedmodel":
        found = [folder / "saved_model.pb", *sorted((folder / "variables").glob("*"))]
        return {path.relative_to(folder).as_posix(): path for path in found}
    model = folder / (file or FORMATS[name].files[0])
    return {each: model.with_suffix(Path(each).suffix) for each in FORMATS[name].files}


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


_KINDS: dict[str, FormatName] = {
    ".keras": "keras",
    ".onnx": "onnx",
    ".tflite": "tflite",
    ".xml": "openvino",
    ".pb": "savedmodel",
}
_MODELS = ", ".join(("a SavedModel folder", *(kind for kind in _KINDS if kind != ".pb")))


def open_export(path: Path) -> Run | None:
    """Open an export, by its folder or its model file.

    Returns:
        A run with the export's record, whose `export` names the model `file`; None for a folder that is no export.

    Raises:
        ResnetError: it is the model of another program or of a run, or a file is missing.
    """
    folder, suffix = (path, "") if path.is_dir() else (path.parent, path.suffix.lower())
    if suffix not in ("", *_KINDS) or (not suffix and not path.is_dir()):
        if path.exists():
            raise ResnetError(f"{path} is neither a run folder nor an exported model ({_MODELS})", "name a run or an export")
        return None
    if not path.exists():
        raise ResnetError(f"there is no model {path}", "`resnet export` writes one")
    if (folder / "run.json").exists():
        if suffix:
            raise ResnetError(f"{path} is a file of the run {folder}, not an export", f"name the run: {folder}")
        return None
    if not (folder / EXPORT_RECORD).exists():
        models = ("saved_model.pb", "model.keras", "model.onnx", "model.tflite")
        if not suffix and not any((folder / name).exists() for name in models):
            return None
        raise ResnetError(
            f"{folder} has no {EXPORT_RECORD}, which names the classes of {path.name} and how images are prepared",
            f"copy {EXPORT_RECORD} there, and {SPLITS} for `evaluate`; or export the run again",
        )
    record = read_record(folder / EXPORT_RECORD)
    made = record.get("export")
    if not isinstance(made, dict) or str(made.get("format")) not in FORMATS or "precision" not in made:
        raise ResnetError(f"{folder / EXPORT_RECORD} is damaged: it names no format and precision", "export the run again")
    name: FormatName = made["format"]
    if suffix and _KINDS[suffix] != name:
        raise ResnetError(f"{path} is not the model that {folder / EXPORT_RECORD} describes: that is {name}", "name the folder")
    file = "" if name == "savedmodel" else path.name if suffix else FORMATS[name].files[0]
    if not (folder / (file or "saved_model.pb")).exists():
        raise ResnetError(f"the export {folder} has no {file or 'saved_model.pb'}", "export the run again")
    run = Run(folder, {**record, "export": {**made, "file": file}})
    _require_same_model(run)
    return run


def _require_same_model(run: Run) -> None:
    """Refuse a model that is not the one of the record: it would answer, with wrong classes or of wrongly prepared images."""
    made = run.record["export"]
    known, files = made.get("sha256"), _model_files(run.folder, made["format"], made["file"])
    if known is None:  # an export of an earlier version
        return
    if not isinstance(known, dict):
        raise ResnetError(f"{run.path} is damaged: it has no hashes of the model's files", "export the run again")
    for name, hashed in known.items():
        if name not in files or not files[name].is_file():
            missing = name if name not in files else files[name].relative_to(run.folder)
            raise ResnetError(f"the export {run.folder} has no {missing}", "export the run again")
        try:
            found = digest(files[name])
        except OSError as error:
            raise ResnetError(f"{files[name]} cannot be read: {error.strerror}") from error
        if found != hashed:
            raise ResnetError(
                f"{files[name]} is not the model that {run.path} describes, or is damaged: its SHA-256 differs",
                "export the run again; for a model that you have changed yourself, delete `sha256` from the record",
            )


def exported_model(run: Run) -> Path:
    """What a runtime loads of an export: a file, or the folder of a SavedModel."""
    return run.folder / str(run.record["export"]["file"])


def resizes(run: Run) -> bool:
    """Whether an export resizes images itself."""
    return bool(run.record["export"].get("with_resize"))


def load_export(run: Run) -> "Engine":
    """Load an export into its own runtime, in the runtime's default settings.

    Raises:
        ResnetError: the runtime is not installed, or the model is damaged or of another kind.
    """
    import numpy as np

    from resnet_cli.data.decode import run_geometry
    from resnet_cli.engines.base import RuntimeEngine

    made, path, classes = run.record["export"], exported_model(run), len(run.classes)
    form, size = FORMATS[made["format"]], run_geometry(run).size
    require_packages(str(path), form.runs_on)
    try:
        answer = form.load(path)
        shape = np.shape(answer(np.zeros((1, size, size, 3), np.uint8)))
    except Exception as error:  # runtimes have no common error type
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ResnetError(
            f"{path} cannot be run by {form.runtime_name}: {reason}", "it is damaged, or a model of another kind"
        ) from error
    if shape != (1, classes):
        what = f"{path} is a model of another kind: it answers with the shape {shape} instead of {(1, classes)}"
        raise ResnetError(what, f"{EXPORT_RECORD} beside it is about another model; export the run again")
    # Weights in half precision are multiplied in float32.
    return RuntimeEngine(form.runtime_name, "int8" if made["precision"] == "int8" else "f32", answer)
