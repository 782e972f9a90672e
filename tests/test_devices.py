"""Two virtual CPU devices train as one device does with the same batches: the same losses and weights, on either backend."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import MakeDataset
from training_material import Points, StopAfter, run

from resnet_cli.data.batches import Order, Part
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.runs.folder import read_history
from resnet_cli.training.config import TrainConfig

SCRIPT = Path(__file__).with_name("device_commands.py")
CONFIG = TrainConfig(epochs=2, learning_rate=0.03)
BACKENDS = ("jax", "tensorflow")
TRAIN = "--arch resnet8 --image-size 16 --seed 4 --batch-size 8 --epochs 5 --learning-rate 0.02"  # 20 steps
FINETUNE = "--arch resnet8 --weights none --image-size 16 --set views=2 --set cache=false --engine keras --batch-size 8"
SHARED = "every batch is shared by 2 devices"


@dataclass(frozen=True)
class Session:
    """The folder in which commands ran on one backend, and what became of each."""

    backend: str
    folder: Path
    results: dict[str, dict[str, Any]]


@pytest.fixture(scope="module", params=BACKENDS)
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset) -> Session:
    """20 steps on one device, and on two with an interruption; with TensorFlow, also the fine-tuning phase of a finetune."""
    folder = tmp_path_factory.mktemp(request.param)
    make_dataset(folder / "fruit" / "train", count=10)  # 30 images, of which every epoch shows two twice
    make_dataset(folder / "fruit" / "val", count=3, first=10)  # 9 images: the last device gets one less
    train = ["train", "fruit", *TRAIN.split()]
    finetune = ["finetune", "fruit", *FINETUNE.split(), "--unfreeze", "last", "--epochs", "2"]
    commands = {
        "one": ([*train, "--output", "one"], 1, 0),
        "interrupted": ([*train, "--output", "two"], 2, 6),
        "two": ([*train, "--output", "two", "--resume"], 2, 0),
    }
    if request.param == "tensorflow":
        commands["finetune one"] = ([*finetune, "--output", "finetune-one"], 1, 0)
        commands["finetune two"] = ([*finetune, "--output", "finetune-two"], 2, 0)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT)],
        input=json.dumps(list(commands.values())),
        # Of one device: the fused kernel of batch-norm rounds variances in its own way, by up to 3e-3 of a loss over 20 steps.
        env={**os.environ, "KERAS_BACKEND": request.param, "RESNET_WITHOUT": "bf16,fused-batch-norm"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return Session(request.param, folder, dict(zip(commands, results, strict=True)))


def weights(run: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(run / "model.weights.h5") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def assert_equal_runs(one: Path, other: Path) -> None:
    """Losses to 1e-5, and weights to 1e-4, which is the rounding of 20 steps."""
    first, second = (
        [(each.loss, each.accuracy, each.val_loss, each.val_accuracy) for each in read_history(run / "metrics.jsonl")]
        for run in (one, other)
    )
    np.testing.assert_allclose(second, first, rtol=0, atol=1e-5)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys() and len(ours) > 30
    for name in ours:
        np.testing.assert_allclose(theirs[name], ours[name], rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_two_devices_train_as_one_does_with_the_same_batches(session: Session) -> None:
    assert session.results["interrupted"]["exit_code"] == 130, session.results["interrupted"]["stderr"]
    assert session.results["two"]["exit_code"] == 0, session.results["two"]["stderr"]
    assert len(read_history(session.folder / "two" / "metrics.jsonl")) == 5
    assert_equal_runs(session.folder / "one", session.folder / "two")


@pytest.mark.slow
@pytest.mark.parametrize("session", ["tensorflow"], indirect=True)
def test_the_last_stage_is_fine_tuned_on_two_devices(session: Session) -> None:
    assert session.results["finetune two"]["exit_code"] == 0, session.results["finetune two"]["stderr"]
    assert_equal_runs(session.folder / "finetune-one", session.folder / "finetune-two")


@pytest.mark.slow
def test_a_run_says_how_many_devices_trained_it(session: Session) -> None:
    for name, devices in (("one", 1), ("two", 2)):
        record = json.loads((session.folder / name / "run.json").read_text())
        assert (record["devices"], record["processes"]) == (devices, 1)
        assert session.results[name]["stderr"].count(SHARED) == devices - 1


def test_a_run_does_not_continue_with_another_number_of_images_a_step(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, CONFIG, StopAfter(7))
    with pytest.raises(ResnetError, match="trained 16 images a step, and these devices can only share 18 equally") as refused:
        run(tmp_path, CONFIG, resume=True, stream=Points(images_per_step=18))
    assert refused.value.hint == "resume it on as many devices as it began with"


@pytest.mark.parametrize(("devices", "size"), [(1, 95), (2, 96), (4, 96), (8, 96)])
def test_every_device_gets_the_same_number_of_images(devices: int, size: int) -> None:
    order = Order(count=95, batch_size=128, seed=0, devices=devices)
    assert (order.steps_per_epoch, order.images_per_step) == (1, size)
    assert {index for _, index in order.drawn(0)} == set(range(95))


def test_the_parts_of_a_batch_are_the_batch() -> None:
    rows = list(range(12))
    assert [row for index in range(3) for row in rows[Part(index, 3, 6).rows(12)]] == rows
