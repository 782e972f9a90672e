"""Augment an image: named operations by Pillow and numpy, from an `Augmentation` description and a random generator.

In: uint8 (H, W, 3). Out: uint8 (size, size, 3). `--resize` is applied first, and random crops are cut from its result, so that
training images look like those of prediction. The random generator depends on (seed, epoch, index) only: the augmentation of an
image does not change with threads, interruption or resume.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from resnet_cli.data.decode import Geometry, Pixels, pad_width, part_of_square

# Purposes of further generators: the order of an epoch, mixup, and the changes after a crop that is reused.
ORDER, MIX, CHANGE = 1, 2, 3
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)
_BILINEAR = Image.Resampling.BILINEAR
_LONGEST = (
    4 / 3
)  # a crop's longer side to its shorter one (Szegedy et al. 2015); pad and squash give an image its shape already
_COARSE = 0.07  # share of crops that are magnified as their area is too small; with elongated ones, about a tenth


@dataclass(frozen=True)
class Augmentation:
    """The random changes of a training image.

    Attributes:
        crop: "resized" = a random crop, scaled to the input (Szegedy et al. 2015), of the whole image if `--resize` is crop,
            else of the padded or squashed square; "pad" = the square that prediction sees, padded by an eighth of the side and
            cropped at random (He et al. 2015, section 4.2); "none" = the square that prediction sees.
        scale: smallest share of the area that a resized crop keeps, 0..1.
        flip: mirror every second image.
        rotate: largest rotation, degrees.
        shift: largest shift, share of the side.
        color: brightness, contrast and saturation are each multiplied by a factor between 1 / (1 + this) and 1 + this.
        sharpness: images are blurred or sharpened by a factor between 1 / (1 + this) and 1 + this (Cubuk et al. 2020), as
            programs that scale images differ in sharpness.
        cutout: side of the grey square, share of the side (DeVries and Taylor 2017).
        mixup: parameter of the Beta distribution (Zhang et al. 2018); applied to batches, 0 for none.
    """

    crop: Literal["resized", "pad", "none"] = "resized"
    scale: float = 0.35
    flip: bool = True
    rotate: float = 0.0
    shift: float = 0.0
    color: float = 0.0
    sharpness: float = 0.0
    cutout: float = 0.0
    mixup: float = 0.0


def generator(seed: int, epoch: int, index: int, purpose: int = 0) -> np.random.Generator:
    """A counter-based generator (Philox; Salmon et al. 2011) for one image of one epoch."""
    return np.random.Generator(np.random.Philox(key=(seed, purpose), counter=(0, 0, epoch, index)))


def augment(image: Pixels, geometry: Geometry, how: Augmentation, random: np.random.Generator) -> Pixels:
    """One augmented view of an image.

    Args:
        image: uint8 (H, W, 3): the whole image where `how.crop` is "resized", else the square that prediction sees.
        geometry: target size, and how an image becomes a square. A square of another size is scaled.
        how: the augmentation.
        random: the generator of this image in this epoch.

    Returns:
        uint8 (size, size, 3).

    Example:
        >>> import numpy as np
        >>> from resnet_cli.data.augment import Augmentation, augment, generator
        >>> from resnet_cli.data.decode import Geometry
        >>> image = np.zeros((240, 320, 3), np.uint8)
        >>> how = Augmentation(crop="resized", scale=0.35, flip=True)
        >>> augment(image, Geometry(128), how, generator(seed=0, epoch=0, index=7)).shape
        (128, 128, 3)
    """
    return change(crop_view(image, geometry, how, random), how, random)


def crop_view(
    image: Pixels, geometry: Geometry, how: Augmentation, random: np.random.Generator, side: int | None = None
) -> Pixels:
    """Crop one view of an image: the first half of `augment`.

    Args:
        image, geometry, how, random: as in `augment`.
        side: side of the view in pixels; None for that of the geometry. Generators in the same state choose the same crop for
            every side, so that a teacher and a student with different input sizes see the same crop.

    Returns:
        uint8 (side, side, 3).
    """
    side = side or geometry.size
    if how.crop == "resized":
        return _resized_crop(image, replace(geometry, size=side), how.scale, random)
    view = scaled_square(image, side)
    return _pad_and_crop(view, geometry.size, random) if how.crop == "pad" else view


def scaled_square(square: Pixels, side: int) -> Pixels:
    """Scale a square image: uint8 (side, side, 3)."""
    return square if len(square) == side else np.asarray(Image.fromarray(square).resize((side, side), _BILINEAR))


def change(view: Pixels, how: Augmentation, random: np.random.Generator) -> Pixels:
    """All changes of a view after the crop: the second half of `augment`; uint8 (size, size, 3) to the same."""
    if how.flip and random.random() < 0.5:
        view = view[:, ::-1]
    if how.rotate or how.shift:
        view = _rotate_and_shift(view, how.rotate, how.shift, random)
    if how.color:
        view = _recolor(view, how.color, random)
    if how.sharpness:
        view = _sharpen_or_blur(view, how.sharpness, random)
    if how.cutout:
        view = _cutout(view, round(how.cutout * len(view)), random)
    return view


def mix(images: NDArray[np.uint8], targets: NDArray[np.float32], alpha: float, random: np.random.Generator) -> None:
    """Mixup in place: image i of a batch is mixed with image N - 1 - i (Zhang et al. 2018).

    Args:
        images: uint8 (N, H, W, 3).
        targets: float32 (N, classes), rows that sum to 1.
        alpha: parameter of the Beta distribution, above 0.

    Example:
        >>> import numpy as np
        >>> from resnet_cli.data.augment import generator, mix
        >>> images, targets = np.zeros((4, 8, 8, 3), np.uint8), np.eye(4, dtype=np.float32)
        >>> mix(images, targets, alpha=0.2, random=generator(seed=0, epoch=0, index=0))
        >>> targets.sum(axis=1)
        array([1., 1., 1., 1.], dtype=float32)
    """
    share = np.float32(random.beta(alpha, alpha))
    images[:] = np.rint(share * images + (1 - share) * images[::-1]).astype(np.uint8)
    targets[:] = share * targets + (1 - share) * targets[::-1]


def side_for_crops(geometry: Geometry, how: Augmentation) -> int:
    """Pixels that the short side of an image needs (with pad: the long side), so that most resized crops are not magnified.

    About nine in ten crops of a square image are not magnified, and more of an elongated one. Avoiding it for the smallest
    crops too would take up to twice as many pixels.
    """
    # A crop of the share a of the area has a shorter side of sqrt(a / ratio); ratio's mean, where its logarithm is uniform:
    ratio = (_LONGEST - 1) / math.log(_LONGEST) if geometry.resize == "crop" else 1
    return math.ceil(geometry.size * math.sqrt(ratio / (how.scale + _COARSE * (1 - how.scale))))


def _resized_crop(pixels: Pixels, geometry: Geometry, smallest: float, random: np.random.Generator) -> Pixels:
    image = Image.fromarray(pixels)
    if geometry.resize == "crop":
        box = _random_part(image.size, image.size, smallest, _LONGEST, random)
        return np.asarray(image.resize((geometry.size, geometry.size), geometry.filter, box=box))
    longest = max(image.size) if geometry.resize == "pad" else None
    inside = (image.width / longest, image.height / longest) if longest else (1.0, 1.0)
    return part_of_square(image, geometry, _random_part((1.0, 1.0), inside, smallest, 1.0, random))


def _random_part(
    whole: tuple[float, float], inside: tuple[float, float], smallest: float, longest: float, random: np.random.Generator
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a crop of at least the share `smallest` of the area, its sides 1 : 1 to 1 : `longest`.

    Its centre lies within `inside`, (width, height) in the middle of the whole: no crop of a padded image shows only grey bars.
    """
    width, height = whole
    for _ in range(10):
        area = width * height * random.uniform(smallest, 1.0)
        ratio = np.exp(random.uniform(-np.log(longest), np.log(longest)))
        part_width, part_height = np.sqrt(area * ratio), np.sqrt(area / ratio)
        if part_width <= width and part_height <= height:
            break
    else:
        part_width = part_height = min(width, height)
    left, top = _placed(part_width, width, inside[0], random), _placed(part_height, height, inside[1], random)
    return left, top, min(width, left + part_width), min(height, top + part_height)


def _placed(length: float, whole: float, inside: float, random: np.random.Generator) -> float:
    """A random start of a crop of some length."""
    margin = (whole - inside) / 2
    first, last = max(0.0, margin - length / 2), min(whole - length, whole - margin - length / 2)
    return first + random.random() * (last - first)


def _pad_and_crop(view: Pixels, size: int, random: np.random.Generator) -> Pixels:
    """A random crop of the padded view; its place is drawn in pixels of an input of `size`; the view may be larger."""
    pad, side = pad_width(size), len(view)
    margin = -(-pad * side // size)
    top, left = (margin + round((int(place) - pad) * side / size) for place in random.integers(0, 2 * pad + 1, 2))
    padded = np.zeros((side + 2 * margin, side + 2 * margin, 3), np.uint8)
    padded[margin : margin + side, margin : margin + side] = view
    return padded[top : top + side, left : left + side]


def _rotate_and_shift(view: Pixels, degrees: float, shift: float, random: np.random.Generator) -> Pixels:
    """Rotate and shift in one step; pixels from outside repeat the edge, as in Keras' generator."""
    size = view.shape[0]
    angle = math.radians(random.uniform(-degrees, degrees))
    dx, dy = (float(share) * size for share in random.uniform(-shift, shift, 2))
    # The farthest that corners are read outside the view: half the diagonal less half the side, and the shift along both axes.
    margin = math.ceil(size * ((math.sqrt(0.5) - 0.5 if degrees else 0) + math.sqrt(2) * shift)) + 1
    # The source of a pixel: shifted back, then rotated about the centre.
    cosine, sine, centre = math.cos(angle), math.sin(angle), size / 2
    x = centre + margin - cosine * (centre + dx) + sine * (centre + dy)
    y = centre + margin - sine * (centre + dx) - cosine * (centre + dy)
    wide = Image.fromarray(_with_edges(view, margin))
    affine = (cosine, -sine, x, sine, cosine, y)
    return np.asarray(wide.transform((size, size), Image.Transform.AFFINE, affine, _BILINEAR))


def _with_edges(view: Pixels, margin: int) -> Pixels:
    """Pad the view by repeating its edge, like `np.pad`, which takes three times as long."""
    size = view.shape[0]
    wide = np.empty((size + 2 * margin, size + 2 * margin, 3), np.uint8)
    inside = slice(margin, margin + size)
    wide[inside, inside] = view
    wide[inside, :margin], wide[inside, margin + size :] = view[:, :1], view[:, -1:]
    wide[:margin], wide[margin + size :] = wide[margin], wide[margin + size - 1]
    return wide


def _recolor(view: Pixels, most: float, random: np.random.Generator) -> Pixels:
    """Brightness, contrast about the view's mean grey, and saturation, in one affine map of the colours."""
    brightness, contrast, saturation = np.exp(random.uniform(-1, 1, 3) * math.log1p(most))
    scale = brightness * contrast
    offset = brightness * (1 - contrast) * float(view.mean())
    matrix: list[float] = []
    for channel in range(3):
        row = scale * (1 - saturation) * _LUMINANCE
        row[channel] += scale * saturation
        matrix += [*map(float, row), offset]
    return np.asarray(Image.fromarray(view).convert("RGB", tuple(matrix)))


def _sharpen_or_blur(view: Pixels, most: float, random: np.random.Generator) -> Pixels:
    factor = math.exp(random.uniform(-1, 1) * math.log1p(most))
    return np.asarray(ImageEnhance.Sharpness(Image.fromarray(view)).enhance(factor))


def _cutout(view: Pixels, side: int, random: np.random.Generator) -> Pixels:
    size = view.shape[0]
    y, x = random.integers(0, size, 2)
    view = view.copy()
    view[max(0, y - side // 2) : y + (side + 1) // 2, max(0, x - side // 2) : x + (side + 1) // 2] = 124
    return view
