"""Score images whose class is known: rows of predictions, and the two CSV files; rows of a bulk prediction and of embeddings.

In: classified images and their samples. Out: `Rows`, predictions.csv (worst first) and confusion.csv; a table of pyarrow; a
file of pooled features. If pooled features are stored, only the head of model.xml runs, and the whole network only for images
where rounding could change the class.
"""

import csv
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.dataset import LeftOut, Sample
from resnet_cli.engines.base import Outputs
from resnet_cli.engines.openvino import OpenVinoEngine, behind_pooling
from resnet_cli.errors import ResnetError
from resnet_cli.files import path_text, unfinished, write_csv, writing
from resnet_cli.inference.classify import Classified, Member, classify
from resnet_cli.inference.metrics import Evaluation, Outcomes, losses, outcomes
from resnet_cli.progress import Task

_SAMPLE = 32  # images that are checked with the whole network
_PIECE = 1 << 20  # numbers of embeddings, or bytes, that are copied at once
NEAR = 0.02  # probability; head and network differ by rounding: stored features are fp16, an engine may multiply in bf16


def classify_pooled(model: Path, pooled: Iterable[Outputs], paths: Sequence[Path], member: Member) -> list[Classified] | None:
    """Classify images from stored features, computed by the same backbone in the same engine.

    A sample of the images, evenly spread, is checked with the whole network. So are images whose two most probable classes are
    so close that rounding could swap them: `evaluate` and `predict` must name the same class.

    Args:
        model: the classifier's model.xml; only the layers after its pooling run.
        pooled: features of the images, in order, in pieces of float32 (n, D).
        paths: the images.
        member: the whole classifier.

    Returns:
        The results; None if all images would need the whole network, or if the sample's probabilities disagree.
    """
    if len(paths) <= _SAMPLE:
        return None
    try:
        head = OpenVinoEngine(behind_pooling(model), "many")
    except Exception:  # this relies on the converter's graphs; the whole network gives the same results
        return None
    pieces = [(head.run(piece)[0], member.novelty.distances(piece) if member.novelty else None) for piece in pooled]
    answers = np.concatenate([each for each, _ in pieces])
    distances = np.concatenate([[None] * len(each) if known is None else known.tolist() for each, known in pieces])
    best = np.partition(answers, -2, axis=1)[:, -2:]
    unsure = np.flatnonzero(best[:, 1] - best[:, 0] <= 2 * NEAR)
    sample = np.linspace(0, len(paths) - 1, _SAMPLE).round().astype(int)
    some = np.union1d(sample, unsure)
    if len(some) == len(paths):
        return None
    wholes = [each.probabilities for each in classify((paths[index] for index in some), [member])]
    for index, whole in zip(some, wholes, strict=True):
        if whole is None or np.abs(whole - answers[index]).max() > NEAR:
            return None
        answers[index] = whole
    rows = zip(paths, answers, distances, strict=True)
    return [Classified(path, answer, distance=distance) for path, answer, distance in rows]


_COLUMNS = ("path", "true", "predicted", "probability", "loss")  # of predictions.csv


@dataclass(frozen=True)
class Rows:
    """Predictions of images whose class is known, each exactly once.

    Attributes:
        samples: the images that could be read.
        probabilities: (N, classes).
        labels: true class indices (N,).
        left_out: images that could not be read, and why.
        distances: from the training images (N,), above 1 for images unlike them; None if they are not known.
    """

    samples: tuple[Sample, ...]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    left_out: tuple[LeftOut, ...]
    distances: NDArray[np.float32] | None = None


def collect(results: Iterable[Classified], samples: Sequence[Sample], task: Task) -> Rows:
    """Join results, in the order of the samples, with the true classes.

    Raises:
        ResnetError: no image could be read.
    """
    good: list[Sample] = []
    probabilities: list[NDArray[np.float32]] = []
    distances: list[float] = []
    left_out: list[LeftOut] = []
    for sample, result in zip(samples, results, strict=True):
        task.advance()
        if result.probabilities is None:
            left_out.append(LeftOut(sample.path, result.error or ""))
        else:
            good.append(sample)
            probabilities.append(result.probabilities)
            distances += [] if result.distance is None else [result.distance]
    if not good:
        raise ResnetError("none of the images can be read", left_out[0].reason if left_out else "the split is empty")
    labels = np.array([sample.label for sample in good], np.int64)
    known = np.array(distances, np.float32) if distances else None
    return Rows(tuple(good), np.stack(probabilities), labels, tuple(left_out), known)


def is_predictions(path: Path) -> bool:
    """Whether a file is a predictions.csv that `write_predictions` wrote."""
    try:
        with path.open(errors="replace") as file:
            return file.readline().rstrip("\n") == ",".join(_COLUMNS)
    except OSError:
        return False


def first_image(path: Path) -> Path | None:
    """The image of the first line of a predictions.csv; None where there is no such file or line."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            row = next(csv.DictReader(file), None)
    except (OSError, ValueError):
        return None
    return Path(row["path"]) if row and row.get("path") else None


def write_predictions(path: Path, rows: Rows, classes: Sequence[str]) -> None:
    """predictions.csv: path, true, predicted, probability, loss; the worst first."""
    loss = losses(rows.probabilities, rows.labels)
    predicted = rows.probabilities.argmax(1)
    lines: list[tuple[object, ...]] = [_COLUMNS]
    for i in np.argsort(-loss, kind="stable"):
        probability = rows.probabilities[i, predicted[i]]
        true, guess = classes[rows.labels[i]], classes[predicted[i]]
        lines.append((rows.samples[i].path, true, guess, f"{probability:.6f}", f"{loss[i]:.6f}"))
    write_csv(path, lines)


def write_confusion(path: Path, evaluation: Evaluation) -> None:
    """confusion.csv: a row per true class, a column per predicted one."""
    names = [each.name for each in evaluation.classes]
    counts = zip(names, evaluation.confusion.tolist(), strict=True)
    write_csv(path, [["true \\ predicted", *names], *([name, *row] for name, row in counts)])


class BlockRows:
    """The rows of a block of a bulk prediction, one per image.

    Columns: path; label, where it is known; classes and probabilities (the most probable ones, best first; null for an image
    that cannot be read); error (null, or a sentence); loss in nats and in_top5, where the label is known; features (D,).
    """

    def __init__(self, classes: Sequence[str], top: int, labels: Sequence[str] | None) -> None:
        """Begin a block.

        Args:
            classes: class names in the order of probabilities.
            top: number of most probable classes to keep.
            labels: the true classes of the images, if they are known.
        """
        self._classes, self._top, self._labels = classes, top, labels
        self._index = {name: index for index, name in enumerate(classes)}
        self._paths: list[str] = []
        self._errors: list[str | None] = []
        self._best: list[list[str] | None] = []
        self._probabilities: list[NDArray[np.float32] | None] = []
        self._features: list[NDArray[np.float32] | None] = []
        self._losses: list[float | None] = []
        self._in_five: list[bool | None] = []

    @property
    def errors(self) -> int:
        """Number of images that could not be read."""
        return sum(error is not None for error in self._errors)

    def add(self, name: str, result: Classified) -> None:
        """Add the result of an image."""
        loss, in_five = None, None
        probabilities = result.probabilities
        if probabilities is not None:
            order = np.argsort(-probabilities, kind="stable")[: self._top]
            if self._labels is not None:
                label = self._index[self._labels[len(self._paths)]]
                one = outcomes(probabilities[None], np.array([label], np.int64))
                loss, in_five = float(one.losses[0]), None if one.in_five is None else bool(one.in_five[0])
        self._paths.append(name)
        self._errors.append(result.error)
        self._best.append(None if probabilities is None else [self._classes[index] for index in order])
        self._probabilities.append(None if probabilities is None else probabilities[order])
        self._features.append(result.features)
        self._losses.append(loss)
        self._in_five.append(in_five)

    def table(self, features: bool) -> Any:
        """The rows as a table of pyarrow, with or without the column of features."""
        import pyarrow

        numbers = pyarrow.list_(pyarrow.float32())
        columns = {"path": pyarrow.array(self._paths, pyarrow.string())}
        if self._labels is not None:
            columns["label"] = pyarrow.array(self._labels, pyarrow.string())
        columns["classes"] = pyarrow.array(self._best, pyarrow.list_(pyarrow.string()))
        columns["probabilities"] = pyarrow.array(self._probabilities, numbers)
        columns["error"] = pyarrow.array(self._errors, pyarrow.string())
        if self._labels is not None:
            columns["loss"] = pyarrow.array(self._losses, pyarrow.float64())
            columns["in_top5"] = pyarrow.array(self._in_five, pyarrow.bool_())
        if features:
            columns["features"] = pyarrow.array(self._features, numbers)
        return pyarrow.table(columns)


MEASURED = ("label", "classes", "probabilities", "error", "loss", "in_top5")  # columns that `outcomes_of_rows` needs


def only_left_out(left_out: Sequence[LeftOut]) -> Rows:
    """The images that could not be read, without the rows of the others, which are in files."""
    return Rows((), np.empty((0, 0), np.float32), np.empty(0, np.int64), tuple(left_out))


def unreadable_rows(tables: Iterable[Any]) -> list[LeftOut]:
    """The images of `BlockRows.table` that could not be read, from its columns path and error."""
    import pyarrow.compute

    found: list[LeftOut] = []
    for table in tables:
        rows = table.filter(pyarrow.compute.is_valid(table["error"])).to_pylist()
        found += [LeftOut(Path(row["path"]), row["error"]) for row in rows]
    return found


def outcomes_of_rows(tables: Iterable[Any], classes: Sequence[str]) -> Outcomes:
    """The outcomes of the images of `BlockRows.table` that could be read; they take 30 bytes of memory each.

    Raises:
        ResnetError: there are none.
    """
    import pyarrow.compute

    names = pyarrow.array(classes, pyarrow.string())
    pieces: list[tuple[NDArray[Any], ...]] = []
    for table in tables:
        table = table.filter(pyarrow.compute.is_null(table["error"]))
        predicted = pyarrow.compute.list_element(table["classes"].combine_chunks(), 0)
        columns = (
            pyarrow.compute.index_in(table["label"], names),
            pyarrow.compute.index_in(predicted, names),
            pyarrow.compute.list_element(table["probabilities"].combine_chunks(), 0),
            table["loss"],
        )
        in_five = table["in_top5"].to_numpy(zero_copy_only=False) if len(classes) > 5 else np.zeros(len(table), bool)
        pieces.append((*(column.to_numpy(zero_copy_only=False) for column in columns), in_five))
    labels, predicted, confidence, loss, in_five = (np.concatenate(column) for column in zip(*pieces, strict=True))
    if not len(labels):
        raise ResnetError("none of the images can be read", "the column `error` of the rows has the reasons")
    counts = labels.astype(np.int64), predicted.astype(np.int64)
    return Outcomes(*counts, confidence, loss, in_five.astype(bool) if len(classes) > 5 else None)


def require_free(path: Path) -> None:
    """Check that a file of embeddings can be written, before any work.

    Raises:
        ResnetError: it exists, its folder is missing, or the package for .parquet is.
    """
    if path.exists():
        raise ResnetError(f"{path} exists already", "choose another file for --embeddings, or delete it")
    if not path.parent.is_dir():
        raise ResnetError(f"there is no folder {path.parent}", "create it, or choose another file for --embeddings")
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise ResnetError(f"{path} needs the package pyarrow", "pip install 'resnet-cli[parquet]', or choose a .npz file")


def with_embeddings(results: Iterable[Classified], path: Path, classes: Sequence[str]) -> Iterator[Classified]:
    """Pass results on, and when all have passed, write the pooled features of the readable images to a file, whole.

    Its columns, or arrays, are path and label (the predicted class), text, and features, float32 (D,). Until the end, features
    are in a temporary file beside it: memory does not grow with them.

    Args:
        results: from a member with features.
        path: the file, .npz or .parquet, which `require_free` has accepted.
        classes: class names in the order of the probabilities.

    Raises:
        ResnetError: no image can be read, the file exists by now, or the disk is full.
    """
    with unfinished(path) as folder:
        with writing(path):
            folder.mkdir()
            spool = (folder / "features").open("w+b")
        with spool:
            paths: list[str] = []
            labels: list[str] = []
            width = 0
            for result in results:
                if result.features is not None and result.probabilities is not None:
                    width = len(result.features)
                    with writing(path):
                        spool.write(result.features.astype("<f4").tobytes())
                    paths.append(_text(path_text(str(result.image))))
                    labels.append(_text(classes[int(result.probabilities.argmax())]))
                yield result
            if not paths:
                raise ResnetError(f"none of the images can be read, so there is no {path}")
            write = _write_parquet if path.suffix.lower() == ".parquet" else _write_npz
            with writing(path):
                spool.seek(0)
                write(folder / path.name, spool, width, paths, labels)
        require_free(path)
        with writing(path):
            (folder / path.name).replace(path)


def _text(value: str) -> str:
    """The same text in valid UTF-8, which file names need not be."""
    return value.encode(errors="backslashreplace").decode()


def _write_npz(target: Path, spool: BinaryIO, width: int, paths: Sequence[str], labels: Sequence[str]) -> None:
    with target.open("wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open("features.npy", "w", force_zip64=True) as part:
                about = {"descr": "<f4", "fortran_order": False, "shape": (len(paths), width)}
                np.lib.format.write_array_header_1_0(part, about)
                shutil.copyfileobj(spool, part, _PIECE)
            for name, values in (("path", paths), ("label", labels)):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                    np.lib.format.write_array(part, np.array(values), allow_pickle=False)
        os.fsync(file.fileno())


def _write_parquet(target: Path, spool: BinaryIO, width: int, paths: Sequence[str], labels: Sequence[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = max(1, _PIECE // width)
    features = pyarrow.list_(pyarrow.float32(), width)
    schema = pyarrow.schema([("path", pyarrow.string()), ("label", pyarrow.string()), ("features", features)])
    with target.open("wb") as file:
        with pyarrow.parquet.ParquetWriter(file, schema) as writer:
            for first in range(0, len(paths), rows):
                some = slice(first, first + rows)
                values = pyarrow.array(np.frombuffer(spool.read(4 * width * len(paths[some])), "<f4"))
                columns = [paths[some], labels[some], pyarrow.FixedSizeListArray.from_arrays(values, width)]
                writer.write_table(pyarrow.table(columns, schema=schema))
        os.fsync(file.fileno())
