"""Feed batches to `fit`: copy them to the GPU ahead of the step, and re-raise data-loading errors unchanged.

In: batches, and held-out batches. Out: the same; after Keras has stopped, the first error of reading them, which TensorFlow
would otherwise replace by its own error.
"""

import itertools
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import keras

from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.networks.precision import has_gpu


class Reading:
    """Stores the first error of reading an image or a stored row; `again` is the hint that follows."""

    def __init__(self, again: str = "type the same command with --resume") -> None:
        self._hint = f"put it back, then {again}"
        self._error: ResnetError | None = None

    @contextmanager
    def batches(self, begin: Callable[[], Iterator[Any]]) -> Iterator[Callable[[], Iterator[Any]]]:
        """The same function, which begins training batches; their threads end with the block, as TensorFlow keeps them."""
        begun: list[Generator[Any]] = []

        def watched() -> Iterator[Any]:
            begun.append(self._watched(begin()))
            return begun[-1]

        try:
            yield watched
        finally:
            for batches in begun:
                with suppress(ValueError):  # another batch is being requested at this moment
                    batches.close()

    def held_out(self, batches: keras.utils.PyDataset) -> keras.utils.PyDataset:
        """The same held-out batches."""
        return _Watched(batches, self)

    @contextmanager
    def told(self) -> Iterator[None]:
        """A context for Keras' use of the batches; inside, held-out batches are prefetched by one.

        Raises:
            ResnetError: an image or row could not be read.
        """
        self._thread = ThreadPoolExecutor(1)
        # The thread is started here: if TensorFlow's threads started it, Python would count them among its own.
        self._thread.submit(int)
        try:
            yield
        except Interrupted:
            raise
        except Exception:
            if self._error is None:
                raise
            raise self._error from None
        finally:
            self._thread.shutdown(cancel_futures=True)

    def begin(self, batches: keras.utils.PyDataset, index: int) -> Future[Any]:
        """Start to read a batch in the background."""
        return self._thread.submit(batches.__getitem__, index)

    def _watched(self, batches: Iterator[Any]) -> Generator[Any]:
        with self._remembered():
            yield from batches

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except ResnetError as error:
            self._error = self._error or ResnetError(error.message, error.hint or self._hint)
            raise
        except OSError as error:
            self._error = self._error or ResnetError(f"{error.filename} cannot be read: {error.strerror}", self._hint)
            raise


class _Watched(keras.utils.PyDataset):  # type: ignore[misc]
    """Prefetches one batch, in order; Keras only prefetches with processes or out of order."""

    def __init__(self, batches: keras.utils.PyDataset, reading: Reading) -> None:
        super().__init__(workers=1)
        self._batches, self._reading = batches, reading
        self._ahead: dict[int, Future[Any]] = {}

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        with self._reading._remembered():
            begun = self._ahead.pop(index, None)
            batch = self._batches[index] if begun is None else begun.result()
            self._ahead.clear()
            if index + 1 < len(self):
                with suppress(RuntimeError):  # the training has ended, but a thread of TensorFlow still requests batches
                    self._ahead[index + 1] = self._reading.begin(self._batches, index + 1)
            return batch


_READY = 2  # batches prefetched to the GPU while a step uses a third


def on_device(begin: Callable[[], Iterator[tuple[Any, ...]]]) -> Any:
    """The batches that a function begins, copied to a GPU while the step before runs.

    With JAX, Keras does so itself, and on a CPU nothing is copied: the batches are returned unchanged. If TensorFlow divides
    them among several devices, it begins them twice, first to see their shapes.
    """
    if keras.backend.backend() != "tensorflow":
        return begin()
    import tensorflow as tf

    if tf.distribute.has_strategy():
        return _dataset(begin)
    return copied_ahead(begin(), "/GPU:0") if has_gpu() else begin()


def copied_ahead(batches: Iterator[tuple[Any, ...]], device: str) -> Any:
    """A `tf.data.Dataset` of the same batches on a device; sizes differ in their first axis at most."""
    import tensorflow as tf

    first = next(batches)
    dataset = _dataset(lambda: itertools.chain([first], batches), first)
    return dataset.apply(tf.data.experimental.prefetch_to_device(device, _READY))


def _dataset(begin: Callable[[], Iterator[tuple[Any, ...]]], first: tuple[Any, ...] | None = None) -> Any:
    import tensorflow as tf

    first = next(begin()) if first is None else first
    signature = tuple(tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in first)
    return tf.data.Dataset.from_generator(begin, output_signature=signature)
