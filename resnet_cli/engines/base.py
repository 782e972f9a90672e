"""What every engine offers: a network run forward on uint8 images.

In: uint8 batches. Out: float32 arrays, in the same order.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.threads import Pause

Images = NDArray[np.uint8]
Outputs = NDArray[np.float32]

_MOST = 64  # images of a forward pass
_LARGEST = float(np.finfo(np.float16).max)  # activations of untrained networks of many layers go beyond it


class Engine(Protocol):
    """A network, or a frozen part of one, ready to run forward.

    Attributes:
        name: "openvino" or "keras".
        precision: what it multiplies in, such as "bf16" or "f32".
        pixels: of a forward pass in which large images take the least time each.
    """

    name: str
    precision: str
    pixels: int

    def run(self, images: Images) -> tuple[Outputs, ...]:
        """Run one batch.

        Args:
            images: uint8 (N, H, W, 3), 0..255, RGB.

        Returns:
            float32 (N, ...) for each output of the network: probabilities, features or feature maps.
        """
        ...

    def run_many(self, batches: Iterable[Images | Pause]) -> Iterator[tuple[Outputs, ...]]:
        """Run batch after batch, several at a time where the engine can; results in order.

        A result goes out as soon as it is there and its turn has come; at a pause all of them do, before the next batch is
        asked for.
        """
        ...


def good_batch(engine: Engine, side: int) -> int:
    """Images of a forward pass that suit an engine, by the side of the input in pixels."""
    return min(_MOST, max(1, engine.pixels // side**2))


def in_half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """The same numbers as float16; those beyond its range become its largest."""
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float16)
