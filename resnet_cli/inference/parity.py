"""Whether an exported classifier answers like the run that it came from, on real pictures.

In: a run and the answers of both. Out: a `Parity`: how many pictures, how often they agree, how far they are apart.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import keras
import numpy as np

from resnet_cli.data.decode import Geometry
from resnet_cli.engines.base import Images
from resnet_cli.errors import ResnetError
from resnet_cli.inference.formats import OUTPUT, Answer
from resnet_cli.inference.sampling import some_pictures
from resnet_cli.runs import Run, read_splits

PICTURES = 32
_PATTERNS = "random patterns (none of the held-out pictures is there any more)"
_BATCH = 8


@dataclass(frozen=True)
class Parity:
    """How an export compares with its run.

    Attributes:
        pictures: how many were compared.
        source: "held-out pictures", or what stood in for them.
        top1_agreement: share of them with the same most probable class, 0..1.
        max_probability_difference: over all pictures and classes, 0..1.
    """

    pictures: int
    source: str
    top1_agreement: float
    max_probability_difference: float

    @property
    def is_on_patterns(self) -> bool:
        """Whether none of the run's held-out images was there to compare on."""
        return self.source == _PATTERNS


@dataclass(frozen=True)
class Sample:
    """Pictures to compare on: uint8 (N, H, W, 3), and what they are."""

    images: Images
    source: str


def sample_pictures(run: Run, geometry: Geometry) -> Sample:
    """Up to 32 of the pictures that the run held out, the same every time; random patterns if none is there any more."""
    try:
        found = some_pictures(run, [row for row in read_splits(run) if row.split != "train"], geometry, PICTURES)
    except ResnetError:
        found = []
    if found:
        return Sample(np.stack(found), "held-out pictures")
    return Sample(_patterns(geometry.size), _PATTERNS)


def compare(reference: Answer, exported: Answer, sample: Sample) -> Parity:
    """Run both on the sample, in batches, and compare their probabilities."""
    with _full_precision():
        expected, got = (
            np.concatenate([answer(images) for images in _batches(sample.images)]) for answer in (reference, exported)
        )
    if expected.shape != got.shape:
        raise ResnetError(f"the export answers in another shape, {got.shape} instead of {expected.shape}")
    return Parity(
        pictures=len(expected),
        source=sample.source,
        top1_agreement=float((expected.argmax(1) == got.argmax(1)).mean()),
        max_probability_difference=float(np.abs(expected - got).max()),
    )


def keras_answer(classifier: keras.Model) -> Answer:
    """The reference: Keras itself, in float32, one operation after the other, with nothing rewritten; its output is named."""
    return lambda images: keras.ops.convert_to_numpy(classifier(images, training=False)[OUTPUT])


def _batches(images: Images) -> Iterator[Images]:
    for first in range(0, len(images), _BATCH):
        yield images[first : first + _BATCH]


def _patterns(size: int) -> Images:
    """Coarse coloured squares, which tell more about a network than white noise, the same every time."""
    squares = np.random.default_rng(0).integers(0, 256, (PICTURES, 4, 4, 3), np.uint8)
    side = -(-size // 4)
    return np.ascontiguousarray(squares.repeat(side, 1).repeat(side, 2)[:, :size, :size])


@contextmanager
def _full_precision() -> Iterator[None]:
    """TensorFlow multiplies in float32 inside: neither TF32 on GPUs nor the bf16 that training may have turned on."""
    import tensorflow as tf

    from resnet_cli.networks.rewriting import rewrites, set_rewriting

    before = rewrites()
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    set_rewriting(False)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        set_rewriting(before)
        tf.config.experimental.enable_tensor_float_32_execution(tf32)
