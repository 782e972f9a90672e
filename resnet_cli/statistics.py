"""Statistics that several rooms print (light: the standard library only)."""

import math


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share measured on `count` pictures (Wilson 1927).

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
