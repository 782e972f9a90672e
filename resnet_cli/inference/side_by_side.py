"""Two models of one classifier beside each other: the same pictures, the same runtime, in turns.

In: what answers, and held-out pictures. Out: how many each has right, how far they agree, and how fast each is.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from resnet_cli.data.decode import Geometry
from resnet_cli.data.scan import Sample
from resnet_cli.engines.base import Images, Outputs
from resnet_cli.errors import ResnetError
from resnet_cli.inference.formats import Answer
from resnet_cli.inference.parity import Parity
from resnet_cli.inference.sampling import decode_all

BATCH = 16
MEASURED = 2000  # pictures: one point of top-1 is then 20 of them; all 50,000 of ImageNet would take an hour
_TURNS, _SECONDS = 3, 0.2  # of measuring speed, and how long each lasts


@dataclass(frozen=True)
class Side:
    """One of the two models, as its own runtime runs it by default.

    Attributes:
        correct: held-out pictures whose most probable class is right.
        bytes: size of the model.
        speed: pictures a second, in batches of 16.
    """

    correct: int
    bytes: int
    speed: float


@dataclass(frozen=True)
class Both:
    """Answers of two models to the same pictures: how many each has right, and how they compare."""

    correct: tuple[int, int]
    parity: Parity


def some_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The images, or 2000 of them, the same ones every time."""
    return [samples[index] for index in np.random.default_rng(0).permutation(len(samples))[:MEASURED]]


def answer_both(answers: tuple[Answer, Answer], samples: Sequence[Sample], geometry: Geometry) -> Both:
    """Run both models on the images; each is decoded once, and one that cannot be read is passed over.

    Raises:
        ResnetError: none of them can be read.
    """
    decoded = decode_all(samples, geometry)
    labels: list[int] = []
    outputs: tuple[list[Outputs], list[Outputs]] = ([], [])
    for batch in iter(lambda: list(islice(decoded, BATCH)), []):
        images = np.stack([pixels for pixels, _ in batch])
        labels += [label for _, label in batch]
        for answer, rows in zip(answers, outputs, strict=True):
            rows.append(answer(images))
    if not labels:
        raise ResnetError(f"none of the {len(samples)} held-out pictures can be read")
    before, after = (np.concatenate(rows) for rows in outputs)
    guesses = before.argmax(1), after.argmax(1)
    agree, apart = float((guesses[0] == guesses[1]).mean()), float(np.abs(before - after).max())
    correct = int((guesses[0] == labels).sum()), int((guesses[1] == labels).sum())
    return Both(correct, Parity(len(labels), "held-out pictures", agree, apart))


def speeds_of(answers: tuple[Answer, Answer], images: Images) -> tuple[float, float]:
    """Pictures a second of both, each the best of its turns: whatever else the machine does can only slow one down."""
    images = np.resize(images, (BATCH, *images.shape[1:]))
    turns = [(_speed(answers[0], images), _speed(answers[1], images)) for _ in range(_TURNS)]
    return max(first for first, _ in turns), max(second for _, second in turns)


def _speed(answer: Answer, images: Images) -> float:
    answer(images)
    begun, done, seconds = time.perf_counter(), 0, 0.0
    while seconds < _SECONDS:
        answer(images)
        done += len(images)
        seconds = time.perf_counter() - begun
    return done / seconds
