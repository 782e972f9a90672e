"""Pictures in, probabilities out: what predict, evaluate and the checks of exports are made of.

In: paths, an engine and a geometry. Out: a probability vector, or an error, per picture, in input order. Memory does not grow
with the number of pictures: a few batches are decoded ahead of the engine, no more.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.decode import Geometry, Pixels, decode_square
from resnet_cli.data.pictures import map_in_order
from resnet_cli.engines.base import Engine
from resnet_cli.errors import ResnetError

BATCH = 16


@dataclass(frozen=True)
class Classified:
    """What came of one picture: probabilities (classes,), or None and the reason."""

    path: Path
    probabilities: NDArray[np.float32] | None
    error: str | None = None


def classify(paths: Iterable[Path], geometry: Geometry, engine: Engine, batch: int = BATCH) -> Iterator[Classified]:
    """Classify pictures; one that cannot be read is an error of its own and disturbs no other.

    Args:
        paths: picture files.
        geometry: how they reach the input size.
        engine: gives probabilities.
        batch: pictures a forward pass.
    """

    def attempt(path: Path) -> tuple[Path, Pixels | ResnetError]:
        try:
            return path, decode_square(path, geometry)
        except ResnetError as error:
            return path, error

    groups: deque[list[tuple[Path, Pixels | ResnetError]]] = deque()

    def batches() -> Iterator[NDArray[np.uint8]]:
        decoded = map_in_order(attempt, paths, ahead=4 * batch)
        while group := list(itertools.islice(decoded, batch)):
            groups.append(group)
            readable = [pixels for _, pixels in group if not isinstance(pixels, ResnetError)]
            if readable:
                yield np.stack(readable)

    for probabilities, *_ in engine.run_many(batches()):
        yield from _failed(groups)
        yield from _rows(groups.popleft(), probabilities)
    yield from _failed(groups)


def _failed(groups: deque[list[tuple[Path, Pixels | ResnetError]]]) -> Iterator[Classified]:
    """Groups at the front without a single readable picture: no engine saw them."""
    while groups and all(isinstance(pixels, ResnetError) for _, pixels in groups[0]):
        yield from _rows(groups.popleft(), np.empty((0, 0), np.float32))


def _rows(group: list[tuple[Path, Pixels | ResnetError]], probabilities: NDArray[np.float32]) -> Iterator[Classified]:
    results = iter(probabilities)
    for path, pixels in group:
        if isinstance(pixels, ResnetError):
            yield Classified(path, None, pixels.message)
        else:
            yield Classified(path, next(results))
