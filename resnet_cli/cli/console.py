"""The console: printing and stdin. Progress and notices go to stderr, results to stdout (light: typer and rich).

It also handles streams that are closed or cannot be written.
"""

import codecs
import io
import json
import os
import queue
import shlex
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

from rich import markup
from rich.console import Console
from rich.table import Table

from resnet_cli.data.contents import kind_of
from resnet_cli.data.threads import PAUSE, Pause
from resnet_cli.errors import ResnetError
from resnet_cli.progress import how_long, how_many

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


__all__ = ["Table", "err", "escape", "full_width", "json_text", "out", "print_error", "print_json"]

# Print file names unchanged: no emoji for words between colons.
out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
_WIDEST = 10_000  # columns, more than any table has

# Control characters except tab and line feed: a terminal would interpret them.
_CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(9), *range(11, 32), *range(127, 160))}


def escape(text: str) -> str:
    """Escape text for rich, so that it is printed literally: markup and control characters."""
    return markup.escape(text.translate(_CONTROL))


def full_width(table: Table) -> int:
    """Columns that a table needs without truncation."""
    return out.measure(table, options=out.options.update(width=_WIDEST)).maximum


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


_SHOWN = 40  # most classes in the table


def print_training(result: dict[str, Any], only_search: bool, json: bool) -> None:
    """Print what `finetune` or `train` returned.

    Args:
        result: its JSON output.
        only_search: whether it is that of `--lr-find plot`.
        json: print it as JSON.
    """
    if json:
        print_json(result)
    elif only_search:
        _print_search(result)
    else:
        _print_result(result)


def _print_result(result: dict[str, Any]) -> None:
    """Print the results of `finetune` and `train` as text."""
    split = "test" if "test" in result else "val"
    headline = result[split]
    low, high = headline["top1_interval"]
    table = Table("class", "images", "accuracy")
    classes = headline["classes"]
    if len(classes) > _SHOWN:  # the most frequent ones
        classes = sorted(classes, key=lambda each: -each["count"])[:_SHOWN]
    for each in classes:
        table.add_row(escape(each["class"]), str(each["count"]), f"{each['recall']:.1%}" if each["count"] else "-")
    out.print(table)
    if left := len(headline["classes"]) - len(classes):
        out.print(f"and {left} more classes in the report")
    out.print(
        f"[bold]{kind_of(split)} accuracy {headline['top1']:.1%}[/]"
        f"  (95 % interval {low:.1%} to {high:.1%}, {headline['count']} images)"
    )
    if "folds" in result:
        _print_folds(result["folds"])
    if result.get("tuning", {}).get("trials"):
        _print_tuning(result["tuning"])
    if "test" in result and result["test"] != result["val"]:
        out.print(f"validation accuracy {result['val']['top1']:.1%} ({result['val']['count']} images)")
    kept = f"epoch {result['best_epoch']} of {result['epochs']}"
    if result.get("kept") == "tail":
        kept = f"{kept} (the head alone: {result['head_top1']:.1%})"
    elif result.get("kept") == "head":
        kept = f"the head alone, {kept}" if result["epochs"] > 1 else "the head alone"
    out.print(f"kept: {kept}, the best one" if result["epochs"] > 1 else f"kept: {kept}")
    if result.get("fine_tuning") == "skipped":
        out.print("fine-tuning: skipped, the head left nothing to gain in validation")
    elif result.get("fine_tuning") == "no time":
        out.print("fine-tuning: skipped, the time limit was too short for it")
    elif result.get("fine_tuning") == "stopped early":
        out.print(f"fine-tuning: stopped after {how_many(result['fine_tuning_epochs'], 'epoch')} without further gain")
    if warnings := len(result["warnings"]):
        out.print(f"[yellow]{how_many(warnings, 'warning')}[/], see above or the report")
    run = shlex.quote(result["run"])
    report = f", report: {escape(result['report'])}" if result["report"] else ""
    out.print(f"run {escape(result['run'])}  ({how_long(result['seconds'])}){report}")
    out.print(
        f"next: [bold]resnet predict image.jpg --run {escape(run)}[/]\n      [bold]resnet evaluate --run {escape(run)}[/]"
    )


def _print_folds(found: dict[str, Any]) -> None:
    """Print the result of a cross-validation."""
    table = Table("fold", "images", "accuracy")
    for each in found["folds"]:
        table.add_row(str(each["fold"]), str(each["count"]), f"{each['top1']:.1%}")
    out.print(table)
    low, high = found["top1_interval"]
    out.print(
        f"cross-validated accuracy {found['mean']:.1%}, standard deviation over folds {found['sd']:.1%}"
        f"  (all {found['count']} images: {found['top1']:.1%}, 95 % interval {low:.1%} to {high:.1%})"
    )
    out.print("cross-validated: the head on frozen features; fine-tuning is not repeated for each fold")


def _print_tuning(found: dict[str, Any]) -> None:
    """Print the result of a search for settings."""
    from resnet_cli.training.tuning import compared  # and with it all recipes, which `resnet --help` does not need

    trials = how_many(found["trials"], "trial")
    of = "the head" if found["phase"] == "head" else "the network"
    out.print(
        f"tuning: {trials} in {how_long(found['seconds'])}; accuracy of {of} on {found['count']} images ({found['scored_on']}):"
        f" {escape(compared(found))}"
    )
    if found["trials"] > 1:
        honest = "the test images were not used for it" if found["test"] else "no test folder measures it"
        out.print(f"the best of {found['trials']} is too good by chance: {honest}; settings: tuned.toml, trials.csv in the run")


def _print_search(result: dict[str, Any]) -> None:
    """Print the result of a learning-rate range test."""
    if result["suggested"] is None:
        out.print("[bold]no rate is suggested[/]: the loss did not clearly fall at any rate")
    else:
        out.print(f"[bold]suggested: --learning-rate {result['suggested']:g}[/]")
    out.print(f"plot: {escape(result['plot'])}; figures: rate.csv beside it")
