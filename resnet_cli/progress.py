"""What the core reports to while it works: a small protocol that the console implements with rich, stand-ins that show nothing,
and what lets Ctrl-C stop a call of the Python API.
"""

import warnings
from collections.abc import Mapping
from functools import cached_property
from types import FrameType
from typing import Protocol

from resnet_cli.errors import Interrupted

NOTHING_YET = "nothing was trained yet: type the same command again"
GO_ON = "type the same command with --resume to go on where it stopped"


class Task(Protocol):
    """One bar: `advance` moves it, `finish` removes it."""

    def advance(self, steps: int = 1, figures: Mapping[str, float] | None = None) -> None:
        """So many steps more are done; `figures`, such as the loss, stand beside the bar."""
        ...

    def finish(self) -> None:
        """The work is done, and the bar goes."""
        ...


class Progress(Protocol):
    """Where long work reports: bars that move, lines that stay, notices that cannot be missed, and warnings."""

    @property
    def warnings(self) -> list[str]:
        """Every warning of this command, in order, each once. A result carries them all."""
        ...

    def start(self, title: str, total: int | None) -> Task:
        """Begin a bar of so many steps; None where nobody knows how many."""
        ...

    def line(self, text: str) -> None:
        """Say how far the work is; nobody has to read it."""
        ...

    def notice(self, text: str) -> None:
        """Say something that must be seen now, and does not concern the result."""
        ...

    def warn(self, text: str) -> None:
        """Say at once what a reader of the result must know, whatever is silenced, and keep it in `warnings`."""
        ...

    def stop_signal(self) -> int:
        """Number of the signal that asked to stop; 0 while none did. Long work asks between steps."""
        ...

    def saved(self, hint: str) -> None:
        """All that is worth keeping is on the disk, so that a signal may end the process without waiting for a long call.

        Args:
            hint: how to go on then.
        """
        ...

    def unsaved(self) -> None:
        """There is work that an end of the process would lose, until `saved` is called again: signals wait for its step."""
        ...


def stop_if_asked(progress: Progress, hint: str) -> None:
    """Stop where a signal asked for it.

    Args:
        progress: what knows of signals.
        hint: how to go on.

    Raises:
        Interrupted: one did.
    """
    if number := progress.stop_signal():
        raise Interrupted(number, hint)


def how_long(seconds: float) -> str:
    """A length of time in words: "40 s", "12 min", "2 h 5 min"."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class _SilentTask:
    def advance(self, steps: int = 1, figures: Mapping[str, float] | None = None) -> None:
        """See `Task`."""

    def finish(self) -> None:
        """See `Task`."""


class Silent:
    """Reports nothing: for tests, and for the core when nobody watches."""

    @cached_property
    def warnings(self) -> list[str]:
        """See `Progress`."""
        return []

    def start(self, title: str, total: int | None) -> Task:
        """See `Progress`."""
        return _SilentTask()

    def line(self, text: str) -> None:
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
    """Shows nothing but warnings and notices, by Python's `warnings`: for a call of the API without progress."""

    def notice(self, text: str) -> None:
        """See `Progress`."""
        warnings.warn(text, stacklevel=2)

    def warn(self, text: str) -> None:
        """See `Progress`."""
        if text not in self.warnings:
            super().warn(text)
            warnings.warn(text, stacklevel=2)


class Interruptible:
    """The progress of one call, with its own list of warnings, that a signal can stop.

    Where nothing would be lost, `interrupt` raises KeyboardInterrupt at once, as Python does. While there is unsaved work it
    asks to stop after the current step, and a second signal does not wait.

    Args:
        inner: what is told.
    """

    def __init__(self, inner: Progress) -> None:
        self._inner, self._is_unsaved, self._signal = inner, False, 0
        self.warnings: list[str] = []

    @property
    def was_interrupted(self) -> bool:
        """Whether a signal asked to stop while there was unsaved work."""
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
