"""`resnet finetune`: a folder of photos in, a complete and repeatable run out, for data sets of every shape."""

import csv
import hashlib
import json
import shutil
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import HALF, Finetuned, MakeDataset, MakeImage, RunCli
from PIL import Image

from resnet_cli.networks.pretrained import bundled_run

# A network without pretrained weights that is quick to build: what is tried here does not depend on how good it is.
QUICK = ["--arch", "resnet20", "--weights", "none", "--set", "views=2", "--epochs", "1", "--image-size", "32", "--json"]


def weights_of(run: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(run / "model.weights.h5", "r") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def same_weights(first: Path, second: Path, leave: str = "nothing") -> bool:
    one, other = weights_of(first), weights_of(second)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one if leave not in name)


def splits_of(run: Path) -> dict[str, str]:
    with (run / "splits.csv").open(newline="") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record


def without_time(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in ("run", "seconds")}


def test_a_run_holds_everything_that_later_commands_need_and_no_leftovers(finetuned_run: Finetuned) -> None:
    names = {"run.json", "splits.csv", "model.weights.h5", "model.xml", "model.bin", "metrics.jsonl", "curves.png"}
    names |= {"metrics.csv", "novelty.npz", "predictions.csv", "confusion.csv", "report.html"}
    assert {path.name for path in finetuned_run.folder.iterdir()} == names
    with Image.open(finetuned_run.folder / "curves.png") as curves:
        assert curves.format == "PNG"


def test_run_json_says_enough_to_repeat_the_run(finetuned_run: Finetuned) -> None:
    record = record_of(finetuned_run.folder)
    assert record["format"] == 1
    assert record["command"] == f"resnet {' '.join(finetuned_run.arguments)} --output {finetuned_run.folder}"
    assert record["classes"] == ["apple", "berry", "cherry", "date", "elder", "fig", "grape"]
    assert (record["network"]["name"], record["image_size"], record["seed"]) == ("resnet18-slim", 32, HALF)
    assert record["config"] | {"views": 2, "epochs": 2, "val_split": 0.5, "unfreeze": "all", "hidden": 0} == record["config"]
    bundled = bundled_run().weights
    assert record["weights"]["source"] == "bundled" and record["weights"]["fallback"] == ""
    assert record["weights"]["sha256"] == hashlib.sha256(bundled.read_bytes()).hexdigest()
    assert record["data"]["path"] == str(finetuned_run.data) and len(record["data"]["fingerprint"]) == 64
    splits = Counter((path.split("/")[0], split) for path, split in splits_of(finetuned_run.folder).items())
    counts = {split: [splits[name, split] for name in record["classes"]] for split in ("train", "val")}
    assert record["data"]["counts"] == counts
    assert record["precision"] in {"float32", "bfloat16", "mixed_bfloat16"}
    assert {"resnet-cli", "python", "keras", "tensorflow", "numpy", "pillow", "openvino"} <= record["versions"].keys()
    assert record["results"] == finetuned_run.result


def test_the_json_document_keeps_its_contract(finetuned_run: Finetuned) -> None:
    result = finetuned_run.result
    assert {"run", "arch", "weights", "epochs", "seconds", "val", "best_epoch"} <= result.keys()
    assert (result["run"], result["arch"], result["weights"]) == (str(finetuned_run.folder), "resnet18-slim", "bundled")
    assert result["val"]["count"] == 42
    low, high = result["val"]["top1_interval"]
    assert 0 <= low <= result["val"]["top1"] <= high <= 1
    assert [each["class"] for each in result["val"]["classes"]] == record_of(finetuned_run.folder)["classes"]
    assert 1 <= result["best_epoch"] <= result["epochs"]
    assert "notice" not in finetuned_run.stderr


def test_the_held_out_images_are_a_share_of_every_class_and_are_recorded(finetuned_run: Finetuned) -> None:
    splits = splits_of(finetuned_run.folder)
    images = {path.relative_to(finetuned_run.data).as_posix() for path in finetuned_run.data.rglob("*.png")}
    assert splits.keys() == images
    counts = Counter((path.split("/")[0], split) for path, split in splits.items())
    assert len(counts) == 14 and all(3 <= count <= 9 for count in counts.values())


def test_fine_tuning_is_kept_if_it_raises_validation_accuracy_or_at_the_same_lowers_the_loss(finetuned_run: Finetuned) -> None:
    lines = [json.loads(line) for line in (finetuned_run.folder / "metrics.jsonl").read_text().splitlines()]
    best = {
        stage: max((line["val_accuracy"], -line["val_loss"]) for line in lines if line["stage"] == stage)
        for stage in ("head", "tail")
    }
    assert finetuned_run.result["kept"] == ("tail" if best["tail"] > best["head"] else "head")
    assert finetuned_run.result["head_top1"] == best["head"][0]


@pytest.mark.slow
def test_the_same_command_and_seed_give_the_same_figures_and_the_same_weights(
    finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path
) -> None:
    again = run_cli(*finetuned_run.arguments, "--output", tmp_path / "again")
    assert without_time(json.loads(again.stdout)) == without_time(finetuned_run.result)
    assert splits_of(tmp_path / "again") == splits_of(finetuned_run.folder)
    assert same_weights(tmp_path / "again", finetuned_run.folder)


@pytest.mark.slow
def test_another_seed_gives_another_run_and_force_replaces_the_old_one(
    finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path
) -> None:
    old = shutil.copytree(finetuned_run.folder, tmp_path / "run")
    (old / "export" / "onnx").mkdir(parents=True)
    refused = run_cli(*finetuned_run.arguments, "--output", old)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"error: {old} exists already\n") and "--force" in refused.stderr
    assert same_weights(old, finetuned_run.folder)
    result = run_cli(*finetuned_run.arguments, "--seed", 4, "--output", old, "--force")
    assert result.exit_code == 0, result.stderr
    assert not (old / "export").exists()
    assert splits_of(old) != splits_of(finetuned_run.folder)
    assert not same_weights(old, finetuned_run.folder)


def test_force_replaces_nothing_but_runs(tiny_dataset: Path, run_cli: RunCli, tmp_path: Path) -> None:
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "mother.txt").write_text("dear")
    result = run_cli("finetune", tiny_dataset, *QUICK, "--output", letters, "--force")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "not a run folder" in result.stderr
    assert (letters / "mother.txt").read_text() == "dear"


def test_a_run_that_fails_leaves_the_run_that_it_was_to_replace(tiny_dataset: Path, run_cli: RunCli, tmp_path: Path) -> None:
    old = tmp_path / "run"
    old.mkdir()
    (old / "run.json").write_text("{}")
    for path in (tiny_dataset / "apple").iterdir():
        path.write_text(f"{path.name} is no image")
    result = run_cli("finetune", tiny_dataset, *QUICK, "--output", old, "--force")
    assert result.exit_code == 1
    assert "error: no image of the class apple" in result.stderr
    assert [path.name for path in old.iterdir()] == ["run.json"]


@pytest.mark.slow
def test_without_network_and_weights_the_bundled_backbone_stands_in_and_says_so(
    tiny_dataset: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(host: str, *rest: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "fruit-resnet18-slim").mkdir(parents=True)
    result = run_cli("finetune", tiny_dataset, "--set", "views=2", "--epochs", 1, "--image-size", 32, "--quiet")
    assert result.exit_code == 0, result.stderr
    assert "notice" in result.stderr and "resnet18-slim is used instead of resnet50" in result.stderr
    # The folder of that name was taken, so the run has the next number.
    run = tmp_path / "runs" / "fruit-resnet18-slim-2"
    assert "resnet50" in record_of(run)["weights"]["fallback"]
    assert record_of(run)["weights"]["source"] == "bundled"
    assert "the bundled backbone is used instead of resnet50 with ImageNet weights" in record_of(run)["results"]["warnings"]
    for line in ("held-out accuracy", "95 % interval", "apple", "run runs/fruit-resnet18-slim-2"):
        assert line in result.stdout
    assert "next: resnet predict image.jpg --run runs/fruit-resnet18-slim-2" in result.stdout
    assert "resnet evaluate --run runs/fruit-resnet18-slim-2" in result.stdout


@pytest.mark.slow
def test_two_classes_of_ten_images_with_a_hidden_layer_and_everything_unfrozen(
    run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=10)
    options = ("--set", "hidden=2048", "--unfreeze", "all", "--set", "patience=0")
    result = run_cli("finetune", data, *QUICK, *options, "--output", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    held_out = list(splits_of(tmp_path / "run").values()).count("val")
    assert figures["val"]["count"] == held_out and 2 <= held_out <= 8
    assert any(f"only {held_out} held-out images" in warning for warning in figures["warnings"])
    weights = weights_of(tmp_path / "run")
    assert weights["hidden/kernel"].shape == (64, 2048) and weights["logits/kernel"].shape == (2048, 2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"head", "tail"}


@pytest.mark.slow
def test_sixty_classes_of_four_images(run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "many", tuple(f"class {number:02d}" for number in range(60)), count=4)
    result = run_cli("finetune", data, *QUICK, "--unfreeze", "none", "--output", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    counts = [each["count"] for each in figures["val"]["classes"]]
    assert len(counts) == 60 and set(counts) == {1, 2} and figures["val"]["count"] == sum(counts)
    assert figures["val"]["top5"] >= figures["val"]["top1"]
    assert figures["kept"] == "head"
    assert any("too few images" in warning and "and 55 more" in warning for warning in figures["warnings"])


@pytest.mark.slow
def test_a_rare_class_is_found_when_every_class_counts_alike(
    run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    make_dataset(tmp_path / "pets", ("cat",), count=40)
    make_dataset(tmp_path / "pets", ("cat", "dog"), count=5)
    run, note = (
        tmp_path / "run",
        "cat has 32 training images and dog 4: --set class_weights=true gives all classes the same weight",
    )
    result = run_cli("finetune", tmp_path / "pets", *QUICK, "--unfreeze", "none", "--output", tmp_path / "unequal")
    assert note in json.loads(result.stdout)["warnings"]
    # With features that tell the classes apart: those of random weights do with some seeds alone.
    trained = ["--weights", "bundled", "--unfreeze", "none", "--set", "views=2", "--image-size", "32", "--json"]
    result = run_cli("finetune", tmp_path / "pets", *trained, "--set", "class_weights=true", "--output", run)
    assert result.exit_code == 0, result.stderr
    assert note not in json.loads(result.stdout)["warnings"]
    recalls = {each["class"]: (each["count"], each["recall"]) for each in json.loads(result.stdout)["val"]["classes"]}
    assert recalls["dog"] == (1, 1.0)
    assert record_of(run)["config"]["class_weights"] is True


@pytest.mark.slow
def test_a_test_folder_gives_the_headline_and_chooses_nothing(
    run_cli: RunCli, make_dataset: MakeDataset, make_image: MakeImage, tmp_path: Path
) -> None:
    root = tmp_path / "pets"
    make_dataset(root / "train", ("cat", "dog"), count=8)
    make_dataset(root / "valid", ("cat", "dog"), count=3, first=8)
    make_dataset(root / "testing", ("cat", "dog"), count=5, first=11)
    # Three test images in the wrong folder: a figure that selection would have avoided.
    for number in range(3):
        make_image(root / "testing" / "dog" / f"{11 + number:03d}.png", seed=50 + number, label=0)
    run = tmp_path / "run"
    result = run_cli("finetune", root, *QUICK[:-1], "--quiet", "--unfreeze", "none", "--epochs", "40", "--output", run)
    assert result.exit_code == 0, result.stderr
    assert "test accuracy 70.0%" in result.stdout and "10 images" in result.stdout
    assert "validation accuracy 100.0% (6 images)" in result.stdout
    results = record_of(run)["results"]
    assert (results["test"]["count"], results["val"]["count"]) == (10, 6)
    assert Counter(splits_of(run).values()) == {"train": 16, "val": 6, "test": 10}


@pytest.mark.slow
def test_a_second_stage_that_spoils_the_network_is_thrown_away(
    finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = run_cli(*finetuned_run.arguments, "--unfreeze", "last", "--learning-rate", 0.5, "--output", run)
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["kept"] == "head"
    assert figures["val"]["top1"] == pytest.approx(figures["head_top1"], abs=1.01 / 42)  # one image may fall the other way
    assert any("the head alone was kept" in warning for warning in figures["warnings"])
    with h5py.File(bundled_run().weights, "r") as file:
        for name, values in weights_of(run).items():
            if "logits" not in name:
                np.testing.assert_array_equal(values, np.asarray(file[name], np.float32), err_msg=name)


@pytest.mark.slow
def test_a_run_is_a_starting_point_for_the_next(finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--set", "views=2", "--image-size", "32", "--unfreeze", "none", "--json"]
    result = run_cli("finetune", finetuned_run.data, "--weights", finetuned_run.folder, *options, "--output", run)
    assert result.exit_code == 0, result.stderr
    record = record_of(run)
    assert record["weights"]["source"] == "file"
    weights = finetuned_run.folder / "model.weights.h5"
    assert record["weights"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert same_weights(run, finetuned_run.folder, leave="logits")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--unfreeze none --batch-size 64", "batch_size contradicts the rest: it is about the fine-tuning phase"),
        ("--unfreeze none --learning-rate 0.1", "learning_rate contradicts the rest: it is about the fine-tuning phase"),
        (
            "--unfreeze none --set dropout=0.5",
            "dropout contradicts the rest: it has no effect on a head alone without hidden or epochs",
        ),
        ("--unfreeze all --set cache_limit=1", "cache_limit contradicts the rest: it limits the activations"),
        ("--unfreeze none --set cache_limit=1", "cache_limit contradicts the rest: it limits the activations"),
        ("--unfreeze none --set optimizer=sgd", "optimizer contradicts the rest: it is about the fine-tuning phase"),
        ("--unfreeze none --set weight_decay=0.01", "weight_decay contradicts the rest"),
        ("--unfreeze none --set label_smoothing=0", "label_smoothing contradicts the rest"),
        ("--unfreeze none --set warmup=0.1", "warmup contradicts the rest"),
        ("--augment none --set rotate=10", "rotate contradicts the rest: views are not augmented"),
        ("--set views=1 --set scale=0.5", "scale contradicts the rest: views are not augmented"),
        ("--set time_limit=300 --epochs 3", "epochs contradicts the rest: time_limit chooses the epochs"),
    ],
)
def test_keys_without_effect_are_refused(options: str, said: str, run_cli: RunCli, tiny_dataset: Path) -> None:
    result = run_cli("finetune", tiny_dataset, *options.split())
    assert result.exit_code == 1 and result.stderr.startswith("error: ") and said in result.stderr and "hint: " in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--unfreeze none --lr-find plot", "--lr-find is about the fine-tuning phase"),
        ("--lr-find use --learning-rate 0.1", "looks for the rate"),
        ("--lr-find plot --tensorboard", "trains nothing"),
        ("--set cache_limit=inf", "cache_limit = inf is not a finite number"),
        ("--learning-rate inf", "learning_rate = inf is not a finite number"),
    ],
)
def test_what_cannot_be_typed_is_a_usage_error(options: str, said: str, run_cli: RunCli, tiny_dataset: Path) -> None:
    result = run_cli("finetune", tiny_dataset, *options.split())
    assert result.exit_code == 2 and said in " ".join(result.stderr.replace("│", " ").split())


def test_a_limit_on_stored_activations_is_refused_for_a_network_that_is_trained_as_a_whole(
    run_cli: RunCli, tiny_dataset: Path, tmp_path: Path
) -> None:
    result = run_cli("finetune", tiny_dataset, "--weights", "bundled", "--set", "cache_limit=1", "--output", tmp_path / "run")
    assert result.exit_code == 1 and "cache_limit is about the activations that --unfreeze last stores" in result.stderr
    assert not (tmp_path / "run").exists()
