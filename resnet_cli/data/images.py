"""The images of a data set, ready for batches: decoded once and kept in memory as uint8 if they fit, else decoded by threads.

In: samples. Out: an `ImageSet` of the readable samples, and the list of unreadable ones; and the suitable input size for
`--image-size auto`.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_cli.data.augment import Augmentation, scaled_square, side_for_crops
from resnet_cli.data.dataset import LeftOut, Sample
from resnet_cli.data.decode import Geometry, Header, Pixels, decode, decode_square, read_header, to_square
from resnet_cli.data.threads import map_in_order
from resnet_cli.errors import ResnetError
from resnet_cli.progress import Progress, stop_if_asked

MEMORY_LIMIT = 1_000_000_000  # bytes of uint8 pixels that are kept; larger sets are decoded again every epoch
_ROOM = 1.15  # smallest side of images kept for random crops, as a multiple of the side that prediction needs
_STEP = 0.9  # ratio of each side that is tried to the one before
_LOOKED_AT = 500  # images whose sizes are sampled
_SURE = 0.95  # share of the limit that is planned, as the sample's mean is not exact


@dataclass(frozen=True)
class ImageSet:
    """Images by index: from memory if they are kept there, else from their files.

    Attributes:
        samples: the readable samples, in order; all samples if they have not been decoded yet.
        read: function from a file to its pixels, such as `reader_for_training` returns.
        kept: decoded images, or None if the set is too large.
        left_out: files that could not be read, with reasons.
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

    def without(self, damaged: Collection[int]) -> "ImageSet":
        """The same set without the images of these indices."""
        good = [index for index in range(len(self)) if index not in damaged]
        kept = None if self.kept is None else [self.kept[index] for index in good]
        return replace(self, samples=tuple(self.samples[index] for index in good), kept=kept)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class indices (N,)."""
        return np.array([sample.label for sample in self.samples], np.int64)


@dataclass(frozen=True)
class WholeImages:
    """Reads whole images of any shape, larger ones scaled down.

    Attributes:
        side: largest size of one side, pixels.
        which: which side: the short or the long one.
    """

    side: int
    which: Literal["short", "long"]

    def __call__(self, path: Path) -> Pixels:
        image = decode(path, self.side)
        height, width = image.shape[:2]
        size = self._scaled(width, height)
        if size == (width, height):
            return np.ascontiguousarray(image)
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))

    def bytes_of(self, header: Header) -> int:
        """Bytes of an image's pixels after scaling."""
        width, height = self._scaled(header.width, header.height)
        return 3 * width * height

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        scale = min(1.0, self.side / (min if self.which == "short" else max)(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))


@dataclass(frozen=True)
class Squares:
    """Reads squares of the input size, pixel for pixel as `predict` sees them.

    Attributes:
        geometry: how images are brought to the input size.
    """

    geometry: Geometry

    def __call__(self, path: Path) -> Pixels:
        return decode_square(path, self.geometry)


def reader_for_training(geometry: Geometry, how: Augmentation) -> WholeImages | Squares:
    """The reader for `augment`: whole images, large enough for resized crops; else squares as prediction sees them."""
    if how.crop != "resized":
        return Squares(geometry)
    return WholeImages(side_for_crops(geometry, how), "long" if geometry.resize == "pad" else "short")


def reader_that_fits(samples: Sequence[Sample], geometry: Geometry, how: Augmentation, limit: int) -> WholeImages | Squares:
    """`reader_for_training`, with a side reduced in steps of a tenth until all images fit into `limit` bytes.

    Crops of slightly smaller images are slightly less sharp, but images that fit are decoded once instead of every epoch. If
    images only a little larger than prediction needs do not fit either, all are decoded every epoch, at full size.
    """
    reader = reader_for_training(geometry, how)
    if isinstance(reader, Squares) or not limit:
        return reader
    found = [read_header(sample.path) for sample in samples[:: -(-len(samples) // _LOOKED_AT)]]
    headers = [header for header in found if header is not None]
    least = min(reader.side, round(_ROOM * geometry.size / (geometry.fraction if geometry.resize == "crop" else 1)))
    side = float(reader.side)
    while True:
        smaller = replace(reader, side=max(round(side), least))
        if sum(map(smaller.bytes_of, headers)) * len(samples) <= _SURE * limit * len(headers):
            return smaller
        if side <= least:
            return reader
        side *= _STEP


def reader_for_prediction(geometry: Geometry) -> Squares:
    """Squares of the input size, exactly as `predict` sees them."""
    return Squares(geometry)


def read_images(
    samples: Sequence[Sample],
    read: Callable[[Path], Pixels],
    progress: Progress,
    title: str,
    limit: int = MEMORY_LIMIT,
) -> ImageSet:
    """Decode every image once; keep the pixels as long as they fit into `limit` bytes.

    Unreadable images are left out and listed in the result, so that damaged files are known before training begins.

    Raises:
        Interrupted: a signal requested a stop.
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
    return ImageSet(tuple(good), read, kept, tuple(left_out))


def mean_image(images: ImageSet, geometry: Geometry) -> NDArray[np.float32]:
    """The mean of all images as prediction sees them: float32 (size, size, 3), 0..1 (He et al. 2015, section 3.4)."""
    total = np.zeros((geometry.size, geometry.size, 3), np.uint64)

    def square(index: int) -> Pixels:
        image = images[index]
        if isinstance(images.read, Squares):
            return scaled_square(image, geometry.size)
        return to_square(Image.fromarray(image), geometry)

    for pixels in map_in_order(square, range(len(images))):
        total += pixels
    return (total / (255 * len(images))).astype(np.float32)


_MEASURED = 200


def suitable_size(samples: Sequence[Sample], sides: Sequence[int]) -> int:
    """The largest input size of a network that is not above the median short side of the images.

    Only file headers are read, of 200 images spread evenly.

    Args:
        samples: the images.
        sides: input sizes, pixels, ascending.

    Returns:
        One of `sides`: the smallest if the images are smaller than that, the largest if no header can be read.
    """
    step = max(1, len(samples) // _MEASURED)
    found = [side for side in map(_short_side, samples[::step]) if side]
    typical = median(found) if found else sides[-1]
    return max((side for side in sides if side <= typical), default=sides[0])


def _short_side(sample: Sample) -> int:
    """Short side in pixels; 0 if the header cannot be read (decoding will report the reason)."""
    header = read_header(sample.path)
    return min(header.width, header.height) if header else 0
