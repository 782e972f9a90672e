"""How a run begins: in a folder of its own, whatever else begins meanwhile."""

import os
from pathlib import Path

import pytest

from resnet_cli.cli.beginning import begin_run, begun_with, place_of_run
from resnet_cli.errors import ResnetError


def test_two_runs_that_begin_together_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Both choose a folder, then read pictures for minutes, then make it.
    monkeypatch.chdir(tmp_path)
    first, second = (place_of_run("fruit-resnet20", None, False, False) for _ in range(2))
    assert first.folder == second.folder
    made = [begin_run(place, {"seed": seed}, "resnet train") for seed, place in enumerate((first, second))]
    assert made == [Path("runs/fruit-resnet20"), Path("runs/fruit-resnet20-2")]
    assert [begun_with(folder)["seed"] for folder in made] == [0, 1]


def test_a_folder_that_was_named_and_is_taken_meanwhile_is_left_alone(tmp_path: Path) -> None:
    first, second = (place_of_run("fruit-resnet20", tmp_path / "run", False, False) for _ in range(2))
    begin_run(first, {"seed": 0}, "resnet train")
    with pytest.raises(ResnetError, match=r"another run has begun in .*run meanwhile"):
        begin_run(second, {"seed": 1}, "resnet train")
    assert begun_with(tmp_path / "run")["seed"] == 0
    forced = place_of_run("fruit-resnet20", tmp_path / "run", True, False)
    assert begun_with(begin_run(forced, {"seed": 2}, "resnet train")) == {"seed": 2, "command": "resnet train"}


def test_resume_takes_the_network_that_is_named_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("fruit[1]-resnet20", "fruit[1]-resnet20v2", "fruit[1]-resnet20-extra"):
        begin_run(place_of_run(name, None, False, False), {"name": name}, "resnet train")
    place = place_of_run("fruit[1]-resnet20", None, False, True)
    assert begun_with(place.folder)["name"] == "fruit[1]-resnet20"
    second = begin_run(place_of_run("fruit[1]-resnet20", None, False, False), {"name": "second"}, "resnet train")
    os.utime(second, (2e9, 2e9))
    assert place_of_run("fruit[1]-resnet20", None, False, True).folder == second


def test_force_replaces_no_folder_that_only_looks_a_little_like_a_run(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "checkpoint").mkdir(parents=True)
    (project / "thesis.tex").touch()
    with pytest.raises(ResnetError, match="is not a run folder, so --force does not replace it"):
        place_of_run("fruit", project, True, False)
    (project / "metrics.jsonl").touch()
    with pytest.raises(ResnetError, match="is not a run folder, so --force does not replace it"):
        place_of_run("fruit", project, True, False)
