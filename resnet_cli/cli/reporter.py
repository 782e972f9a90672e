"""Progress on the terminal: bars, lines and notices on stderr, and the handling of SIGINT and SIGTERM (light: rich)."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from types import FrameType

from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from resnet_cli.cli.console import err, escape, print_error
from resnet_cli.progress import NOTHING_YET, Task

Handler = Callable[[int, FrameType | None], None]

_STOPPING = (signal.SIGINT, signal.SIGTERM)


class _Pipe:
    """The wake-up pipe of signals: one per process, with its thread, for the latest listener."""

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
            if signal.getsignal(number) == handler:  # it may have been replaced by another handler
                threading.Thread(target=watcher, args=(number,), daemon=True, name="signal").start()


_PIPE = _Pipe()


def listen(handler: Handler, watcher: Callable[[int], None]) -> None:
    """Handle SIGINT and SIGTERM from now on; an ignored signal, such as SIGINT under nohup, stays ignored.

    Args:
        handler: called in the main thread, between two instructions.
        watcher: called at once with the signal's number, in a separate thread.
    """
    for number in _STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
    if os.name == "posix":  # Windows would need a socket
        _PIPE.listen(handler, watcher)


_TOLD, _AT_ONCE, _PATIENCE = 0.3, 1.0, 2.0  # seconds that the main thread has to report a signal, and to end by itself
_LOOK = 0.05


def _shows_bars() -> bool:
    """Whether progress bars are shown: in terminals, and in notebooks with ipywidgets, which rich needs."""
    return err.is_terminal or (err.is_jupyter and find_spec("ipywidgets") is not None)


class _Bar:
    """A task of the progress display; if stderr is not a terminal it is not shown, and lines report the epochs."""

    def __init__(self, display: Progress, task: TaskID) -> None:
        self._display, self._task = display, task

    def advance(self, steps: int = 1, figures: Mapping[str, float] | None = None) -> None:
        words = "  ".join(f"{name} {value:.3f}" for name, value in (figures or {}).items())
        self._display.update(self._task, advance=steps, figures=words)

    def finish(self) -> None:
        self._display.remove_task(self._task)
        if not self._display.tasks:
            self._display.stop()


class Reporter:
    """The `Progress` of the command line.

    Args:
        quiet: report nothing but notices and warnings.
        mute: report nothing at all, as the first of several processes does so.
        ending: when a signal takes effect; None tells what is saved.
    """

    def __init__(self, quiet: bool = False, mute: bool = False, ending: str | None = None) -> None:
        self._ending = ending
        self._quiet, self._mute, self._signal, self._noticed = quiet or mute, mute, 0, 0
        self._is_told = self._is_heard = False
        self._saved: str | None = NOTHING_YET
        self.warnings: list[str] = []
        self._display = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=err,
            transient=True,
            disable=self._quiet or not _shows_bars(),
        )

    def start(self, title: str, total: int | None) -> Task:
        """See `Progress`; the bar is only shown in terminals and notebooks."""
        self._display.start()
        return _Bar(self._display, self._display.add_task(title, total=total, figures=""))

    def line(self, text: str) -> None:
        """See `Progress`."""
        if not self._quiet:
            err.print(escape(text))

    def notice(self, text: str) -> None:
        """See `Progress`."""
        if self._mute:
            return
        err.print(Panel(escape(text), border_style="yellow", title="notice", title_align="left"), soft_wrap=False)

    def warn(self, text: str) -> None:
        """See `Progress`."""
        if text not in self.warnings:
            self.warnings.append(text)
            if not self._mute:
                err.print(f"[yellow]warning:[/] {escape(text)}")

    def stop_signal(self) -> int:
        """See `Progress`."""
        self._is_heard = self._is_heard or bool(self._signal)
        return self._signal

    def saved(self, hint: str) -> None:
        """See `Progress`."""
        self._saved = hint

    def unsaved(self) -> None:
        """See `Progress`."""
        self._saved = None

    def close(self) -> None:
        """Remove bars that an error left behind, as the process of a notebook continues."""
        for task in self._display.task_ids:
            self._display.remove_task(task)
        self._display.stop()

    def listen(self) -> None:
        """Handle Ctrl-C and SIGTERM from now on: the first lets long work save and stop, a second Ctrl-C stops at once.

        If there is nothing to save, they also end the process while a call blocks the main thread.
        """
        listen(self._ask, self._watch)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._signal and number == signal.SIGTERM:
            sys.exit(128 + number)
        if self._signal:
            raise KeyboardInterrupt
        self._signal = number
        self._tell()

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = True
            after = " after the current step or batch, and saving" if self._saved is None else ", all so far is saved"
            after = f" {self._ending}" if self._ending else after
            self.line(f"stopping{after}; press Ctrl-C again to stop at once")

    def _watch(self, number: int) -> None:
        """End the process if the main thread does not; runs in a separate thread for each signal."""
        self._noticed += 1
        again, began = self._noticed > 1, time.monotonic()
        while again or not self._is_heard:
            time.sleep(_LOOK)
            waited = time.monotonic() - began
            if waited >= _TOLD:
                self._tell()
            if (again and waited >= _AT_ONCE) or (self._saved is not None and waited >= _PATIENCE):
                self._end(number)

    def _end(self, number: int) -> None:
        """End the process without unwinding the main thread: this is safe, as all files are written atomically."""
        with suppress(Exception):
            self._display.stop()
            print_error("stopped before the end", self._saved or "")
            sys.stderr.flush()
        os._exit(128 + number)
