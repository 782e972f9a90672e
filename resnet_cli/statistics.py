"""Statistics that several rooms print (light: the standard library only)."""

import math
from collections.abc import Sequence


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share measured on `count` images (Wilson 1927).

    Args:
        share: 0..1.
        count: at least 1.

    Returns:
        (low, high), 0..1.
    """
    z = 1.959963984540054
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def most_frequent_confusions(names: Sequence[str], confusion: Sequence[Sequence[int]], most: int) -> list[tuple[int, str, str]]:
    """Pairs of classes that were confused: how many images, the true class, what they were taken for; the most first.

    Args:
        names: of the classes.
        confusion: `confusion[i][j]` images of class i were taken for class j.
        most: pairs that are wanted.
    """
    pairs = [(count, names[i], names[j]) for i, row in enumerate(confusion) for j, count in enumerate(row) if i != j and count]
    return sorted(pairs, key=lambda pair: -pair[0])[:most]
