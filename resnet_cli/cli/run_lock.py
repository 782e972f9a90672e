"""One process at a time trains a run: a lock beside its checkpoints, which ends with the process (light).

In: the folder of an unfinished run. Out: whether it is this process's.
"""

import os
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


def require_free(folder: Path) -> None:
    """Hold a run.

    Raises:
        ResnetError: another process is at it.
    """
    if not hold(folder):
        raise ResnetError(f"the run {folder} is still going on in another process", "wait for it, or stop it")
