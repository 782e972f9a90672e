"""--time-limit of finetune: views and epochs that fit, from the pace of this machine, and a line about the plan."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import RunCli
from training_material import StopAfter

from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.jobs.finetune import run_finetune
from resnet_cli.jobs.plan import plan_finetune
from resnet_cli.jobs.start import FinetuneRequest
from resnet_cli.progress import Silent
from resnet_cli.runs.folder import read_history
from resnet_cli.training.config import FinetuneConfig
from resnet_cli.transfer.time_limit import FrozenPace, Limit, views_within

# A thousand images, 500 held out; with 0.0003 s for the head, a view of them all takes 10 s: 5 + 10 * views + 4 s for the head.
PACE = FrozenPace(row=0.0097, training=1000, held_out=500)
QUICK = ["--weights", "bundled", "--image-size", "32", "--val-split", "0.25", "--json"]


@pytest.mark.parametrize(
    ("limit", "spent", "unfreeze", "views"),
    [
        (1000, 10, "none", 12),  # time for all: 950 - 10 - 9 s
        (100, 10, "none", 7),  # 95 - 10 - 8.85: seven of 10 s
        (100, 10, "last", 2),  # half of it: 47.5 - 10 - 8.85
        (100, 10, "all", 1),  # a quarter leaves not one: 23.75 - 10 - 8.85; all of it leaves more
        (40, 10, "last", 1),  # half leaves none: 19 - 10 - 8.85
        (32, 10, "none", 1),
    ],
)
def test_as_many_views_are_made_as_their_part_of_the_limit_has_time_for(
    limit: float, spent: float, unfreeze: str, views: int
) -> None:
    assert views_within(limit, spent, PACE, unfreeze, usual=12, least=1) == views  # type: ignore[arg-type]


def test_a_limit_too_short_for_one_view_says_how_long_it_takes() -> None:
    with pytest.raises(ResnetError) as told:
        views_within(25, 10, PACE, "last", usual=12, least=1)
    # (10 + 4.85 + 10 + 4) / 0.95
    assert told.value.message == "--time-limit 25s is too short: the frozen layers and the head take 30 s here"
    assert told.value.hint == "give at least --time-limit 31s, a smaller --image-size or fewer images"
    with pytest.raises(ResnetError, match="take 51 s here"):  # three views were asked for
        views_within(40, 10, PACE, "none", usual=3, least=3)


def test_the_clock_begins_with_the_training_and_the_plan_is_told_beside_what_came_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr("resnet_cli.transfer.time_limit.time", SimpleNamespace(perf_counter=lambda: now[0]))
    limit = Limit(600, began=now[0])
    assert limit.outcome() == ""
    now[0] += 60
    limit.plan("3 views and 8 epochs", 480)
    now[0] += 510
    assert limit.spent() == 570
    assert limit.outcome() == "time limit 600 s: 3 views and 8 epochs planned to end after 540 s, ended after 570 s"
    now[0] += 3600
    assert limit.outcome().endswith("ended after 1 h 10 min")


@pytest.mark.slow
def test_fine_tuning_within_a_limit_ends_in_time_with_what_is_usual_where_there_is_time(
    run_cli: RunCli, tiny_dataset: Path, tmp_path: Path
) -> None:
    result = run_cli(
        "finetune", tiny_dataset, *QUICK[:-1], "--set", "patience=0", "--time-limit", "10m", "--output", tmp_path / "run"
    )
    assert result.exit_code == 0, result.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["time_limit"] == 600
    assert record["results"]["views"] == 12
    planned = r"^time limit 600 s: 12 views and 20 epochs planned to end after \d+ s, ended after \d+ s$"
    assert re.search(planned, result.stderr, re.MULTILINE), result.stderr


def test_a_limit_that_nothing_fits_into_is_one_sentence_and_leaves_nothing(
    run_cli: RunCli, tiny_dataset: Path, tmp_path: Path
) -> None:
    result = run_cli("finetune", tiny_dataset, *QUICK, "--time-limit", "1s", "--output", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: --time-limit 1s is too short: the frozen layers and the head take " in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_without_time_for_an_epoch_the_head_alone_is_trained_and_the_result_says_so(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoTimeAfterTheHead(Limit):
        def spent(self) -> float:
            return super().spent() + 590 * bool(self._what)

    monkeypatch.setattr("resnet_cli.transfer.phases.Limit", NoTimeAfterTheHead)
    progress = Silent()
    config = FinetuneConfig(time_limit=600, views=2, patience=0)
    result = run_finetune(plan_finetune(_request(tiny_dataset, tmp_path / "run"), config, progress), progress)
    assert result["kept"] == "head"
    told = "--time-limit 10 min leaves no time to fine-tune: one epoch takes "
    assert [warning for warning in result["warnings"] if warning.startswith(told)]


@pytest.mark.slow
def test_what_was_planned_holds_when_the_run_goes_on(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_cli.transfer.time_limit.views_within", lambda *others: 3)
    monkeypatch.setattr("resnet_cli.training.pace.Pace.epochs_within", lambda *others: 2)
    config, folder = FinetuneConfig(time_limit=600, patience=0), tmp_path / "run"
    request = _request(tiny_dataset, folder)
    with pytest.raises(Interrupted):
        run_finetune(plan_finetune(request, config, Silent()), StopAfter(1, title="epoch"))
    monkeypatch.setattr("resnet_cli.transfer.time_limit.views_within", lambda *others: 1)
    monkeypatch.setattr("resnet_cli.training.pace.Pace.epochs_within", lambda *others: 1)
    resumed = run_finetune(plan_finetune(replace(request, resume=True), config, Silent()), Silent())
    assert resumed["views"] == 3
    assert [record.epoch for record in read_history(folder / "metrics.jsonl") if record.stage == "tail"] == [1, 2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--epochs", "3"], "--time-limit chooses the epochs"),
        (["--lr-find", "plot"], "--lr-find plot trains nothing"),
    ],
)
def test_what_the_limit_decides_or_cannot_is_refused(
    options: list[str], said: str, run_cli: RunCli, tiny_dataset: Path
) -> None:
    result = run_cli("finetune", tiny_dataset, "--time-limit", "5m", *options)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


def _request(data: Path, folder: Path) -> FinetuneRequest:
    how = ("resnet8", "none", "32", "crop", folder, False, False, False, None, False, "resnet")
    return FinetuneRequest(data, *how)
