"""Compare an exported classifier with its run on real images; compare two models in accuracy and speed.

In: a run and the predictions of both. Out: a `Parity`: the number of images, how often both agree, and how far probabilities
differ; accuracy and speed of both.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice

import keras
import numpy as np
from PIL import Image

from resnet_cli.data.dataset import Sample
from resnet_cli.data.decode import Geometry, Pixels, decode, decode_square, to_square
from resnet_cli.data.threads import map_in_order
from resnet_cli.engines.base import Images, Outputs
from resnet_cli.errors import ResnetError
from resnet_cli.export.formats import OUTPUT, Answer
from resnet_cli.progress import how_many
from resnet_cli.runs.folder import Run, SplitRow, read_splits

Reader = Callable[[Sample], Pixels]


def reader(geometry: Geometry, whole: bool = False) -> Reader:
    """What reads an image for a model: uint8 (size, size, 3); with `whole`, of any size, for a model that resizes it."""
    if whole:
        return lambda sample: decode(sample.path, geometry.enough)
    return lambda sample: decode_square(sample.path, geometry)


def some_images(run: Run, rows: Sequence[SplitRow], read: Reader, most: int) -> list[Pixels]:
    """Up to `most` of the images, always the same ones."""
    # Rows are sorted by class: shuffle them, so that the first few are of all classes.
    order = np.random.default_rng(0).permutation(len(rows))
    decoded = decode_all((Sample(run.data / rows[index].path, 0) for index in order), read)
    return [pixels for pixels, _ in islice(decoded, most)]


def decode_all(samples: Iterable[Sample], read: Reader) -> Iterator[tuple[Pixels, int]]:
    """Pixels and class of the readable images, in order, prefetched by threads."""

    def attempt(sample: Sample) -> tuple[Pixels, int] | None:
        try:
            return read(sample), sample.label
        except ResnetError:
            return None

    return (found for found in map_in_order(attempt, samples) if found is not None)


IMAGES = 50
_PATTERNS = "random patterns (none of the run's images is there any more)"
_BATCH = 8


@dataclass(frozen=True)
class Parity:
    """The comparison of an export with its run.

    Attributes:
        images: number of images compared.
        source: "held-out images", or what was used instead or in addition.
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
    """Images to compare on: uint8 (N, size, size, 3), the same as the exported model takes them, and a description."""

    squares: Images
    given: Sequence[Images]
    source: str


def sample_images(run: Run, geometry: Geometry, whole: bool = False) -> Probe:
    """50 images of the run, always the same ones: held-out images, then training images; random patterns without any.

    Args:
        run: the run.
        geometry: how images are brought to the input size.
        whole: the exported model takes images of any size, one at a time.
    """
    read, found, parts = reader(geometry, whole), list[Pixels](), []
    for kind, is_held_out in (("held-out", True), ("training", False)):
        before = len(found)
        with suppress(ResnetError):
            rows = [row for row in read_splits(run) if (row.split != "train") is is_held_out]
            found += some_images(run, rows, read, IMAGES - before)
        if len(found) > before:
            parts.append(f"{len(found) - before} {kind}")
    if not found:
        found, source = list(_patterns(geometry.size)), _PATTERNS
    else:
        source = f"images ({', '.join(parts)})" if len(parts) > 1 else f"{parts[0].split()[1]} images"
    squares = np.stack([to_square(Image.fromarray(pixels), geometry) if whole else pixels for pixels in found])
    return Probe(squares, [pixels[None] for pixels in found] if whole else list(_batches(squares)), source)


def compare(reference: Answer, exported: Answer, sample: Probe) -> Parity:
    """Run both on the sample, in batches, and compare their probabilities."""
    with _full_precision():
        expected = np.concatenate([reference(images) for images in _batches(sample.squares)])
        got = np.concatenate([exported(images) for images in sample.given])
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


@dataclass(frozen=True)
class Accuracy:
    """Held-out accuracy of an exported model, in its own runtime.

    Attributes:
        split: split of the images, "val" or "test".
        count: number of images.
        correct: images whose most probable class is right.
    """

    split: str
    count: int
    correct: int

    @property
    def top1(self) -> float:
        """Share of correct images, 0..1."""
        return self.correct / self.count


def accuracy(answer: Answer, split: str, samples: Sequence[Sample], read: Reader, batch: int = BATCH) -> Accuracy:
    """Run a model on images whose class is known; unreadable ones are skipped.

    Raises:
        ResnetError: none of them can be read.
    """
    decoded = decode_all(samples, read)
    count = correct = 0
    for some in iter(lambda: list(islice(decoded, batch)), []):
        guesses = answer(np.stack([pixels for pixels, _ in some])).argmax(1)
        correct += int((guesses == [label for _, label in some]).sum())
        count += len(some)
    if not count:
        raise ResnetError(f"none of the {how_many(len(samples), 'held-out image')} can be read")
    return Accuracy(split, count, correct)


def answer_both(answers: tuple[Answer, Answer], samples: Sequence[Sample], geometry: Geometry) -> Both:
    """Run both models on the images; each is decoded once, and unreadable ones are skipped.

    Raises:
        ResnetError: none of them can be read.
    """
    decoded = decode_all(samples, reader(geometry))
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
