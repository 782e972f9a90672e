"""The streams of the program: what is written to them and read from them, and what happens where that cannot be (light)."""

import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

from resnet_cli.errors import ResnetError


class ReaderGone(Exception):
    """Nobody reads the result any more (head, less). No OSError: rich and typer have exit codes of their own for those."""


class _Results:
    """Stdout, but what cannot be written to it is an error of this program's."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _one_sentence():
            return self._stream.write(text)

    def flush(self) -> None:
        with _one_sentence():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Notices:
    """Stderr, but no command fails because nobody can be told how it goes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._in_vain():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._in_vain():
            self._stream.flush()

    @contextmanager
    def _in_vain(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            _discard(self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def results_to_stdout() -> Iterator[None]:
    """A command belongs inside: when it ends, what it printed has left this process.

    Raises:
        ResnetError: stdout is closed, or cannot be written.
        ReaderGone: nobody reads it any more.
    """
    if sys.stderr is None:
        # Closed. Libraries write to it by either name, and a file that is opened later must not become it.
        _discard(2)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 -- a descriptor, for as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        # File names need not be text in the terminal's encoding: show them with escapes instead of failing.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None:
        raise ResnetError("cannot write the result: stdout is closed")
    stdout, stderr = cast(TextIO, _Results(sys.stdout)), cast(TextIO, _Notices(sys.stderr))
    with redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            yield
        except SystemExit:
            sys.stdout.flush()
            raise


def let_go_of_stdout() -> None:
    """Forget what cannot be written: the interpreter would try again at its end, and complain."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _discard(sys.stdout.fileno())


def lines_of_stdin() -> Iterable[str] | None:
    """Lines of stdin, decoded as names of files are; None where it is closed."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding=sys.getfilesystemencoding(), errors=sys.getfilesystemencodeerrors())
    return sys.stdin


def _discard(descriptor: int) -> None:
    """From here on, what is written to a descriptor goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


@contextmanager
def _one_sentence() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone from error
    except OSError as error:
        raise ResnetError(f"cannot write the result: {error.strerror or error}") from error
