"""Decode a picture: the one place where files become pixels, for training and prediction alike.

In: a path. Out: uint8 RGB, height x width x 3, upright, transparency on white.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from resnet_cli.errors import ResnetError

Pixels = NDArray[np.uint8]
Resize = Literal["crop", "pad", "squash"]

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "MPO")
_LARGEST = 200_000_000  # pixels; beyond it a picture is taken for a decompression bomb
Image.MAX_IMAGE_PIXELS = _LARGEST


@dataclass(frozen=True)
class Geometry:
    """How a picture is brought to the input size for prediction.

    Attributes:
        size: side of the square input, pixels.
        resize: crop = short side to size / fraction, then the centre; pad = whole picture on grey; squash = stretched.
        fraction: share of the short side that a crop keeps, 0..1.
    """

    size: int
    resize: Resize = "crop"
    fraction: float = 0.875


def decode(path: Path, short_side: int | None = None) -> Pixels:
    """Decode a picture file.

    Args:
        path: a JPEG, PNG, WebP, BMP, GIF or TIFF file.
        short_side: pixels that are enough; a JPEG may be decoded at a half, quarter or eighth of its size, never below this.

    Returns:
        uint8 (H, W, 3), 0..255, RGB.

    Raises:
        ResnetError: the file is missing, empty, damaged, truncated, no picture of an allowed format, or too large.
    """
    return np.asarray(_open(path, short_side))


def decode_square(path: Path, geometry: Geometry) -> Pixels:
    """Decode a picture and bring it to the input size: uint8 (size, size, 3)."""
    enough = round(geometry.size / geometry.fraction)
    return to_square(_open(path, enough), geometry)


def to_square(picture: Image.Image, geometry: Geometry) -> Pixels:
    """Bring an RGB picture of any shape to uint8 (size, size, 3)."""
    size = geometry.size
    if geometry.resize == "squash":
        return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    if geometry.resize == "pad":
        return np.asarray(ImageOps.pad(picture, (size, size), Image.Resampling.BILINEAR, color=(124, 116, 104)))
    # One resampling of the centre square instead of a resize and a crop: the same pixels, less work.
    side = min(picture.size) * size / round(size / geometry.fraction)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    box = (left, top, left + side, top + side)
    if side == size and left.is_integer() and top.is_integer():
        return np.asarray(picture.crop(tuple(int(edge) for edge in box)))
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))


def _open(path: Path, short_side: int | None) -> Image.Image:
    """Read, decode fully and convert; every failure becomes one sentence that names the file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ResnetError(f"{path} cannot be read: {error.strerror}") from error
    if not content:
        raise ResnetError(f"{path} is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF, odd palettes: the pixels decide
            with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
                if short_side is not None:
                    picture.draft("RGB", (short_side, short_side))
                picture.seek(0)
                picture.load()
                return _to_rgb(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError:
        raise ResnetError(f"{path} is not a picture (JPEG, PNG, WebP, BMP, GIF or TIFF)") from None
    except Image.DecompressionBombError:
        raise ResnetError(f"{path} has more than {_LARGEST * 2 // 1_000_000} million pixels", "scale it down") from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError) as error:
        raise ResnetError(f"{path} is damaged: {error}") from error


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Convert any mode to RGB: alpha on white, 16-bit scaled to 8."""
    if picture.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        values = np.asarray(picture, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        if picture.mode == "F" and values.max(initial=0) <= 1:
            top = 1.0
        grey = np.clip(values / top * 255.0 + 0.5, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return picture.convert("RGB")
