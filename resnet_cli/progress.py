"""What the core reports to while it works: a small protocol that the console implements with rich, and a silent stand-in."""

from collections.abc import Mapping
from functools import cached_property
from typing import Protocol

from resnet_cli.errors import Interrupted

NOTHING_YET = "nothing was trained yet: type the same command again"
GO_ON = "type the same command with --resume to go on where it stopped"


class Task(Protocol):
    """One bar: `advance` moves it, `finish` removes it."""

    def advance(self, steps: int = 1, figures: Mapping[str, float] | None = None) -> None: ...

    def finish(self) -> None: ...


class Progress(Protocol):
    """Where long work reports: bars that move, lines that stay, notices that cannot be missed, and warnings."""

    @property
    def warnings(self) -> list[str]:
        """Every warning of this command, in order, each once. A result carries them all."""
        ...

    def start(self, title: str, total: int | None) -> Task: ...

    def line(self, text: str) -> None: ...

    def notice(self, text: str) -> None: ...

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
        return

    def finish(self) -> None:
        return


class Silent:
    """Reports nothing: for tests, and for the core when nobody watches."""

    @cached_property
    def warnings(self) -> list[str]:
        """See `Progress`."""
        return []

    def start(self, title: str, total: int | None) -> Task:
        return _SilentTask()

    def line(self, text: str) -> None:
        return

    def notice(self, text: str) -> None:
        return

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def stop_signal(self) -> int:
        return 0

    def saved(self, hint: str) -> None:
        return

    def unsaved(self) -> None:
        return
