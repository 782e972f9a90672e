"""Compare an exported classifier with its run on real images; compare two models in accuracy and speed.

In: a run and the predictions of both. Out: a `Parity`: the number of images, how often both agree, and how far probabilities
differ; accuracy and speed of both.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import keras
import numpy as np

from resnet_cli.data.dataset import Sample
from resnet_cli.data.decode import Geometry, Pixels, decode_square
from resnet_cli.data.threads import map_in_order
from resnet_cli.engines.base import Images, Outputs
from resnet_cli.errors import ResnetError
from resnet_cli.export.formats import OUTPUT, Answer
from resnet_cli.progress import how_many
from resnet_cli.runs.folder import Run, SplitRow, read_splits


def some_images(run: Run, rows: Sequence[SplitRow], geometry: Geometry, most: int) -> list[Pixels]:
    """Up to `most` of the images, uint8 (size, size, 3), always the same ones."""
    # Rows are sorted by class: shuffle them, so that the first few are of all classes.
    order = np.random.default_rng(0).permutation(len(rows))
    decoded = decode_all((Sample(run.data / rows[index].path, 0) for index in order), geometry)
    return [pixels for pixels, _ in islice(decoded, most)]


def decode_all(samples: Iterable[Sample], geometry: Geometry) -> Iterator[tuple[Pixels, int]]:
    """Pixels and class of the readable images, in order, prefetched by threads."""

    def attempt(sample: Sample) -> tuple[Pixels, int] | None:
        try:
            return decode_square(sample.path, geometry), sample.label
        except ResnetError:
            return None

    return (found for found in map_in_order(attempt, samples) if found is not None)


IMAGES = 32
_PATTERNS = "random patterns (none of the held-out images is there any more)"
_BATCH = 8


@dataclass(frozen=True)
class Parity:
    """The comparison of an export with its run.

    Attributes:
        images: number of images compared.
        source: "held-out images", or what was used instead.
        top1_agreement: share of images with the same most probable class, 0..1.
        max_probability_difference: largest difference over all images and classes, 0..1.
    """

    images: int
    source: str
    top1_agreement: float
    max_probability_difference: float

    @property
    def is_on_patterns(self) -> bool:
        """Whether none of the run's held-out images was available for the comparison."""
        return self.source == _PATTERNS


@dataclass(frozen=True)
class Probe:
    """Images to compare on: uint8 (N, H, W, 3), and a description of them."""

    images: Images
    source: str


def sample_images(run: Run, geometry: Geometry) -> Probe:
    """Up to 32 of the run's held-out images, always the same ones; random patterns if none of them exists any more."""
    try:
        found = some_images(run, [row for row in read_splits(run) if row.split != "train"], geometry, IMAGES)
    except ResnetError:
        found = []
    if found:
        return Probe(np.stack(found), "held-out images")
    return Probe(_patterns(geometry.size), _PATTERNS)


def compare(reference: Answer, exported: Answer, sample: Probe) -> Parity:
    """Run both on the sample, in batches, and compare their probabilities."""
    with _full_precision():
        expected, got = (
            np.concatenate([answer(images) for images in _batches(sample.images)]) for answer in (reference, exported)
        )
    if expected.shape != got.shape:
        raise ResnetError(f"the export's output has the shape {got.shape} instead of {expected.shape}")
    return Parity(
        images=len(expected),
        source=sample.source,
        top1_agreement=float((expected.argmax(1) == got.argmax(1)).mean()),
        max_probability_difference=float(np.abs(expected - got).max()),
    )


def keras_answer(classifier: keras.Model) -> Answer:
    """The reference: Keras in float32, executed eagerly and without graph rewriting; its output is named."""
    return lambda images: keras.ops.convert_to_numpy(classifier(images, training=False)[OUTPUT])


def _batches(images: Images) -> Iterator[Images]:
    for first in range(0, len(images), _BATCH):
        yield images[first : first + _BATCH]


def _patterns(size: int) -> Images:
    """Coarse coloured squares, always the same, which test a network better than white noise."""
    squares = np.random.default_rng(0).integers(0, 256, (IMAGES, 4, 4, 3), np.uint8)
    side = -(-size // 4)
    return np.ascontiguousarray(squares.repeat(side, 1).repeat(side, 2)[:, :size, :size])


@contextmanager
def _full_precision() -> Iterator[None]:
    """Make TensorFlow multiply in float32: neither in TF32 on GPUs nor in bf16, which training may have turned on."""
    import tensorflow as tf

    from resnet_cli.networks.accelerations import rewrites, set_rewriting

    before = rewrites()
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    set_rewriting(False)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        set_rewriting(before)
        tf.config.experimental.enable_tensor_float_32_execution(tf32)


BATCH = 16
MEASURED = 2000  # images: one point of top-1 is 20 of them; all 50,000 of ImageNet would take an hour
_TURNS, _SECONDS = 3, 0.2  # number and length of the speed measurements


@dataclass(frozen=True)
class Side:
    """One of the two models, measured in its own runtime with default settings.

    Attributes:
        correct: held-out images whose most probable class is right.
        bytes: size of the model.
        speed: images a second, in batches of 16.
    """

    correct: int
    bytes: int
    speed: float


@dataclass(frozen=True)
class Both:
    """Predictions of two models for the same images: the number of correct ones of each, and their comparison."""

    correct: tuple[int, int]
    parity: Parity


def some_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The images, or 2000 of them, always the same ones."""
    return [samples[index] for index in np.random.default_rng(0).permutation(len(samples))[:MEASURED]]


def answer_both(answers: tuple[Answer, Answer], samples: Sequence[Sample], geometry: Geometry) -> Both:
    """Run both models on the images; each is decoded once, and unreadable ones are skipped.

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
        raise ResnetError(f"none of the {how_many(len(samples), 'held-out image')} can be read")
    before, after = (np.concatenate(rows) for rows in outputs)
    guesses = before.argmax(1), after.argmax(1)
    agree, apart = float((guesses[0] == guesses[1]).mean()), float(np.abs(before - after).max())
    correct = int((guesses[0] == labels).sum()), int((guesses[1] == labels).sum())
    return Both(correct, Parity(len(labels), "held-out images", agree, apart))


def speeds_of(answers: tuple[Answer, Answer], images: Images) -> tuple[float, float]:
    """Images per second of both, each the best of several measurements, as other load can only slow them down."""
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
