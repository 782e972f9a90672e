"""Answer with the most probable classes of pictures, through engines that are loaded: nothing heavy is imported here.

In: paths and classifiers. Out: a `Prediction` per picture, in input order.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_cli.data.threads import Pause
from resnet_cli.inference.classify import Member, classify


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one picture, best first, or the reason why there are none."""

    path: Path
    error: str | None
    classes: tuple[tuple[str, float], ...]


def predict(
    paths: Iterable[Path | Pause], members: Sequence[Member], names: Sequence[str], top: int, views: int
) -> Iterator[Prediction]:
    """Predict pictures.

    Args:
        paths: image files; at a pause among them every prediction goes out, see `classify`.
        members: the classifiers that answer together.
        names: class names in their common order.
        top: how many classes to name.
        views: of each picture: 1, 2 or 10.
    """
    for result in classify(paths, members, views):
        if result.probabilities is None:
            yield Prediction(result.path, result.error, ())
            continue
        best = np.argsort(-result.probabilities, kind="stable")[:top]
        yield Prediction(result.path, None, tuple((names[i], float(result.probabilities[i])) for i in best))
