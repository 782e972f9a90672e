"""Progress on the terminal: bars, lines, a live curve and notices on stderr; SIGINT and SIGTERM (light: rich)."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from types import FrameType

from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Task as RichTask
from rich.text import Text

from resnet_cli.cli.console import VERBOSE, err, print_error, prose, room
from resnet_cli.progress import NOTHING_YET, Epoch, Task

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


_WIDE, _TALL = 80, 20  # columns and lines of a terminal that has room for a curve
_FEW, _PLOT = 3, 4  # epochs from which a curve says something; its lines
_BLOCKS = " ▁▂▃▄▅▆▇█"


def _shows_bars() -> bool:
    """Whether progress bars are shown: in terminals, and in notebooks with ipywidgets, which rich needs."""
    if err.is_jupyter:
        return find_spec("ipywidgets") is not None
    return err.is_terminal and not err.is_dumb_terminal


def curve(accuracies: Sequence[float], total: int, best: int, columns: int) -> list[str]:
    """Validation accuracy over the epochs as a plot of four lines, with its range at the left and the best epoch below.

    Args:
        accuracies: of the epochs so far, 0..1; at least one.
        total: planned epochs: the part of the width that is filled is the part of the epochs that is done.
        best: the best epoch, from 1.
        columns: width of the plot, with its labels.
    """
    low, high = min(accuracies), max(accuracies)
    width = columns - 10
    filled = max(1, width * len(accuracies) // max(total, len(accuracies)))
    heights = [
        1 + round((8 * _PLOT - 1) * (accuracies[place * len(accuracies) // filled] - low) / ((high - low) or 1))
        for place in range(filled)
    ]
    labels = {0: f"{high:6.1%}", _PLOT - 1: f"{low:6.1%}"}
    lines = []
    for line in range(_PLOT):
        below = 8 * (_PLOT - 1 - line)
        blocks = "".join(_BLOCKS[min(8, max(0, height - below))] for height in heights)
        lines.append(f"{labels.get(line, ''):>6} │{blocks}")
    return [*lines, f"{'':6} └ val accuracy, epoch {len(accuracies)} of {total}; best: epoch {best}"]


class _Count(MofNCompleteColumn):
    """Steps done of all; nothing where their number is unknown and none has been told."""

    def render(self, task: RichTask) -> Text:
        return Text("") if task.total is None and not task.completed else super().render(task)


class _Display(Progress):
    """Rich's progress display, with a curve of the validation accuracy below the bars where there is room."""

    plot: tuple[str, ...] = ()
    plotted = ""  # the work that it is about: the first words of its bars

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.plot and any(_work(task.description) == self.plotted for task in self.tasks):
            yield Text("\n".join(self.plot), style="cyan", no_wrap=True)


def _work(title: str) -> str:
    """The words before the count, such as "epoch" of "epoch 3/20"."""
    return title.rpartition(" ")[0].strip()


def _has_room_for_curve() -> bool:
    # Blocks need a Unicode terminal; in a notebook the curve would be printed again for each epoch.
    unicode = (err.encoding or "").lower().startswith("utf")
    return _shows_bars() and not err.is_jupyter and unicode and err.width >= _WIDE and err.height >= _TALL


class _Bar:
    """A task of the progress display; if stderr is not a terminal it is not shown, and lines report the epochs."""

    def __init__(self, display: Progress, task: TaskID, finished: Callable[[float], None]) -> None:
        self._display, self._task, self._finished, self._steps = display, task, finished, 0.0

    def advance(self, steps: int = 1, figures: Mapping[str, float] | None = None) -> None:
        self._steps += steps
        # On a narrow terminal the bar needs the room.
        shown = figures or {} if err.width >= _WIDE else {}
        words = "  ".join(f"{name} {value:{'6.1%' if name == 'accuracy' else '.3f'}}" for name, value in shown.items())
        self._display.update(self._task, advance=steps, figures=words)

    def finish(self) -> None:
        self._display.remove_task(self._task)
        if not self._display.tasks:
            self._display.stop()
        self._finished(self._steps)


class Reporter:
    """The `Progress` of the command line.

    Args:
        quiet: report nothing but notices and warnings; with --verbose, the progress of --json is shown nevertheless.
        mute: report nothing at all, as the first of several processes does so.
        ending: when a signal takes effect; None tells what is saved.
    """

    def __init__(self, quiet: bool = False, mute: bool = False, ending: str | None = None) -> None:
        self._verbose, self._began = VERBOSE.get() and not mute, time.monotonic()
        self._ending = ending
        self._quiet, self._mute, self._signal, self._noticed = (quiet and not self._verbose) or mute, mute, 0, 0
        self._is_told = self._is_heard = False
        self._saved: str | None = NOTHING_YET
        self.warnings: list[str] = []
        self._display = _Display(
            TextColumn("{task.description}"),
            BarColumn(bar_width=min(40, max(4, err.width - 60))),  # titles, counts and figures are whole from 60 columns on
            _Count(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=err,
            transient=True,
            disable=self._quiet or not _shows_bars(),
        )

    def start(self, title: str, total: int | None) -> Task:
        """See `Progress`; the bar is only shown in terminals and notebooks."""
        self._display.start()
        began = time.monotonic()

        def finished(steps: float) -> None:
            count = f"{steps:,.0f} in " if steps else ""
            self.detail(f"{title}: {count}{time.monotonic() - began:.1f} s")

        return _Bar(self._display, self._display.add_task(title, total=total, figures=""), finished)

    def line(self, text: str) -> None:
        """See `Progress`."""
        if not self._quiet:
            stamp = self._stamp()
            prose(err, f"{stamp}{text}", hang=len(stamp))

    def epoch(self, epoch: Epoch) -> None:
        """See `Progress`; fields are left out where the terminal is too narrow, and the curve is only shown in a wide one."""
        columns = room(err)
        self.line(epoch.text(None if columns is None else columns - len(self._stamp())))
        if len(epoch.accuracies) >= _FEW and _has_room_for_curve():
            self._display.plot = tuple(curve(epoch.accuracies, epoch.total, epoch.best, min(err.width, 100)))
            self._display.plotted = _work(epoch.title)

    def detail(self, text: str) -> None:
        """See `Progress`."""
        if self._verbose:
            self.line(text)

    def _stamp(self) -> str:
        """With --verbose, the time since the beginning, which is put before every line."""
        return f"{time.monotonic() - self._began:7.1f} s  " if self._verbose else ""

    def notice(self, text: str) -> None:
        """See `Progress`."""
        if not self._mute:
            prose(err, text, "notice:")

    def warn(self, text: str) -> None:
        """See `Progress`."""
        if text not in self.warnings:
            self.warnings.append(text)
            if not self._mute:
                prose(err, text, "warning:")

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
