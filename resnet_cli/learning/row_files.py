"""Files that grow side by side, row by row: whole in the end; until then a note says how far, so that a later process goes on.

In: outputs of an engine, in the order of the rows. Out: files of float16 under their names, or partial ones and their note.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from numpy.typing import NDArray

from resnet_cli.engines.base import in_half
from resnet_cli.errors import Interrupted
from resnet_cli.files import write_text

_NOTED = 60  # seconds between notes: a process that is killed leaves the last one


class RowFiles:
    """A context in which files are written; on leaving it without an error they are whole.

    Args:
        files: one an output.
        keys: what tells the rows apart, in order. Partial files of other rows are written anew.

    Attributes:
        count: rows that are in the files.
        damaged: pictures that have no rows, by index, and why; whoever finds one puts it there.
    """

    def __init__(self, files: Sequence[Path], keys: Sequence[bytes]) -> None:
        self._files, self._what = files, hashlib.sha256(b"".join(keys)).hexdigest()
        self._partial = [file.with_suffix(".partial") for file in files]
        self._note = files[0].with_suffix(".json")
        self._opened: list[BinaryIO] = []
        self._noted_at = time.perf_counter()
        self.count = 0
        self.damaged: dict[int, str] = {}

    def __enter__(self) -> "RowFiles":
        sizes = self._go_on()
        self._opened = [path.open("r+b" if self.count else "wb") for path in self._partial]
        for file, size in zip(self._opened, sizes, strict=True):
            file.truncate(size)
            file.seek(size)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        stopped = isinstance(error, Interrupted)
        if stopped:
            self._take_note()
        for opened in self._opened:
            opened.close()
        if error is None:  # whoever relies on the files sees to it that they are on the disk
            for path, file in zip(self._partial, self._files, strict=True):
                path.replace(file)
        if not stopped:
            for path in (*self._partial, self._note):
                path.unlink(missing_ok=True)

    def write(self, outputs: Sequence[NDArray[Any]]) -> None:
        """Append some rows: an array (rows, ...) a file."""
        for file, output in zip(self._opened, outputs, strict=True):
            file.write(in_half(output).tobytes())
        self.count += len(outputs[0])
        if time.perf_counter() - self._noted_at >= _NOTED:
            self._take_note()

    def _take_note(self) -> None:
        for file in self._opened:
            file.flush()
            os.fsync(file.fileno())
        note = {"of": self._what, "rows": self.count, "bytes": [file.tell() for file in self._opened], "damaged": self.damaged}
        write_text(self._note, json.dumps(note))
        self._noted_at = time.perf_counter()

    def _go_on(self) -> list[int]:
        """Where to go on in each file; at its beginning, where nothing is noted of these rows."""
        try:
            note = json.loads(self._note.read_text())
            if note["of"] != self._what or any(
                path.stat().st_size < size for path, size in zip(self._partial, note["bytes"], strict=True)
            ):
                return [0] * len(self._files)
            self.damaged = {int(index): reason for index, reason in note["damaged"].items()}
            self.count = note["rows"]
            return list(note["bytes"])
        except (OSError, ValueError, KeyError):
            return [0] * len(self._files)
