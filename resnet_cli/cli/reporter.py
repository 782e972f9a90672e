"""Progress on the terminal: bars, lines and notices on stderr, and the signals that ask to stop (light: rich)."""

import signal
import sys
from collections.abc import Mapping
from types import FrameType

from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from resnet_cli.cli.console import err, escape
from resnet_cli.progress import Task


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
        self._quiet, self._signal = quiet, 0
        self.warnings: list[str] = []
        self._display = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=err,
            transient=True,
            disable=quiet or not err.is_terminal,
        )

    def start(self, title: str, total: int | None) -> Task:
        self._display.start()
        return _Bar(self._display, self._display.add_task(title, total=total, figures=""))

    def line(self, text: str) -> None:
        if not self._quiet:
            err.print(escape(text))

    def notice(self, text: str) -> None:
        err.print(Panel(escape(text), border_style="yellow", title="notice", title_align="left"), soft_wrap=False)

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
            err.print(f"[yellow]warning:[/] {escape(text)}")

    def stop_signal(self) -> int:
        return self._signal

    def listen(self) -> None:
        """From now on Ctrl-C and SIGTERM ask long work to save and stop; a second Ctrl-C stops at once."""

        def ask(number: int, frame: FrameType | None) -> None:
            if self._signal and number == signal.SIGTERM:
                sys.exit(128 + number)
            if self._signal:
                raise KeyboardInterrupt
            self._signal = number
            self.line("stopping after this step; press Ctrl-C again to stop at once")

        signal.signal(signal.SIGINT, ask)
        signal.signal(signal.SIGTERM, ask)
