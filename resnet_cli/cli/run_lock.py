"""One process at a time trains a run: a lock beside its checkpoints, which ends with the process (light).

In: the folder of an unfinished run. Out: whether it is this process's.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from resnet_cli.errors import ResnetError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LOCK = Path("checkpoint", "lock")


def hold(folder: Path) -> bool:
    """Keep other processes from an unfinished run as long as this one lives; False where another one is at it."""
    if fcntl is None:  # Windows
        return True
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)  # open, and locked, until the process ends
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no unfinished run, a file system without locks, or one that cannot be written, which will be told
        return True
    return True


def is_held(folder: Path) -> bool:
    """Whether another process is at an unfinished run, which this one does not hold."""
    try:
        with (folder / _LOCK).open("r+") as lock:
            if fcntl is not None:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def hold_first(folders: Sequence[Path]) -> Path:
    """Hold the first of some runs, one at least, that no other process is at.

    Raises:
        ResnetError: there are others at all of them; the first is named.
    """
    for folder in folders:
        if hold(folder):
            return folder
    raise ResnetError(f"the run {folders[0]} is still going on in another process", "wait for it, or stop it")
