"""Recipes of one's own: TOML files, --set, --show, and options that are keys now; the same for `train` and `finetune`."""

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeDataset, Result, RunCli

from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import find_network
from resnet_cli.training.config import (
    FINETUNE_RECIPES,
    PAPER,
    VIEW_KEYS,
    FinetuneConfig,
    TrainConfig,
    make_config,
    make_finetune_config,
)
from resnet_cli.training.recipes import Key, checked, keys_of, parse_setting

DOCS = Path(__file__).parents[1] / "docs"
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(text) -> path` of a recipe file."""

    def written(text: str) -> Path:
        path = tmp_path / "my.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def shown(run_cli: RunCli, command: str, *words: object) -> dict[str, Any]:
    result = run_cli(command, "--show", "--json", *words)
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def said(result: Result) -> str:
    return " ".join(result.stderr.replace("│", " ").split())


def train_config(recipe: str | Path | None = None, **given: Any) -> TrainConfig:
    return make_config(recipe, find_network("resnet20"), given)


@pytest.mark.parametrize(("command", "recipe"), [("train", "fast"), ("finetune", "default")])
def test_the_recipe_is_weaker_than_the_file_that_is_weaker_than_set_and_options(
    command: str, recipe: str, run_cli: RunCli, write: Write
) -> None:
    usual = shown(run_cli, command)
    assert usual["recipe"] == recipe
    file = write("epochs = 7\nbatch_size = 9\npatience = 3\n")
    filed = shown(run_cli, command, "--recipe", file)
    assert (filed["recipe"], filed["epochs"], filed["batch_size"], filed["patience"]) == (str(file), 7, 9, 3)
    assert filed["learning_rate"] == usual["learning_rate"]
    given = shown(run_cli, command, "--recipe", file, "--set", "batch_size=11", "--epochs", 5)
    assert (given["epochs"], given["batch_size"], given["patience"]) == (5, 11, 3)
    assert {name for name, key in given["keys"].items() if key["changed"]} == {"epochs", "batch_size", "patience"}


def test_a_file_names_the_recipe_that_it_changes(run_cli: RunCli, write: Write) -> None:
    file = write('recipe = "paper"\nepochs = 40\ndrops = [[0.6, 0.1], [0.9, 0.01]]\n')
    assert train_config(file) == replace(PAPER, epochs=40, drops=((0.6, 0.1), (0.9, 0.01)))
    assert (
        "drops = [[0.6, 0.1], [0.9, 0.01]]  # changed from [[0.5, 0.1], [0.75, 0.01]]"
        in run_cli("train", "--recipe", file, "--show").stdout
    )
    with pytest.raises(ResnetError, match=r"my.toml: there is no recipe papr; did you mean paper\?"):
        train_config(write('recipe = "papr"'))
    with pytest.raises(ResnetError, match=r"my\.toml: there is no recipe fast"):
        make_finetune_config(write('recipe = "fast"'), {})


def test_another_optimizer_or_schedule_than_the_files_leaves_what_belonged_to_it_behind(write: Write) -> None:
    file = write('schedule = "steps"\ndrops = [[0.5, 0.1]]\noptimizer = "sgd"\nmomentum = 0.8\nlearning_rate = 0.3\n')
    config = train_config(file, schedule="cosine", optimizer="adam")
    assert (config.schedule, config.drops, config.optimizer, config.learning_rate) == ("cosine", (), "adam", 1e-3)
    tuned = make_finetune_config(write('optimizer = "sgd"'), {})
    assert (tuned.optimizer, tuned.weight_decay, tuned.rate) == ("sgd", 5e-4, 0.01)
    assert make_finetune_config(None, {"optimizer": "sgd", "weight_decay": 0.01}).weight_decay == 0.01


@pytest.mark.parametrize("command", ["train", "finetune"])
@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("droput = 0.3", "my.toml: there is no key droput; did you mean dropout?", "--show lists all keys"),
        ("weight-decay = 0.1", "my.toml: there is no key weight-decay; did you mean weight_decay?", "--show lists all keys"),
        ('dropout = "much"', 'my.toml: dropout = "much" is not a valid value', "dropout takes: number, 0 to 0.9"),
        ("epochs = 2.5", "my.toml: epochs = 2.5 is not a valid value", "epochs takes: whole number, "),
        ("epochs = true", "my.toml: epochs = true is not a valid value", "epochs takes: whole number, "),
        ("flip = 1", "my.toml: flip = 1 is not a valid value", "flip takes: true or false"),
        ("dropout = 1.5", "my.toml: dropout = 1.5 is out of range", "dropout takes: number, 0 to 0.9"),
        ("learning_rate = -1", "my.toml: learning_rate = -1 is out of range", "learning_rate takes: number, 0 or more"),
        ("learning_rate = nan", "my.toml: learning_rate = nan is not a finite number", "learning_rate takes: number"),
        ('optimizer = "lion"', 'my.toml: optimizer = "lion" is not a valid value', "optimizer takes: sgd, muon, adam, adamw"),
        ("[training]\nepochs = 3", "my.toml: there is no key training", "--show lists all keys"),
        ("epochs = 3\ndropout 0.1", "my.toml is not TOML: ", "(at line 2, column 9)"),
        ("epochs = 3\nepochs = 4\n", "my.toml is not TOML: ", "line 2"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name_and_the_key(
    command: str, text: str, message: str, hint: str, run_cli: RunCli, write: Write, tiny_dataset: Path, tmp_path: Path
) -> None:
    result = run_cli(command, tiny_dataset, "--recipe", write(text), "--output", tmp_path / "run")
    assert result.exit_code == 1 and message in said(result) and hint in said(result), result.stderr
    assert len(result.stderr.strip().splitlines()) == 2 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_a_recipe_that_is_not_there_is_said(command: str, run_cli: RunCli, tmp_path: Path) -> None:
    missing = run_cli(command, "--show", "--recipe", tmp_path / "none.toml")
    assert missing.exit_code == 1 and f"error: there is no recipe file {tmp_path / 'none.toml'}\n" in missing.stderr
    names = "fast, paper, keras" if command == "train" else "default"
    meant = "fast" if command == "train" else "default"
    unknown = run_cli(command, "--show", "--recipe", meant[:-1])
    assert unknown.exit_code == 1 and f"there is no recipe {meant[:-1]}; did you mean {meant}?" in unknown.stderr
    assert f"recipes are {names}, and TOML files" in unknown.stderr
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    assert "latin.toml is not TOML: " in run_cli(command, "--show", "--recipe", tmp_path / "latin.toml").stderr
    (tmp_path / "folder.toml").mkdir()
    assert (
        "folder.toml cannot be read: Is a directory" in run_cli(command, "--show", "--recipe", tmp_path / "folder.toml").stderr
    )


@pytest.mark.parametrize("command", ["train", "finetune"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "droput=0.3"], "--set droput=0.3: there is no key droput; did you mean dropout?"),
        (["--set", "dropout"], "--set dropout is not written as KEY=VALUE"),
        (["--set", "dropout=much"], "--set dropout=much: dropout = much is not a valid value"),
        (["--set", "dropout=0.95"], "--set dropout=0.95: dropout = 0.95 is out of range"),
        (["--set", "dropout=inf"], "--set dropout=inf: dropout = inf is not a finite number"),
        (["--set", "epochs=2.5"], "--set epochs=2.5: epochs = 2.5 is not a valid value"),
        (["--set", "class_weights=maybe"], "class_weights = maybe is not a valid value"),
        (["--set", "epochs=3", "--epochs", 3], "--set epochs=3 and --epochs are the same: leave one out"),
        (["--set", "batch_size=8", "--batch-size", 9], "--set batch_size=8 and --batch-size are the same"),
        (["--set", "dropout=0.1", "--set", "dropout=0.2"], "--set dropout is given twice: leave one out"),
        (["--epochs", "-1"], "Invalid value for '--epochs'"),
        (["--batch-size", "0"], "Invalid value for '--batch-size'"),
    ],
)
def test_what_is_wrong_with_a_setting_is_a_usage_error(
    command: str, words: list[object], message: str, run_cli: RunCli, tiny_dataset: Path
) -> None:
    result = run_cli(command, tiny_dataset, *words)
    assert result.exit_code == 2 and message in said(result), result.stderr


def test_drops_are_checked_in_a_file_and_in_a_setting(run_cli: RunCli, tiny_dataset: Path, write: Write) -> None:
    for text, message in {
        "half": "drops half is not written as share:factor,...",
        "0.7:0.1,0.5:0.01": "drops 0.7:0.1,0.5:0.01: shares rise from 0 to 1",
        "0.5:0": "drops 0.5:0: shares rise from 0 to 1, and factors are above 0",
    }.items():
        result = run_cli("train", tiny_dataset, "--set", "schedule=steps", "--set", f"drops={text}")
        assert result.exit_code == 2 and message in said(result), result.stderr
    for text in ("[0.5, 0.1]", "[[0.5]]", "0.5", '[["half", 0.1]]'):
        with pytest.raises(ResnetError, match="is not written as share:factor"):
            train_config(write(f'schedule = "steps"\ndrops = {text}'))
    assert train_config(write('schedule = "steps"\ndrops = [[0.5, 0.1]]')).drops == ((0.5, 0.1),)
    assert parse_setting(TrainConfig, "drops=0.5:0.1,0.75:0.01") == ("drops", ((0.5, 0.1), (0.75, 0.01)))


def test_a_contradiction_in_a_file_names_the_file(write: Write) -> None:
    with pytest.raises(ResnetError, match=r"my.toml: momentum contradicts the rest"):
        train_config(write('optimizer = "adam"\nmomentum = 0.5'))
    with pytest.raises(ResnetError, match=r"my.toml: schedule steps needs drops"):
        train_config(write('schedule = "steps"'))
    file = write("patience = 2\nviews = 4")
    with pytest.raises(ResnetError, match=r"my.toml: batch_size contradicts the rest: it is about the fine-tuning phase"):
        make_finetune_config(write('unfreeze = "none"\nbatch_size = 8'), {})
    # What only the file asked for gives way to what is typed.
    assert make_finetune_config(write("patience = 2\nviews = 4"), {"unfreeze": "none"}).views == 4
    assert file.exists()


def test_python_gets_the_same_checks() -> None:
    with pytest.raises(ResnetError, match=r"^there is no key droput; did you mean dropout\?$"):
        train_config(droput=0.3)
    with pytest.raises(ResnetError, match=r"^rotate = 200 is out of range$"):
        make_finetune_config(None, {"rotate": 200})
    with pytest.raises(ResnetError, match=r"^views = 4.0 is not a valid value$"):
        make_finetune_config(None, {"views": 4.0})
    config = make_finetune_config(None, {"dropout": 0, "val_split": None, "scale": "auto"})
    assert config == replace(FINETUNE_RECIPES["default"], dropout=0.0)
    assert make_finetune_config("default", {}) == FINETUNE_RECIPES["default"] == FinetuneConfig(unfreeze="auto")


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_every_key_is_shown_with_its_values_and_its_meaning(command: str, run_cli: RunCli) -> None:
    keys = keys_of(TrainConfig if command == "train" else FinetuneConfig)
    text = run_cli(command, "--show").stdout
    for name, key in keys.items():
        assert re.search(rf"^# {re.escape(f'{key.text} ({key.values})')}\n(# )?{name} = ", text, re.MULTILINE), name
    document = shown(run_cli, command)
    assert {"recipe", "source", "keys"} | keys.keys() == document.keys()
    assert document["keys"]["dropout"] == {"changed": False, "values": "number, 0 to 0.9", "meaning": keys["dropout"].text}
    assert all(key.text.endswith(".") and len(key.text) <= 110 for key in keys.values())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", ["--recipe", "paper", "--arch", "resnet110", "--set", "cutout=0.3"]),
        ("train", ["--recipe", "keras", "--seed", "7"]),
        ("train", ["--set", "crop=resized", "--set", "teacher_weight=1", "--optimizer", "adamw", "--no-flip"]),
        ("finetune", []),
        ("finetune", ["--unfreeze", "none", "--set", "views=1", "--val-split", "0.3"]),
        ("finetune", ["--augment", "strong", "--set", "rotate=30", "--set", "cache_limit=2.5", "--set", "optimizer=muon"]),
    ],
)
def test_what_show_prints_is_a_recipe_file_that_means_the_same(
    command: str, words: list[str], run_cli: RunCli, write: Write
) -> None:
    first = shown(run_cli, command, *words)
    file = write(run_cli(command, *words, "--show").stdout)
    again = shown(run_cli, command, "--recipe", file)
    idle = {
        name for name in keys_of(TrainConfig if command == "train" else FinetuneConfig) if f"\n# {name} =" in file.read_text()
    }
    assert {name: again[name] for name in first["keys"] if name not in idle} == {
        name: first[name] for name in first["keys"] if name not in idle
    }


def test_show_says_which_keys_have_no_effect_and_how_to_write_a_file(run_cli: RunCli) -> None:
    lines = run_cli("finetune", "--unfreeze", "none", "--show").stdout.splitlines()
    assert "# patience = 5  # no effect: it is about the fine-tuning phase, which unfreeze none skips" in lines
    assert "# dropout = 0.2  # no effect: it has no effect on a head alone without hidden or epochs" in lines
    assert 'unfreeze = "none"  # changed from "auto"' in lines
    assert lines[1] == "# To a file, for --recipe my.toml: resnet finetune --unfreeze none --show > my.toml"


@pytest.mark.parametrize(
    ("command", "words", "answer"),
    [
        ("train", ["--momentum", "0.9"], "--momentum is a recipe key now: --set momentum=0.9"),
        ("train", ["--cutout=0.3"], "--cutout is a recipe key now: --set cutout=0.3"),
        ("train", ["--drops", "0.5:0.1"], "--drops is a recipe key now: --set drops=0.5:0.1"),
        ("train", ["--no-nesterov"], "--no-nesterov is a recipe key now: --set nesterov=false"),
        ("train", ["--progressive", "--seed", "1"], "--progressive is a recipe key now: --set progressive=true"),
        ("finetune", ["--hidden", "2048"], "--hidden is a recipe key now: --set hidden=2048"),
        ("finetune", ["--class-weights"], "--class-weights is a recipe key now: --set class_weights=true"),
        ("finetune", ["--no-cache"], "--no-cache is a recipe key now: --set cache=false"),
        ("finetune", ["--cache-limit", "4"], "--cache-limit is a recipe key now: --set cache_limit=4"),
        ("finetune", ["--patience", "--seed", "1"], "--patience is a recipe key now: --set patience=VALUE"),
        ("finetune", ["--optimizer", "sgd"], "--optimizer is a recipe key now: --set optimizer=sgd"),
        ("finetune", ["--momentum", "0.9"], "No such option: --momentum"),
        ("finetune", ["-z5"], "No such option: -z"),
        ("predict", ["--dropout", "0.9"], "No such option: --dropout"),
    ],
)
def test_an_option_that_became_a_key_is_answered_by_what_to_type(
    command: str, words: list[str], answer: str, run_cli: RunCli, tiny_dataset: Path
) -> None:
    result = run_cli(command, tiny_dataset, *words)
    assert result.exit_code == 2 and answer in said(result), result.stderr


@pytest.mark.parametrize(("command", "config"), [("train", TrainConfig), ("finetune", FinetuneConfig)])
def test_every_key_can_be_typed_and_is_an_option_or_answered_as_one(command: str, config: type, run_cli: RunCli) -> None:
    typed = {bool: "true", int: "3", float: "0.5", str: "x"}
    for name, key in keys_of(config).items():
        value = key.choices[0] if key.choices else typed.get(key.kind, "0.5:0.1")
        assert parse_setting(config, f"{name}={value}")[0] == name
        option = run_cli(command, f"--{name.replace('_', '-')}", value, "--no-such-option")
        assert option.exit_code == 2
        assert f"--set {name}=" in option.stderr or "No such option: --no-such-option" in said(option), name


def test_the_ranges_of_keys_hold_at_both_ends() -> None:
    for config in (TrainConfig, FinetuneConfig):
        for name, key in keys_of(config).items():
            for bound, beyond in ((key.least, -1), (key.most, 1)):
                if bound is None:
                    continue
                within = key.kind(bound)
                assert checked(config, {name: within}) == {name: within}
                with pytest.raises(ResnetError, match="is out of range"):
                    checked(config, {name: within + key.kind(beyond)})


def test_a_key_that_may_be_left_to_the_program_says_what_that_chooses() -> None:
    keys = keys_of(FinetuneConfig)
    assert {name: key.auto for name, key in keys.items() if key.auto} == {
        **dict.fromkeys(VIEW_KEYS, "as augment says"),
        "val_split": "0.2, or 0.1 beside a test folder",
        "cache_limit": "half of what is free",
    }
    assert parse_setting(FinetuneConfig, "cache_limit=auto") == ("cache_limit", None)
    assert isinstance(keys["views"], Key) and "0 chooses 2 to 12" in keys["views"].text


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_examples_of_the_page_are_recipes(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine, tuned = blocks("recipes.md", "toml")
    (tmp_path / "my.toml").write_text(mine)
    (tmp_path / "mine.toml").write_text(tuned)
    words = ["--recipe", "my.toml", "--epochs", "20", "--set", "cutout=0", "--set", "drops=0.6:0.1"]
    assert f"\nresnet train photos {' '.join(words)}\n" in (DOCS / "recipes.md").read_text(encoding="utf-8")
    config = shown(run_cli, "train", *words)
    assert (config["epochs"], config["batch_size"], config["cutout"], config["drops"]) == (20, 64, 0, [[0.6, 0.1]])
    tuning = shown(run_cli, "finetune", "--recipe", "mine.toml")
    assert (tuning["optimizer"], tuning["rotate"], tuning["weight_decay"]) == ("sgd", 30, 5e-4)


@pytest.mark.slow
def test_the_examples_of_the_page_train(run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path) -> None:
    mine, tuned = blocks("recipes.md", "toml")
    (tmp_path / "my.toml").write_text(mine)
    (tmp_path / "mine.toml").write_text(tuned)
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=10)
    small = ("--arch", "resnet8", "--image-size", 16, "--epochs", 1, "--quiet", "--output")
    trained = run_cli("train", data, "--recipe", tmp_path / "my.toml", *small, tmp_path / "trained")
    assert trained.exit_code == 0, trained.stderr
    record = json.loads((tmp_path / "trained" / "run.json").read_text())["config"]
    assert record["recipe"] == str(tmp_path / "my.toml") and (record["epochs"], record["batch_size"]) == (1, 64)
    assert record["drops"] == [[0.5, 0.1], [0.75, 0.01]] and record["cutout"] == 0.25
    finetuned = run_cli(
        "finetune", data, "--weights", tmp_path / "trained", "--recipe", tmp_path / "mine.toml", *small[2:], tmp_path / "tuned"
    )
    assert finetuned.exit_code == 0, finetuned.stderr
    config = json.loads((tmp_path / "tuned" / "run.json").read_text())["config"]
    wanted = {"optimizer": "sgd", "learning_rate": 0.02, "rotate": 30.0, "views": 4, "patience": 0, "class_weights": True}
    assert config | wanted == config


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_recipe_file_is_read_as_windows_shells_write_it(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_bytes("epochs = 3\r\ndropout = 0.25\r\n".encode(encoding))
    config = make_finetune_config(tmp_path / "my.toml", {})
    assert (config.epochs, config.dropout) == (3, 0.25)


def test_numbers_of_numpy_are_numbers() -> None:
    config = make_finetune_config(None, {"epochs": np.int64(3), "learning_rate": np.float32(0.5)})
    assert config == make_finetune_config(None, {"epochs": 3, "learning_rate": 0.5})
    assert type(config.epochs) is int and type(config.learning_rate) is float


def test_a_shown_recipe_names_the_recipe_that_it_is_based_on(tmp_path: Path, run_cli: RunCli) -> None:
    shown = run_cli("train", "--recipe", "paper", "--epochs", 5, "--show").stdout
    assert tomllib.loads(shown)["recipe"] == "paper"
    (tmp_path / "my.toml").write_text(shown)
    again = run_cli("train", "--recipe", tmp_path / "my.toml", "--show").stdout
    assert "He et al. 2015, section 4.2" in again and tomllib.loads(again) == tomllib.loads(shown)
