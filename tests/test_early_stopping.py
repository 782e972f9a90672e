"""Training ends when validation gains nothing more, and fine-tuning is not begun where nothing is left to gain."""

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeDataset, RunCli, run_once

from resnet_cli.runs.folder import EpochRecord, read_history
from resnet_cli.training.callbacks import epochs_without_gain, is_perfect

# A network without pretrained weights that is quick to build.
QUICK = ["--arch", "resnet8", "--weights", "none", "--set", "views=2", "--image-size", "32", "--batch-size", "4", "--json"]


def record(epoch: int, val_accuracy: float, val_loss: float, learning_rate: float = 0.1) -> EpochRecord:
    return EpochRecord("tail", epoch, 0.5, 0.9, val_loss, val_accuracy, learning_rate, 100.0, 1.0)


def history(*figures: tuple[float, ...]) -> list[EpochRecord]:
    return [record(epoch, *each) for epoch, each in enumerate(figures, 1)]


@pytest.mark.parametrize(
    ("figures", "waited"),
    [
        ([], 0),
        ([(0.5, 0.7)], 0),
        ([(0.5, 0.7), (0.5, 0.7)], 1),
        pytest.param([(0.5, 0.7), (0.4, 0.6), (0.4, 0.65)], 1, id="a lower loss is a gain at a lower accuracy"),
        pytest.param([(0.5, 0.7), (0.6, 0.8), (0.6, 0.75)], 1, id="a higher accuracy is a gain at a higher loss"),
        pytest.param([(0.9, 0.2), (0.8, 0.3), (0.85, 0.25), (0.89, 0.21)], 3, id="recovery is no gain"),
        pytest.param([(0.5, 0.7, 0.1), (0.4, 0.9, 0.2), (0.4, 0.9, 0.3), (0.4, 0.9, 0.2)], 1, id="warm-up does not count"),
        pytest.param([(0.5, 0.7, 0.1), (0.4, 0.9, 0.1), (0.4, 0.9, 0.1)], 2, id="a constant rate has no warm-up"),
    ],
)
def test_epochs_without_gain_are_counted(figures: list[tuple[float, ...]], waited: int) -> None:
    assert epochs_without_gain(history(*figures)) == waited


def test_a_second_phase_gains_where_it_surpasses_the_first() -> None:
    head = record(40, 0.9, 0.3)
    below = history((0.7, 0.6), (0.8, 0.5), (0.85, 0.4))
    assert epochs_without_gain(below) == 0
    assert epochs_without_gain(below, head) == 2
    assert epochs_without_gain([*below, record(4, 0.85, 0.29)], head) == 0
    assert epochs_without_gain([*below, record(4, 0.91, 0.4)], head) == 0


def test_a_head_is_perfect_with_every_image_right_and_sure() -> None:
    assert is_perfect(record(1, 1.0, 0.049))
    assert not is_perfect(record(1, 1.0, 0.05))
    assert not is_perfect(record(1, 0.999, 0.001))


def test_of_equal_accuracies_the_lower_loss_is_better() -> None:
    records = [record(1, 0.8, 0.1), record(2, 0.9, 0.5), record(3, 0.9, 0.4), record(4, 0.7, 0.05)]
    assert [each.epoch for each in sorted(records, key=lambda each: each.rank)] == [3, 2, 1, 4]


def stages_of(run: Path) -> dict[str, int]:
    """Epochs of each stage."""
    stages = [each.stage for each in read_history(run / "metrics.jsonl")]
    return {stage: stages.count(stage) for stage in dict.fromkeys(stages)}


def same_figures(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "run": "", "seconds": 0}


@pytest.mark.slow
def test_fine_tuning_is_skipped_behind_a_perfect_head_and_on_request_is_not(
    run_cli: RunCli, tiny_dataset: Path, tmp_path: Path
) -> None:
    options = ["--weights", "bundled", "--set", "views=2", "--image-size", 32, "--epochs", 1]
    skipped = run_cli("finetune", tiny_dataset, *options, "--output", tmp_path / "skipped")
    assert skipped.exit_code == 0, skipped.stderr
    result = json.loads((tmp_path / "skipped" / "run.json").read_text())["results"]
    assert (result["fine_tuning"], result["fine_tuning_epochs"], result["kept"]) == ("skipped", 0, "head")
    assert list(stages_of(tmp_path / "skipped")) == ["head"]
    told = (
        f"fine-tuning skipped: the head is right on all {result['val']['count']} validation images, at a validation loss of 0.0"
    )
    assert told in " ".join(skipped.stderr.split())
    assert "fine-tuning: skipped, the head left nothing to gain in validation" in skipped.stdout
    assert result["val"]["top1"] == 1.0
    asked = run_cli("finetune", tiny_dataset, *options, "--set", "patience=0", "--output", tmp_path / "asked", "--json")
    result = json.loads(asked.stdout)
    assert (result["fine_tuning"], result["fine_tuning_epochs"]) == ("finished", 1)
    assert stages_of(tmp_path / "asked")["tail"] == 1


def test_the_head_alone_has_no_fine_tuning(run_cli: RunCli, tiny_dataset: Path, tmp_path: Path) -> None:
    result = run_cli("finetune", tiny_dataset, *QUICK[:-3], "--json", "--unfreeze", "none", "--output", tmp_path / "run")
    figures = json.loads(result.stdout)
    assert (figures["fine_tuning"], figures["fine_tuning_epochs"]) == ("none", 0)


@dataclass(frozen=True)
class Stopped:
    """A command whose rate spoils a network behind a perfect head, so that its fine-tuning stops early, and what it gave."""

    command: tuple[object, ...]
    folder: Path
    result: dict[str, Any]


@pytest.fixture(scope="module")
def stopped(make_dataset: MakeDataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stopped]:
    root = tmp_path_factory.mktemp("stopped")
    options = ["--weights", "bundled", "--set", "views=2", "--image-size", 32, "--batch-size", 4, "--json"]
    options += ["--epochs", 20, "--learning-rate", 0.5, "--set", "patience=2"]
    command = ("finetune", make_dataset(root / "fruit"), *options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resnet_cli.transfer.phases.is_perfect", lambda record: False)  # it would be skipped
        result = run_once(*command, "--output", root / "whole")
        assert result.exit_code == 0, result.stderr
        yield Stopped(command, root / "whole", json.loads(result.stdout))


def test_fine_tuning_that_gains_nothing_stops_and_says_so(stopped: Stopped) -> None:
    result = stopped.result
    epochs = result["fine_tuning_epochs"]
    assert (result["fine_tuning"], result["kept"]) == ("stopped early", "head")
    assert epochs == stages_of(stopped.folder)["tail"] < 20
    tail = [each for each in read_history(stopped.folder / "metrics.jsonl") if each.stage == "tail"]
    assert len(tail) == 1 + max(range(epochs), key=lambda index: tail[index].learning_rate) + 2
    (told,) = [each for each in result["warnings"] if "fine-tuning" in each]
    assert told.startswith(f"{epochs} epochs of fine-tuning gained nothing in validation (accuracy ")
    assert told.endswith("the head alone was kept")


@pytest.mark.slow
@pytest.mark.parametrize("at", ["in its last epoch", "after it"])
def test_fine_tuning_interrupted_where_it_stops_early_arrives_at_the_same(
    at: str, stopped: Stopped, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, whole = stopped.command, stopped.result
    last = whole["fine_tuning_epochs"] - (at == "in its last epoch")
    run = tmp_path / "parts"

    def signal_asks(reporter: object) -> int:
        return signal.SIGINT * (stages_of(run).get("tail", 0) == last)

    with monkeypatch.context() as patch:
        patch.setattr("resnet_cli.cli.reporter.Reporter.stop_signal", signal_asks)
        assert run_cli(*command, "--output", run).exit_code == 130
    assert not (run / "run.json").exists()
    resumed = run_cli(*command, "--output", run, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert same_figures(json.loads(resumed.stdout)) == same_figures(whole)
    assert stages_of(run) == stages_of(stopped.folder)


def test_how_long_fine_tuning_waits_is_about_the_second_stage_alone(run_cli: RunCli, tiny_dataset: Path) -> None:
    result = run_cli("finetune", tiny_dataset, "--unfreeze", "none", "--set", "patience=6")
    assert result.exit_code == 1
    assert "patience contradicts the rest: it is about the fine-tuning phase" in " ".join(
        result.stderr.replace("│", " ").split()
    )
