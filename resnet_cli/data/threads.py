"""Run a function on many items in threads (light).

In: a function and its arguments. Out: its results, in the order of the arguments.
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
    """A marker in a stream of items: the next item is not available yet, and requesting it will block."""

    PAUSE = "pause"


PAUSE = Pause.PAUSE
QUOTA = Path("/sys/fs/cgroup/cpu.max")
_MEMORY = 1_000_000_000  # bytes of prefetched batches


def workers() -> int:
    """Number of threads: the cores that the process may use by its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 2)
    return max(2, min(cores, _quota() or cores))


def _quota() -> int | None:
    """Cores that the container's quota allows, rounded up; None without a quota (Linux, cgroup v2)."""
    try:
        quota, period = QUOTA.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # "max" means no quota
        return None


def items_ahead(least: int) -> int:
    """Number of small items, such as images, to prefetch: `least`, or more if threads would be idle otherwise."""
    return max(least, 2 * workers())


def batches_ahead(size: int, ready: int = 4) -> int:
    """Number of batches of `size` bytes to prefetch: one per thread and `ready` more, within a gigabyte; at least 2."""
    return max(2, min(workers() + ready, _MEMORY // size))


def map_in_order(work: Callable[[Item], Result], items: Iterable[Item], ahead: int | None = None) -> Iterator[Result]:
    """Run `work` on threads; results are in the order of the items, at most `ahead` of them waiting (64, or two per thread)."""
    ahead = items_ahead(64) if ahead is None else ahead
    return (result for result in map_arriving(work, items, ahead) if not isinstance(result, Pause))


def map_arriving(
    work: Callable[[Item], Result], items: Iterable[Item | Pause], ahead: int, threads: int | None = None
) -> Iterator[Result | Pause]:
    """Like `map_in_order`, for a stream of items: at a pause, all results so far are yielded, then the pause itself."""
    with ThreadPoolExecutor(threads or workers()) as pool:
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
