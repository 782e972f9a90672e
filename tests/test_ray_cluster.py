"""`--ray`: Ray starts here, or a cluster answers; and each reason why not is one sentence."""

import importlib.metadata
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import RunCli

from resnet_cli.errors import ResnetError
from resnet_cli.jobs import ray_cluster
from resnet_cli.jobs.ray_cluster import connect


def refusal(address: str) -> ResnetError:
    with pytest.raises(ResnetError) as caught, connect(address):
        pass
    return caught.value


def test_a_missing_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    error = refusal("local")
    assert (error.message, error.hint) == ("--ray needs the package ray", "pip install 'resnet-cli[ray]'")


def test_an_old_ray_names_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.9.3")
    assert refusal("local").message == "Ray 2.9.3 is too old: at least 2.50 is needed"


@pytest.mark.parametrize("address", ["somewhere", "ray://head:10001", "head:port", ":6379"])
def test_words_that_are_no_address(address: str) -> None:
    assert refusal(address).message == f"--ray {address} is not host:port"


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_port_that_does_not_exist(port: str) -> None:
    assert refusal(f"127.0.0.1:{port}").message == f"--ray 127.0.0.1:{port}: there is no port {port}, only 1 to 65535"


def test_an_address_where_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert refusal(address).message == f"--ray {address}: cannot connect to this cluster: Connection refused"


@pytest.fixture
def listener() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_is_no_ray_cluster_is_given_up_in_time(listener: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray_cluster._PATIENCE_OF_RAY == 30
    monkeypatch.setattr(ray_cluster, "_PATIENCE_OF_RAY", 2)
    assert refusal(listener).message == f"--ray {listener}: no Ray cluster answers within 2 s"


LOCAL = """
import os, signal, sys
from resnet_cli.jobs.ray_cluster import connect
handler = lambda number, frame: None
signal.signal(signal.SIGTERM, handler)
with connect("local") as cluster:
    assert signal.getsignal(signal.SIGTERM) is handler
    import ray
    usage = ray.get(ray.remote(lambda: os.environ["RAY_USAGE_STATS_ENABLED"]).remote())
    print("what is printed meanwhile, as by Ray, is not shown")
print(len(cluster.machines), cluster.is_local, cluster.cores > 0, usage)
assert signal.getsignal(signal.SIGTERM) is handler
assert not ray.is_initialized()
"""


@pytest.mark.slow
def test_a_local_ray_is_quiet_sends_no_statistics_and_leaves_signals_alone() -> None:
    command = [sys.executable, "-W", "error", "-c", LOCAL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 True True 0\n", "")


def test_a_command_for_a_cluster_that_is_not_there_leaves_no_files(run_cli: RunCli, tiny_dataset: Path, tmp_path: Path) -> None:
    result = run_cli("predict", "--ray", "127.0.0.1:1", "--input", tiny_dataset, "--output", tmp_path / "out")
    assert result.exit_code == 1 and not (tmp_path / "out").exists()
    assert "error: --ray 127.0.0.1:1: cannot connect to this cluster: Connection refused\n" in result.stderr
