"""Signals that ask to stop, noticed at once although the main thread may be inside a call that lasts minutes (light).

Python runs the handler of a signal between two instructions of the main thread: not while TensorFlow compiles a graph. The
number of a signal is also written to a pipe at once, and a thread that reads it can act meanwhile.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

Handler = Callable[[int, FrameType | None], None]

_STOPPING = (signal.SIGINT, signal.SIGTERM)


class _Pipe:
    """One for the whole process, with its thread, for whoever listened last."""

    def __init__(self) -> None:
        self._listener: tuple[Handler, Callable[[int], None]] | None = None

    def listen(self, handler: Handler, watcher: Callable[[int], None]) -> None:
        if self._listener is None:
            reading, writing = os.pipe()
            os.set_blocking(writing, False)
            signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
            threading.Thread(target=self._read, args=(reading,), daemon=True, name="signals").start()
        self._listener = handler, watcher

    def _read(self, pipe: int) -> None:
        while received := os.read(pipe, 1):
            number = received[0]
            assert self._listener is not None
            handler, watcher = self._listener
            if signal.getsignal(number) == handler:  # and not one that is another's by now
                threading.Thread(target=watcher, args=(number,), daemon=True, name="signal").start()


_PIPE = _Pipe()


def listen(handler: Handler, watcher: Callable[[int], None]) -> None:
    """From now on answer SIGINT and SIGTERM; where one is ignored, as SIGINT is behind nohup, it stays so.

    Args:
        handler: called by the main thread, between two instructions.
        watcher: called with the signal's number at once, on a thread of its own.
    """
    for number in _STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
    if os.name == "posix":  # on Windows it would have to be a socket
        _PIPE.listen(handler, watcher)
