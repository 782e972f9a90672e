"""Several processes that train one network on several machines: found in the environment, started, watched (light).

In: the environment variables of Slurm, of Kubernetes, or of this program. Out: a process that belongs to a group, or one
sentence that says why not.

A process of a group is a child of the command that was typed. JAX ends a process whose coordinator is lost with a C++ stack
trace; the command replaces that by one sentence.
"""

import atexit
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import IO, TextIO

from resnet_cli.errors import ResnetError
from resnet_cli.jobs.environment import keras_backend
from resnet_cli.jobs.start import TrainRequest
from resnet_cli.training import processes

COORDINATOR, PROCESSES, PROCESS = "RESNET_COORDINATOR", "RESNET_PROCESSES", "RESNET_PROCESS"
WAIT = 120  # seconds that a process waits for the coordinator, and the coordinator for the others
_KUBERNETES = "JOB_COMPLETION_INDEX"
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_PARENT = "RESNET_PARENT"  # set by the command for its child: its process id


@dataclass(frozen=True)
class Cluster:
    """The place of this process among several.

    Attributes:
        coordinator: host:port at which the first process answers.
        count: number of processes.
        index: which of them this is, from 0.
        device: the only GPU of its machine that this process uses; None for all.
    """

    coordinator: str
    count: int
    index: int
    device: int | None = None


def find_cluster(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """The cluster that the environment describes; None for a process of its own.

    Raises:
        ResnetError: the description is not complete, or has values that are no numbers.
    """
    named = [name for name in (COORDINATOR, PROCESSES, PROCESS) if environment.get(name)]
    if named:
        cluster = _by_hand(environment, named[0])
    elif all(name in environment for name in _SLURM):
        cluster = _by_slurm(environment)
    else:
        return None
    return cluster if cluster.count > 1 else None


def _by_hand(environment: Mapping[str, str], named: str) -> Cluster:
    values = {name: environment.get(name, "") for name in (COORDINATOR, PROCESSES, PROCESS)}
    values[PROCESS] = values[PROCESS] or environment.get(_KUBERNETES, "")
    for name, value in values.items():
        if not value:
            raise ResnetError(f"{named} is set and {name} is not", f"set {COORDINATOR}=host:port, {PROCESSES} and {PROCESS}")
    count, index = _number(PROCESSES, values[PROCESSES]), _number(PROCESS, values[PROCESS])
    require_address(COORDINATOR, values[COORDINATOR], "such as 10.0.0.1:29500")
    if count == 0:
        raise ResnetError(f"{PROCESSES} is 0", "set it to the number of processes")
    if index >= count:
        last = "the only" if count == 1 else "the last"
        raise ResnetError(f"{PROCESS} is {index}, and with {PROCESSES}={count} {last} one is {count - 1}", "count from 0")
    return Cluster(values[COORDINATOR], count, index)


def require_address(name: str, value: str, hint: str) -> None:
    """Refuse what is not HOST:PORT with a port from 1 to 65535.

    Args:
        name: the option or variable.
        value: what it was set to.
        hint: of the error.

    Raises:
        ResnetError: it is something else, such as an address with a scheme.
    """
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ResnetError(f"{name} {value} is not host:port", hint)
    if not 1 <= int(port) <= 65535:
        raise ResnetError(f"{name} {value}: there is no port {port}, only 1 to 65535", hint)


def _by_slurm(environment: Mapping[str, str]) -> Cluster:
    """As `jax.distributed` finds it, but a process that is alone on its machine uses all of its GPUs."""
    job, nodes, count, index, local = (environment[name] for name in _SLURM)
    first = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
    host = first[1] + (first[2] or "") if first else nodes
    port = _number("SLURM_JOB_ID", job) % 2**12 + 61440  # the ephemeral ports, as in JAX
    tasks = _number("SLURM_NTASKS", count)
    alone = environment.get("SLURM_STEP_NUM_NODES") == count
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    bound = alone or (visible != "" and "," not in visible)  # Slurm itself gave it one GPU
    return Cluster(f"{host}:{port}", tasks, _number("SLURM_PROCID", index), None if bound else int(local))


def _number(name: str, value: str) -> int:
    if not value.isdecimal():
        raise ResnetError(f"{name} {value} is not a number", "set it to a whole number")
    return int(value)


def require_together(cluster: Cluster, request: TrainRequest) -> None:
    """Refuse what several processes cannot do: another backend than JAX, and options that one process decides by measuring.

    Raises:
        ResnetError: the backend is another one, JAX is not installed, or there is such an option.
    """
    from importlib.util import find_spec

    require_for_all(request)

    if (backend := keras_backend()) != "jax" or find_spec("jax") is None:
        missing = "JAX is not installed" if backend == "jax" else f"Keras' backend here is {backend}"
        raise ResnetError(
            f"{cluster.count} processes train together with JAX only, and {missing}",
            "set KERAS_BACKEND=jax, after pip install 'resnet-cli[jax]'",
        )


def is_child() -> bool:
    """Whether this process is the child of a command that started it with `run_child`."""
    return os.environ.get(_PARENT) == str(os.getppid())


def require_for_all(request: TrainRequest) -> None:
    """Refuse options that one process decides by measuring.

    Raises:
        ResnetError: there is one.
    """
    options = {"--teacher": request.teacher, "--time-limit": request.limit, "--lr-find": request.lr_find}
    for name, value in options.items():
        if value is not None:
            instead = "give --epochs instead" if name == "--time-limit" else "leave it out, or train in one process"
            raise ResnetError(f"{name} works in one process only, not in several", instead)


# What C++ writes to stdout and stderr: glog's lines, its stack traces, and the lines of errors of the coordinator.
_NOISE = re.compile(
    r"^\[Gloo\]|^[IWEF]\d{4} \d\d:|^\s*@\s+0x|^\*\*\* |^terminate called|^\s+what\(\):|^WARNING: All log messages"
    r"|GRPC error|^:\{\"|^RPC: |coordination service|^Fatal Python error: Aborted"
)


def run_child(words: Sequence[str], streams: tuple[TextIO, TextIO], environment: Mapping[str, str] = os.environ) -> int:
    """Run a command of this program in a child process, without what C++ writes; returns its exit code.

    Args:
        words: the words after `resnet`.
        streams: where its stdout and stderr go.
        environment: its environment.

    Raises:
        ResnetError: the child was ended because another process was lost, or has come with the same number.
    """
    own = {**environment, _PARENT: str(os.getpid())}
    child = subprocess.Popen(
        [sys.executable, "-m", "resnet_cli", *words],
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        start_new_session=True,  # signals of the terminal come once, from here
    )
    with _forwarded(child):
        threads = [
            threading.Thread(target=_pass_on, args=(source, target), daemon=True)
            for source, target in zip((child.stdout, child.stderr), streams, strict=True)
        ]
        for thread in threads:
            thread.start()
        code = child.wait()
        for thread in threads:
            thread.join()
        for source in (child.stdout, child.stderr):
            if source is not None:
                source.close()
    if code == -signal.SIGABRT:
        cluster = find_cluster(environment)
        if cluster is not None and cluster.index and _answers(cluster):
            reason = f"the coordinator ended this process, as when another one comes as process {cluster.index}"
            raise ResnetError(reason, f"give each process its own {PROCESS}, from 0 to {cluster.count - 1}")
        again = "type the same command on all machines, with --resume if the run had begun"
        raise ResnetError("the coordinator, process 0, was lost", again)
    return code if code >= 0 else 128 - code


def _pass_on(source: IO[str] | None, target: TextIO) -> None:
    assert source is not None
    for line in source:
        if not _NOISE.search(line):
            target.write(line)
            target.flush()


@contextmanager
def _forwarded(child: "subprocess.Popen[str]") -> Iterator[None]:
    """Pass SIGINT and SIGTERM on to the child."""

    def forward(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread only
        yield
        return
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def join(cluster: Cluster, lost: Callable[[ResnetError], None]) -> None:
    """Start JAX's runtime, and become one of the group.

    Args:
        cluster: the place of this process.
        lost: called in another thread with the sentence which other process did not come or has ended; it ends this one.

    Raises:
        ResnetError: the coordinator or another process did not come within `WAIT` seconds, or the coordinator's port is in use.
    """
    _end_with_parent()
    # gRPC would ask a proxy of the environment for the coordinator.
    os.environ["no_grpc_proxy"] = cluster.coordinator.rpartition(":")[0]  # noqa: SIM112 -- gRPC's spelling
    os.environ["GRPC_VERBOSITY"] = "NONE"
    if cluster.index:
        wait_for_coordinator(cluster)
    import logging

    import jax

    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    if cluster.index == 0:
        require_free(cluster)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    timer = threading.Timer(WAIT, lambda: lost(_incomplete(cluster)))
    timer.start()
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.count,
            cluster.index,
            local_device_ids=None if cluster.device is None else [cluster.device],
            cluster_detection_method="deactivate",
            initialization_timeout=2 * WAIT,  # JAX itself would end this process with a stack trace
            shutdown_timeout_seconds=30,
        )
    except (RuntimeError, ValueError) as error:
        _end_at_once(1)
        reason = str(error).splitlines()[0]
        raise ResnetError(f"the coordinator {cluster.coordinator} cannot be used: {reason}", "choose another port") from error
    finally:
        timer.cancel()
    from jax._src.distributed import global_state  # JAX has no public name for its store of keys and values

    group = processes.Group(cluster.index, cluster.count, global_state.client)
    processes.join(group)
    group.watch(lost)


def _incomplete(cluster: Cluster) -> ResnetError:
    return ResnetError(
        f"not all {cluster.count} processes came to the coordinator {cluster.coordinator} within {WAIT} s",
        f"start one for each number from 0 to {cluster.count - 1}",
    )


def require_free(cluster: Cluster) -> None:
    """Refuse a port on which another process answers: the coordinator would share it, and some processes would ask the other.

    Raises:
        ResnetError: there is one.
    """
    port = cluster.coordinator.rpartition(":")[2]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do not matter
        try:
            probe.bind(("", int(port)))
        except OSError as error:
            reason = f"port {port} of this machine is in use, by another process 0 or another program"
            raise ResnetError(reason, f"give each process its own {PROCESS}, or choose another port") from error


def _answers(cluster: Cluster) -> bool:
    host, _, port = cluster.coordinator.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def wait_for_coordinator(cluster: Cluster) -> None:
    """Wait until the first process answers.

    Raises:
        ResnetError: it does not within `WAIT` seconds.
    """
    host, _, port = cluster.coordinator.rpartition(":")
    began = time.monotonic()
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
                return
        except OSError as error:
            waited = time.monotonic() - began
            if waited > WAIT:
                raise ResnetError(
                    f"the coordinator {cluster.coordinator} does not answer: {error.strerror or error} (for {WAIT} s)",
                    f"start process 0 there, or correct {COORDINATOR}",
                ) from error
        time.sleep(0.5)


def _end_with_parent() -> None:
    """Let Linux kill this process when the command that started it is killed."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _end_at_once(code: int) -> None:
    """End the process before JAX waits for the other ones, when Python exits."""
    atexit.register(os._exit, code)  # called before those of JAX, which were registered earlier


@contextmanager
def together() -> Iterator[None]:
    """The context of all that a group does: on exit, the others learn whether this process has done its part.

    Raises:
        ResnetError: a step failed because another process was lost.
    """
    group = processes.group()
    if group.count == 1:
        yield
        return
    try:
        yield
    except ResnetError as error:
        group.leave(error.message)
        _end_at_once(error.exit_code)
        raise
    except Exception:
        time.sleep(processes.LOST + 10)  # if a process was lost, this one is ended meanwhile with a sentence that names it
        group.leave("an error in the program")
        _end_at_once(1)
        raise
    except BaseException:
        group.leave("it was interrupted")
        _end_at_once(130)
        raise
    if not group.is_first:
        group.wait_for_first()
    group.leave()
    import jax

    jax.distributed.shutdown()
