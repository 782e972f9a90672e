"""Answer with the most probable classes of pictures, through OpenVINO alone: TensorFlow is never imported here.

In: paths and a run's OpenVINO file. Out: a `Prediction` per picture, in input order.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_cli.data.decode import Geometry
from resnet_cli.engines.base import Engine
from resnet_cli.inference.classify import classify


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one picture, best first, or the reason why there are none."""

    path: Path
    error: str | None
    classes: tuple[tuple[str, float], ...]


def predict(
    paths: Iterable[Path], geometry: Geometry, engine: Engine, names: Sequence[str], top: int, batch: int
) -> Iterator[Prediction]:
    """Predict pictures.

    Args:
        paths: picture files.
        geometry: of the classifier's input.
        engine: gives probabilities.
        names: class names in the classifier's order.
        top: how many classes to name.
        batch: pictures a forward pass.
    """
    for result in classify(paths, geometry, engine, batch):
        if result.probabilities is None:
            yield Prediction(result.path, result.error, ())
            continue
        best = np.argsort(-result.probabilities, kind="stable")[:top]
        yield Prediction(result.path, None, tuple((names[i], float(result.probabilities[i])) for i in best))
