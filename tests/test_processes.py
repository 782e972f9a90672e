"""Several processes on loopback train as one does; one that is lost, stopped or started differently ends the others cleanly."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import MakeDataset, RunCli
from test_devices import assert_equal_runs

from resnet_cli.errors import ResnetError
from resnet_cli.jobs import cluster
from resnet_cli.jobs.cluster import Cluster, find_cluster

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
def two_processes(folder: Path, *words: object, second: tuple[str, ...] = ()) -> Iterator[list["subprocess.Popen[str]"]]:
    """`resnet train` in two processes; the second one with further words."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "resnet_cli", "train", *map(str, words), *(second if index else ())],
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
        yield processes
    finally:
        for process in processes:
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


@pytest.mark.slow
def test_processes_with_different_options_are_refused(folder: Path) -> None:
    with two_processes(folder, "fruit", *TWENTY, "--output", "other", second=("--seed", "5")) as (first, second):
        for code, _, stderr in (outcome(first), outcome(second)):
            assert code == 1 and "process 1 of 2 has seed 5, not seed 4" in stderr, stderr
    assert not (folder / "other").exists()


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
        (("--time-limit", "10m"), "jax", "--time-limit works in one process only, and there are 3"),
        (("--lr-find", "plot"), "jax", "--lr-find works in one process only, and there are 3"),
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
