"""Novelty: images unlike the training images, by the distance of their pooled features from those of training images.

In: pooled features of training images; distances of validation images. Out: a distance for any image, 1 at the threshold;
novelty.npz. No training images are needed for prediction.

The distance is that of Mahalanobis, as in Lee et al. 2018 (arXiv:1807.03888), from one mean for all classes, and with a
covariance shrunk after Ledoit and Wolf 2004. Features are first scaled to the sum 1, and their square roots are taken, which
weakens the few that dominate (Arandjelovic and Zisserman 2012, section 2). `benchmarks/novelty.py` compares it with others.
"""

import io
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_cli.engines.base import Outputs
from resnet_cli.errors import ResnetError
from resnet_cli.files import write_bytes

NOVELTY = "novelty.npz"  # in a run's folder
KNOWN_SHARE = 0.99  # of known images that are not flagged
_FORMAT = 1
_FEWEST_TRAINING, _FEWEST_VALIDATION = 10, 5  # images; below them nothing is flagged
_LEAST = 1e-12


@dataclass(frozen=True)
class Novelty:
    """The pooled features of training images, as a mean and a covariance.

    Attributes:
        mean: of the square roots of features that sum to 1, (D,).
        directions: columns of length 1 in which a feature is measured, (D, D), float16.
        deviations: its standard deviation in each of these, given the later ones, (D,).
        images: training images that it was fitted on.
        threshold: the distance, before it is divided by this, that 1 in 100 known images exceeds.
        validation_images: images that the threshold was fitted on.
    """

    mean: NDArray[np.float32]
    directions: NDArray[np.float16]
    deviations: NDArray[np.float32]
    images: int
    threshold: float = 1.0
    validation_images: int = 0

    def distances(self, features: Outputs) -> NDArray[np.float32]:
        """Distances from the training images; above 1, an image is unlike them.

        Args:
            features: pooled features (N, D), 0 or above.

        Returns:
            (N,), 0 or above: root mean squares over the directions, divided by the threshold.

        Raises:
            ResnetError: the features are not those of the network that this was fitted on.
        """
        if features.shape[1] != len(self.mean):
            what = f"{NOVELTY} is of another network: it has {len(self.mean)} features, the network {features.shape[1]}"
            raise ResnetError(what, "copy the run again")
        parts = (_rooted(features) - self.mean) @ self._whitening
        return np.asarray(np.sqrt((parts * parts).mean(1)) / self.threshold, np.float32)

    @cached_property
    def _whitening(self) -> NDArray[np.float32]:
        return self.directions.astype(np.float32) / self.deviations


def fit_novelty(features: Outputs) -> Novelty | None:
    """Fit mean and covariance; the threshold is still 1.

    Args:
        features: pooled features of training images (N, D).

    Returns:
        None for fewer than 10 images, and for features that are all the same or not finite.
    """
    if len(features) < _FEWEST_TRAINING or not np.isfinite(features).all():
        return None
    from sklearn.covariance import ledoit_wolf

    rows = _rooted(features).astype(np.float64)
    mean = rows.mean(0)
    covariance, _ = ledoit_wolf(rows - mean, assume_centered=True)
    level = float(np.trace(covariance)) / len(mean)
    if level < _LEAST:
        return None
    covariance[np.diag_indices_from(covariance)] += 1e-6 * level  # positive definite, whatever the rounding
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))  # |(row - mean) @ whitening| is the distance of Mahalanobis
    lengths = np.linalg.norm(whitening, axis=0)
    directions = (whitening / lengths).astype(np.float16)
    return Novelty(mean.astype(np.float32), directions, (1 / lengths).astype(np.float32), len(features))


def with_threshold(novelty: Novelty, distances: NDArray[np.float32]) -> Novelty | None:
    """Set the threshold so that 1 in 100 known images is flagged.

    From 99 validation images on, it is the quantile that keeps this promise for a new image on average (conformal prediction,
    Vovk et al. 2005). With fewer, the logarithms of distances are taken as normally distributed, which they nearly are, and the
    threshold is the upper end of the prediction interval of one more image, by Student's t.

    Args:
        novelty: from `fit_novelty`.
        distances: by it, of validation images (N,).

    Returns:
        None for fewer than 5 images.
    """
    count = len(distances)
    if count < _FEWEST_VALIDATION:
        return None
    place = int(np.ceil((count + 1) * KNOWN_SHARE))
    if place <= count:
        threshold = float(np.sort(distances)[place - 1])
    else:
        from scipy.stats import t

        logs = np.log(np.maximum(distances.astype(np.float64), _LEAST))
        spread = t.ppf(KNOWN_SHARE, count - 1) * logs.std(ddof=1) * np.sqrt(1 + 1 / count)
        threshold = float(np.exp(logs.mean() + spread))
    return replace(novelty, threshold=novelty.threshold * max(threshold, _LEAST), validation_images=count)


def _rooted(features: Outputs) -> NDArray[np.float32]:
    """Square roots of features scaled to the sum 1: rows of length 1."""
    positive = np.maximum(features, 0)
    return np.asarray(np.sqrt(positive / np.maximum(positive.sum(1, keepdims=True), _LEAST)), np.float32)


def write_novelty(path: Path, novelty: Novelty) -> None:
    """Write novelty.npz, whole.

    Raises:
        ResnetError: the disk is full, or the folder cannot be written.
    """
    content = io.BytesIO()
    np.savez(
        content,
        format=np.int64(_FORMAT),
        mean=novelty.mean,
        directions=novelty.directions,
        deviations=novelty.deviations,
        threshold=np.float64(novelty.threshold),
        images=np.int64(novelty.images),
        validation_images=np.int64(novelty.validation_images),
    )
    write_bytes(path, content.getbuffer())


def read_novelty(path: Path) -> Novelty | None:
    """Read novelty.npz; None if there is none, or if a newer version wrote it in another format.

    Raises:
        ResnetError: it is damaged.
    """
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            if int(file["format"]) > _FORMAT:
                return None
            arrays = file["mean"], file["directions"], file["deviations"]
            counts = int(file["images"]), float(file["threshold"]), int(file["validation_images"])
        mean, directions, deviations = arrays
        if directions.shape != (len(mean), len(mean)) or deviations.shape != mean.shape or not counts[1] > 0:
            raise ValueError("its arrays do not fit together")
    except Exception as error:  # zipfile and numpy raise a dozen kinds, by the byte that is wrong
        hint = "copy it again; without the file, no image is flagged as unlike the training images"
        raise ResnetError(f"{path} is damaged: {error}", hint) from error
    return Novelty(mean, directions, deviations, *counts)
