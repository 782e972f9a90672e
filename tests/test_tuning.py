"""finetune --tune: what is searched, how trials are chosen, no test image is opened, and a resumed search is the same."""

import csv
import json
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from conftest import MakeDataset, RunCli

import resnet_cli as resnet
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.jobs import tune as tuning_job
from resnet_cli.jobs.finetune import run_finetune
from resnet_cli.jobs.plan import FinetunePlan, plan_finetune
from resnet_cli.jobs.start import FinetuneRequest, begin_run, let_go, remember
from resnet_cli.progress import Silent, how_many
from resnet_cli.training.config import FinetuneConfig, make_finetune_config
from resnet_cli.training.tuning import (
    Settings,
    Space,
    Trial,
    best_of,
    compared,
    read_trials,
    require_several,
    sizes_around,
    suggest,
    why_ended,
)

DEFAULTS = replace(FinetuneConfig(unfreeze="last"), learning_rate=5e-4)


def space(fixed: frozenset[str] = frozenset(), fine_tunes: bool = True, config: FinetuneConfig = DEFAULTS) -> Space:
    return Space(config, 128, (96, 128, 160), fixed, fine_tunes)


def searched(space: Space, mistakes: list[int], seed: int = 0) -> list[Trial]:
    """The trials of a search whose scores are given."""
    trials: list[Trial] = []
    for number, count in enumerate(mistakes):
        settings = space.usual if not trials else suggest(space, trials, seed, 0)
        trials.append(Trial(number, settings, 100, count, 0.5, 1.0, number + 1.0))
    return trials


def test_image_sizes_to_try_are_multiples_of_32_around_the_usual_one() -> None:
    assert sizes_around(128, 32) == (96, 128, 160, 192)
    assert sizes_around(224, 32) == (160, 224, 288, 320)
    assert sizes_around(100, 32) == (64, 96, 100, 128, 160)
    assert sizes_around(32, 32) == (32, 64)


def test_suggestions_stay_in_their_ranges_and_the_seed_and_the_trials_alone_decide_them() -> None:
    found = searched(space(), [9, 8, 7, 9, 6, 5, 7, 8, 9, 4, 6, 5])
    assert found == searched(space(), [9, 8, 7, 9, 6, 5, 7, 8, 9, 4, 6, 5])
    assert found[1:] != searched(space(), [9, 8, 7, 9, 6, 5, 7, 8, 9, 4, 6, 5], seed=1)[1:]
    for trial in found:
        settings = trial.settings
        assert settings["image_size"] in (96, 128, 160)
        assert settings["unfreeze"] in ("none", "last", "all")
        assert settings["augment"] in ("light", "strong")
        assert 5e-4 / 5 <= settings["learning_rate"] <= 7e-4 * 5
        assert 0.005 <= settings["weight_decay"] <= 0.5
        assert settings["label_smoothing"] in (0.0, 0.05, 0.1, 0.15, 0.2)
        assert settings["dropout"] in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    assert len({json.dumps(trial.settings) for trial in found}) > 8


def test_trial_0_has_the_default_settings_and_so_has_what_a_head_alone_does_not_use() -> None:
    assert space().usual == {
        "image_size": 128,
        "unfreeze": "last",
        "augment": "light",
        "learning_rate": 5e-4,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "dropout": 0.2,
    }
    assert space().configuration(space().usual) == DEFAULTS
    drawn = {
        "image_size": 96,
        "unfreeze": "none",
        "augment": "strong",
        "learning_rate": 3.0,
        "weight_decay": 2.0,
        "dropout": 0.5,
    }
    assert space().settings_of(drawn) == {**space().usual, "image_size": 96, "unfreeze": "none", "augment": "strong"}


def test_attempts_reach_every_setting_of_a_small_space() -> None:
    alone = space(fine_tunes=False)
    trials = searched(alone, [5, 4, 6])
    found = {tuple(suggest(alone, trials, 0, attempt).values()) for attempt in range(40)}
    assert found == {(size, augment) for size in (96, 128, 160) for augment in ("light", "strong")}


@pytest.mark.parametrize(
    ("fixed", "fine_tunes", "count"),
    [
        (frozenset[str](), False, 3 * 2),
        (frozenset({"augment"}), False, 3),
        (frozenset({"learning_rate", "weight_decay", "dropout"}), True, 3 * 2 * (1 + 2 * 5)),
        (frozenset({"learning_rate", "weight_decay", "augment", "label_smoothing", "dropout"}), True, 3 * 3),
        (frozenset({"learning_rate", "weight_decay", "augment", "unfreeze"}), True, 3 * 5 * 6),
        (frozenset({"learning_rate"}), True, None),
    ],
)
def test_the_settings_of_a_space_are_counted(fixed: frozenset[str], fine_tunes: bool, count: int | None) -> None:
    counted = space(fixed, fine_tunes)
    assert counted.count == count
    if count is not None:
        grid = {
            "image_size": (96, 128, 160),
            "unfreeze": ("none", "last", "all"),
            "augment": ("light", "strong"),
            "label_smoothing": (0.0, 0.05, 0.1, 0.15, 0.2),
            "dropout": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
        }
        choices = [[(name, value) for value in grid[name]] for name in counted.varied]
        assert len({str(counted.settings_of(dict(drawn))) for drawn in product(*choices)}) == count


def test_a_search_that_ends_early_says_why() -> None:
    early = "the search ends early: "
    assert why_ended(13, 13, 40) == early + "all 13 settings of the search were tried"
    assert why_ended(1, 1, 40) == early + "heads on frozen features leave only the default settings to try"
    untried = early + "the last 40 settings were tried already, or take longer than the time left"
    assert [why_ended(13, 12, 40), why_ended(None, 12, 40)] == [untried, untried]


def test_the_defaults_as_the_best_trial_have_one_figure_and_counts_of_one_are_singular() -> None:
    found = {"trials": 2, "default": {"top1": 0.75}, "best": {"trial": 1, "top1": 0.8}, "changed": "augment strong"}
    assert compared(found) == "75.0% with the defaults, 80.0% with augment strong"
    found |= {"best": {"trial": 0, "top1": 0.75}, "changed": "the defaults"}
    assert compared(found) == "75.0% with the defaults, and no other trial was better"
    assert compared({**found, "trials": 1}) == "75.0% with the defaults"
    assert [how_many(count, "epoch") for count in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]


def test_what_the_user_has_set_is_not_searched() -> None:
    fixed = frozenset({"unfreeze", "learning_rate", "augment"})
    found = searched(space(fixed), [5, 4, 6, 3, 5, 2, 7, 4])
    assert {frozenset(trial.settings) for trial in found} == {
        frozenset({"image_size", "weight_decay", "label_smoothing", "dropout"})
    }
    assert all(space(fixed).configuration(trial.settings).learning_rate == 5e-4 for trial in found)
    alone = searched(space(fine_tunes=False), [5, 4, 6])
    assert {frozenset(trial.settings) for trial in alone} == {frozenset({"image_size", "augment"})}
    unaugmented = replace(DEFAULTS, views=1)
    assert "augment" not in space(config=unaugmented).usual


def test_a_head_alone_is_solved_even_where_fine_tuning_has_a_number_of_epochs() -> None:
    config = replace(DEFAULTS, epochs=3)
    scored = space(fine_tunes=False, config=config).configuration(space(fine_tunes=False).usual)
    assert (scored.unfreeze, scored.epochs, scored.solves_head) == ("none", 0, True)


def test_a_head_alone_has_the_views_of_the_run_that_it_stands_for() -> None:
    every, last = replace(DEFAULTS, unfreeze="all"), DEFAULTS
    heads = [space(fine_tunes=False, config=config) for config in (every, last)]
    assert [each.frozen_configuration(each.usual).unfreeze for each in heads] == ["all", "none"]
    assert [each.configuration(each.usual).unfreeze for each in heads] == ["none", "none"]


def test_the_fewest_mistakes_win_of_equal_ones_the_lowest_loss_of_equal_ones_the_first() -> None:
    def trial(number: int, mistakes: int, loss: float | None) -> Trial:
        return Trial(number, {}, 10, mistakes, loss, 1.0, 1.0)

    assert best_of([trial(0, 3, 0.1), trial(1, 2, 5.0), trial(2, 2, 4.0), trial(3, 2, 4.0)]).number == 2
    assert best_of([trial(0, 10, None), trial(1, 10, 99.0)]).number == 1
    assert trial(0, 3, 0.1).accuracy == 0.7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--time-limit", "5m"], "--tune and --time-limit contradict each other"),
        (["--lr-find", "use"], "--tune and --lr-find contradict each other"),
        (["--folds", "3"], "--tune and --folds contradict each other"),
        (["--show"], "--tune and --show contradict each other"),
    ],
)
def test_options_that_contradict_a_search_are_refused(
    words: list[str], said: str, tiny_dataset: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    result = run_cli("finetune", tiny_dataset, "--tune", "1m", *words, "--output", tmp_path / "run")
    assert result.exit_code == 1
    assert said in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--unfreeze", "none", "--augment", "light"],
        ["--unfreeze", "none", "--augment", "none"],
        ["--unfreeze", "none", "--set", "views=1"],
        [
            *("--unfreeze", "last", "--augment", "light", "--learning-rate", 0.001, "--set", "weight_decay=0"),
            *("--set", "label_smoothing=0", "--set", "dropout=0"),
        ],
    ],
)
def test_a_search_with_nothing_to_search_is_refused_before_anything_is_written(
    words: list[str], tiny_dataset: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    fixed = ["--weights", "bundled", "--image-size", 64, "--tune", "20s", *words]
    result = run_cli("finetune", tiny_dataset, *fixed, "--output", tmp_path / "run")
    assert result.exit_code == 1
    assert "error: nothing is left for --tune to search: all settings that have an effect are given" in result.stderr
    assert not (tmp_path / "run").exists()


def test_anything_that_is_left_can_be_searched() -> None:
    none = replace(DEFAULTS, unfreeze="none")
    given = frozenset({"unfreeze", "augment"})
    for config, sizes, fixed in (
        (none, (64, 96), given),
        (none, (64,), frozenset({"unfreeze"})),
        (none, (64,), frozenset({"augment"})),
        (DEFAULTS, (64,), given),
    ):
        require_several(config, 64, sizes, fixed)
    with pytest.raises(ResnetError, match="nothing is left"):
        require_several(none, 64, (64,), given)


def test_a_wrong_time_and_a_missing_package_are_refused(
    tiny_dataset: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "error: --tune soon is not a duration" in run_cli("finetune", tiny_dataset, "--tune", "soon").stderr
    with pytest.raises(ResnetError, match="tune=-3 is not a duration"):
        resnet.finetune(tiny_dataset, tune=-3, progress=False)
    monkeypatch.setattr("resnet_cli.training.tuning.find_spec", lambda name: None)
    missing = run_cli("finetune", tiny_dataset, "--tune", "1m")
    assert missing.exit_code == 1
    assert "error: --tune needs the package optuna" in missing.stderr
    assert "hint: pip install 'resnet-cli[tune]'" in missing.stderr


def test_test_images_that_validate_cannot_choose_settings(make_dataset: MakeDataset, tmp_path: Path, run_cli: RunCli) -> None:
    root = make_dataset(tmp_path / "fruit" / "train").parent
    make_dataset(root / "test", count=3, first=50)
    result = run_cli("finetune", root, "--tune", "1m", "--val-split", 0, "--output", tmp_path / "run")
    assert result.exit_code == 1
    assert "error: --val-split 0 validates on the test images, which --tune must not see" in result.stderr


_WATCHING: list[tuple[Path, set[str]]] = []


def _watch(event: str, args: tuple[object, ...]) -> None:
    if _WATCHING and event == "open" and isinstance(args[0], str) and args[0].startswith(str(_WATCHING[-1][0])):
        for root, found in _WATCHING:
            found.add(Path(args[0]).relative_to(root).parts[0])


sys.addaudithook(_watch)  # cannot be removed: it looks at nothing while nothing is watched


@contextmanager
def splits_opened(root: Path, found: set[str]) -> Iterator[None]:
    """Collect the split folders below `root` of which files are opened, by whatever code of Python."""
    _WATCHING.append((root, found))
    try:
        yield
    finally:
        _WATCHING.pop()


class StopOnceThere(Silent):
    """Progress that asks to stop, as a signal does, once a file exists."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def stop_signal(self) -> int:
        return 15 if self.path.exists() else 0


class Counted(tuning_job._Search):
    """A search of some trials, however fast the machine is."""

    most = 3

    def _next(self, space: Space) -> Settings | None:
        return super()._next(space) if len(self._trials) < self.most else None


QUICK = FinetuneConfig(unfreeze="auto", views=2, epochs=1)


def request(data: Path, folder: Path, resume: bool = False, tune: float = 600.0) -> FinetuneRequest:
    options = ("crop", folder, False, resume, False, None, False, "resnet")
    fixed = frozenset({"views", "epochs"})
    return FinetuneRequest(data, "auto", "bundled", "auto", *options, tune=tune, fixed=fixed)  # type: ignore[arg-type]


@pytest.fixture
def with_test(make_dataset: MakeDataset, tmp_path: Path) -> Path:
    root = make_dataset(tmp_path / "fruit" / "train", ("apple", "berry"), count=8).parent
    make_dataset(root / "test", ("apple", "berry"), count=3, first=50)
    return root


def interrupted(plan: FinetunePlan) -> None:
    """Leave the folder of a run that was interrupted in its first trial."""
    begin_run(plan.place, plan.chosen, "resnet")
    let_go()


def test_a_search_is_not_resumed_with_settings_given_in_one_of_the_calls_only(with_test: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    interrupted(plan_finetune(request(with_test, folder), QUICK, Silent()))
    begun = (folder / "checkpoint" / "config.json").read_text()
    again, size = request(with_test, folder, resume=True), str(json.loads(begun)["image_size"])
    for other, key in (
        (replace(again, fixed=again.fixed | {"augment"}), "augment"),
        (replace(again, image_size=size), "image_size"),
    ):
        with pytest.raises(ResnetError) as caught:
            plan_finetune(other, QUICK, Silent())
        assert caught.value.message == f"the run {folder} began with {key} left to --tune, not given"
        assert caught.value.hint == "resume with the options and keys it began with"
    with pytest.raises(ResnetError, match=r"began with tune 600\.0, not 60\.0"):
        plan_finetune(replace(again, tune=60.0, image_size=size), QUICK, Silent())
    assert plan_finetune(again, QUICK, Silent()).place.folder == folder
    let_go()
    assert (folder / "checkpoint" / "config.json").read_text() == begun

    interrupted(plan_finetune(replace(request(with_test, tmp_path / "given"), image_size=size), QUICK, Silent()))
    with pytest.raises(ResnetError, match="began with image_size given, not left to --tune"):
        plan_finetune(request(with_test, tmp_path / "given", resume=True), QUICK, Silent())
    let_go()


def test_given_settings_are_compared_for_a_search_alone_and_not_in_runs_of_older_versions(
    with_test: Path, tmp_path: Path
) -> None:
    plain, searched = tmp_path / "plain", tmp_path / "searched"
    interrupted(plan_finetune(replace(request(with_test, plain), tune=None), QUICK, Silent()))
    again = replace(request(with_test, plain, resume=True), tune=None, fixed=frozenset({"augment"}))
    assert plan_finetune(again, QUICK, Silent()).place.folder == plain
    let_go()
    interrupted(plan_finetune(request(with_test, searched), QUICK, Silent()))
    config = searched / "checkpoint" / "config.json"
    config.write_text(
        json.dumps({name: value for name, value in json.loads(config.read_text()).items() if name != "tune_given"})
    )
    assert plan_finetune(request(with_test, searched, resume=True), QUICK, Silent()).place.folder == searched
    let_go()


@pytest.mark.parametrize("trials", [0, 1])
def test_settings_are_written_as_chosen_only_if_a_trial_has_chosen_them(trials: int, with_test: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    plan = plan_finetune(request(with_test, folder), QUICK, Silent())
    begin_run(plan.place, plan.chosen, "resnet")
    remember(folder, "tuned", {"limit": 600.0, "trials": trials, "settings": {}, "test": True})
    tuned, _ = tuning_job.tune(plan, folder, Silent())
    let_go()
    assert tuned.config == plan.config
    assert (folder / "tuned.toml").exists() == (trials == 1)


@pytest.mark.slow
def test_a_search_opens_no_test_image_and_its_run_repeats_the_best_trial(
    with_test: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_job, "_Search", Counted)
    monkeypatch.setattr(Counted, "most", 2)
    monkeypatch.setattr(tuning_job, "_FEW", 0)  # scored on validation images
    folder = tmp_path / "run"
    plan = plan_finetune(replace(request(with_test, folder), image_size="32"), QUICK, Silent())
    during, after = set[str](), set[str]()
    tune = tuning_job.tune

    def watched(*args: object) -> object:
        with splits_opened(with_test, during):
            return tune(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("resnet_cli.jobs.finetune.tune", watched)
    with splits_opened(with_test, after):
        result = run_finetune(plan, Silent())
    assert during == {"train"}
    assert after == {"train", "test"}  # measured at the end

    found = result["tuning"]
    with (folder / "trials.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["trial"] for line in lines] == ["0", "1"]
    best = next(line for line in lines if line["best"])
    assert int(best["mistakes"]) <= int(lines[0]["mistakes"])
    assert (found["trials"], found["phase"], found["scored_on"], found["test"]) == (2, "fine-tuning", "validation", True)
    assert found["best"] == {"trial": int(best["trial"]), "top1": float(best["accuracy"]), "loss": float(best["loss"])}
    assert found["default"]["top1"] == float(lines[0]["accuracy"])
    # The run is trained as the best trial was, from the same seed.
    assert result["val"]["top1"] == pytest.approx(found["best"]["top1"])
    assert result["val"]["loss"] == pytest.approx(found["best"]["loss"], abs=0.02)
    record = json.loads((folder / "run.json").read_text())
    assert record["image_size"] == found["settings"]["image_size"]
    assert {name: record["config"][name] for name in found["settings"] if name != "image_size"} == {
        name: value for name, value in found["settings"].items() if name != "image_size"
    }
    assert not (folder / "checkpoint").exists()
    recipe = make_finetune_config(folder / "tuned.toml", {})
    assert (recipe.unfreeze, recipe.views) == (record["config"]["unfreeze"], 2)
    assert tomllib.loads((folder / "tuned.toml").read_text())["recipe"] == "default"


@pytest.mark.slow
def test_a_search_on_few_images_scores_all_of_them_and_an_interrupted_one_goes_on_as_it_would_have(
    run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_dataset(tmp_path / "fruit", ("apple", "berry"), count=9)
    monkeypatch.setattr(tuning_job, "_Search", Counted)
    monkeypatch.setattr(Counted, "most", 2)
    words = ["--weights", "bundled", "--set", "views=2", "--unfreeze", "none", "--tune", "10m"]
    result = run_cli("finetune", data, *words, "--output", tmp_path / "whole")
    assert result.exit_code == 0, result.stderr
    told = " ".join(result.stderr.split())
    assert "tuning for 10 min, scored on 3 folds of all 18 training and validation images, as" in told
    assert "trial 0: accuracy" in told
    assert "there is no test folder that tells by how much" in told
    assert "tuning: 2 trials in" in result.stdout
    assert "accuracy of the head on 18 images (3 folds)" in result.stdout
    assert "the best of 2 is too good by chance: no test folder measures it" in result.stdout
    assert "A new study" not in result.stdout + result.stderr
    whole = json.loads((tmp_path / "whole" / "run.json").read_text())["results"]

    config = FinetuneConfig(unfreeze="none", views=2)

    def asked(resume: bool) -> FinetuneRequest:
        return replace(request(data, tmp_path / "stopped", resume), fixed=frozenset({"views", "unfreeze"}))

    stopping = StopOnceThere(tmp_path / "stopped" / "checkpoint" / "tune" / "trials.jsonl")
    with pytest.raises(Interrupted):
        run_finetune(plan_finetune(asked(False), config, stopping), stopping)
    before = read_trials(tmp_path / "stopped" / "checkpoint" / "tune" / "trials.jsonl")
    assert len(before) == 1
    let_go()
    resumed = run_finetune(plan_finetune(asked(True), config, Silent()), Silent())
    assert resumed["tuning"]["settings"] == whole["tuning"]["settings"]
    assert resumed["tuning"]["scored_on"] == "3 folds"

    def figures(folder: Path) -> list[dict[str, str]]:
        with (folder / "trials.csv").open() as file:
            return [{name: cell for name, cell in line.items() if name != "seconds"} for line in csv.DictReader(file)]

    assert figures(tmp_path / "stopped") == figures(tmp_path / "whole")
    assert resumed["val"] == whole["val"]


@pytest.mark.slow
def test_a_time_too_short_for_one_trial_gives_the_default_run_and_says_so(
    run_cli: RunCli, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--weights", "bundled", "--image-size", "32", "--set", "views=2", "--unfreeze", "none", "--json"]
    usual = json.loads(run_cli("finetune", tiny_dataset, *words, "--output", tmp_path / "usual").stdout)
    monkeypatch.setattr(tuning_job._Search, "_left", lambda search: 0.0)
    result = run_cli("finetune", tiny_dataset, *words, "--tune", "1s", "--output", tmp_path / "tuned")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    said = "--tune 1 s was too short for one trial: the run has the default settings"
    assert said in found["warnings"]
    assert found["val"] == usual["val"]
    assert (found["tuning"]["trials"], found["tuning"]["settings"]) == (0, {})
    assert not (tmp_path / "tuned" / "trials.csv").exists()
    assert not (tmp_path / "tuned" / "tuned.toml").exists()
