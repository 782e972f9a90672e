"""The console: printing and stdin. Progress and notices go to stderr, results to stdout (light: typer and rich).

It also handles streams that are closed or cannot be written.
"""

import codecs
import io
import json
import os
import queue
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from contextvars import ContextVar
from typing import Any, TextIO, cast

from rich import markup
from rich.console import Console

from resnet_cli.data.threads import PAUSE, Pause
from resnet_cli.errors import ResnetError

_CHUNK = 1 << 16  # most bytes of stdin in one read
_AHEAD = 16  # chunks


class ReaderGone(Exception):
    """The reader of stdout has closed it (head, less). Not an OSError: rich and typer have their own exit codes for those."""


class _Results:
    """Stdout; a failed write raises an error of this program."""

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
    """Stderr; failed writes are ignored, so that no command fails because of them."""

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
    """The context of a command: on exit, everything that it printed has been flushed.

    Raises:
        ResnetError: stdout is closed, or cannot be written.
        ReaderGone: the reader has closed it.
    """
    if sys.stderr is None:
        # Stdout is closed. Libraries write to both of its names, and a file opened later must not get its descriptor.
        _discard(2)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 -- a descriptor, for as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        # File names may not fit the terminal's encoding: escape them instead of failing.
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
    """Discard what cannot be written: the interpreter would try again on exit, and print an error."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _discard(sys.stdout.fileno())


def bytes_of_stdin() -> Iterator[bytes | Pause] | None:
    """The bytes of stdin as they arrive, with a pause while nothing is available; None if stdin is closed.

    Raises:
        ResnetError: during iteration: stdin cannot be read.
    """
    return None if sys.stdin is None else _as_it_comes(sys.stdin.buffer)


def _as_it_comes(stream: Any) -> Iterator[bytes | Pause]:
    # Unbuffered: a thread that waits in a buffered reader holds its lock, and the interpreter could not exit.
    raw = getattr(stream, "raw", stream)
    chunks: queue.Queue[bytes | OSError] = queue.Queue(_AHEAD)

    def read() -> None:
        try:
            while chunk := raw.read(_CHUNK):
                chunks.put(chunk)
            chunks.put(b"")
        except OSError as error:
            chunks.put(error)

    threading.Thread(target=read, daemon=True).start()
    while True:
        if chunks.empty():
            yield PAUSE
        chunk = _next(chunks)
        if isinstance(chunk, OSError):
            raise ResnetError(f"stdin cannot be read: {chunk.strerror}") from chunk
        if not chunk:
            return
        yield chunk


def _next(chunks: queue.Queue[bytes | OSError]) -> bytes | OSError:
    while True:
        # On Windows, Ctrl-C does not interrupt a wait without a timeout.
        with suppress(queue.Empty):
            return chunks.get(timeout=1)


def _discard(descriptor: int) -> None:
    """Redirect a descriptor to the null device."""
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


# Print file names unchanged: no emoji for words between colons.
out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

# Control characters except tab and line feed, which a terminal would interpret, and marks of the writing direction: after one
# of these, the figures of the same line would be shown in reverse.
_DIRECTION = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(9), *range(11, 32), *range(127, 160), *_DIRECTION)}


def escape(text: str) -> str:
    """Escape text for rich, so that it is printed literally: markup, control characters, marks of the writing direction."""
    return markup.escape(text.translate(_CONTROL))


VERBOSE: ContextVar[bool] = ContextVar("verbose", default=False)  # whether --verbose was given to the command in progress


def prose(console: Console, text: str, label: str = "", hang: int = 0) -> None:
    """Print a sentence; a terminal shows it broken between words only.

    A path or a URL stays whole, to be clicked or copied, and other programs get one line.

    Args:
        console: where to print.
        text: plain text, of one or more lines.
        label: such as "warning:", which is coloured, before the text.
        hang: columns by which the second line and those after it are indented.
    """
    lines = (f"{label} {text}" if label else text).split("\n")
    if console.is_terminal:
        lines = [part for line in lines for part in _wrapped(line, console.width, " " * hang) or [""]]
    printed = "\n".join(lines)
    console.print(f"[yellow]{label}[/]{escape(printed.removeprefix(label))}" if label else escape(printed))


def _wrapped(line: str, width: int, indent: str) -> list[str]:
    whole = {"break_long_words": False, "break_on_hyphens": False, "replace_whitespace": False, "expand_tabs": False}
    return textwrap.wrap(line, width, subsequent_indent=indent, **whole)  # type: ignore[arg-type]


def room(console: Console = out) -> int | None:
    """Columns of the terminal, or of $COLUMNS; None where the output goes to a file or a program, which wraps no lines."""
    return console.width if console.is_terminal or "COLUMNS" in os.environ else None


def print_json(document: Any) -> None:
    """The result of a command with --json: one document on stdout."""
    sys.stdout.write(json_text(document) + "\n")


def json_text(document: Any) -> str:
    """JSON as this program writes it: UTF-8, or ASCII where stdout has another encoding."""
    return json.dumps(document, indent=2, ensure_ascii=not _writes_utf8(sys.stdout.encoding))


def print_error(message: str, hint: str) -> None:
    """One `error:` line, one `hint:` line."""
    err.print(f"[bold red]error:[/] {escape(message)}")
    if hint:
        err.print(f"[bold]hint:[/] {escape(hint)}")


def _writes_utf8(encoding: str | None) -> bool:
    # A pure text stream, as in tests, has no encoding.
    return encoding is None or codecs.lookup(encoding).name == "utf-8"
