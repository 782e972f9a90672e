"""Atomic writes: files and folders are complete or absent, even if the program is killed (light: the standard library only).

In: a path and its content.
"""

import csv
import glob
import hashlib
import io
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from resnet_cli.errors import ResnetError

UNFINISHED = ".partial-"  # in the names of files being written, or left behind by a killed process
# Characters that start a formula in a spreadsheet, including full-width forms (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_ABANDONED = 24 * 60 * 60  # seconds


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8; bytes of file names that are not text are escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file atomically."""
    write_text(path, "".join(map(csv_line, rows)))


def csv_line(row: Iterable[Any]) -> str:
    """A line of CSV, ending with a line feed; file names may contain line feeds and carriage returns, which are quoted.

    Cells of type `Path` are converted by `path_text`; other cells are written unchanged.
    """
    row = [path_text(cell) if isinstance(cell, PurePath) else cell for cell in row]
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(row)  # Python only quotes the characters of its line terminator
    return text.getvalue().removesuffix("\r\n") + "\n"


def path_text(path: PurePath | str) -> str:
    """A path, or a sentence that begins with one, made safe for spreadsheets: `./=a.png` for `=a.png`.

    It names the same file, but is not read as a formula. NUL, which no path can contain, is escaped.
    """
    text = str(path).replace("\0", "\\0")
    return f"./{text}" if text.startswith(_FORMULA) else text


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically: it is flushed to disk before it gets its name.

    Raises:
        ResnetError: the disk is full, or the folder cannot be written.
    """
    with writing(path), unfinished(path) as partial:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise a `ResnetError` that names the path if the operating system refuses to write."""
    try:
        yield
    except OSError as error:
        raise ResnetError(f"cannot write {path}: {error.strerror or error}", "is the disk full or read-only?") from error


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A unique temporary name next to `path` for a file or folder that is being written; leftovers are deleted on exit.

    Leftovers of killed processes are deleted after a day.
    """
    for left in path.parent.glob(f"{UNFINISHED}????????-{glob.escape(path.name)}"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                _remove(left)
    partial = path.with_name(f"{UNFINISHED}{os.urandom(4).hex()}-{path.name}")
    try:
        yield partial
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Hash of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def at_home(word: str) -> Path:
    """Expand `~/cat.jpg` to the user's home; `~cat.jpg` stays a file name if there is no such user."""
    try:
        return Path(word).expanduser()
    except RuntimeError:
        return Path(word)
