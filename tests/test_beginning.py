"""How a run begins: in a folder of its own, whatever else begins meanwhile."""

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from resnet_cli.errors import ResnetError
from resnet_cli.jobs.start import begin_run, begun_with, place_of_run, require_same, tell_other_precision
from resnet_cli.progress import Silent
from resnet_cli.training.config import FinetuneConfig, TrainConfig


def test_two_runs_that_begin_together_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Both choose a folder, then read images for minutes, then make it.
    monkeypatch.chdir(tmp_path)
    first, second = (place_of_run("fruit-resnet20", None, False) for _ in range(2))
    assert first.folder == second.folder
    made = [begin_run(place, {"seed": seed}, "resnet train") for seed, place in enumerate((first, second))]
    assert made == [Path("runs/fruit-resnet20"), Path("runs/fruit-resnet20-2")]
    assert [begun_with(folder)["seed"] for folder in made] == [0, 1]


def test_a_folder_that_was_named_and_is_taken_meanwhile_is_left_alone(tmp_path: Path) -> None:
    first, second = (place_of_run("fruit-resnet20", tmp_path / "run", False) for _ in range(2))
    begin_run(first, {"seed": 0}, "resnet train")
    with pytest.raises(ResnetError, match=r"another run has started in .*run meanwhile"):
        begin_run(second, {"seed": 1}, "resnet train")
    assert begun_with(tmp_path / "run")["seed"] == 0
    forced = place_of_run("fruit-resnet20", tmp_path / "run", True)
    assert begun_with(begin_run(forced, {"seed": 2}, "resnet train")) == {"seed": 2, "command": "resnet train"}


def test_resume_takes_the_network_that_is_named_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("fruit[1]-resnet20", "fruit[1]-resnet20v2", "fruit[1]-resnet20-extra"):
        begin_run(place_of_run(name, None, False), {"name": name}, "resnet train")
    place = place_of_run("fruit[1]-resnet20", None, False, {})
    assert begun_with(place.folder)["name"] == "fruit[1]-resnet20"
    second = begin_run(place_of_run("fruit[1]-resnet20", None, False), {"name": "second"}, "resnet train")
    os.utime(second, (2e9, 2e9))
    assert place_of_run("fruit[1]-resnet20", None, False, {}).folder == second


def test_force_replaces_no_folder_that_only_looks_a_little_like_a_run(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "checkpoint").mkdir(parents=True)
    (project / "thesis.tex").touch()
    with pytest.raises(ResnetError, match="is not a run folder, so --force does not replace it"):
        place_of_run("fruit", project, True)
    (project / "metrics.jsonl").touch()
    with pytest.raises(ResnetError, match="is not a run folder, so --force does not replace it"):
        place_of_run("fruit", project, True)


def test_resume_takes_the_run_that_began_with_the_same_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        begin_run(place_of_run("fruit", None, False), {"seed": seed, "epochs": 3}, "resnet train")
    assert [place_of_run("fruit", None, False, {"seed": seed, "epochs": 3}).folder.name for seed in (0, 1)] == [
        "fruit",
        "fruit-2",
    ]


def elsewhere(line: str, *words: object) -> str:
    """What another process prints, or how it is refused."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom resnet_cli.jobs.start import begin_run, place_of_run\n"
        f"from resnet_cli.errors import ResnetError\ntry:\n    {line}\nexcept ResnetError as error:\n    print(error.message)"
    )
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=True).stdout


def test_a_run_that_stopped_half_way_is_told_and_one_that_is_going_on_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begin = "begin_run(place_of_run('fruit', None, False), {'seed': 0}, 'resnet train')"
    elsewhere(begin)  # and the process has ended
    tell = (
        "from resnet_cli.progress import Silent; Silent.notice = lambda self, text: print(text);"
        " from resnet_cli.jobs.start import tell_interrupted; tell_interrupted(place_of_run({}), Silent())"
    )
    assert elsewhere(tell.format("'fruit', None, False")).startswith("runs/fruit was interrupted")
    assert place_of_run("fruit", None, False, {}).folder == Path("runs/fruit")  # held from here on
    for place in ("'fruit', None, False", "'berry', None, False", "'fruit', Path('elsewhere'), False"):
        assert elsewhere(tell.format(place)) == ""


@pytest.mark.parametrize("how", ["False, {}", "True"])
def test_a_run_that_another_process_is_at_is_left_to_it(how: str, tmp_path: Path) -> None:
    folder = begin_run(place_of_run("fruit", tmp_path / "run", False), {"seed": 0}, "resnet train")
    told = elsewhere(f"place_of_run('fruit', Path(sys.argv[1]), {how})", folder)
    assert "is locked by another process" in told
    assert begun_with(folder)["seed"] == 0
    assert place_of_run("fruit", folder, False, {}).folder == folder  # this process may


def test_of_runs_that_began_alike_the_one_that_nobody_is_at_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere("begin_run(place_of_run('fruit', None, False), {'seed': 0}, 'resnet train')")  # and the process has ended
    busy = begin_run(place_of_run("fruit", None, False), {"seed": 0}, "resnet train")
    begin_run(place_of_run("fruit", None, False), {"seed": 1}, "resnet train")
    os.utime(busy, (2e9, 2e9))
    resume = "print(place_of_run('fruit', None, False, {'seed': int(sys.argv[1])}).folder.name)"
    assert elsewhere(resume, 0) == "fruit\n"
    assert "runs/fruit-3 is locked" in elsewhere(resume, 1)


@pytest.mark.parametrize("link", ["runs", "runs/fruit", "named"])
def test_a_link_that_leads_nowhere_is_no_place_for_a_run(link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(link).parent.mkdir(exist_ok=True)
    Path(link).symlink_to(tmp_path / "unmounted")
    if link == "runs/fruit":
        assert place_of_run("fruit", None, False).folder == Path("runs/fruit-2")
        return
    with pytest.raises(ResnetError, match="is a broken link"):
        place_of_run("fruit", Path("named") if link == "named" else None, False)


def test_force_empties_the_folder_that_was_named_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begin_run(place_of_run("fruit", tmp_path / "run", False), {"seed": 0}, "resnet train")
    monkeypatch.chdir(folder)
    begin_run(place_of_run("fruit", Path(), True, begins_with=("none",)), {"seed": 1}, "resnet train")
    assert begun_with(folder)["seed"] == 1
    (tmp_path / "link").symlink_to(folder)
    begin_run(place_of_run("fruit", tmp_path / "link", True), {"seed": 2}, "resnet train")
    assert begun_with(folder)["seed"] == 2


def test_force_leaves_what_the_run_begins_with_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begin_run(place_of_run("fruit", tmp_path / "run", False), {"seed": 0}, "resnet train")
    (folder / "model.weights.h5").touch()
    assert place_of_run("fruit", Path(folder), True, begins_with=("none",)).folder == folder
    monkeypatch.setenv("HOME", str(tmp_path))
    for weights in (str(folder / "model.weights.h5"), "~/run/model.weights.h5"):
        with pytest.raises(ResnetError, match="which the new run begins with"):
            place_of_run("fruit", folder, True, begins_with=(weights,))
    (folder / ".git").mkdir()
    with pytest.raises(ResnetError, match="is not a run folder, so --force does not replace it"):
        place_of_run("fruit", folder, True)


@pytest.mark.parametrize(("began", "told"), [({"precision": "bfloat16"}, 1), ({"precision": "float32"}, 0), ({}, 0)])
def test_a_run_that_goes_on_in_another_precision_says_so(began: dict[str, str], told: int, tmp_path: Path) -> None:
    class Listener(Silent):
        def notice(self, text: str) -> None:
            notices.append(text)

    notices: list[str] = []
    folder = begin_run(place_of_run("fruit", tmp_path / "run", False), began, "resnet train")
    tell_other_precision(folder, "float32", Listener())
    assert ["began in bfloat16 and continues in float32" in text for text in notices] == [True] * told


def test_a_run_that_an_older_program_began_goes_on_as_keys_that_it_lacks_had_their_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = {**asdict(FinetuneConfig(unfreeze="none", seed=3)), "arch": "resnet8"}
    older = {name: config[name] for name in ("unfreeze", "hidden", "dropout", "epochs", "seed", "arch")}
    folder = begin_run(place_of_run("fruit", None, False), older, "resnet finetune")
    require_same(folder, config)
    assert place_of_run("fruit", None, False, config).folder == folder
    with pytest.raises(ResnetError, match=r"began with label_smoothing 0\.1, not 0\.2"):
        require_same(folder, config | {"label_smoothing": 0.2})


@pytest.mark.parametrize("config", [TrainConfig(), FinetuneConfig()])
def test_a_run_that_began_before_a_key_existed_goes_on_with_its_default(config: Any, tmp_path: Path) -> None:
    chosen = {**asdict(config), "arch": "resnet20"}
    older = {key: value for key, value in chosen.items() if key not in ("label_smoothing", "class_weights")}
    folder = begin_run(place_of_run("fruit", tmp_path / "run", False), older, "resnet train")
    require_same(folder, chosen)
    with pytest.raises(ResnetError, match="began with class_weights False, not True"):
        require_same(folder, {**chosen, "class_weights": True})
