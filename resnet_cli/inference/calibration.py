"""Calibration: probabilities that mean what they say, and thresholds below which an answer is better left open.

In: probabilities on held-out images, and their classes. Out: a temperature (Guo et al. 2017, section 4.2), which changes no
prediction; accuracy against the share of images that are answered.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from resnet_cli.inference.metrics import Evaluation, losses

_LEAST = 1e-30  # smallest probability whose logarithm is taken
_SPREAD = 0.5  # standard deviation of the prior of log T: a few images, all right, do not make the network certain
_RANGE = (0.05, 20.0)


def fit_temperature(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature T with the lowest loss of softmax(logits / T), with a weak prior that keeps it near 1 on few images.

    Args:
        probabilities: of validation images (N, classes), at temperature 1.
        labels: true class indices (N,).

    Returns:
        T: over 1 for a network that is too certain, under 1 for one that is not certain enough.
    """

    def cost(log_t: float) -> float:
        return float(losses(tempered(probabilities, np.exp(log_t)), labels).sum()) + log_t**2 / (2 * _SPREAD**2)

    found = minimize_scalar(cost, bounds=tuple(np.log(_RANGE)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def tempered(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """softmax(logits / T) from softmax(logits): (N, classes), rows sum to 1."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), _LEAST)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature, and what it did on the validation images.

    Attributes:
        temperature: the logits are divided by it.
        images: validation images it was fitted on.
        ece, loss: expected calibration error, 0..1, and cross-entropy, nats: before and after.
        split: split of these images: "val", or "test" where the test images validate.
        thresholds: accuracies, 0..1, and the threshold that reaches each on these images; None where there is none.
    """

    temperature: float
    images: int
    ece: tuple[float, float]
    loss: tuple[float, float]
    split: str
    thresholds: tuple[tuple[float, float | None], ...]

    def to_json(self) -> dict[str, Any]:
        """Its entry in run.json."""
        (ece, ece_after), (loss, loss_after) = self.ece, self.loss
        figures = {"ece_before": ece, "ece_after": ece_after, "loss_before": loss, "loss_after": loss_after}
        thresholds = [{"accuracy": accuracy, "threshold": threshold} for accuracy, threshold in self.thresholds]
        about = {"temperature": self.temperature, "images": self.images, "split": self.split}
        return {**about, **figures, "thresholds": thresholds}


def calibration(
    temperature: float, before: Evaluation, after: Evaluation, split: str, points: "tuple[Coverage, ...]"
) -> Calibration:
    """What a temperature did on the images it was fitted on.

    Args:
        temperature: from `fit_temperature`.
        before, after: their figures without and with it.
        split: their split.
        points: their `coverage`, with it.
    """
    thresholds = tuple((wanted, suggested_threshold(wanted, points, before.count)) for wanted in _WANTED)
    return Calibration(temperature, before.count, (before.ece, after.ece), (before.loss, after.loss), split, thresholds)


@dataclass(frozen=True)
class Coverage:
    """Accuracy where only certain predictions are answered; shares, 0..1.

    Attributes:
        threshold: probability of the predicted class from which an image is answered.
        answered: share of the images that are.
        accuracy: of the answered images.
    """

    threshold: float
    answered: float
    accuracy: float


def coverage(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[Coverage, ...]:
    """Accuracy against the share of answered images, for every threshold that changes it, from all images to the most certain.

    Args:
        probabilities: (N, classes).
        labels: true class indices (N,).
    """
    confidence = probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    right = np.cumsum(probabilities.argmax(1)[order] == labels[order])
    ranked = confidence[order]
    last = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True))[::-1]  # images of equal confidence are answered together
    return tuple(Coverage(float(ranked[i]), (i + 1) / len(order), float(right[i] / (i + 1))) for i in last)


def threshold_for(wanted: float, points: tuple[Coverage, ...]) -> Coverage | None:
    """The threshold that answers most images at this accuracy or a higher one; None if there is none.

    Args:
        wanted: accuracy, 0..1.
        points: from `coverage`.
    """
    return next((point for point in points if point.accuracy >= wanted), None)


def suggested_threshold(wanted: float, points: tuple[Coverage, ...], images: int) -> float | None:
    """The threshold to answer at with this accuracy on new images.

    Args:
        wanted: accuracy, 0..1.
        points: from `coverage`.
        images: how many images they are of.

    Returns:
        That of `threshold_for`; None if there is none, or if so few images are answered that a single mistake among them would
        miss the accuracy: 10 for 90 %, 20 for 95 %, 100 for 99 %.
    """
    found = threshold_for(wanted, points)
    return found.threshold if found is not None and round(found.answered * images * (1 - wanted), 6) >= 1 else None


def coverage_at(threshold: float, points: tuple[Coverage, ...]) -> Coverage | None:
    """The share that is answered from this threshold on, and its accuracy; None if nothing is."""
    return next((point for point in points if point.threshold >= threshold), None)


_SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)  # of answered images, in a summary
_WANTED = (0.9, 0.95, 0.99)  # accuracies


def coverage_summary(points: tuple[Coverage, ...]) -> tuple[tuple[Coverage, ...], dict[float, Coverage | None]]:
    """A few points of the curve, and thresholds for accuracies above that of all images.

    Args:
        points: from `coverage`.

    Returns:
        For 100, 95, 90, 80, 70 and 50 % of the images, the point that answers this share or the next larger one; the
        thresholds that reach an accuracy of 90, 95 and 99 %, None where no threshold does.
    """
    few = [next(point for point in reversed(points) if point.answered >= share - 1e-9) for share in _SHARES]
    wanted = {accuracy: threshold_for(accuracy, points) for accuracy in _WANTED if accuracy > points[0].accuracy}
    return tuple(dict.fromkeys(few)), wanted
