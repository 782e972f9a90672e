"""Files and folders that are whole or absent, whatever stops the program (light: the standard library only).

In: a path, and what goes there.
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

UNFINISHED = ".partial-"  # what is still being written, or was when its process was killed, is called so
# What a spreadsheet takes for the beginning of a formula, full-width forms and all (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_ABANDONED = 24 * 60 * 60  # seconds


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, in UTF-8; what names of files hold beside text stands there as escapes."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file whole or not at all."""
    write_text(path, "".join(map(csv_line, rows)))


def csv_line(row: Iterable[Any]) -> str:
    """A line of CSV with its end, which is a line feed; names of files may hold that, and carriage returns.

    Cells that are a `Path` go through `path_text`. Other cells are data and stay as they are.
    """
    row = [path_text(cell) if isinstance(cell, PurePath) else cell for cell in row]
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(row)  # Python quotes what ends lines, and nothing else of the kind
    return text.getvalue().removesuffix("\r\n") + "\n"


def path_text(path: PurePath | str) -> str:
    """A path, or a sentence that begins with one, as this program writes it for others to read: `./=a.png` for `=a.png`.

    It names the same file, and no spreadsheet takes it for a formula. NUL, which no path can hold, becomes text.
    """
    text = str(path).replace("\0", "\\0")
    return f"./{text}" if text.startswith(_FORMULA) else text


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all: it is on the disk before it gets its name.

    Raises:
        ResnetError: the disk is full, or the folder cannot be written.
    """
    try:
        with unfinished(path) as partial:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    except OSError as error:
        raise ResnetError(f"cannot write {path}: {error.strerror}", "is the disk full or read-only?") from error


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A name beside `path` for what is still being written, a file or a folder: no other process has it, and what is left there
    in the end goes. So does, after a day, what a killed process left.
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
    """`~/cat.jpg` in the user's home; `~cat.jpg`, where nobody is called so, is a file's name."""
    try:
        return Path(word).expanduser()
    except RuntimeError:
        return Path(word)
