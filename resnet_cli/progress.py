"""Progress reporting: a small protocol that the console implements with rich, silent implementations, and the handling of
Ctrl-C in a call of the Python API.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import FrameType
from typing import Protocol

from resnet_cli.errors import Interrupted

NOTHING_YET = "nothing was trained yet: type the same command again"
GO_ON = "type the same command with --resume to continue where it stopped"


@dataclass(frozen=True)
class Field:
    """A figure in a line, such as "loss 0.312"; where the line is too long, those of the highest rank are left out first.

    One of rank 0 is never left out.
    """

    text: str
    rank: int = 0


@dataclass(frozen=True)
class Epoch:
    """A finished epoch as it is reported.

    Attributes:
        title: such as "epoch  3/20".
        fields: its figures, in order.
        accuracies: validation accuracy of all epochs so far, 0..1.
        total: number of epochs that are planned.
        best: the best epoch so far, from 1, whose weights are kept.
    """

    title: str
    fields: Sequence[Field]
    accuracies: Sequence[float]
    total: int
    best: int

    def text(self, columns: int | None = None) -> str:
        """One line of at most so many characters, if its fields of rank 0 fit; None: all fields."""
        kept = list(self.fields)
        while columns is not None and len(line := self._line(kept)) > columns:
            least = max(kept, key=lambda field: field.rank, default=None)
            if least is None or not least.rank:
                return line
            kept.remove(least)
        return self._line(kept)

    def _line(self, fields: Sequence[Field]) -> str:
        return "  ".join((self.title, *(field.text for field in fields)))


class Task(Protocol):
    """One bar: `advance` moves it, `finish` removes it."""

    def advance(self, steps: int = 1, figures: Mapping[str, float] | None = None) -> None:
        """Advance by so many steps; `figures`, such as the loss, are shown next to the bar."""
        ...

    def finish(self) -> None:
        """End the task and remove the bar."""
        ...


class Progress(Protocol):
    """Where long work reports: progress bars, lines, notices and warnings."""

    @property
    def warnings(self) -> list[str]:
        """All warnings of this command, in order, each once. They are part of the result."""
        ...

    def start(self, title: str, total: int | None) -> Task:
        """Start a bar of so many steps; None if the number is unknown."""
        ...

    def line(self, text: str) -> None:
        """Report progress; silenced by --quiet."""
        ...

    def epoch(self, epoch: Epoch) -> None:
        """Report a finished epoch; silenced by --quiet."""
        ...

    def detail(self, text: str) -> None:
        """Report what only --verbose shows, such as the engine that was chosen."""
        ...

    def notice(self, text: str) -> None:
        """Show something that must be seen now, but does not concern the result."""
        ...

    def warn(self, text: str) -> None:
        """Show a warning about the result at once, even with --quiet, and add it to `warnings`."""
        ...

    def stop_signal(self) -> int:
        """Number of the signal that requested a stop; 0 if there was none. Long work checks it between steps."""
        ...

    def saved(self, hint: str) -> None:
        """Tell that all work is saved: from now on a signal may end the process without waiting for a long call.

        Args:
            hint: how to continue then.
        """
        ...

    def unsaved(self) -> None:
        """Tell that there is unsaved work, until `saved` is called: signals wait for the end of the step."""
        ...


def stop_if_asked(progress: Progress, hint: str) -> None:
    """Stop if a signal requested it.

    Args:
        progress: tells whether there was a signal.
        hint: how to continue.

    Raises:
        Interrupted: there was a signal.
    """
    if number := progress.stop_signal():
        raise Interrupted(number, hint)


def how_long(seconds: float) -> str:
    """A duration in words: "40 s", "12 min", "2 h 5 min"."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def how_many(count: int, word: str) -> str:
    """A count in words, such as "1 epoch", "12 epochs", "2 classes" or "1,200 entries"."""
    if count != 1:
        word = f"{word[:-1]}ies" if word.endswith("ry") else f"{word}es" if word.endswith("s") else f"{word}s"
    return f"{count:,} {word}"


class _SilentTask:
    def advance(self, steps: int = 1, figures: Mapping[str, float] | None = None) -> None:
        """See `Task`."""

    def finish(self) -> None:
        """See `Task`."""


class Silent:
    """Reports nothing."""

    @cached_property
    def warnings(self) -> list[str]:
        """See `Progress`."""
        return []

    def start(self, title: str, total: int | None) -> Task:
        """See `Progress`."""
        return _SilentTask()

    def line(self, text: str) -> None:
        """See `Progress`."""

    def epoch(self, epoch: Epoch) -> None:
        """See `Progress`; a line, for those that only override `line`."""
        self.line(epoch.text())

    def detail(self, text: str) -> None:
        """See `Progress`."""

    def notice(self, text: str) -> None:
        """See `Progress`."""

    def warn(self, text: str) -> None:
        """See `Progress`."""
        if text not in self.warnings:
            self.warnings.append(text)

    def stop_signal(self) -> int:
        """See `Progress`."""
        return 0

    def saved(self, hint: str) -> None:
        """See `Progress`."""

    def unsaved(self) -> None:
        """See `Progress`."""


class WarningsAlone(Silent):
    """Only shows warnings and notices, with Python's `warnings`: for an API call without progress."""

    def notice(self, text: str) -> None:
        """See `Progress`."""
        warnings.warn(text, stacklevel=2)

    def warn(self, text: str) -> None:
        """See `Progress`."""
        if text not in self.warnings:
            super().warn(text)
            warnings.warn(text, stacklevel=2)


class Interruptible:
    """The progress of one call, which a signal can stop; it has its own list of warnings.

    If there is no unsaved work, `interrupt` raises KeyboardInterrupt at once, as Python does. Otherwise it requests a stop
    after the current step; a second signal stops at once.

    Args:
        inner: the progress to report to.
    """

    def __init__(self, inner: Progress) -> None:
        self._inner, self._is_unsaved, self._signal = inner, False, 0
        self.warnings: list[str] = []

    @property
    def was_interrupted(self) -> bool:
        """Whether a signal requested a stop while there was unsaved work."""
        return self._signal > 0

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """A handler for `signal.signal`."""
        if self._signal or not self._is_unsaved:
            raise KeyboardInterrupt
        self._signal = number
        self.line("stopping after the current step or batch, and saving; interrupt again to stop at once")

    def start(self, title: str, total: int | None) -> Task:
        """See `Progress`."""
        return self._inner.start(title, total)

    def line(self, text: str) -> None:
        """See `Progress`."""
        self._inner.line(text)

    def epoch(self, epoch: Epoch) -> None:
        """See `Progress`."""
        self._inner.epoch(epoch)

    def detail(self, text: str) -> None:
        """See `Progress`."""
        self._inner.detail(text)

    def notice(self, text: str) -> None:
        """See `Progress`."""
        self._inner.notice(text)

    def warn(self, text: str) -> None:
        """See `Progress`."""
        if text not in self.warnings:
            self.warnings.append(text)
            self._inner.warn(text)

    def stop_signal(self) -> int:
        """See `Progress`."""
        return self._signal or self._inner.stop_signal()

    def saved(self, hint: str) -> None:
        """See `Progress`."""
        self._is_unsaved = False
        self._inner.saved(hint)

    def unsaved(self) -> None:
        """See `Progress`."""
        self._is_unsaved = True
        self._inner.unsaved()


class Muted(Silent):
    """The progress of a part of the work that may be stopped: its bars are shown, its lines, notices and warnings are not.

    Args:
        inner: the progress to report to.
        is_over: whether the work is to stop, as after a signal.
    """

    def __init__(self, inner: Progress, is_over: Callable[[], bool]) -> None:
        self._inner, self._is_over = inner, is_over

    def start(self, title: str, total: int | None) -> Task:
        """See `Progress`."""
        return self._inner.start(title, total)

    def stop_signal(self) -> int:
        """See `Progress`."""
        return self._inner.stop_signal() or int(self._is_over())

    def saved(self, hint: str) -> None:
        """See `Progress`."""
        self._inner.saved(hint)

    def unsaved(self) -> None:
        """See `Progress`."""
        self._inner.unsaved()
