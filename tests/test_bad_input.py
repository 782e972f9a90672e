"""Bad input: one sentence that says what is wrong and what to do, exit code 1 (2 for usage), and nothing half-written."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Finetuned, MakeDataset, Result, RunCli, room_for

QUICK = ("--arch", "resnet8", "--weights", "none", "--image-size", "32", "--set", "views=2", "--epochs", "1")
Spoil = Callable[[Path], object]


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder, with its time and bytes."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_one_sentence(result: Result, words: str, code: int = 1) -> None:
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.stderr
    assert words in lines[0]
    assert "Traceback" not in result.stderr
    assert (result.exit_code, result.stdout) == (code, "")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that runs/ would be made in."""
    folder = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
    return folder


def remove_images(root: Path) -> None:
    for path in root.rglob("*.png"):
        path.unlink()


def empty(name: str) -> Spoil:
    return lambda root: [path.unlink() for path in (root / name).iterdir()]


def damage(name: str) -> Spoil:
    return lambda root: [path.write_text(f"{path.name} is no image") for path in (root / name).iterdir()]


def as_train_and_val(root: Path) -> None:
    for split in ("train", "val"):
        for name in ("apple", "berry", "cherry"):
            shutil.copytree(root / name, root / split / name)
    for name in ("apple", "berry", "cherry"):
        shutil.rmtree(root / name)
    (root / "val" / "cherry").rename(root / "val" / "cheery")


@pytest.mark.parametrize("command", ["finetune", "train"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(shutil.rmtree, "there is no folder", id="no such folder"),
        pytest.param(lambda root: [shutil.rmtree(root), root.touch()], "is a file, not a folder", id="a file"),
        pytest.param(remove_images, "has no images", id="no images"),
        pytest.param(
            lambda root: [shutil.rmtree(root / name) for name in ("apple", "berry")], "one class only", id="one class"
        ),
        pytest.param(empty("berry"), "has no images", id="an empty class"),
        pytest.param(damage("berry"), "no image of the class berry in", id="a class of damaged files"),
        pytest.param(as_train_and_val, "val has cheery, which", id="train and val with other classes"),
    ],
)
def test_a_data_set_that_cannot_be_learned_from(
    command: str, spoil: Spoil, words: str, tiny_dataset: Path, run_cli: RunCli, elsewhere: Path
) -> None:
    spoil(tiny_dataset)
    before = contents(tiny_dataset)
    options = QUICK if command == "finetune" else QUICK[:2]
    assert_one_sentence(run_cli(command, tiny_dataset, *options, "--quiet"), words)
    assert contents(tiny_dataset) == before
    assert list(elsewhere.rglob("*")) == []


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["finetune", "--arch", "resnet51"], "there is no resnet51: CIFAR networks of that kind", 1),
        (["train", "--arch", "rasnet"], "there is no network named 'rasnet'", 1),
        (["train", "--arch", "plain20", "--shortcut", "B"], "--shortcut B contradicts plain20", 1),
        (["train", "--arch", "resnet50", "--image-size", "16"], "--image-size 16 is too small for resnet50", 1),
        (["finetune", "--arch", "resnet20", "--weights", "imagenet"], "there are no ImageNet weights for resnet20", 1),
        (["finetune", "--arch", "resnet50", "--weights", "bundled"], "there are no bundled weights for resnet50", 1),
        (["finetune", "--arch", "resnet18-compact"], "there are no pretrained weights for resnet18-compact", 1),
        (["finetune", "--weights", "none", "--image-size", "31"], "--image-size 31 is too small for resnet18-slim", 1),
        (["finetune", "--arch", "resnet56"], "there are no pretrained weights for resnet56", 1),
        (["finetune", "--weights", "nowhere.h5"], "--weights nowhere.h5: there is no such file or run folder", 1),
        (["finetune", "--weights", "none", "--image-size", "huge"], "--image-size huge is neither auto nor a number", 1),
        (["finetune", "--weights", "none", "--image-size", "4"], "--image-size 4 is neither auto nor a number", 1),
        (["finetune", "--weights", "none", "--image-size", "-32"], "--image-size -32 is neither auto nor a number", 1),
        (["finetune", "--weights", "none", "--val-split", "0"], "--val-split 0 needs a test folder", 1),
        (["finetune", "--weights", "none", "--resume"], "there is no interrupted run at runs/fruit-resnet18-slim", 1),
    ],
)
def test_options_that_contradict_each_other_or_the_data(
    arguments: list[str], words: str, code: int, tiny_dataset: Path, run_cli: RunCli, elsewhere: Path
) -> None:
    command, *options = arguments
    assert_one_sentence(run_cli(command, tiny_dataset, *options), words, code)
    assert list(elsewhere.rglob("*")) == []


def test_an_unknown_network_is_answered_with_the_nearest_names(tiny_dataset: Path, run_cli: RunCli) -> None:
    hint = run_cli("finetune", tiny_dataset, "--arch", "resnet51").stderr.splitlines()[1]
    assert hint.startswith("hint: nearest") and "resnet50" in hint


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--image-size", "4"],
        ["train", "--shortcut", "none"],
        ["train", "--set", "crop=sideways"],
        ["train", "--epochs", "0"],
        ["train", "--optimizer", "lion"],
        ["train", "--batch-size", "many"],
        ["finetune", "--unfreeze", "some"],
        ["finetune", "--val-split", "1.5"],
        ["finetune", "--seed", "-1"],
        ["evaluate", "--min-accuracy", "95"],
        ["predict", "--top", "0"],
        ["predict", "--no-such-option"],
        ["no-such-command"],
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(arguments: list[str], tiny_dataset: Path, run_cli: RunCli) -> None:
    command, *options = arguments
    result = run_cli(command, tiny_dataset, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr and arguments[-1 if command == "no-such-command" else 1] in result.stderr


@pytest.mark.parametrize("unfreeze", ["none", "last", "all"])
def test_damaged_images_are_named_and_left_out_and_with_strict_an_error(
    unfreeze: str, tiny_dataset: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    zero, cut, text = (tiny_dataset / name for name in ("apple/003.png", "berry/004.png", "cherry/005.png"))
    zero.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[:200])
    text.write_text("<html>404</html>")
    renamed = (tiny_dataset / "cherry" / "006.png").rename(tiny_dataset / "cherry" / "006.jpg")
    before = contents(tiny_dataset)
    quick = [*QUICK, "--unfreeze", unfreeze]
    strict = run_cli("finetune", tiny_dataset, *quick, "--strict", "--output", tmp_path / "strict")
    assert_one_sentence(strict, str(tiny_dataset))
    assert not (tmp_path / "strict").exists()
    result = run_cli("finetune", tiny_dataset, *quick, "--output", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert "warning: left out 3 unreadable images: " in result.stderr
    for path, reason in ((zero, "is empty (0 bytes)"), (cut, "is damaged"), (text, "is not an image")):
        assert f"{path} {reason}" in result.stderr
    recorded = (tmp_path / "run" / "splits.csv").read_text()
    assert "apple/003.png" not in recorded and renamed.relative_to(tiny_dataset).as_posix() in recorded
    assert contents(tiny_dataset) == before


@pytest.mark.slow
def test_damaged_test_images_are_named_too_and_not_only_after_the_training(
    make_dataset: MakeDataset, run_cli: RunCli, tmp_path: Path
) -> None:
    for split, count in (("train", 8), ("test", 2)):
        make_dataset(tmp_path / "pets" / split, ("cat", "dog"), count=count, first=10 if split == "test" else 0)
    first, *others = sorted((tmp_path / "pets" / "test").rglob("*.png"))
    first.write_bytes(b"")
    command = ["finetune", tmp_path / "pets", *QUICK, "--unfreeze", "none", "--output", tmp_path / "run"]
    assert_one_sentence(run_cli(*command, "--strict"), f"{first} is empty (0 bytes)")
    assert not (tmp_path / "run").exists()
    result = run_cli(*command)
    assert result.exit_code == 0, result.stderr
    assert f"warning: left out 1 unreadable image: {first} is empty (0 bytes)\n" in result.stderr
    for path in others:
        path.write_text("<html>404</html>")
    for unfreeze in ("none", "all"):
        late = run_cli("finetune", tmp_path / "pets", *QUICK, "--unfreeze", unfreeze, "--output", tmp_path / "late")
        assert_one_sentence(late, f"no test image of {tmp_path / 'pets'} can be read")
        assert not (tmp_path / "late").exists()


@pytest.mark.parametrize("command", ["evaluate", "predict"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(lambda run: (run / "run.json").unlink(), "is not complete: it has no run.json", id="no run.json"),
        pytest.param(
            lambda run: (run / "run.json").rename(run / "rate.csv"), "contains a learning-rate range test", id="a search"
        ),
        pytest.param(
            lambda run: (run / "model.weights.h5").unlink(), "is not complete: it has no model.weights.h5", id="no weights"
        ),
        pytest.param(lambda run: (run / "model.bin").write_bytes(b"cut"), "cannot load", id="cut network"),
        pytest.param(lambda run: (run / "run.json").write_text('{"format": 1, '), "cannot be read", id="cut run.json"),
        pytest.param(lambda run: (run / "run.json").write_bytes(b"\xff\xfe"), "cannot be read", id="bytes"),
        pytest.param(lambda run: (run / "run.json").write_text("[]"), "is not a run of this program", id="a list"),
        pytest.param(lambda run: (run / "run.json").write_text('{"format": 1}'), "run.json", id="an empty record"),
    ],
)
def test_a_run_that_cannot_be_used(
    command: str, spoil: Spoil, words: str, finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path
) -> None:
    run = shutil.copytree(finetuned_run.folder, tmp_path / "run")
    spoil(run)
    before = contents(run)
    assert_one_sentence(run_cli(command, finetuned_run.data, "--run", run, "--quiet"), words)
    assert contents(run) == before


def test_a_run_of_a_newer_version_says_how_to_upgrade(finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path) -> None:
    run = shutil.copytree(finetuned_run.folder, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "format": 2}))
    for command in ("evaluate", "predict"):
        result = run_cli(command, finetuned_run.data, "--run", run)
        assert_one_sentence(result, "was written by a newer version (format 2)")
        assert "hint: upgrade with pip" in result.stderr


def test_nothing_to_predict_is_one_sentence(finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path) -> None:
    assert_one_sentence(
        run_cli("predict", tmp_path, "--run", finetuned_run.folder), f"the folder {tmp_path} contains no images"
    )
    pattern = f"{tmp_path}/*.jpg"
    assert_one_sentence(run_cli("predict", "", "--run", finetuned_run.folder), "an image has an empty name")
    assert_one_sentence(run_cli("predict", pattern, "--run", finetuned_run.folder), f"no file matches the pattern {pattern}")


def test_an_output_that_cannot_be_a_folder_is_told_before_any_work(
    tiny_dataset: Path, finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for command, words in (("finetune", "reading"), ("train", "reading")):
        result = run_cli(command, tiny_dataset, "--arch", "resnet8", "--weights", "none", "--output", file / "run")
        assert_one_sentence(result, f"cannot write to {file / 'run'}")
        assert words not in result.stderr
        assert_one_sentence(
            run_cli(command, tiny_dataset, "--arch", "resnet8", "--weights", "none", "--output", file), "exists"
        )
    result = run_cli("evaluate", "--run", finetuned_run.folder, "--output", file / "figures", "--quiet")
    assert_one_sentence(result, f"cannot write to {file / 'figures'}")
    assert file.read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("room", "unfreeze", "words"),
    [
        (100, "none", "checkpoint/config.json"),
        (2_000, "none", "checkpoint/frozen"),
        (8_000, "none", "metrics.jsonl"),
        (40_000, "none", "model.weights.h5"),
        (300_000, "last", "checkpoint/frozen"),
        (600_000, "last", "checkpoint/tail/step-"),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_no_run(
    room: int,
    unfreeze: str,
    words: str,
    make_dataset: MakeDataset,
    run_cli: RunCli,
    tmp_path: Path,
) -> None:
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=10)
    # Enough epochs for metrics.jsonl to fill the disk; fine-tuning, behind a perfect head.
    options = ["--epochs", "40"] if unfreeze == "none" else ["--set", "patience=0"]
    with room_for(room):
        result = run_cli("finetune", data, *QUICK, *options, "--unfreeze", unfreeze, "--output", tmp_path / "run")
    assert_one_sentence(result, f"{tmp_path}/run/{words}")
    assert not (tmp_path / "run" / "run.json").exists()
    assert [path.name for path in tmp_path.rglob("*partial*")] == []
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert all(size <= room for size in sizes.values())


def test_figures_are_not_half_written_where_there_is_no_room(finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path) -> None:
    with room_for(200):
        result = run_cli("evaluate", "--run", finetuned_run.folder, "--output", tmp_path / "figures", "--json")
    assert_one_sentence(result, f"cannot write {tmp_path / 'figures' / 'predictions.csv'}")
    assert list((tmp_path / "figures").iterdir()) == []


def train_anew(dataset: Path, run: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`resnet train` in a process of its own, where Keras has not been imported yet."""
    program = [sys.executable, "-c", "from resnet_cli.cli.app import main; main()"]
    command = [*program, "train", dataset, "--arch", "resnet8", "--epochs", "1", "--output", run, "--quiet"]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "words"),
    [("openvino", "this program does not train with Keras' backend openvino"), ("cntk", "Keras cannot start its backend cntk")],
)
def test_a_backend_that_cannot_train_is_one_sentence(backend: str, words: str, tiny_dataset: Path, tmp_path: Path) -> None:
    done = train_anew(tiny_dataset, tmp_path / "run", KERAS_BACKEND=backend)
    assert done.returncode == 1 and f"error: {words}" in done.stderr and "KERAS_BACKEND=tensorflow" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_other_projects_made_of_keras_json_does_not_matter(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text(
        '{"image_data_format": "channels_first", "floatx": "float16", "backend": "tensorflow"}'
    )
    done = train_anew(tiny_dataset, tmp_path / "run", KERAS_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
