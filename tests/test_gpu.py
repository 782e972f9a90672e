"""What changes on a machine with a GPU or many cores: which engine answers, and how far ahead is read. No GPU is needed."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import MakeDataset, MakeRun, Result, RunCli
from training_material import HeldOut

from resnet_cli.data import threads
from resnet_cli.engines import EngineName
from resnet_cli.engines.frozen import measuring_engine
from resnet_cli.jobs import environment as gpu
from resnet_cli.jobs import environment as quiet
from resnet_cli.jobs import predict as ready
from resnet_cli.jobs.environment import MANY, Surroundings, gpu_is_likely, is_worth_a_gpu, keras_backend, surroundings
from resnet_cli.training.reading import Reading

HERE = Surroundings(has_device=True, visible=None, backend="tensorflow", has_packages=True)


@pytest.fixture(scope="module")
def fruit(tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "fruit")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun, fruit: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", fruit)


@pytest.fixture
def likely(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that looks as if it had a GPU, on which five images are many."""
    monkeypatch.setattr("resnet_cli.jobs.predict.surroundings", lambda: HERE)
    monkeypatch.setattr("resnet_cli.jobs.environment.MANY", 5)


@pytest.fixture
def seen_by_keras(likely: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.distribution, "list_devices", lambda kind=None: ["gpu:0"])


@pytest.mark.parametrize(
    ("files", "environment", "installed", "expected"),
    [
        (["dev/nvidia0"], {}, ["nvidia-cudnn-cu12"], True),
        (["dev/nvidia3"], {"CUDA_VISIBLE_DEVICES": "0"}, ["nvidia-cudnn-cu13"], True),
        (["usr/lib/wsl/lib/libcuda.so.1"], {}, ["nvidia-cudnn-cu12"], True),
        (["dev/nvidia0"], {"KERAS_BACKEND": "jax"}, ["jax-cuda13-plugin"], True),
        (["dev/nvidia0"], {"KERAS_BACKEND": "jax"}, ["nvidia-cudnn-cu12"], False),
        (["dev/nvidia0"], {}, ["jax-cuda12-plugin"], False),
        (["dev/nvidia0"], {}, [], False),
        (["dev/nvidiactl", "dev/null"], {}, ["nvidia-cudnn-cu12"], False),
        ([], {}, ["nvidia-cudnn-cu12"], False),
        (["dev/nvidia0"], {"CUDA_VISIBLE_DEVICES": ""}, ["nvidia-cudnn-cu12"], False),
        (["dev/nvidia0"], {"CUDA_VISIBLE_DEVICES": "-1"}, ["nvidia-cudnn-cu12"], False),
        (["dev/nvidia0"], {"KERAS_BACKEND": "torch"}, ["nvidia-cudnn-cu12"], False),
    ],
)
def test_a_gpu_is_likely_where_there_are_a_device_and_the_packages_for_it(
    files: list[str],
    environment: dict[str, str],
    installed: list[str],
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def version(package: str) -> str:
        if package in installed:
            return "1.0"
        raise gpu.PackageNotFoundError(package)

    monkeypatch.setattr(gpu, "version", version)
    seen = surroundings(tmp_path, {"HOME": str(tmp_path), **environment})
    assert gpu_is_likely(seen) is expected


def test_the_backend_is_the_one_that_keras_will_choose(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert keras_backend(home) == "tensorflow"
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text('{"backend": "jax"}')
    assert keras_backend(home) == "jax"
    assert keras_backend({**home, "KERAS_BACKEND": "tensorflow"}) == "tensorflow"
    assert keras_backend({**home, "KERAS_HOME": str(tmp_path / "elsewhere")}) == "tensorflow"
    (tmp_path / ".keras" / "keras.json").write_text("[]")
    assert keras_backend(home) == "tensorflow"


@pytest.mark.parametrize(
    ("wish", "images", "seen", "expected"),
    [
        ("auto", MANY, HERE, True),
        ("auto", MANY - 1, HERE, False),
        ("auto", 0, HERE, False),
        ("openvino", 10 * MANY, HERE, False),
        ("keras", 10 * MANY, HERE, False),
        ("auto", MANY, replace(HERE, has_device=False), False),
        ("auto", MANY, replace(HERE, visible="-1"), False),
        ("auto", MANY, replace(HERE, has_packages=False), False),
    ],
)
def test_many_images_are_worth_the_start_of_a_gpu(wish: EngineName, images: int, seen: Surroundings, expected: bool) -> None:
    assert is_worth_a_gpu(wish, images, seen) is expected


def test_a_network_is_measured_on_the_gpu_that_trained_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [measuring_engine(wish) for wish in ("auto", "openvino", "keras")] == ["auto", "openvino", "keras"]
    monkeypatch.setattr(keras.distribution, "list_devices", lambda kind=None: ["gpu:0"])
    assert [measuring_engine(wish) for wish in ("auto", "openvino", "keras")] == ["keras", "openvino", "keras"]


def _evaluated(run_cli: RunCli, run: Path, output: Path, *options: str) -> Result:
    result = run_cli("evaluate", "--run", run, "--output", output, "--json", *options)
    assert result.exit_code == 0, result.stderr
    return result


@pytest.mark.usefixtures("seen_by_keras")
def test_many_images_are_scored_by_keras_where_it_sees_a_gpu(run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    assert json.loads(_evaluated(run_cli, run, tmp_path / "auto").stdout)["engine"] == "keras f32"
    chosen = json.loads(_evaluated(run_cli, run, tmp_path / "openvino", "--engine", "openvino").stdout)
    assert chosen["engine"].startswith("openvino ")


@pytest.mark.usefixtures("likely")
def test_a_gpu_that_keras_does_not_see_is_told_and_openvino_answers(run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    told = "there is an NVIDIA GPU, but Keras does not see it on tensorflow: OpenVINO runs on the CPU"
    result = run_cli("evaluate", "--run", run, "--output", tmp_path / "figures")
    assert result.exit_code == 0
    assert told in result.stderr
    assert "engine: openvino" in result.stderr


@pytest.mark.usefixtures("seen_by_keras")
def test_a_folder_of_many_images_is_predicted_by_keras_and_a_few_by_openvino(
    run: Path, fruit: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Path] = []
    monkeypatch.setattr(ready, "read_weights", _counting(built, ready.read_weights))
    paths = sorted((fruit / "apple").iterdir())
    few = run_cli("predict", *paths[:4], "--run", run, "--json")
    listed = run_cli("predict", "-", "--run", run, "--json", stdin="\n".join(map(str, paths)))
    assert built == []
    many = run_cli("predict", fruit / "apple", "--run", run, "--json")
    assert len(built) == 1
    answers = [[row["predictions"][0]["class"] for row in json.loads(each.stdout)] for each in (few, listed, many)]
    assert answers[0] == answers[2][:4] and answers[1] == answers[2]


def _counting(calls: list[Path], work: object) -> object:
    def counted(weights: Path, spec: object) -> object:
        calls.append(weights)
        return work(weights, spec)  # type: ignore[operator]

    return counted


@pytest.mark.parametrize(
    ("cores", "size", "expected"),
    [
        pytest.param(2, 128 * 32 * 32 * 3, 6, id="two cores, CIFAR: as many as ever"),
        pytest.param(64, 128 * 32 * 32 * 3, 68, id="64 cores: none is idle"),
        pytest.param(64, 128 * 224 * 224 * 3, 51, id="64 cores, photos: a gigabyte"),
        pytest.param(64, 1024 * 512 * 512 * 3, 2, id="batches of 800 MB: two"),
    ],
)
def test_batches_are_made_as_far_ahead_as_there_are_cores_and_memory(
    cores: int, size: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "workers", lambda: cores)
    assert threads.batches_ahead(size) == expected


def test_images_are_decoded_on_all_cores_however_small_a_batch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "workers", lambda: 48)
    together = threading.Barrier(48, timeout=20)

    def work(number: int) -> int:
        together.wait()  # goes on only when all 48 threads are at it
        return number

    assert list(threads.map_in_order(work, range(96), threads.items_ahead(16))) == list(range(96))


class _Counted(HeldOut):
    """Held-out batches that note which were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []
        self.second = threading.Event()

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        self.read.append(index)
        if index == 1:
            self.second.set()
        return super().__getitem__(index)


def test_held_out_batches_are_read_one_ahead_and_each_once() -> None:
    source, reading = _Counted(), Reading()
    watched = reading.held_out(source)
    with reading.told():
        first = watched[0]
        assert source.second.wait(20), "the second batch is read while the first is measured"
        second = watched[1]
    assert source.read == [0, 1]
    for batch, index in ((first, 0), (second, 1)):
        for array, expected in zip(batch, HeldOut()[index], strict=True):
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("seen", "before", "after"),
    [
        (replace(HERE, backend="jax"), None, ["--xla_gpu_deterministic_ops=true"]),
        (replace(HERE, backend="jax"), "--xla_dump_to=x", ["--xla_dump_to=x", "--xla_gpu_deterministic_ops=true"]),
        (replace(HERE, backend="jax"), "--xla_gpu_deterministic_ops=false", ["--xla_gpu_deterministic_ops=false"]),
        (replace(HERE, backend="jax", has_device=False), None, []),
        (HERE, None, []),
    ],
)
def test_xla_on_a_gpu_is_asked_for_repeatable_operations_before_jax_starts(
    seen: Surroundings, before: str | None, after: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "surroundings", lambda: seen)
    monkeypatch.setenv("XLA_FLAGS", before or "")
    quiet._make_xla_repeatable()
    assert os.environ["XLA_FLAGS"].split() == after
