"""Score pictures whose class is known: rows of predictions, and the two CSV files.

In: classified pictures and their samples. Out: `Rows`, predictions.csv (worst first) and confusion.csv.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.scan import LeftOut, Sample
from resnet_cli.errors import ResnetError
from resnet_cli.files import write_csv
from resnet_cli.inference.classify import Classified
from resnet_cli.inference.measure import Evaluation, losses
from resnet_cli.progress import Task

_COLUMNS = ("path", "true", "predicted", "probability", "loss")  # of predictions.csv


@dataclass(frozen=True)
class Rows:
    """Predictions of pictures whose class is known, each exactly once.

    Attributes:
        samples: the pictures that could be read.
        probabilities: (N, classes).
        labels: true class indices (N,).
        left_out: pictures that could not be read, and why.
    """

    samples: tuple[Sample, ...]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    left_out: tuple[LeftOut, ...]


def collect(results: Iterable[Classified], samples: Sequence[Sample], task: Task) -> Rows:
    """Put results, in the order of the samples, beside their true classes.

    Raises:
        ResnetError: no picture could be read.
    """
    good: list[Sample] = []
    probabilities: list[NDArray[np.float32]] = []
    left_out: list[LeftOut] = []
    for sample, result in zip(samples, results, strict=True):
        task.advance()
        if result.probabilities is None:
            left_out.append(LeftOut(sample.path, result.error or ""))
        else:
            good.append(sample)
            probabilities.append(result.probabilities)
    if not good:
        raise ResnetError("none of the pictures can be read", left_out[0].reason if left_out else "the split is empty")
    labels = np.array([sample.label for sample in good], np.int64)
    return Rows(tuple(good), np.stack(probabilities), labels, tuple(left_out))


def is_predictions(path: Path) -> bool:
    """Whether a file is a predictions.csv that `write_predictions` wrote."""
    try:
        with path.open(errors="replace") as file:
            return file.readline().rstrip("\n") == ",".join(_COLUMNS)
    except OSError:
        return False


def first_picture(path: Path) -> Path | None:
    """The picture of the first line of a predictions.csv; None where there is no such file or line."""
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
