"""`train --ray`: Ray Train runs the same training; without Ray, or with a wrong address, there is one sentence."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from conftest import MakeDataset, RunCli
from test_devices import assert_equal_runs

from resnet_cli.errors import ResnetError
from resnet_cli.jobs.launch import is_worth_a_restart
from resnet_cli.jobs.start import LAUNCH, Place, begin_run, is_of_launch, let_go

TRAIN = "--arch resnet8 --image-size 16 --seed 4 --batch-size 8 --learning-rate 0.02 --epochs 5 --json"


@pytest.mark.slow
def test_two_processes_on_ray_train_as_one_does(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path / "fruit" / "train", count=10)
    make_dataset(tmp_path / "fruit" / "val", count=3, first=10)
    command = [sys.executable, "-m", "resnet_cli", "train", "fruit", *TRAIN.split()]
    done = [
        subprocess.run(
            [*command, *words],
            env={**os.environ, "KERAS_BACKEND": "jax", **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        for words, environment in (
            (("--output", "one"), {}),
            (("--output", "ray", "--ray", "local"), {"RESNET_PROCESSES": "2"}),
        )
    ]
    assert [each.returncode for each in done] == [0, 0], done[1].stderr
    one, two = (json.loads(each.stdout) for each in done)
    assert one.keys() == two.keys() and one["val"] == two["val"]
    assert "Traceback" not in done[1].stderr
    assert json.loads((tmp_path / "ray" / "run.json").read_text())["processes"] == 2
    assert_equal_runs(tmp_path / "one", tmp_path / "ray")


@pytest.mark.parametrize("force", [False, True])
def test_only_a_run_that_this_launch_has_begun_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    run = tmp_path / "run"
    if force:  # there is an interrupted run of another launch
        monkeypatch.setenv(LAUNCH, "earlier")
        begin_run(Place(run), {"epochs": 3}, "resnet train fruit")
        let_go()
    monkeypatch.setenv(LAUNCH, "now")
    assert not is_of_launch(run, "now")
    begin_run(Place(run, force=force), {"epochs": 3}, "resnet train fruit")
    let_go()
    assert is_of_launch(run, "now") and not is_of_launch(run, "earlier")


def test_a_process_that_refuses_to_begin_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    assert [is_worth_a_restart(code, run, "now") for code in (0, 1, 2, 134, 137)] == [False, False, False, True, True]
    monkeypatch.setenv(LAUNCH, "now")
    begin_run(Place(run), {"epochs": 3}, "resnet train fruit")
    let_go()
    assert [is_worth_a_restart(code, run, "now") for code in (0, 1, 137)] == [False, True, True]


def test_a_table_of_labels_is_relative_to_its_own_folder_on_ray_too(
    tiny_dataset: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(address: str, words: list[str], *others: object) -> None:
        raise ResnetError(f"{address} gets {' '.join(words[:3])}")

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr("resnet_cli.cli.train.launch", launch)
    rows = [f"{path.relative_to(tiny_dataset)},{path.parent.name}" for path in sorted(tiny_dataset.glob("*/*.png"))]
    table = tiny_dataset / "labels.csv"
    table.write_text("\n".join(["path,label", *rows]))
    arguments = ("train", "--labels", table, "--arch", "resnet8", "--ray", "local")
    monkeypatch.setattr(sys, "argv", ["resnet", *map(str, arguments)])
    assert run_cli(*arguments).stderr.endswith(f"error: local gets train --labels {table}\n")


def test_without_ray_there_is_one_sentence(tiny_dataset: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("importlib.metadata.version", version)
    result = run_cli("train", tiny_dataset, "--ray", "local")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == ("error: --ray needs the package ray\nhint: pip install 'resnet-cli[ray]'\n")


def test_a_ray_that_is_too_old_is_named(tiny_dataset: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda package: "2.9.3")
    result = run_cli("train", tiny_dataset, "--ray", "local")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: Ray 2.9.3 is too old: at least 2.50 is needed\n")


def test_options_for_one_process_are_refused_before_ray_starts(tiny_dataset: Path, run_cli: RunCli) -> None:
    result = run_cli("train", tiny_dataset, "--ray", "local", "--time-limit", "5m")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: --time-limit works in one process only, not in several\nhint: give --epochs")
