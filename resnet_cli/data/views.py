"""The views of one picture that are scored together: itself, its mirror image, ten crops.

In: a path. Out: uint8 (views, size, size, 3); a classifier's probabilities for a picture are the mean over its views.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_cli.data.decode import Geometry, Pixels, decode, decode_square, to_square

_KEPT = 0.875  # of the side, by a crop: 224 of 256 pixels
_PLACES = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5))


def decode_views(path: Path, geometry: Geometry, views: int) -> NDArray[np.uint8]:
    """Decode a picture as a classifier with this geometry is to see it.

    Ten views are the four corners, the centre and their mirror images (Krizhevsky et al. 2012, section 4.1; the "standard
    10-crop testing" of He et al. 2015, section 3.4) of the picture with its short side scaled to size / fraction. Where the
    single view is the whole square (fraction 1, pad, squash) there is no room for crops, and training decides: if it cropped
    from a black border (CIFAR, section 4.2) so do the views; otherwise they crop from the picture scaled to size / 0.875.
    A network that was trained on random parts gains by scaling and would lose by a border that it never saw.

    Args:
        path: a picture file.
        geometry: of the single view.
        views: 1 = as `predict` sees it; 2 = and its mirror image; 10 = ten crops.

    Returns:
        uint8 (views, size, size, 3); the second half mirrors the first.

    Raises:
        ResnetError: as `decode`.
    """
    if views == 1:
        return decode_square(path, geometry)[None]
    squares = _five(path, geometry) if views == 10 else decode_square(path, geometry)[None]
    return np.concatenate([squares, squares[:, :, ::-1]])


def _five(path: Path, geometry: Geometry) -> NDArray[np.uint8]:
    """Corners and centre: uint8 (5, size, size, 3)."""
    size, border = geometry.size, geometry.border
    if border:
        square = np.pad(decode_square(path, geometry), ((border, border), (border, border), (0, 0)))
        return _crops(square, Geometry(size, fraction=size / (size + 2 * border)))
    crop = Geometry(size, fraction=min(geometry.fraction, _KEPT))
    side = round(size / crop.fraction)
    picture = decode(path, side)
    if geometry.resize != "crop":
        picture = to_square(Image.fromarray(picture), replace(geometry, size=side))
    return _crops(picture, crop)


def _crops(picture: Pixels, crop: Geometry) -> NDArray[np.uint8]:
    return np.stack([to_square(Image.fromarray(picture), crop, place) for place in _PLACES])
