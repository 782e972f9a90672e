"""An interrupted training goes on as if nothing had happened: the same weights, bit for bit."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import MakeDataset, RunCli
from training_material import STEPS, HeldOut, Points, StopAfter, run, values

from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.jobs.finetune import run_finetune
from resnet_cli.jobs.plan import plan_finetune
from resnet_cli.jobs.start import FinetuneRequest
from resnet_cli.progress import Silent, Task
from resnet_cli.runs.folder import read_history
from resnet_cli.training.checkpoints import Stage
from resnet_cli.training.config import FinetuneConfig, TrainConfig
from resnet_cli.training.pace import Pace

CONFIG = TrainConfig(epochs=4, optimizer="adamw", learning_rate=0.03, weight_decay=0.01)
HINT = "type the same command with --resume to continue where it stopped"
QUICK = ["--arch", "resnet8", "--batch-size", "8", "--learning-rate", "0.02"]


@pytest.fixture(autouse=True)
def a_checkpoint_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of these tests are shorter than the time between checkpoints."""
    monkeypatch.setattr("resnet_cli.training.callbacks.CHECKPOINT_SECONDS", 0)


class Forbids(Silent):
    """Progress of a kind that must not come."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title

    def start(self, title: str, total: int | None) -> Task:
        assert title != self.title
        return super().start(title, total)


def histories(folder: Path) -> list[tuple[int, float, float, float, float]]:
    return [
        (record.epoch, record.loss, record.accuracy, record.val_loss, record.val_accuracy)
        for record in read_history(folder / "metrics.jsonl")
    ]


def stored_weights(folder: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(folder / "model.weights.h5", "r") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def assert_same_run(first: Path, second: Path) -> None:
    one, other = stored_weights(first), stored_weights(second)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrainConfig], tuple[Path, list[np.ndarray]]]:
    """The folder and the weights of a training that nobody disturbed."""
    known: dict[TrainConfig, tuple[Path, list[np.ndarray]]] = {}

    def get(config: TrainConfig) -> tuple[Path, list[np.ndarray]]:
        if config not in known:
            folder = tmp_path_factory.mktemp("whole")
            known[config] = folder, values(run(folder, config)[0])
        return known[config]

    return get


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "config"),
    [
        pytest.param(1, CONFIG, id="after the first step"),
        pytest.param(STEPS + 2, CONFIG, id="in the middle of an epoch"),
        pytest.param(2 * STEPS, CONFIG, id="after the last step of an epoch"),
        pytest.param(4 * STEPS, CONFIG, id="after the last step of all"),
        pytest.param(STEPS + 2, replace(CONFIG, ema=0.8), id="with averaged weights"),
        pytest.param(STEPS + 2, replace(CONFIG, optimizer="sgd"), id="with momentum"),
    ],
)
def test_a_stopped_training_ends_with_the_same_weights(
    steps: int, config: TrainConfig, tmp_path: Path, uninterrupted: Callable[[TrainConfig], tuple[Path, list[np.ndarray]]]
) -> None:
    folder, expected = uninterrupted(config)
    with pytest.raises(Interrupted) as stopped:
        run(tmp_path, config, StopAfter(steps))
    assert (stopped.value.exit_code, stopped.value.hint) == (143, HINT)
    model, result = run(tmp_path, config, resume=True)
    for value, other in zip(values(model), expected, strict=True):
        np.testing.assert_array_equal(value, other)
    assert histories(tmp_path) == histories(folder)
    assert [record.epoch for record in result.history] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_training_may_be_stopped_again_and_again(
    tmp_path: Path, uninterrupted: Callable[[TrainConfig], tuple[Path, list[np.ndarray]]]
) -> None:
    for attempt in range(3):
        with pytest.raises(Interrupted):
            run(tmp_path, CONFIG, StopAfter(3, signal=2), resume=attempt > 0)
    model, _ = run(tmp_path, CONFIG, resume=True)
    for value, other in zip(values(model), uninterrupted(CONFIG)[1], strict=True):
        np.testing.assert_array_equal(value, other)


class ManyHeldOut(HeldOut):
    """Forty batches; that of one number, counted over all epochs, does something first."""

    def __init__(self, number: int = -1, then: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.number, self.then, self.asked = number, then, 0

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        if self.asked == self.number:
            self.then()
        self.asked += 1
        return super().__getitem__(index)


class Watched(Points):
    """Batches that remember from which step on they were asked for, and whose step `gone` fails."""

    def __init__(self, gone: int = -1) -> None:
        super().__init__()
        object.__setattr__(self, "begun", [])
        object.__setattr__(self, "gone", gone)

    def batches(self, first_step: int = 0) -> Iterator[Any]:
        self.begun.append(first_step)
        for step, batch in enumerate(super().batches(first_step), first_step):
            if step == self.gone:
                _power_is_gone()
            yield batch


def _power_is_gone() -> None:
    raise ResnetError("the power is gone")


@pytest.mark.slow
@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, ema=0.8)], ids=["plain", "with averaged weights"])
def test_a_signal_ends_validation_at_its_next_batch_and_the_epoch_is_kept(config: TrainConfig, tmp_path: Path) -> None:
    expected, _ = run(tmp_path / "whole", config, held_out=ManyHeldOut())
    progress = StopAfter(10**6)

    def press() -> None:
        progress.left = 0

    held_out = ManyHeldOut(40 + 3, press)
    with pytest.raises(Interrupted) as stopped:
        run(tmp_path / "parts", config, progress, held_out=held_out)
    assert (stopped.value.exit_code, stopped.value.hint) == (143, HINT)
    assert held_out.asked < 40 + 20  # of 80; some are read ahead
    stream = Watched()
    model, _ = run(tmp_path / "parts", config, resume=True, stream=stream, held_out=ManyHeldOut())
    assert stream.begun == [2 * STEPS]
    for value, other in zip(values(model), values(expected), strict=True):
        np.testing.assert_array_equal(value, other)
    assert histories(tmp_path / "parts") == histories(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, ema=0.8)], ids=["plain", "with averaged weights"])
@pytest.mark.parametrize("twice", [False, True], ids=["once", "again in the validation that was left"])
def test_a_loss_of_power_in_validation_costs_that_validation_alone(
    config: TrainConfig, twice: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_cli.training.callbacks.MID_EPOCH_SECONDS", 0)
    expected, _ = run(tmp_path / "whole", config, held_out=ManyHeldOut())
    with pytest.raises(ResnetError, match="the power is gone"):
        run(tmp_path / "parts", config, held_out=ManyHeldOut(40 + 30, _power_is_gone))
    if twice:
        with pytest.raises(ResnetError, match="the power is gone"):
            run(tmp_path / "parts", config, resume=True, held_out=ManyHeldOut(30, _power_is_gone))
    stream = Watched()
    model, _ = run(tmp_path / "parts", config, resume=True, stream=stream, held_out=ManyHeldOut())
    assert stream.begun == [2 * STEPS]
    for value, other in zip(values(model), values(expected), strict=True):
        np.testing.assert_array_equal(value, other)
    assert histories(tmp_path / "parts") == histories(tmp_path / "whole")


@pytest.mark.slow
def test_a_loss_of_power_in_a_long_epoch_costs_the_time_since_the_last_checkpoint_alone(
    tmp_path: Path, uninterrupted: Callable[[TrainConfig], tuple[Path, list[np.ndarray]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_cli.training.callbacks.MID_EPOCH_SECONDS", 0)
    with pytest.raises(ResnetError, match="the power is gone"):
        run(tmp_path, CONFIG, stream=Watched(gone=STEPS + 4))
    stream = Watched()
    model, _ = run(tmp_path, CONFIG, resume=True, stream=stream)
    # Batches are read ahead of the step that is trained.
    assert STEPS < stream.begun[0] <= STEPS + 4
    for value, other in zip(values(model), uninterrupted(CONFIG)[1], strict=True):
        np.testing.assert_array_equal(value, other)


@pytest.mark.slow
@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_short_epochs_are_not_saved_one_by_one(ema: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_cli.training.callbacks.CHECKPOINT_SECONDS", 1000)
    saved: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        "resnet_cli.training.callbacks.save_checkpoint",
        lambda folder, model, point, metrics: saved.append((point.step, point.validated)),
    )
    run(tmp_path, replace(CONFIG, ema=ema))
    # Before the first validation, whose graph is compiled for long, and in the end.
    assert saved == [(STEPS, False), (4 * STEPS, True)]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"", b"PK not really", None], ids=["empty", "garbage", "cut short"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    damage: bytes | None, tmp_path: Path, uninterrupted: Callable[[TrainConfig], tuple[Path, list[np.ndarray]]]
) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, CONFIG, StopAfter(2 * STEPS + 1))
    older, newest = sorted((tmp_path / "checkpoint" / "train").glob("step-*.npz"))
    newest.write_bytes(newest.read_bytes()[:-200] if damage is None else damage)
    model, _ = run(tmp_path, CONFIG, resume=True)
    for value, other in zip(values(model), uninterrupted(CONFIG)[1], strict=True):
        np.testing.assert_array_equal(value, other)
    assert older.name == f"step-{2 * STEPS:09d}.npz"


def test_no_readable_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, CONFIG, StopAfter(2))
    for path in (tmp_path / "checkpoint" / "train").glob("step-*.npz"):
        path.write_bytes(b"")
    with pytest.raises(ResnetError, match="there is no readable checkpoint in"):
        run(tmp_path, CONFIG, resume=True)


def test_a_training_that_stopped_early_stays_stopped(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=40, patience=2)
    model, result = run(tmp_path, config)
    assert result.best_epoch + 2 <= len(result.history) < 40
    again, resumed = run(tmp_path, config, resume=True)
    assert len(resumed.history) == len(result.history)
    for value, other in zip(values(again), values(model), strict=True):
        np.testing.assert_array_equal(value, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "unfreeze", "lr_find"), [("resnet8", "last", None), ("resnet8", "last", "use"), ("resnet18-slim", "all", None)]
)
def test_fine_tuning_stopped_in_its_second_stage_goes_on_from_there(
    arch: str,
    unfreeze: Any,
    lr_find: str | None,
    make_dataset: MakeDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("resnet_cli.training.rate_finder.suggest", lambda rates, losses: 0.002)
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=10)
    config = FinetuneConfig(views=2, epochs=3, batch_size=4, patience=0, unfreeze=unfreeze)

    def finetune(name: str, progress: Silent, resume: bool = False) -> dict[str, Any]:
        folder = tmp_path / name
        request = FinetuneRequest(data, arch, "none", "64", "crop", folder, False, resume, False, lr_find, False, "resnet")
        return run_finetune(plan_finetune(request, config, progress), progress)

    whole = finetune("whole", Silent())
    with pytest.raises(Interrupted, match="stopped before the end"):
        finetune("parts", StopAfter(6, title="epoch"))
    assert not (tmp_path / "parts" / "run.json").exists()
    assert (tmp_path / "parts" / "checkpoint" / "tail").is_dir()
    # A range test is not repeated: by now it would start from other weights.
    resumed = finetune("parts", Forbids("learning rate"), resume=True)
    assert {**resumed, "run": "", "seconds": 0} == {**whole, "run": "", "seconds": 0}
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert not (tmp_path / "parts" / "checkpoint").exists()
    assert histories(tmp_path / "parts") == histories(tmp_path / "whole")
    rates = [json.loads((tmp_path / name / "run.json").read_text())["config"]["learning_rate"] for name in ("whole", "parts")]
    assert rates == ([0.002] * 2 if lr_find else [config.rate] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("title", ["reading training", "features of training", "learning rate", "measuring"])
def test_fine_tuning_stops_wherever_it_is_asked_to(title: str, make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=10)
    request = FinetuneRequest(
        data, "resnet8", "none", "32", "crop", tmp_path / "run", False, False, True, "use", False, "resnet"
    )
    with pytest.raises(Interrupted) as stopped:
        run_finetune(
            plan_finetune(request, FinetuneConfig(views=2, epochs=1), StopAfter(1, title=title)), StopAfter(1, title=title)
        )
    assert ("--resume" in stopped.value.hint) is (tmp_path / "run").exists() is (title != "reading training")
    assert not (tmp_path / "run" / "run.json").exists()


def test_fine_tuning_stopped_while_features_are_computed_can_be_resumed_as_the_hint_says(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=10)
    request = FinetuneRequest(
        data, "resnet8", "none", "32", "crop", tmp_path / "run", False, False, False, None, False, "resnet"
    )
    config = FinetuneConfig(views=4, epochs=1, unfreeze="none", seed=20)  # a fifth of each class, to the image
    with pytest.raises(Interrupted) as stopped:
        run_finetune(plan_finetune(request, config, Silent()), StopAfter(1, title="features"))
    assert "--resume" in stopped.value.hint
    plan = plan_finetune(replace(request, resume=True), config, Silent())
    assert run_finetune(plan, Silent())["val"]["count"] == len(plan.dataset.splits["val"])


@pytest.mark.parametrize("unfreeze", ["none", "all", "last"])
def test_what_went_through_the_frozen_layers_does_not_go_through_them_again_without_the_users_cache(
    unfreeze: Any, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=10)
    limit = 0.0 if unfreeze == "last" else None  # GB: too little for the boundary
    request = FinetuneRequest(
        data, "resnet8", "none", "32", "crop", tmp_path / "run", False, False, False, None, False, "resnet"
    )
    config = FinetuneConfig(views=2, epochs=1, unfreeze=unfreeze, cache=False, cache_limit=limit)
    with pytest.raises(Interrupted):
        run_finetune(plan_finetune(request, config, Silent()), StopAfter(1, title="head"))
    plan = plan_finetune(replace(request, resume=True), config, Silent())
    resumed = run_finetune(plan, Forbids("features of training images"))
    assert resumed["val"]["count"] == len(plan.dataset.splits["val"])


@pytest.mark.slow
def test_the_program_saves_and_says_how_to_go_on_when_it_is_terminated(
    make_dataset: MakeDataset, tmp_path: Path, run_cli: RunCli
) -> None:
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=30)
    command = ["train", str(data), *QUICK, "--epochs", "20", "--json"]
    program = [sys.executable, "-c", "from resnet_cli.cli.app import main; main()"]
    stopped = tmp_path / "stopped"
    with subprocess.Popen([*program, *command, "--output", str(stopped)], stderr=subprocess.PIPE, text=True) as process:
        try:
            until = time.monotonic() + 90
            while not (stopped / "metrics.jsonl").exists() or not (stopped / "metrics.jsonl").read_text():
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 143
    assert stderr == f"error: stopped before the end\nhint: {HINT}\n"
    assert not (stopped / "run.json").exists()
    done = len(histories(stopped))
    assert done < 20
    refused = run_cli(*command, "--output", stopped)
    assert refused.exit_code == 1 and "contains an interrupted run" in refused.stderr and "--resume" in refused.stderr
    # Nothing in the checkpoint depends on the process: this one goes on, and ends where one that was never stopped ends.
    resumed = run_cli(*command, "--output", stopped, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    whole = run_cli(*command, "--output", tmp_path / "whole")
    assert {**json.loads(resumed.stdout), "run": 0, "seconds": 0} == {**json.loads(whole.stdout), "run": 0, "seconds": 0}
    assert_same_run(stopped, tmp_path / "whole")
    record = json.loads((stopped / "run.json").read_text())
    assert "--resume" not in record["command"] and "--epochs 20" in record["command"]
    assert record["results"]["seconds"] >= sum(each.seconds for each in read_history(stopped / "metrics.jsonl")) - 0.1


@pytest.fixture
def interrupted(make_dataset: MakeDataset, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data set of a training that was asked to stop at its first step."""
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=10)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        begun = tmp_path / "runs"
        patch.setattr("resnet_cli.cli.reporter.Reporter.stop_signal", lambda self: signal.SIGINT if begun.exists() else 0)
        result = run_cli("train", data, *QUICK, "--epochs", 2)
    assert (result.exit_code, result.stdout) == (130, "")
    return data


def test_other_options_or_other_images_do_not_resume(
    interrupted: Path, run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    checkpoint = sorted(tmp_path.rglob("step-*.npz"))
    result = run_cli("train", interrupted, *QUICK, "--epochs", 3, "--resume")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-2:] == [
        "error: the run runs/pets-resnet8 began with epochs 2, not 3",
        "hint: resume with the options and keys it began with",
    ]
    make_dataset(interrupted, ("cat",), count=1, first=10)
    result = run_cli("train", interrupted, *QUICK, "--epochs", 2, "--resume")
    assert result.exit_code == 1
    assert "error: the run runs/pets-resnet8 began with other images\n" in result.stderr
    assert sorted(tmp_path.rglob("step-*.npz")) == checkpoint


def test_the_run_goes_on_that_began_with_what_is_typed(
    make_dataset: MakeDataset, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=10)
    monkeypatch.chdir(tmp_path)
    runs = [["--time-limit", "1h"], ["--epochs", "2", "--shortcut", "B"], ["--epochs", "2"], []]
    # Which run goes on is decided before its first step, so none of these trainings takes one.
    trained: list[str] = []

    def interrupted(model: Any, stream: Any, held_out: Any, config: TrainConfig, stage: Stage, *others: Any) -> None:
        trained.append(str(stage.folder))
        raise Interrupted(signal.SIGINT, HINT)

    monkeypatch.setattr("resnet_cli.jobs.train.train", interrupted)
    monkeypatch.setattr("resnet_cli.jobs.train.measure_pace", lambda *given: Pace(1, 1, 1))
    for resume in ([], ["--resume"]):
        for options in runs:
            assert run_cli("train", data, *QUICK, *options, *resume).exit_code == 130
    assert trained == ["runs/pets-resnet8", "runs/pets-resnet8-2", "runs/pets-resnet8-3", "runs/pets-resnet8-4"] * 2
    # None began with another limit.
    result = run_cli("train", data, *QUICK, "--time-limit", "2h", "--resume")
    assert result.exit_code == 1 and "began with time_limit None, not 7200s" in result.stderr


@pytest.mark.parametrize("options", [[], ["--output", "somewhere"]])
def test_nothing_to_resume_is_one_sentence(
    options: list[str], tiny_dataset: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_cli("train", tiny_dataset, *QUICK, "--resume", *options)
    where = options[-1] if options else "runs/fruit-resnet8"
    assert result.exit_code == 1
    assert result.stderr.endswith(
        f"\nerror: there is no interrupted run at {where}\nhint: leave --resume out to start a new one\n"
    )


@pytest.fixture
def stopped_words(make_dataset: MakeDataset, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The command of a fine-tuning that was asked to stop when its head was trained, in the folder `run`."""
    monkeypatch.setattr("resnet_cli.transfer.phases.is_perfect", lambda record: False)  # fine-tuning would be skipped
    data, run = make_dataset(tmp_path / "pets", ("cat", "dog"), count=10), tmp_path / "run"
    words = ["finetune", data, "--arch", "resnet8", "--weights", "none", "--image-size", 32, "--epochs", 1, "--json"]
    words += ["--unfreeze", "last", "--output"]
    with monkeypatch.context() as patch:
        patch.setattr(
            "resnet_cli.cli.reporter.Reporter.stop_signal", lambda self: signal.SIGINT * (run / "metrics.jsonl").exists()
        )
        assert run_cli(*words, run).exit_code == 130
    return words


@pytest.mark.slow
def test_a_run_goes_on_with_the_activations_that_it_began_with_whatever_the_disk_has_by_now(
    stopped_words: list[object], tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_cli(*stopped_words, tmp_path / "whole")
    monkeypatch.setattr("resnet_cli.transfer.features.shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    resumed = run_cli(*stopped_words, tmp_path / "run", "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    first, second = ({**json.loads(each.stdout), "run": 0, "seconds": 0} for each in (whole, resumed))
    assert second == first and second["views"] == 12
    # Activations that are computed as needed are of other views, and have other losses.
    assert histories(tmp_path / "run") == histories(tmp_path / "whole")


def test_a_run_that_an_older_version_left_unfinished_is_refused_in_one_sentence(
    stopped_words: list[object], tmp_path: Path, run_cli: RunCli
) -> None:
    run = tmp_path / "run"
    (run / "checkpoint" / "frozen").rename(run / "checkpoint" / "activations")
    before = sorted(run.rglob("*"))
    result = run_cli(*stopped_words, run, "--resume")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-2:] == [
        f"error: the run {run} was interrupted in an older version, whose features this one cannot read",
        "hint: resume it with that version, or begin a new run",
    ]
    assert sorted(run.rglob("*")) == before
