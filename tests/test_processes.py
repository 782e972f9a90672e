"""Several processes on loopback train as one does; one that is lost, stopped or started differently ends the others cleanly."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from queue import Queue
from threading import Barrier

import pytest
from conftest import MakeDataset, RunCli
from test_devices import assert_equal_runs

from resnet_cli.errors import ResnetError
from resnet_cli.jobs import cluster
from resnet_cli.jobs.cluster import Cluster, find_cluster
from resnet_cli.training import processes
from resnet_cli.training.processes import Group

TRAIN = "--arch resnet8 --image-size 16 --seed 4 --batch-size 8 --learning-rate 0.02"
TWENTY = [*TRAIN.split(), "--epochs", "5"]
ENDLESS = [*TRAIN.split(), "--epochs", "5000"]
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "node[017-018,020],login",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_NODES": "4",
}
BY_HAND = {"RESNET_COORDINATOR": "10.0.0.1:29500", "RESNET_PROCESSES": "3", "RESNET_PROCESS": "1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def two_processes(folder: Path, *words: object) -> Iterator[list["subprocess.Popen[str]"]]:
    """`resnet train` in two processes."""
    port = free_port()
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "resnet_cli", "train", *map(str, words)],
            env={
                **os.environ,
                "KERAS_BACKEND": "jax",
                "RESNET_COORDINATOR": f"127.0.0.1:{port}",
                "RESNET_PROCESSES": "2",
                "RESNET_PROCESS": str(index),
            },
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        yield both
    finally:
        for process in both:
            process.kill()
            process.communicate()


def outcome(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


def wait_for_epoch(run: Path, more_than: int = 0) -> None:
    path, began = run / "metrics.jsonl", time.monotonic()
    while not path.exists() or path.read_text().count("\n") <= more_than:
        assert time.monotonic() - began < 120
        time.sleep(0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    make_dataset(folder / "fruit" / "train", count=10)
    make_dataset(folder / "fruit" / "val", count=3, first=10)
    return folder


@pytest.mark.slow
def test_two_processes_train_as_one_does(folder: Path) -> None:
    alone = {**os.environ, "KERAS_BACKEND": "jax"}
    one = [sys.executable, "-m", "resnet_cli", "train", "fruit", *TWENTY, "--output", "one", "--quiet"]
    subprocess.run(one, env=alone, cwd=folder, check=True, capture_output=True)
    with two_processes(folder, "fruit", *TWENTY, "--output", "two", "--json") as (first, second):
        (code, stdout, stderr), other = outcome(first), outcome(second)
    assert (code, other) == (0, (0, "", "")), stderr
    assert json.loads(stdout)["run"] == "two"
    record = json.loads((folder / "two" / "run.json").read_text())
    assert (record["devices"], record["processes"]) == (2, 2)
    assert_equal_runs(folder / "one", folder / "two")


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_with_a_checkpoint_and_a_lost_one_ends_the_other(folder: Path) -> None:
    run = folder / "stopped"
    with two_processes(folder, "fruit", *ENDLESS, "--output", run) as (first, second):
        wait_for_epoch(run)
        second.send_signal(signal.SIGTERM)
        for code, _, stderr in (outcome(first), outcome(second)):
            assert code == 143 and stderr.endswith("--resume to continue where it stopped\n"), stderr
    done = (run / "metrics.jsonl").read_text()
    assert list((run / "checkpoint" / "train").glob("step-*.npz"))
    with two_processes(folder, "fruit", *ENDLESS, "--output", run, "--resume") as (first, second):
        wait_for_epoch(run, done.count("\n"))
        assert (run / "metrics.jsonl").read_text().startswith(done)
        first.kill()
        began = time.monotonic()
        code, _, stderr = outcome(second)
        assert time.monotonic() - began < 60
    assert (code, stderr.splitlines()[0]) == (1, "error: the coordinator, process 0, was lost")
    assert "Traceback" not in stderr and len(stderr.splitlines()) == 2
    with two_processes(folder, "fruit", *ENDLESS, "--output", run, "--resume") as (first, second):
        wait_for_epoch(run, (run / "metrics.jsonl").read_text().count("\n"))
        second.kill()
        began = time.monotonic()
        code, _, stderr = outcome(first)
        assert time.monotonic() - began < 60
    assert code == 1 and "error: process 1 of 2 was lost: no sign of life for 20 s" in stderr
    assert "Traceback" not in stderr


class Store:
    """JAX's store of keys and values, as its client behaves."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        if key in self.values and not allow_overwrite:
            raise RuntimeError("ALREADY_EXISTS")
        self.values[key] = value

    def key_value_try_get(self, key: str) -> str:
        if key not in self.values:
            raise RuntimeError("NOT_FOUND")
        return self.values[key]

    def blocking_key_value_get(self, key: str, timeout_ms: int) -> str:
        began = time.monotonic()
        while key not in self.values:
            if time.monotonic() - began > timeout_ms / 1000:
                raise RuntimeError("DEADLINE_EXCEEDED")
            time.sleep(0.001)
        return self.values[key]

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        return [(key, value) for key, value in list(self.values.items()) if key.startswith(folder)]


def in_every_process(count: int, work: Callable[[Group], object]) -> list[object]:
    """What a function returns, or the error that it raises, in every process of a group."""
    store = Store()

    def caught(index: int) -> object:
        try:
            return work(Group(index, count, store))
        except ResnetError as error:
            return error

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(caught, range(count)))


def test_the_first_process_decides() -> None:
    def decide(group: Group) -> object:
        return [group.from_first(lambda: f"by {group.index}"), group.exchange(group.index), group.from_first(lambda: None)]

    assert in_every_process(3, decide) == [["by 0", [0, 1, 2], None]] * 3


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"seed": 5, "data": "a" * 64}, "process 1 of 2 has seed 5, not seed 4"),
        ({"seed": 4, "data": "b" * 64}, "process 1 of 2 has other data than the first one"),
        ({"data": "a" * 64}, "process 1 of 2 has seed None, not seed 4"),
    ],
)
def test_processes_that_differ_are_all_refused(theirs: dict[str, object], message: str) -> None:
    own = {"seed": 4, "data": "a" * 64}
    errors = in_every_process(2, lambda group: group.require_same(theirs if group.index else own))
    for error in errors:
        assert isinstance(error, ResnetError) and error.message == message
        assert error.hint == "start all processes with the same options, data and versions"
    assert in_every_process(2, lambda group: group.require_same(own)) == [None, None]


@pytest.mark.parametrize("signals", [{1: 3}, {0: 3, 1: 3, 2: 3}, {0: 3, 2: 4}, {2: 0}])
def test_all_processes_stop_after_the_same_step(signals: dict[int, int]) -> None:
    step = Barrier(3)

    def train(group: Group) -> object:
        for number in range(10):
            step.wait()  # a step cannot end before all processes have begun it
            if group.stop_signal(15 if group.index in signals and number >= signals[group.index] else 0):
                return number
        return None

    stopped = in_every_process(3, train)
    assert len(set(stopped)) == 1 and stopped[0] in (min(signals.values()), min(signals.values()) + 1)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("photo.png cannot be read", "process 1 of 2 ended: photo.png cannot be read"),
        (None, "process 1 of 2 was lost: no sign of life for 0 s"),
    ],
)
def test_a_process_that_ends_is_named(reason: str | None, message: str, begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOST", 0.3)
    monkeypatch.setattr(processes, "_BEAT", 0.01)
    monkeypatch.setattr(processes, "_LEAVING", 0.0)
    store, told = Store(), Queue[ResnetError]()
    group = Group(0, 2, store)
    if begun:
        group.begin()
    group.watch(told.put)
    if reason is not None:
        Group(1, 2, store).leave(reason)
    error = told.get(timeout=10)
    assert error.message == message and ("--resume" in error.hint) == begun


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as gRPC does
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ResnetError, match=f"port {port} of this machine is in use, by another process 0"):
            cluster.require_free(Cluster(f"127.0.0.1:{port}", 2, 0))
    cluster.require_free(Cluster(f"127.0.0.1:{port}", 2, 0))


def test_a_process_that_the_coordinator_ends_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    started, shown = subprocess.Popen, StringIO()
    monkeypatch.setattr(
        subprocess, "Popen", lambda words, **how: started([sys.executable, "-c", "import os; os.abort()"], **how)
    )
    with socket.socket() as coordinator:
        coordinator.bind(("127.0.0.1", 0))
        coordinator.listen()
        environment = {**BY_HAND, "RESNET_COORDINATOR": f"127.0.0.1:{coordinator.getsockname()[1]}"}
        with pytest.raises(ResnetError, match="ended this process, as when another one comes as process 1"):
            cluster.run_child([], (shown, shown), environment)
    with pytest.raises(ResnetError, match="the coordinator, process 0, was lost"):
        cluster.run_child([], (shown, shown), environment)
    assert shown.getvalue() == ""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({**SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({key: value for key, value in SLURM.items() if key != "SLURM_STEP_NODELIST"}, None),
        (SLURM, Cluster("node017:62055", 4, 2)),
        ({**SLURM, "SLURM_STEP_NODELIST": "a1,b2"}, Cluster("a1:62055", 4, 2)),
        ({**SLURM, "SLURM_STEP_NUM_NODES": "2"}, Cluster("node017:62055", 4, 2, device=1)),
        ({**SLURM, "SLURM_STEP_NUM_NODES": "2", "CUDA_VISIBLE_DEVICES": "3"}, Cluster("node017:62055", 4, 2)),
        (BY_HAND, Cluster("10.0.0.1:29500", 3, 1)),
        ({**SLURM, **BY_HAND}, Cluster("10.0.0.1:29500", 3, 1)),
        ({**BY_HAND, "RESNET_PROCESS": "", "JOB_COMPLETION_INDEX": "2"}, Cluster("10.0.0.1:29500", 3, 2)),
        ({"JOB_COMPLETION_INDEX": "2"}, None),
    ],
)
def test_the_environment_says_which_process_this_is(environment: dict[str, str], expected: Cluster | None) -> None:
    assert find_cluster(environment) == expected


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"RESNET_PROCESS": ""}, "RESNET_COORDINATOR is set and RESNET_PROCESS is not"),
        ({"RESNET_COORDINATOR": ""}, "RESNET_PROCESSES is set and RESNET_COORDINATOR is not"),
        ({"RESNET_COORDINATOR": "10.0.0.1"}, "RESNET_COORDINATOR 10.0.0.1 is not host:port"),
        ({"RESNET_COORDINATOR": "http://10.0.0.1:80"}, "RESNET_COORDINATOR http://10.0.0.1:80 is not host:port"),
        ({"RESNET_COORDINATOR": "a:99999"}, "RESNET_COORDINATOR a:99999: there is no port 99999, only 1 to 65535"),
        ({"RESNET_COORDINATOR": "a:0"}, "RESNET_COORDINATOR a:0: there is no port 0, only 1 to 65535"),
        ({"RESNET_PROCESSES": "0"}, "RESNET_PROCESSES is 0"),
        ({"RESNET_PROCESSES": "1"}, "RESNET_PROCESS is 1, and with RESNET_PROCESSES=1 the only one is 0"),
        ({"RESNET_PROCESSES": "two"}, "RESNET_PROCESSES two is not a number"),
        ({"RESNET_PROCESS": "3"}, "RESNET_PROCESS is 3, and with RESNET_PROCESSES=3 the last one is 2"),
    ],
)
def test_an_incomplete_environment_is_one_sentence(changed: dict[str, str], message: str) -> None:
    with pytest.raises(ResnetError) as refused:
        find_cluster({**BY_HAND, **changed})
    assert refused.value.message == message and refused.value.hint


@pytest.mark.parametrize(
    ("words", "backend", "message"),
    [
        ((), "tensorflow", "3 processes train together with JAX only, and Keras' backend here is tensorflow"),
        (("--time-limit", "10m"), "jax", "--time-limit works in one process only, not in several"),
        (("--lr-find", "plot"), "jax", "--lr-find works in one process only, not in several"),
    ],
)
def test_what_several_processes_cannot_do_is_one_sentence(
    words: tuple[str, ...],
    backend: str,
    message: str,
    tiny_dataset: Path,
    run_cli: RunCli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {**BY_HAND, "KERAS_BACKEND": backend}.items():
        monkeypatch.setenv(name, value)
    result = run_cli("train", tiny_dataset, *words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {message}\nhint: ")


def test_finetune_says_that_it_runs_in_one_process(
    tiny_dataset: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in BY_HAND.items():
        monkeypatch.setenv(name, value)
    result = run_cli("finetune", tiny_dataset)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: finetune runs in one process, and the environment starts 3\nhint: ")


def test_a_coordinator_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WAIT", 0)
    port = free_port()
    with pytest.raises(ResnetError, match=f"the coordinator 127.0.0.1:{port} does not answer: Connection refused") as refused:
        cluster.wait_for_coordinator(Cluster(f"127.0.0.1:{port}", 2, 1))
    assert refused.value.hint == "start process 0 there, or correct RESNET_COORDINATOR"
