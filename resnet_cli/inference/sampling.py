"""Some of a run's pictures, decoded as its classifier sees them.

In: lines of splits.csv, or samples. Out: uint8 squares; pictures that cannot be read are passed over.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from resnet_cli.data.decode import Geometry, Pixels, decode_square
from resnet_cli.data.scan import Sample
from resnet_cli.data.threads import map_in_order
from resnet_cli.errors import ResnetError
from resnet_cli.runs import Run, SplitRow


def some_pictures(run: Run, rows: Sequence[SplitRow], geometry: Geometry, most: int) -> list[Pixels]:
    """Up to `most` of the pictures, uint8 (size, size, 3), the same ones every time."""
    # Rows are sorted by class: shuffled, so that the first few are of all of them.
    order = np.random.default_rng(0).permutation(len(rows))
    decoded = decode_all((Sample(run.data / rows[index].path, 0) for index in order), geometry)
    return [pixels for pixels, _ in islice(decoded, most)]


def decode_all(samples: Iterable[Sample], geometry: Geometry) -> Iterator[tuple[Pixels, int]]:
    """Pixels and class of those that can be read, in order, decoded ahead on threads."""

    def attempt(sample: Sample) -> tuple[Pixels, int] | None:
        try:
            return decode_square(sample.path, geometry), sample.label
        except ResnetError:
            return None

    return (found for found in map_in_order(attempt, samples) if found is not None)
