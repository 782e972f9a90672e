"""--tensorboard: the figures of metrics.jsonl as event files, read back with TensorBoard's own reader."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeDataset, RunCli
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_bad_input import room_for
from training_material import STEPS, HeldOut, Points, StopAfter, network

from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.progress import Progress, Silent
from resnet_cli.training.callbacks import EpochRecord, read_history
from resnet_cli.training.checkpoints import Stage
from resnet_cli.training.config import TrainConfig
from resnet_cli.training.loop import train
from resnet_cli.training.tensorboard import EventFile

FIGURES = ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "images_per_second"]
CONFIG = TrainConfig(epochs=4, optimizer="adamw", learning_rate=0.03, weight_decay=0.01)
RECORD = EpochRecord("train", 1, 0.5, 0.75, 0.6, 0.7, 0.1, 100.0, 2.0)


def reader(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def assert_same_as_metrics(run: Path, stage: str, events: EventAccumulator) -> None:
    """Every figure of every epoch once, in order; an event file holds single precision."""
    records = [record for record in read_history(run / "metrics.jsonl") if record.stage == stage]
    assert records
    assert sorted(events.Tags()["scalars"]) == sorted(FIGURES)
    for name in FIGURES:
        scalars = events.Scalars(name)
        assert [scalar.step for scalar in scalars] == [record.epoch for record in records]
        expected = [np.float32(getattr(record, name)) for record in records]
        np.testing.assert_array_equal([scalar.value for scalar in scalars], expected, err_msg=name)
        times = [scalar.wall_time for scalar in scalars]
        assert times == sorted(times)


def run(folder: Path, progress: Progress, resume: bool = False, tensorboard: bool = True) -> None:
    stage = Stage("train", folder, resume, announce=False, tensorboard=tensorboard)
    train(network(), Points(), HeldOut(), CONFIG, stage, progress)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [STEPS + 2, 2 * STEPS], ids=["in the middle of an epoch", "between two epochs"])
def test_a_training_that_goes_on_has_every_epoch_once(steps: int, tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard" / "train"
    with pytest.raises(Interrupted):
        run(tmp_path, StopAfter(steps))
    viewer = reader(folder)
    assert_same_as_metrics(tmp_path, "train", viewer)
    run(tmp_path, Silent(), resume=True)
    assert len(list(folder.iterdir())) == 1
    assert_same_as_metrics(tmp_path, "train", reader(folder))
    viewer.Reload()  # one that was open all the while
    assert_same_as_metrics(tmp_path, "train", viewer)


@pytest.mark.slow
def test_a_checkpoint_that_is_older_than_the_newest_epoch_takes_it_from_the_events_too(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, StopAfter(2 * STEPS + 1))
    sorted((tmp_path / "checkpoint" / "train").glob("step-*.npz"))[-1].write_bytes(b"")
    run(tmp_path, Silent(), resume=True)
    assert_same_as_metrics(tmp_path, "train", reader(tmp_path / "tensorboard" / "train"))


@pytest.mark.slow
def test_a_run_that_began_without_events_has_all_of_them_if_it_goes_on_with(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, StopAfter(2 * STEPS), tensorboard=False)
    assert not (tmp_path / "tensorboard").exists()
    run(tmp_path, Silent(), resume=True)
    assert_same_as_metrics(tmp_path, "train", reader(tmp_path / "tensorboard" / "train"))


@pytest.mark.slow
def test_finetune_writes_both_stages(make_dataset: MakeDataset, run_cli: RunCli, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=6)
    options = ["--weights", "bundled", "--set", "views=2", "--epochs", "2", "--image-size", "32"]
    result = run_cli(
        "finetune", data, *options, "--set", "patience=0", "--quiet", "--tensorboard", "--output", tmp_path / "run"
    )
    assert result.exit_code == 0, result.stderr
    for stage in ("head", "tail"):
        assert_same_as_metrics(tmp_path / "run", stage, reader(tmp_path / "run" / "tensorboard" / stage))


@pytest.mark.slow
def test_train_writes_its_stage(make_dataset: MakeDataset, run_cli: RunCli, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=6)
    options = ["--arch", "resnet8", "--batch-size", "8", "--epochs", "2", "--quiet", "--tensorboard"]
    result = run_cli("train", data, *options, "--output", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert_same_as_metrics(tmp_path / "run", "train", reader(tmp_path / "run" / "tensorboard" / "train"))


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_without_the_package_one_sentence_says_so_before_anything_is_done(
    command: str, monkeypatch: pytest.MonkeyPatch, run_cli: RunCli, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.chdir(tmp_path)
    result = run_cli(command, "no-such-folder", "--tensorboard")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "error: --tensorboard needs the package tensorboard\nhint: pip install 'resnet-cli[tensorboard]'\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    events = EventFile(tmp_path / "train", [RECORD])
    with room_for(100), pytest.raises(ResnetError, match=f"cannot write {tmp_path}/train/events"):
        events.append(RECORD)


SCRIPT = """
import json, sys
from pathlib import Path
asked = []
sys.addaudithook(lambda event, arguments: asked.append(event) if event.startswith("socket.") else None)
from resnet_cli.training.tensorboard import EventFile
from types import SimpleNamespace
names = "loss accuracy val_loss val_accuracy learning_rate images_per_second".split()
EventFile(Path(sys.argv[1]), []).append(SimpleNamespace(epoch=1, **dict.fromkeys(names, 0.5)))
print(json.dumps([asked, [name for name in ("tensorflow", "keras", "jax") if name in sys.modules]]))
"""


def test_writing_needs_neither_tensorflow_nor_a_connection(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == [[], []]
    assert [scalar.value for scalar in reader(tmp_path).Scalars("loss")] == [0.5]
