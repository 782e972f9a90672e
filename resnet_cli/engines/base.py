"""What every engine offers: a network run forward on uint8 pictures.

In: uint8 batches. Out: float32 arrays, in the same order.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Outputs = NDArray[np.float32]

# Pixels a forward pass: 8 pictures of 224 x 224, or 64 small ones. Measured on two cores with OpenVINO: 32 of the large ones
# take 7 % more time than 8 and let cores wait for the last batch; 8 of the small ones instead of 64 a fifth more (ResNet-20).
_PIXELS = 8 * 224 * 224
_MOST = 64


def good_batch(side: int) -> int:
    """Pictures a forward pass, by the side of the input in pixels."""
    return min(_MOST, max(1, _PIXELS // side**2))


class Engine(Protocol):
    """A network, or a frozen part of one, ready to run forward.

    Attributes:
        name: "openvino" or "keras".
        precision: what it multiplies in, such as "bf16" or "f32".
    """

    name: str
    precision: str

    def run(self, images: Images) -> tuple[Outputs, ...]:
        """Run one batch.

        Args:
            images: uint8 (N, H, W, 3), 0..255, RGB.

        Returns:
            float32 (N, ...) for each output of the network: probabilities, features or feature maps.
        """
        ...

    def run_many(self, batches: Iterable[Images]) -> Iterator[tuple[Outputs, ...]]:
        """Run batch after batch, several at a time where the engine can; results in order."""
        ...
