"""The processes that train together: what the first one decides, when all stop, and whether one was lost (light).

In: JAX's client of the coordinator, a store of keys and values in the first process. Out: the group of this process, which is a
group of one unless `join` was called. Values go through the store, not through the devices: no process waits for a device of
another one to learn that it is gone.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from resnet_cli.errors import ResnetError
from resnet_cli.progress import GO_ON

LOST = 20.0  # seconds without a sign of life after which a process counts as lost
_BEAT = 1.0  # seconds between signs of life
_LEAVING = 5.0  # seconds that the first process waits for the others to read why it ends
_PATIENCE = 600_000  # milliseconds of one wait for a value, which is repeated


class Group:
    """Processes that train one network; all of them call these methods in the same order.

    Args:
        index: which of the processes this is, from 0. The first one decides and writes.
        count: number of processes.
        client: JAX's client of the coordinator; None in a group of one.
    """

    def __init__(self, index: int = 0, count: int = 1, client: Any = None) -> None:
        self.index, self.count, self._client = index, count, client
        self._values = self._ticks = 0
        self._left = threading.Event()
        self._has_begun = False

    @property
    def is_first(self) -> bool:
        """Whether this process decides and writes."""
        return self.index == 0

    def begin(self) -> None:
        """Note that there is a run from now on, which can be resumed."""
        self._has_begun = True

    def from_first(self, work: Callable[[], Any]) -> Any:
        """What `work` returns in the first process, the only one that calls it: anything that JSON can hold."""
        if self.count == 1:
            return work()
        self._values += 1
        key = f"first/{self._values}"
        if self.is_first:
            self._client.key_value_set(key, json.dumps(work()))
        return json.loads(self._wait_for(key))

    def exchange(self, own: Any) -> list[Any]:
        """What every process gave, in their order: anything that JSON can hold."""
        if self.count == 1:
            return [own]
        self._values += 1
        self._client.key_value_set(f"each/{self._values}/{self.index}", json.dumps(own))
        return [json.loads(self._wait_for(f"each/{self._values}/{index}")) for index in range(self.count)]

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Refuse to train if processes differ in a fact.

        Raises:
            ResnetError: they do; the message names the fact.
        """
        every = self.exchange(facts)
        for index, theirs in enumerate(every):
            for name, value in every[0].items():
                if theirs.get(name) != value:
                    told = f"{name} {theirs.get(name)}, not {name} {value}"
                    told = told if len(told) < 100 else f"other {name} than the first one"  # hashes
                    raise ResnetError(
                        f"process {index} of {self.count} has {told}",
                        "start all processes with the same options, data and versions",
                    )

    def arrays_from_first(self, values: Sequence[Any] | None, like: Sequence[Any]) -> list[Any]:
        """Arrays of the first process in every process.

        Args:
            values: the arrays; None in the other processes.
            like: arrays or variables of the same shapes and types.
        """
        if self.count == 1:
            return list(values or ())
        import numpy as np
        from jax.experimental import multihost_utils

        own = [np.zeros(each.shape, each.dtype) for each in like]
        if values is not None:
            own = [np.asarray(value, each.dtype) for value, each in zip(values, own, strict=True)]
        received: list[Any] = multihost_utils.broadcast_one_to_all(own)
        return [np.asarray(each) for each in received]

    def stop_signal(self, own: int) -> int:
        """The signal at which all processes stop now; 0 for none. Every process calls this after the same steps.

        A step cannot end before all processes have begun it: what one of them writes after a step, all read after the next.

        Args:
            own: the signal that this process received; 0 for none.
        """
        if self.count == 1:
            return own
        self._ticks += 1
        told = self._read("stop")
        if told is None and own:
            with suppress(Exception):  # another process has just written it
                self._client.key_value_set("stop", f"{self._ticks + 1} {own}")
        if told is None:
            return 0
        tick, number = map(int, told.split())
        return number if self._ticks >= tick else 0

    def watch(self, lost: Callable[[ResnetError], None]) -> None:
        """Watch the other processes from now on; `lost` is called in another thread with the sentence which one has ended."""
        threading.Thread(target=self._watch, args=(lost,), daemon=True, name="processes").start()

    def leave(self, reason: str = "") -> None:
        """Tell the others that this process ends; without a reason, that its work is done."""
        if self.count == 1 or self._left.is_set():
            return
        self._left.set()
        with suppress(Exception):
            self._client.key_value_set(f"ended/{self.index}", reason)
            began = time.monotonic()
            while self.is_first and reason and time.monotonic() - began < _LEAVING:
                if len(self._client.key_value_dir_get("ended/")) == self.count:
                    break
                time.sleep(0.1)

    def wait_for_first(self) -> None:
        """Wait until the first process has done all that it does alone."""
        while self._read("ended/0") is None:
            time.sleep(0.2)

    def _watch(self, lost: Callable[[ResnetError], None]) -> None:
        beats, began = 0, time.monotonic()
        signs = dict.fromkeys(range(self.count), ("", began))
        while not self._left.wait(_BEAT):
            beats, now = beats + 1, time.monotonic()
            with suppress(Exception):  # no answer: the first process is silent
                self._client.key_value_set(f"alive/{self.index}", str(beats), allow_overwrite=True)
                for key, sign in self._client.key_value_dir_get("alive/"):
                    index = int(key.rpartition("/")[2])
                    if signs[index][0] != sign:
                        signs[index] = sign, now
                for key, reason in self._client.key_value_dir_get("ended/"):
                    index = int(key.rpartition("/")[2])
                    signs[index] = "", now
                    if reason and not self._left.is_set():
                        self.leave(f"process {index} ended")
                        return lost(ResnetError(f"process {index} of {self.count} ended: {reason}", self._hint()))
            silent = [index for index, (_, heard) in signs.items() if now - heard > LOST]
            if silent and not self._left.is_set():
                self.leave(f"process {silent[0]} was lost")
                who = f"process {silent[0]} of {self.count}"
                return lost(ResnetError(f"{who} was lost: no sign of life for {LOST:.0f} s", self._hint()))
        return None

    def _hint(self) -> str:
        return GO_ON if self._has_begun else "the run has not begun: type the same command again for all processes"

    def _read(self, key: str) -> str | None:
        try:
            return str(self._client.key_value_try_get(key))
        except Exception as error:
            if "NOT_FOUND" not in str(error):
                raise
            return None

    def _wait_for(self, key: str) -> str:
        while True:
            try:
                return str(self._client.blocking_key_value_get(key, _PATIENCE))
            except Exception as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise


_CURRENT = [Group()]


def group() -> Group:
    """The group of this process."""
    return _CURRENT[-1]


def join(joined: Group) -> None:
    """From now on, this process is one of a group."""
    _CURRENT.append(joined)
