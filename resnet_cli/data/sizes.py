"""The input size that suits a data set: `--image-size auto`.

In: samples, and the sides that a network works well at. Out: one of these, in pixels, that hardly scales small images up.
"""

from collections.abc import Sequence
from statistics import median

from resnet_cli.data.decode import read_header
from resnet_cli.data.scan import Sample

_LOOKED_AT = 200


def suitable_size(samples: Sequence[Sample], sides: Sequence[int]) -> int:
    """The largest of a network's sides that the median short side of the images fills.

    Only file headers are read, of 200 images spread evenly.

    Args:
        samples: the images.
        sides: pixels, ascending.

    Returns:
        One of `sides`: the smallest where the images are smaller than that, the largest where no header can be read.
    """
    step = max(1, len(samples) // _LOOKED_AT)
    found = [side for side in map(_short_side, samples[::step]) if side]
    typical = median(found) if found else sides[-1]
    return max((side for side in sides if side <= typical), default=sides[0])


def _short_side(sample: Sample) -> int:
    """Short side in pixels; 0 where the header cannot be read (reading the pixels will say why)."""
    header = read_header(sample.path)
    return min(header.width, header.height) if header else 0
