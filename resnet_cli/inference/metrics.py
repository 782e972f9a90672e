"""Metrics of a classifier from its probabilities: pure functions, computed by scikit-learn where it has them.

In: probabilities and true classes. Out: an `Evaluation`.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BINS = 15  # of the calibration error, as Guo et al. 2017 use

_LEAST = float(np.finfo(np.float32).tiny)  # smallest probability; one that an engine rounds to 0 costs 87 nats


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class; shares, 0..1; the 95 % interval of the recall is None for a class without images."""

    name: str
    count: int
    precision: float
    recall: float
    f1: float

    @property
    def recall_interval(self) -> tuple[float, float] | None:
        """95 % interval of the recall (Wilson)."""
        return wilson_interval(self.recall, self.count) if self.count else None

    def to_json(self) -> dict[str, Any]:
        """Its entry in the JSON output."""
        figures = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        interval = None if self.recall_interval is None else list(self.recall_interval)
        return {"class": self.name, "count": self.count, **figures, "recall_interval": interval}


@dataclass(frozen=True)
class ReliabilityBin:
    """Images whose predicted class has a probability from `low` to `high`: their number, mean probability and accuracy."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision against recall of one class, over all thresholds of its probability; shares, 0..1.

    Attributes:
        name: the class.
        average_precision: area under the curve, as scikit-learn's `average_precision_score`.
        points: (recall, precision), recall falling from 1 to 0.
    """

    name: str
    average_precision: float
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Evaluation:
    """Figures of one split; shares, 0..1.

    Attributes:
        count: images measured.
        top1: share whose most probable class is right.
        top1_interval: 95 % interval of it (Wilson).
        top5: share whose class is among the five most probable; None with five classes or fewer.
        loss: mean cross-entropy, nats.
        ece: expected calibration error (Guo et al. 2017), 15 bins.
        classes: by class, in the order of `names`.
        confusion: images by true (row) and predicted (column) class.
    """

    count: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float | None
    loss: float
    ece: float
    classes: tuple[ClassFigures, ...]
    confusion: NDArray[np.int64]

    def macro(self) -> tuple[float, float, float]:
        """Unweighted means over the classes that have images: precision, recall, F1."""
        rows = [(each.precision, each.recall, each.f1) for each in self.classes if each.count]
        means = np.mean(rows, axis=0)
        return float(means[0]), float(means[1]), float(means[2])

    def to_json(self) -> dict[str, Any]:
        """The fields of `evaluate --json` that come from measuring."""
        precision, recall, f1 = self.macro()
        return {
            "count": self.count,
            "top1": self.top1,
            "top1_interval": list(self.top1_interval),
            "top5": self.top5,
            "loss": self.loss,
            "ece": self.ece,
            "macro": {"precision": precision, "recall": recall, "f1": f1},
            "classes": [each.to_json() for each in self.classes],
            "confusion": self.confusion.tolist(),
        }


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share measured on `count` images (Wilson 1927).

    Args:
        share: 0..1.
        count: at least 1.

    Returns:
        (low, high), 0..1.
    """
    z = 1.959963984540054
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def losses(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cross-entropy of every image, nats (N,)."""
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return np.abs(np.log(np.clip(chosen, _LEAST, 1.0)))  # not -0.0 where an image is certain


@dataclass(frozen=True)
class Outcomes:
    """What the figures need of each image, arrays (N,).

    Attributes:
        labels: true class indices.
        predicted: the most probable class.
        confidence: its probability, 0..1.
        losses: cross-entropy, nats.
        in_five: whether the true class is among the five most probable; None with five classes or fewer.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    losses: NDArray[np.float64]
    in_five: NDArray[np.bool_] | None


def outcomes(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> Outcomes:
    """The outcome of each image; arguments as in `measure`."""
    in_five = None
    if probabilities.shape[1] > 5:
        best = np.argpartition(-probabilities, 5, axis=1)[:, :5]
        in_five = (best == labels[:, None]).any(1)
    return Outcomes(labels, probabilities.argmax(1), probabilities.max(1), losses(probabilities, labels), in_five)


def measure(probabilities: NDArray[np.float32], labels: NDArray[np.int64], names: tuple[str, ...]) -> Evaluation:
    """Measure predictions.

    Args:
        probabilities: (N, classes), rows sum to 1.
        labels: true class indices (N,), each below classes; N at least 1.
        names: class names.
    """
    return evaluation_of(outcomes(probabilities, labels), names)


def evaluation_of(found: Outcomes, names: tuple[str, ...]) -> Evaluation:
    """The figures of outcomes; `names` are the class names."""
    # Imported here: it takes half a second and 140 MB, which the rows of a prediction do not need.
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    every, labels, predicted = np.arange(len(names)), found.labels, found.predicted
    right = predicted == labels
    precision, recall, f1, count = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    top1 = float(right.mean())
    top5 = None if found.in_five is None else float(found.in_five.mean())
    low, high = wilson_interval(top1, len(labels))
    return Evaluation(
        count=len(labels),
        top1=top1,
        top1_interval=(low, high),
        top5=top5,
        loss=float(found.losses.mean()),
        ece=calibration_error(reliability(found.confidence, right)),
        classes=tuple(
            ClassFigures(name, int(count[i]), float(precision[i]), float(recall[i]), float(f1[i]))
            for i, name in enumerate(names)
        ),
        confusion=confusion_matrix(labels, predicted, labels=every),
    )


def reliability(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    """Accuracy by confidence, in 15 bins of equal width (Guo et al. 2017); empty bins are left out.

    Args:
        confidence: probability of the predicted class of each image (N,), 0..1.
        right: whether it is the true class (N,).
    """
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    found = []
    for i in np.unique(bins):
        inside = bins == i
        mean, accuracy = float(confidence[inside].mean()), float(right[inside].mean())
        found.append(ReliabilityBin(i / _BINS, (i + 1) / _BINS, int(inside.sum()), mean, accuracy))
    return tuple(found)


def calibration_error(bins: tuple[ReliabilityBin, ...]) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy, weighted by the number of images, 0..1."""
    total = sum(each.count for each in bins)
    return sum(abs(each.confidence - each.accuracy) * each.count for each in bins) / total


_POINTS = 200  # of a precision-recall curve; more cannot be seen


def precision_recall(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], names: tuple[str, ...], most: int
) -> tuple[PrecisionRecall, ...]:
    """Precision-recall curves of the classes with the lowest F1, or of all if there are few.

    Args:
        probabilities: (N, classes), rows sum to 1.
        labels: true class indices (N,).
        names: class names.
        most: largest number of curves; classes without images have none.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve, precision_recall_fscore_support

    every = np.arange(len(names))
    _, _, f1, count = precision_recall_fscore_support(labels, probabilities.argmax(1), labels=every, zero_division=0)
    chosen = [i for i in np.argsort(f1, kind="stable") if count[i]][:most]
    curves = []
    for i in sorted(chosen):
        positive, score = labels == i, probabilities[:, i]
        precision, recall, _ = precision_recall_curve(positive, score)
        kept = np.unique(np.linspace(0, len(recall) - 1, min(len(recall), _POINTS)).round().astype(int))
        points = tuple((float(recall[k]), float(precision[k])) for k in kept)
        curves.append(PrecisionRecall(names[i], float(average_precision_score(positive, score)), points))
    return tuple(curves)
