"""Progress on the terminal: bars, lines and notices on stderr, and the signals that ask to stop (light: rich)."""

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


_TOLD, _AT_ONCE, _PATIENCE = 0.3, 1.0, 2.0  # seconds that the main thread has to tell of a signal, and to end by itself
_LOOK = 0.05


def _shows_bars() -> bool:
    """Terminals show bars, and so do notebooks with ipywidgets, which rich draws them by."""
    return err.is_terminal or (err.is_jupyter and find_spec("ipywidgets") is not None)


class _Bar:
    """A task of the progress display; where stderr is no terminal it stays silent and lines tell the epochs."""

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
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet, self._signal, self._noticed = quiet, 0, 0
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
            disable=quiet or not _shows_bars(),
        )

    def start(self, title: str, total: int | None) -> Task:
        """See `Progress`; where stderr is no terminal and no notebook, the bar stays unseen."""
        self._display.start()
        return _Bar(self._display, self._display.add_task(title, total=total, figures=""))

    def line(self, text: str) -> None:
        """See `Progress`."""
        if not self._quiet:
            err.print(escape(text))

    def notice(self, text: str) -> None:
        """See `Progress`."""
        err.print(Panel(escape(text), border_style="yellow", title="notice", title_align="left"), soft_wrap=False)

    def warn(self, text: str) -> None:
        """See `Progress`."""
        if text not in self.warnings:
            self.warnings.append(text)
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
        """Take away the bars that an error left behind: the process of a notebook goes on."""
        for task in self._display.task_ids:
            self._display.remove_task(task)
        self._display.stop()

    def listen(self) -> None:
        """From now on Ctrl-C and SIGTERM ask long work to save and stop; a second Ctrl-C stops at once.

        Where nothing has to be saved, they also end the process out of a call that blocks the main thread.
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
            self.line(f"stopping{after}; press Ctrl-C again to stop at once")

    def _watch(self, number: int) -> None:
        """End the process where the main thread does not, on a thread of its own, one a signal."""
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
        """Without the main thread, so that nothing of it is unwound: files are whole or absent whatever stops the program."""
        with suppress(Exception):
            self._display.stop()
            print_error("stopped before the end", self._saved or "")
            sys.stderr.flush()
        os._exit(128 + number)
