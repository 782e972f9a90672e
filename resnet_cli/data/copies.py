"""Find pictures that are in a data set twice: the same pixels, or nearly the same after re-encoding or scaling.

In: a `Fingerprint` of each picture, about 400 bytes, so that memory does not hold pictures. Out: pairs of indices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_cli.data.decode import Pixels

_SIDE = 16  # pixels of the small grey picture that is compared
_BANDS = 4  # parts of the 64 bits; two pictures with 3 bits different share one part at least
_NEIGHBOURS = 32  # pictures that each is compared with in a bucket, so that a flood of white pictures costs no square
# Measured on photos, drawings and pictures of 32 pixels that were saved again as JPEG of quality 50 to 95, or at 0.5 to 0.7
# of their size: 95 of 100 differ by at most 5 bits, 1.7 grey levels on average, 15 in one place, 2.4 in mean colour.
_MOST_BITS, _MOST_MEAN, _MOST_ANYWHERE, _MOST_COLOUR = 8, 2.5, 18, 4.5
_MOST_ASPECT = 0.03


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a picture to tell it from others.

    Attributes:
        identity: hash of size and pixels.
        bits: difference hash, 64 bits: is a place of a 9 x 8 grey picture brighter than the one to its right (Krawetz 2013).
        small: uint8 (16, 16) grey.
        colour: float32 (3,), mean RGB.
        aspect: width / height.
    """

    identity: bytes
    bits: int
    small: NDArray[np.uint8]
    colour: NDArray[np.float32]
    aspect: float


def fingerprint(pixels: Pixels) -> Fingerprint:
    """The fingerprint of a picture, uint8 (H, W, 3)."""
    height, width = pixels.shape[:2]
    identity = blake2b(f"{width}x{height}".encode(), digest_size=16)
    identity.update(pixels.tobytes())
    grey = Image.fromarray(pixels).convert("L")
    steps = np.asarray(grey.resize((9, 8), Image.Resampling.BILINEAR), np.int16)
    bits = int.from_bytes(np.packbits(steps[:, 1:] < steps[:, :-1]).tobytes())
    small = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    # Exact: a sum in float32 is off by several grey levels from two megapixels on; and column by column, which is fast.
    colour = (pixels.sum(0, dtype=np.uint64).sum(0) / (height * width)).astype(np.float32)
    return Fingerprint(identity.digest(), bits, small, colour, width / height)


def same(prints: Sequence[Fingerprint]) -> list[list[int]]:
    """Groups of two and more pictures with the same pixels, by index, each group in order."""
    groups: dict[bytes, list[int]] = {}
    for index, each in enumerate(prints):
        groups.setdefault(each.identity, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def nearly_same(prints: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """Pairs (earlier, later) of pictures that look the same and are not; each picture is the later one once at most.

    Pictures meet in buckets of equal bits, sorted by brightness, and each is compared with its next neighbours there: the
    work grows with n log n.
    """
    unique = sorted({each.identity: index for index, each in reversed(list(enumerate(prints)))}.values())
    if len(unique) < 2:
        return []
    table = _table([prints[index] for index in unique])
    brightness = table.small.mean(1)
    first: dict[int, int] = {}
    for band in range(_BANDS):
        bucket = (table.bits >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.lexsort((brightness, bucket))
        for offset in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            one, other = order[:-offset], order[offset:]
            close = (bucket[one] == bucket[other]) & (brightness[other] - brightness[one] <= _MOST_MEAN)
            for pair in _alike(table, one[close], other[close]):
                earlier, later = sorted(pair)
                first[later] = min(earlier, first.get(later, earlier))
    return sorted((unique[earlier], unique[later]) for later, earlier in first.items())


@dataclass(frozen=True)
class _Table:
    """Fingerprints as columns: bits (N,), small (N, 256), colour (N, 3), aspect (N,)."""

    bits: NDArray[np.uint64]
    small: NDArray[np.uint8]
    colour: NDArray[np.float32]
    aspect: NDArray[np.float64]


def _table(prints: Sequence[Fingerprint]) -> _Table:
    return _Table(
        np.array([each.bits for each in prints], np.uint64),
        np.stack([each.small.reshape(-1) for each in prints]),
        np.stack([each.colour for each in prints]),
        np.array([each.aspect for each in prints]),
    )


def _alike(table: _Table, one: NDArray[np.int64], other: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Those of the pairs one[i], other[i] that look the same."""
    quick = np.bitwise_count(table.bits[one] ^ table.bits[other]) <= _MOST_BITS
    quick &= np.abs(np.log(table.aspect[one] / table.aspect[other])) <= _MOST_ASPECT
    quick &= np.abs(table.colour[one] - table.colour[other]).max(1, initial=0) <= _MOST_COLOUR
    one, other = one[quick], other[quick]
    difference = np.abs(table.small[one].astype(np.int16) - table.small[other])
    close = (difference.mean(1) <= _MOST_MEAN) & (difference.max(1, initial=0) <= _MOST_ANYWHERE)
    return list(zip(one[close].tolist(), other[close].tolist(), strict=True))
