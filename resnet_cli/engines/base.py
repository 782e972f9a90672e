"""The interface of all engines: the forward pass of a network on uint8 images.

In: uint8 batches. Out: float32 arrays, in the same order.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.threads import Pause

Images = NDArray[np.uint8]
Outputs = NDArray[np.float32]

_MOST = 64  # images in a forward pass
_LARGEST = float(np.finfo(np.float16).max)  # activations of untrained deep networks exceed it


class Engine(Protocol):
    """A network, or a frozen part of one, ready for forward passes.

    Attributes:
        name: "openvino", "keras", or the runtime of an exported model.
        precision: number format of its multiplications, such as "bf16" or "f32".
        pixels: pixels in a forward pass at which large images take the least time each.
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
        """Run batches, several at a time if the engine can; results are in order.

        A result is yielded as soon as it and all before it are ready. At a pause, all results are yielded before the next batch
        is requested.
        """
        ...


class RuntimeEngine:
    """An exported model in a runtime of its own, given as a function."""

    pixels = 8 * 224 * 224

    def __init__(self, name: str, precision: str, answer: Callable[[Images], Outputs]) -> None:
        """Wrap a function.

        Args:
            name: of the runtime.
            precision: number format of its multiplications.
            answer: uint8 images to probabilities, float32 (N, classes).
        """
        self.name, self.precision, self._answer = name, precision, answer

    def run(self, images: Images) -> tuple[Outputs, ...]:
        """See `Engine.run`."""
        return (np.asarray(self._answer(images), np.float32),)

    def run_many(self, batches: Iterable[Images | Pause]) -> Iterator[tuple[Outputs, ...]]:
        """See `Engine.run_many`."""
        return one_by_one(self.run, batches)


def one_by_one(
    run: Callable[[Images], tuple[Outputs, ...]], batches: Iterable[Images | Pause]
) -> Iterator[tuple[Outputs, ...]]:
    """`Engine.run_many` of an engine that runs one batch at a time; the next batches are decoded by threads meanwhile."""
    for images in batches:
        if not isinstance(images, Pause):
            yield run(images)


def good_batch(engine: Engine, side: int) -> int:
    """A suitable batch size for an engine, by the side of the input in pixels."""
    return min(_MOST, max(1, engine.pixels // side**2))


def in_half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """The same numbers as float16, clipped to its range."""
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float16)
