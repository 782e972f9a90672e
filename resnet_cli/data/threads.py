"""Work on many things at once, by threads (light).

In: a function, and what it is called with. Out: what it returns, in the same order.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Pause(Enum):
    """Stands among items that come one by one: no further item is there yet, and whoever asks for it will have to wait."""

    PAUSE = "pause"


PAUSE = Pause.PAUSE
QUOTA = Path("/sys/fs/cgroup/cpu.max")
_MEMORY = 1_000_000_000  # bytes of batches that are made ahead


def workers() -> int:
    """Threads to work with: as many as the process may use cores, by its affinity and by its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 2)
    return max(2, min(cores, _quota() or cores))


def _quota() -> int | None:
    """Cores that the quota of a container comes to, rounded up; None without one (Linux, control groups 2)."""
    try:
        quota, period = QUOTA.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # "max" where there is none
        return None


def items_ahead(least: int) -> int:
    """How many small items, such as images, to work on ahead: `least`, and more where that would leave a thread idle."""
    return max(least, 2 * workers())


def batches_ahead(size: int, ready: int = 4) -> int:
    """How many batches of `size` bytes to make ahead: one a thread and `ready` more, if a gigabyte holds them; 2 or more."""
    return max(2, min(workers() + ready, _MEMORY // size))


def map_in_order(work: Callable[[Item], Result], items: Iterable[Item], ahead: int | None = None) -> Iterator[Result]:
    """Run `work` on threads; results in the order of the items, at most `ahead` of them waiting (64, or two a thread)."""
    ahead = items_ahead(64) if ahead is None else ahead
    return (result for result in map_arriving(work, items, ahead) if not isinstance(result, Pause))


def map_arriving(work: Callable[[Item], Result], items: Iterable[Item | Pause], ahead: int) -> Iterator[Result | Pause]:
    """As `map_in_order`, for items that come one by one: at a pause every result goes out, and then the pause itself."""
    with ThreadPoolExecutor(workers()) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                if isinstance(item, Pause):
                    while waiting:
                        yield waiting.popleft().result()
                    yield item
                    continue
                waiting.append(pool.submit(work, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
