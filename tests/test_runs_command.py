"""`resnet runs` lists what is there, newest first, at any width."""

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import Finetuned, RunCli

from resnet_cli.cli import console


@pytest.fixture
def three_runs(finetuned_run: Finetuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two complete runs, of which the first is the newer one, an interrupted one and a folder that is none."""
    monkeypatch.chdir(tmp_path)
    for name, when in (("new", 2_000_000_000), ("old", 1_700_000_000)):
        shutil.copytree(finetuned_run.folder, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "run.json", (when, when))
    (tmp_path / "runs" / "stopped" / "checkpoint").mkdir(parents=True)
    (tmp_path / "runs" / "stopped" / "checkpoint" / "config.json").write_text("{}")
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "run.json").write_text("{")
    return tmp_path


def test_runs_are_listed_newest_first_with_their_figures(three_runs: Path, finetuned_run: Finetuned, run_cli: RunCli) -> None:
    new, old, stopped = json.loads(run_cli("runs", "--json").stdout)
    assert (new["folder"], old["folder"], stopped["folder"]) == ("runs/new", "runs/old", "runs/stopped")
    assert (new["top1"], new["split"], new["images"]) == (finetuned_run.result["val"]["top1"], "val", finetuned_run.held)
    assert (new["dataset"], new["network"], new["finished"]) == ("fruit", "resnet18-slim", 2_000_000_000)
    assert {stopped[name] for name in stopped if name != "folder"} == {None}


@pytest.mark.parametrize(
    ("columns", "lacks"), [(160, set()), (80, set()), (60, {"time", "finished"}), (45, {"time", "finished", "images", "data"})]
)
def test_on_a_narrow_terminal_columns_are_left_out(
    columns: int, lacks: set[str], three_runs: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.out, "_width", columns)
    printed = run_cli("runs").stdout
    heading = printed.splitlines()[1 if columns == 160 else 0]  # below a border where there is room for one
    assert {name for name in ("run", "data", "images", "time", "finished", "accuracy") if name not in heading} == lacks
    assert max(map(len, printed.splitlines())) <= columns
    assert "interrupted" in printed and "runs/stopped" in printed and "…" not in printed
    assert (f"Not shown at this width: {'data, images, time, ' if columns == 45 else 'time, '}" in printed) == bool(lacks)


def test_on_the_narrowest_terminal_rows_are_stacked_and_names_stay_whole(
    three_runs: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.out, "_width", 24)
    printed = run_cli("runs").stdout
    assert printed.splitlines()[0] == "runs/new" and "\n  network   resnet18-slim\n" in printed and "…" not in printed


def test_no_runs_is_a_sentence_and_a_wrong_folder_an_error(
    tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_cli("runs").stdout == "there are no runs in runs\n" and json.loads(run_cli("runs", "--json").stdout) == []
    result = run_cli("runs", "elsewhere")
    assert result.exit_code == 1 and "there is no folder elsewhere" in result.stderr
