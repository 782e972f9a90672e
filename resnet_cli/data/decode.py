"""Decode an image: the one place where files become pixels, for training and prediction alike.

In: a path, or an image in memory. Out: uint8 RGB, height x width x 3, upright, transparency on white. A `Geometry` says how it
is brought to the input size.
"""

import contextlib
import io
import math
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from resnet_cli.data import Interpolation, Resize, Steps, heif
from resnet_cli.data.folders import HEIF_INSTALL as INSTALL
from resnet_cli.errors import ResnetError
from resnet_cli.runs.folder import Run

Pixels = NDArray[np.uint8]

# HEIC is opened by `heif.open_heif`; JPEG includes MPO, the stereo images of some cameras.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
_LARGEST = 200_000_000  # pixels of the largest cameras; a larger image counts as a decompression bomb
_GREY = (124, 116, 104)  # ImageNet's mean colour
Image.MAX_IMAGE_PIXELS = _LARGEST
# Damaged EXIF and odd palettes do no harm if the pixels can be decoded. Set once: `warnings.catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class Geometry:
    """How an image is brought to the input size for prediction.

    Attributes:
        size: side of the square input, pixels.
        resize: crop = short side to size / fraction, then the centre; pad = whole image on grey; squash = stretched.
        fraction: share of the short side that a crop keeps, 0..1.
        border: pixels of black around the square that training cropped from, 0 for none; only used by ten crops.
        interpolation: filter of the resizing.
        steps: of a crop. one = the square is resampled directly; two = the image is resized to whole pixels and then cropped
            at whole pixels, exactly as torchvision and timm do, and JPEG files are decoded at full size for that.
    """

    size: int
    resize: Resize = "crop"
    fraction: float = 0.875
    border: int = 0
    interpolation: Interpolation = "bilinear"
    steps: Steps = "one"

    @property
    def filter(self) -> Image.Resampling:
        """Pillow's filter of that name."""
        return Image.Resampling.BICUBIC if self.interpolation == "bicubic" else Image.Resampling.BILINEAR

    @property
    def short_side(self) -> int:
        """Short side of the image that a crop is taken from, pixels."""
        # timm and torchvision round down: int(math.floor(size / crop_pct)).
        return math.floor(self.size / self.fraction) if self.steps == "two" else round(self.size / self.fraction)

    @property
    def enough(self) -> int | None:
        """Sufficient short side of a decoded image, pixels; None for full size. See `decode`."""
        return None if self.steps == "two" and self.resize == "crop" else self.short_side


def pad_width(size: int) -> int:
    """Width of the black border of the training crop "pad", pixels: 4 for a side of 32 (He et al. 2015, section 4.2)."""
    return max(1, size // 8)


@dataclass(frozen=True)
class Header:
    """Format (JPEG, PNG, WEBP, BMP, GIF, TIFF, AVIF, HEIC) and size in pixels, as stored."""

    format: str
    width: int
    height: int


@dataclass(frozen=True)
class InMemory:
    """A decoded image, RGB and upright, and its name in error messages."""

    name: str
    image: Image.Image


@dataclass(frozen=True)
class Remote:
    """An image file on another file system: its URL, and what reads its bytes, which may raise a ResnetError."""

    name: str
    read: Callable[[], bytes]


Source = Path | InMemory | Remote


def in_memory(image: Image.Image | Pixels, name: str) -> InMemory:
    """Convert an image in memory as `decode` converts a file; the result is a copy.

    Args:
        image: PIL image of any mode, or an array uint8 (H, W, 3), 0..255, RGB.
        name: its name in error messages.

    Raises:
        ResnetError: the image is damaged, or the array has another type or shape.

    Example:
        >>> import numpy as np
        >>> from resnet_cli.data.decode import in_memory
        >>> in_memory(np.zeros((40, 60, 3), np.uint8), "a black image").image.size
        (60, 40)
    """
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ResnetError(f"{name} has no pixels: {image.width} x {image.height}", "leave it out")
        try:
            return InMemory(name, _to_rgb(_upright(image.copy())))
        except Exception as error:  # as for files, Pillow's parsers raise errors of any type
            raise ResnetError(f"{name} is damaged: {str(error) or type(error).__name__}") from error
    pixels = np.array(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        what = f"{name} is an array of {pixels.dtype} {pixels.shape}, not of uint8 (height, width, 3)"
        raise ResnetError(what, "values are 0 to 255, channels RGB; images of other kinds can be given as PIL images")
    return InMemory(name, Image.fromarray(pixels))


def decode(path: Source, short_side: int | None = None) -> Pixels:
    """Decode an image.

    Args:
        path: a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC file, here or elsewhere; an image in memory is decoded already.
        short_side: sufficient size of the short side, pixels: a JPEG may be decoded at a half, quarter or eighth of its size,
            never below this; None decodes at full size.

    Returns:
        uint8 (H, W, 3), 0..255, RGB.

    Raises:
        ResnetError: the file is missing, empty, damaged, truncated, no image of an allowed format, or too large.

    Example:
        >>> from pathlib import Path
        >>> from resnet_cli.data.decode import decode
        >>> pixels = decode(Path("sample_data/cars_vs_trucks/cars/car_001.jpg"))
        >>> pixels.shape, pixels.dtype
        ((277, 395, 3), dtype('uint8'))
    """
    return np.asarray(_open(path, short_side))


def decode_square(path: Source, geometry: Geometry) -> Pixels:
    """Decode an image and bring it to the input size: uint8 (size, size, 3).

    Example:
        >>> from pathlib import Path
        >>> from resnet_cli.data.decode import Geometry, decode_square
        >>> decode_square(Path("sample_data/cars_vs_trucks/cars/car_001.jpg"), Geometry(128)).shape
        (128, 128, 3)
    """
    return to_square(_open(path, geometry.enough), geometry)


def to_square(image: Image.Image, geometry: Geometry, place: tuple[float, float] = (0.5, 0.5)) -> Pixels:
    """Bring an RGB image of any shape to uint8 (size, size, 3).

    Args:
        image: RGB.
        geometry: input size and how to resize.
        place: (x, y) of a crop: 0 is flush with the left or top edge, 1 with the right or bottom one.
    """
    size = geometry.size
    if geometry.resize != "crop":
        return part_of_square(image, geometry, (0.0, 0.0, 1.0, 1.0))
    if geometry.steps == "two":
        return np.asarray(_cropped_in_two_steps(image, geometry, place))
    # Resample the cropped square directly instead of resizing and then cropping: the same image with less work.
    side = min(image.size) * size / geometry.short_side
    left, top = (image.width - side) * place[0], (image.height - side) * place[1]
    box = (left, top, left + side, top + side)
    if side == size and left.is_integer() and top.is_integer():
        return np.asarray(image.crop(box))
    return np.asarray(image.resize((size, size), geometry.filter, box=box))


def _cropped_in_two_steps(image: Image.Image, geometry: Geometry, place: tuple[float, float]) -> Image.Image:
    """Resize and CenterCrop of torchvision: the long side is rounded down, the corner to the nearest even pixel."""
    short, size = geometry.short_side, geometry.size
    width, height = (short * side // min(image.size) for side in image.size)
    # CenterCrop pads where the image is smaller, which happens to fractions above 1 only; these are refused.
    left, top = (round((side - size) * share) for side, share in ((width, place[0]), (height, place[1])))
    resized = image if image.size == (width, height) else image.resize((width, height), geometry.filter)
    return resized.crop((left, top, left + size, top + size))


def part_of_square(image: Image.Image, geometry: Geometry, part: tuple[float, float, float, float]) -> Pixels:
    """A part of the square that `pad` or `squash` makes of an image, scaled to the input, in one resampling.

    Args:
        image: RGB, of any shape.
        geometry: its `resize` is "pad" or "squash".
        part: (left, top, right, bottom) of the part, shares of the square's side, 0..1.

    Returns:
        uint8 (size, size, 3).
    """
    size, (left, top, right, bottom) = geometry.size, part
    if geometry.resize == "squash":
        box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
        return np.asarray(image.resize((size, size), geometry.filter, box=box))
    scale = size / max(image.size)
    x, width, from_x, to_x = _seen(image.width, scale, size, left, right)
    y, height, from_y, to_y = _seen(image.height, scale, size, top, bottom)
    square = np.empty((size, size, 3), np.uint8)
    square[:] = _GREY
    if width and height:
        seen = image.resize((width, height), geometry.filter, box=(from_x, from_y, to_x, to_y))
        square[y : y + height, x : x + width] = np.asarray(seen)
    return square


def _seen(side: int, scale: float, size: int, start: float, end: float) -> tuple[int, int, float, float]:
    """The overlap, along one axis, of the image and a view of a part of its padded square.

    Args:
        side: of the image, pixels.
        scale: pixels of a view of the whole square per pixel of the image.
        size: of the view, pixels.
        start, end: of the part, shares of the square's side.

    Returns:
        First pixel and number of pixels of the view that show the image (0 for none); start and end of these in the image.
    """
    exact, middle = side * (scale / (end - start)), (0.5 - start) / (end - start) * size
    length = max(1, round(exact))  # of the whole image; `ImageOps.pad` may make it 0
    first = math.floor(middle - length / 2)
    last = first + length
    # At the edge of the view too, the image ends at whole pixels.
    if middle - exact / 2 < 1e-6:
        first = min(first, 0)
    if middle + exact / 2 > size - 1e-6:
        last = max(last, size)
    seen = range(max(0, first), min(size, last))
    pixel = side / (last - first)
    return seen.start, len(seen), (seen.start - first) * pixel, min(side, (seen.stop - first) * pixel)


def read_header(path: Path) -> Header | None:
    """Format and size of an image file, without decoding it; None if it is not an image of an allowed format."""
    try:
        with path.open("rb") as file, _opened(file) as image:
            kind = {"MPO": "JPEG", "HEIF": "HEIC"}.get(str(image.format), str(image.format))
            return Header(kind, image.width, image.height)
    except Exception:  # as in decoding, parsers raise errors of any type
        return None


def _open(path: Source, short_side: int | None) -> Image.Image:
    """Read, decode fully and convert; every failure becomes one sentence that names the file."""
    if isinstance(path, InMemory):
        return path.image
    if isinstance(path, Remote):
        content = path.read()
        if not content:
            raise ResnetError(f"{path.name} is empty (0 bytes)")
        return _read(io.BufferedReader(io.BytesIO(content)), path.name, short_side)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ResnetError(f"{path} is not a file")
        if not status.st_size:
            raise ResnetError(f"{path} is empty (0 bytes)")
        file = path.open("rb")
    except OSError as error:
        raise ResnetError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        hint = "where paths are separated by NUL, as by find -print0, add -0 (--null)"
        raise ResnetError(f"{str(path)!r} is not a valid path: {error}; {hint}") from error
    return _read(file, path, short_side)


def _read(file: io.BufferedReader, path: Path | str, short_side: int | None) -> Image.Image:
    with file:
        try:
            return _decode(file, short_side)
        except ImportError:
            # The command is part of the message: where many files are read, only the message of each is shown.
            raise ResnetError(f"{path} is a HEIC image, which needs: {INSTALL}") from None
        except UnidentifiedImageError:
            file.seek(0)
            if heif.is_heif(file.read(heif.HEAD)):
                raise ResnetError(f"{path} is damaged: no image can be read from this HEIC file") from None
            raise ResnetError(f"{path} is not an image (JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC)") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise ResnetError(f"{path} has more than {_LARGEST // 1_000_000} million pixels", "scale it down") from None
        except Exception as error:
            # For damaged files, Pillow's parsers raise errors of any type (struct, zlib, index, ...).
            raise ResnetError(f"{path} is damaged: {str(error) or type(error).__name__}") from error


def _opened(file: io.BufferedReader) -> Image.Image:
    return heif.open_heif(file) if heif.is_heif(file.peek(heif.HEAD)) else Image.open(file, formats=_FORMATS)


def _decode(file: io.BufferedReader, short_side: int | None) -> Image.Image:
    with _opened(file) as image:  # the first frame, if there are several
        if image.width * image.height > _LARGEST:
            raise Image.DecompressionBombError
        if short_side is not None:
            image.draft("RGB", (short_side, short_side))
        image.load()
        return _to_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    """Rotate an image as its EXIF says, in place; with a damaged orientation tag it stays as stored."""
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: alpha on white, 16 and 32 bits scaled to 8."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        grey = np.clip(values / _white(image.mode, values.max(initial=0)) * 255 + 0.5, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _white(mode: str, brightest: float) -> float:
    """The value of white; 32-bit files do not define it, so it is that of the smallest usual range that contains the pixels."""
    if mode.startswith("I;16"):
        return 65535.0
    ranges = (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
    return next((top for top in ranges if brightest <= top), brightest)


def run_geometry(run: Run) -> Geometry:
    """How images are brought to the input size of this run's classifier.

    Raises:
        ResnetError: the run's record does not say.
    """
    try:
        words, size = run.record["input"], int(run.record["image_size"])
        fraction = float(words["fraction"])
        padded = fraction == 1 and run.record.get("config", {}).get("crop") == "pad"
        border = pad_width(size) if padded else 0
        # The last two are absent in runs of older versions.
        how = (words.get("interpolation", "bilinear"), words.get("steps", "one"))
        return Geometry(size, words["resize"], fraction, border, *how)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResnetError(f"{run.path} does not describe the input: {error}", "the run is damaged") from error
