"""Teachers for distillation: a run, or any ONNX or OpenVINO file with the same interface as this program's exports.

In: a path. Out: a `Teacher`, and an engine that computes its probabilities. The interface: one input of uint8 images
(N, side, side, 3), RGB, N free; one output of probabilities (N, classes); labels.txt in the same folder, one class per line.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_cli.data.folders import LABELS
from resnet_cli.engines.base import Images, Outputs
from resnet_cli.engines.openvino import OpenVinoEngine, import_openvino
from resnet_cli.errors import ResnetError
from resnet_cli.files import digest
from resnet_cli.progress import how_many
from resnet_cli.runs.folder import EXPORT_RECORD, Run, load_run, read_record

_FILES = ("model.onnx", "model.xml")
_ENDINGS = (".onnx", ".xml")
_SUM = 0.02  # largest difference of a sum of probabilities from 1, as rounding in fp16 and int8 files causes it
_ROOM = 3.0  # least memory that a network needs, as a multiple of its file


@dataclass(frozen=True)
class Teacher:
    """A teacher, checked but not compiled.

    Attributes:
        name: name of the run or file.
        path: the model file.
        classes: class names in the order of its probabilities.
        size: side of its input, pixels.
        sha256: hash of its files and classes, hexadecimal.
    """

    name: str
    path: Path
    classes: tuple[str, ...]
    size: int
    sha256: str

    def to_record(self) -> dict[str, Any]:
        """The fields stored in run.json: without the path, which is only valid on this machine."""
        return {"name": self.name, "sha256": self.sha256, "image_size": self.size}


def find_teacher(path: Path) -> Teacher:
    """Open and check a teacher before it is compiled.

    Args:
        path: a run, the folder of an ONNX or OpenVINO export, or the model file in it.

    Raises:
        ResnetError: it is missing, damaged, larger than memory, without labels or has another interface.
    """
    file, classes = _file_of(path)
    _require_room(file)
    openvino = import_openvino()
    try:
        model = openvino.Core().read_model(file)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ResnetError(f"the teacher {file} cannot be read: {reason}", "name a run, or a model.onnx or model.xml") from error
    size = _size_of(model, file)
    classes = classes or _labels_beside(file)
    output = model.outputs[0].get_partial_shape()
    count = output[-1].get_length() if output.rank.is_static and len(output) == 2 and output[1].is_static else 0
    if len(model.outputs) != 1 or not count:
        raise ResnetError(f"the teacher {file} does not give one row of probabilities per image", _export_again())
    if count != len(classes):
        what = f"the teacher {file} has {how_many(count, 'class')}, and {how_many(len(classes), 'label')}"
        raise ResnetError(what, f"correct its {LABELS}")
    name = file.parent.resolve().name if file.name in _FILES else file.stem
    return Teacher(name, file, classes, size, _digest(file, classes))


def _file_of(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The model file, and the class names if there is a record with it."""
    if path.is_dir():
        file = next((path / name for name in _FILES if (path / name).is_file()), None)
        if (path / EXPORT_RECORD).is_file() and file is not None:
            return file, Run(path, read_record(path / EXPORT_RECORD)).classes
        if file is not None and not (path / "run.json").exists():
            return file, ()
        run = load_run(path)
        if not run.openvino.is_file():
            what = f"the run {path} has no model.xml, as it was trained without OpenVINO"
            raise ResnetError(what, f"resnet export --run {path} --format onnx, and name that as the teacher")
        return run.openvino, run.classes
    if not path.is_file():
        raise ResnetError(f"there is no teacher {path}", "name a run, or an ONNX or OpenVINO file")
    if path.suffix.lower() not in _ENDINGS:
        raise ResnetError(f"the teacher {path} is neither a run nor an ONNX or OpenVINO file", _export_again())
    if path.name == "model.xml" and any((path.parent / name).is_file() for name in ("run.json", EXPORT_RECORD)):
        return _file_of(path.parent)
    return path, ()


def _digest(file: Path, classes: tuple[str, ...]) -> str:
    """Hash of all that the probabilities depend on: graph, external files (of large ONNX weights), and labels."""
    graph = file.read_bytes()
    beside = [path for path in sorted(file.parent.iterdir()) if path.name.encode() in graph and path != file and path.is_file()]
    if file.suffix == ".xml":
        beside.append(file.with_suffix(".bin"))
    found = [hashlib.sha256(graph).hexdigest(), *(digest(path) for path in beside if path.is_file()), *classes]
    return hashlib.sha256("\n".join(found).encode(errors="surrogateescape")).hexdigest()


def _export_again() -> str:
    return "`resnet export --format onnx` writes a valid teacher"


def _require_room(file: Path) -> None:
    """Refuse a network that is too large for this machine: the system would kill the process without a message."""
    needed = sum(each.stat().st_size for each in (file, file.with_suffix(".bin"), Path(f"{file}.data")) if each.is_file())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    if memory and needed * _ROOM > memory:
        raise ResnetError(
            f"the teacher {file} has {needed / 1e9:.1f} GB of weights, too many for the {memory / 1e9:.1f} GB of this machine",
            "choose a smaller teacher",
        )


def _size_of(model: Any, file: Path) -> int:
    """The side of the input, after checking its type and shape."""
    if len(model.inputs) != 1:
        raise ResnetError(f"the teacher {file} has {len(model.inputs)} inputs, not one of images", _export_again())
    entry = model.inputs[0]
    kind, shape = entry.get_element_type().get_type_name(), entry.get_partial_shape()
    if kind != "u8":
        raise ResnetError(f"the teacher {file} takes {kind} input, not uint8 images of 0..255", _export_again())
    sides = [side.get_length() if side.is_static else 0 for side in shape][1:] if shape.rank.is_static else []
    if len(sides) != 3 or sides[2] != 3 or sides[0] != sides[1] or not sides[0]:
        raise ResnetError(f"the teacher {file} takes input of shape {shape}, not (N, side, side, 3)", _export_again())
    if shape[0].is_static:
        what = f"the teacher {file} takes batches of exactly {shape[0].get_length()}"
        raise ResnetError(what, "export it with a free batch dimension")
    return int(sides[0])


def _labels_beside(file: Path) -> tuple[str, ...]:
    path = file.parent / LABELS
    try:
        names = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except OSError:
        raise ResnetError(f"there is no {LABELS} next to the teacher {file}", "write its classes there, one per line") from None
    except UnicodeDecodeError as error:
        raise ResnetError(f"{path} is not UTF-8: {error.reason}", "save it as UTF-8, one class a line") from error
    twice = sorted(name for name, count in Counter(names).items() if count > 1 or not name)
    if twice:
        raise ResnetError(f"{path} has a line more than once, or an empty one: {twice[0]!r}", "give each class its own name")
    return tuple(names)


class TeacherEngine:
    """A compiled teacher; it is thread-safe."""

    def __init__(self, teacher: Teacher) -> None:
        """Compile it for the CPU.

        Raises:
            ResnetError: OpenVINO cannot compile it, there is not enough memory, or it gives no probabilities.
        """
        self.teacher = teacher
        try:
            self._engine = OpenVinoEngine(teacher.path, "many")
        except (ResnetError, MemoryError) as error:
            reason = str(error) or "out of memory"
            raise ResnetError(f"the teacher {teacher.path} cannot be compiled: {reason}", "choose another teacher") from error
        # A first prediction, which initialises OpenVINO: two threads that did so at the same time would deadlock.
        next(self.run_many([np.zeros((1, teacher.size, teacher.size, 3), np.uint8)]))

    def run_many(self, batches: Iterable[Images]) -> Iterator[Outputs]:
        """Probabilities of batches, in order; the next batches are prepared while the current ones are predicted.

        Args:
            batches: uint8 (N, size, size, 3).

        Yields:
            float32 (N, classes), rows that sum to 1.

        Raises:
            ResnetError: the outputs are not probabilities.
        """
        for (answers,) in self._engine.run_many(batches):
            sums = answers.sum(1)
            if not (np.abs(sums - 1) < _SUM).all() or answers.min() < -_SUM:
                worst = sums[np.abs(sums - 1).argmax()]
                what = f"the outputs of the teacher {self.teacher.path} are not probabilities: they sum to {worst:.3g}"
                raise ResnetError(what, "export it with a softmax at its end")
            positive = np.maximum(answers, 0)
            yield positive / positive.sum(1, keepdims=True)
