"""Ray for `--ray`: started on this machine, or a running cluster; quiet, and without usage statistics (light: Ray is imported
when a call needs it).

In: `local`, or the address of a cluster. Out: the cluster's machines, while the context lasts. What Ray and its workers print
is not shown; it stays in Ray's own log files.
"""

import importlib.metadata
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_cli.data.threads import workers
from resnet_cli.errors import ResnetError
from resnet_cli.jobs.cluster import require_address
from resnet_cli.jobs.environment import without_chatter
from resnet_cli.runs.folder import is_older

LOCAL = "local"
INSTALL = "pip install 'resnet-cli[ray]'"
_OLDEST = "2.50"  # the version that pyproject.toml asks for
_PATIENCE = 10  # seconds until a machine counts as not answering
_PATIENCE_OF_RAY = 30  # seconds until a cluster counts as not answering; by itself, Ray tries for minutes
_STORE = 512_000_000  # bytes of the object store of a local Ray: little passes through it
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that still waits for results would start Ray again after its end
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # of Ray's own processes: what matters arrives as an exception
    "RAY_worker_niceness": "0",  # of a local Ray: else its workers give way to everything else on the machine
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DEDUP_LOGS": "0",  # else it holds lines of workers back, and marks them as repeated
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns about workers without a GPU
}
_CONNECT = """
import sys
from resnet_cli.jobs.ray_cluster import begin
begin(sys.argv[1])
"""


@dataclass(frozen=True)
class Machine:
    """A machine of a cluster: its cores and GPUs, as Ray counts them, and its address."""

    cores: int
    gpus: int
    address: str


@dataclass(frozen=True)
class Cluster:
    """A running cluster: its machines, and whether it was started by this process."""

    machines: tuple[Machine, ...]
    is_local: bool

    @property
    def cores(self) -> int:
        """Cores of all machines."""
        return sum(machine.cores for machine in self.machines)

    @property
    def gpus(self) -> int:
        """GPUs of all machines."""
        return sum(machine.gpus for machine in self.machines)


def import_ray() -> Any:
    """The ray module, with usage statistics and progress bars of its own turned off.

    Raises:
        ResnetError: Ray is not installed, broken or too old.
    """
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    try:
        found = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError as error:
        raise ResnetError("--ray needs the package ray", INSTALL) from error
    if is_older(found, _OLDEST):
        raise ResnetError(
            f"Ray {found} is too old: at least {_OLDEST} is needed", f"pip install -U 'ray[data,train]>={_OLDEST}'"
        )
    try:
        import ray
    except ImportError as error:
        raise ResnetError(f"Ray cannot be imported ({error})", INSTALL) from error
    return ray


@contextmanager
def connect(address: str, logs: bool = False) -> Iterator[Cluster]:
    """Start Ray on this machine, or connect to a cluster; at the end, shut it down or disconnect.

    Nothing that is printed to stdout meanwhile is shown.
    A process that is already connected, in the Python API, stays connected.

    Args:
        address: "local"; or HOST:PORT of a cluster that this machine belongs to, or "auto" for the one that runs here.
        logs: write what workers print to stderr to the stderr of this process.

    Raises:
        ResnetError: Ray is missing or too old, it cannot be started, or the cluster does not answer.
    """
    ray = import_ray()
    logging.getLogger("ray").setLevel(logging.ERROR)
    is_mine = not ray.is_initialized()
    if is_mine:
        if address != LOCAL:
            _require_answer(address)
        with _own_signals(), without_chatter():
            begin(address, logs)
    try:
        # Ray prints what its machines report, such as a killed worker, to stdout, where only results belong.
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield Cluster(_machines(ray), address == LOCAL)
    finally:
        if is_mine:
            with _own_signals():
                ray.shutdown()


def begin(address: str, logs: bool = False) -> None:
    """Start Ray ("local"), or connect to a cluster; see `connect`.

    Raises:
        ResnetError: Ray says why it cannot.
    """
    ray = import_ray()
    own: dict[str, Any] = {"num_cpus": workers(), "include_dashboard": False, "object_store_memory": _STORE}
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=logs, **(own if address == LOCAL else {}))
    except Exception as error:  # of many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = "Ray cannot be started here" if address == LOCAL else f"--ray {address}: cannot connect to this cluster"
        raise ResnetError(f"{what}: {reason}", _hint(address)) from error


def _hint(address: str) -> str:
    return (
        "" if address == LOCAL else "run this on one of its machines; if it has token authentication, set RAY_AUTH_MODE=token"
    )


def _require_answer(address: str) -> None:
    """Check that there is a Ray cluster at an address, in a new process: a connection attempt of Ray cannot be interrupted.

    Raises:
        ResnetError: there is none, or it has another version.
    """
    host, _, port = address.rpartition(":")
    if address != "auto":
        require_address("--ray", address, "--ray local, --ray auto, or --ray HOST:PORT, such as 10.0.0.1:6379")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
        except OSError as error:
            reason = getattr(error, "strerror", None) or "no answer"
            raise ResnetError(f"--ray {address}: cannot connect to this cluster: {reason}", _hint(address)) from error
    command = [sys.executable, "-c", _CONNECT, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_OF_RAY, check=False)
    except subprocess.TimeoutExpired as error:
        raise ResnetError(f"--ray {address}: no Ray cluster answers within {_PATIENCE_OF_RAY} s", _hint(address)) from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("resnet_cli.errors.ResnetError: ")
        raise ResnetError(last if last.startswith("--ray") else f"--ray {address}: {last}", _hint(address))


def _machines(ray: Any) -> tuple[Machine, ...]:
    alive = [(node["Resources"], node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]]
    return tuple(Machine(int(has.get("CPU", 0)), int(has.get("GPU", 0)), address) for has, address in alive)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's handlers of signals: Ray installs its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            with suppress(TypeError):  # a handler that was not installed by Python
                signal.signal(number, handler)
