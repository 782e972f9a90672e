"""The pictures of a data set, ready for batches: decoded once and kept as uint8 where they fit, else decoded by threads.

In: samples. Out: `Pictures`, indexed like the samples that could be read, and the list of those that could not.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_cli.data.decode import Geometry, Pixels, decode, decode_square, to_square
from resnet_cli.data.scan import LeftOut, Sample
from resnet_cli.data.threads import map_in_order
from resnet_cli.errors import ResnetError
from resnet_cli.progress import Progress, stop_if_asked

MEMORY_LIMIT = 1_000_000_000  # bytes of uint8 pixels that are kept; larger sets are decoded again every epoch
_ROOM = 1.15  # stored pictures are this much larger than prediction needs, so that random crops keep detail


@dataclass(frozen=True)
class Pictures:
    """Pictures by index: from memory where they are kept there, else from their file.

    Attributes:
        samples: the readable ones, in order; all of them where nobody has looked yet.
        read: how a file becomes pixels.
        kept: decoded pictures, or None where the set is too large.
        left_out: files that could not be read, and why.
    """

    samples: tuple[Sample, ...]
    read: Callable[[Path], Pixels]
    kept: list[Pixels] | None
    left_out: tuple[LeftOut, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Pixels:
        """uint8 (H, W, 3), as `read` gives it."""
        return self.kept[index] if self.kept is not None else self.read(self.samples[index].path)

    def is_readable(self, sample: Sample) -> bool:
        """Whether a file can be decoded."""
        try:
            self.read(sample.path)
        except ResnetError:
            return False
        return True

    def without(self, damaged: Collection[int]) -> "Pictures":
        """The same less those of some indices."""
        good = [index for index in range(len(self)) if index not in damaged]
        kept = None if self.kept is None else [self.kept[index] for index in good]
        return replace(self, samples=tuple(self.samples[index] for index in good), kept=kept)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class indices (N,)."""
        return np.array([sample.label for sample in self.samples], np.int64)


def reader_for_training(geometry: Geometry) -> Callable[[Path], Pixels]:
    """Whole pictures of any shape, larger ones scaled down to a little more than the input needs."""
    short_side = round(geometry.size / geometry.fraction * _ROOM)

    def read(path: Path) -> Pixels:
        picture = decode(path, short_side)
        scale = short_side / min(picture.shape[:2])
        if scale >= 1:
            return np.ascontiguousarray(picture)
        height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
        return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))

    return read


def reader_for_prediction(geometry: Geometry) -> Callable[[Path], Pixels]:
    """Squares of the input size, exactly as `predict` sees them."""
    return lambda path: decode_square(path, geometry)


def read_pictures(
    samples: Sequence[Sample],
    read: Callable[[Path], Pixels],
    progress: Progress,
    title: str,
    limit: int = MEMORY_LIMIT,
) -> Pictures:
    """Decode every picture once; keep the pixels while they fit in `limit` bytes.

    A picture that cannot be read is left out and named in the result, so a damaged file is known before training begins.

    Raises:
        Interrupted: a signal asked to stop.
    """
    task = progress.start(title, len(samples))

    def attempt(sample: Sample) -> Pixels | ResnetError:
        try:
            return read(sample.path)
        except ResnetError as error:
            return error

    kept: list[Pixels] | None = []
    good: list[Sample] = []
    left_out: list[LeftOut] = []
    total = 0
    for sample, outcome in zip(samples, map_in_order(attempt, samples), strict=True):
        task.advance()
        stop_if_asked(progress, "nothing was trained yet: type the same command again")
        if isinstance(outcome, ResnetError):
            left_out.append(LeftOut(sample.path, outcome.message))
            continue
        good.append(sample)
        total += outcome.nbytes
        if total > limit:
            kept = None
        if kept is not None:
            kept.append(outcome)
    task.finish()
    return Pictures(tuple(good), read, kept, tuple(left_out))


def mean_picture(pictures: Pictures, geometry: Geometry) -> NDArray[np.float32]:
    """The mean of all pictures as prediction sees them: float32 (size, size, 3), 0..1 (He et al. 2015, section 3.4)."""
    total = np.zeros((geometry.size, geometry.size, 3), np.uint64)
    for pixels in map_in_order(lambda index: to_square(Image.fromarray(pictures[index]), geometry), range(len(pictures))):
        total += pixels
    return (total / (255 * len(pictures))).astype(np.float32)
