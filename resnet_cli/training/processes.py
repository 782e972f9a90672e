"""The processes that train together (light).

In: nothing. Out: the group that this process belongs to, which is a group of one unless it was started as one of several.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Processes that train one network.

    Attributes:
        index: which of the processes this is, from 0.
        count: number of processes.
    """

    index: int = 0
    count: int = 1


_ALONE = Group()


def group() -> Group:
    """The group of this process."""
    return _ALONE
