"""finetune --folds: stratified folds with copies together, and the head of each fold, as a naive loop finds them."""

import csv
import json
import shutil
import statistics
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeDataset, RunCli
from scipy.special import log_softmax
from scipy.stats import binomtest
from training_material import StopAfter, stored

import resnet_cli as resnet
from resnet_cli.data.dataset import Sample, scan_dataset
from resnet_cli.data.split import hold_out, stratified_folds
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.jobs.finetune import run_finetune
from resnet_cli.jobs.plan import plan_finetune
from resnet_cli.jobs.start import FinetuneRequest
from resnet_cli.networks.catalogue import ClassifierSpec, find_network
from resnet_cli.progress import Silent
from resnet_cli.runs.folder import read_history
from resnet_cli.training.config import FinetuneConfig
from resnet_cli.transfer.folds import Pool, cross_validate
from resnet_cli.transfer.head import Problem, cross_validated, feature_scale

QUICK = ["--weights", "bundled", "--image-size", "32", "--set", "views=2", "--unfreeze", "none", "--json"]


def folds_of(root: Path, count: int, seed: int = 0) -> dict[str, int]:
    found = stratified_folds(hold_out(scan_dataset(root), 0.25, seed), count, seed)
    return {path.relative_to(root).as_posix(): fold for path, fold in found.items()}


def test_every_fold_has_as_many_images_of_a_class_as_the_others_or_one_more(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "fruit", ("apple", "berry"), count=13)
    found = folds_of(root, 5)
    assert sorted(found) == sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    for name in ("apple", "berry"):
        counts = Counter(fold for path, fold in found.items() if path.startswith(name))
        assert sorted(counts.values()) == [2, 2, 3, 3, 3]
    assert sorted(Counter(found.values()).values()) == [5, 5, 5, 5, 6]


def test_folds_are_chosen_by_seed_and_content_whatever_the_files_are_called(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "fruit", ("apple", "berry"))
    before = folds_of(root, 3)
    assert folds_of(root, 3) == before
    assert folds_of(root, 3, seed=1) != before
    (root / "apple" / "000.png").rename(root / "apple" / "zzz.png")
    assert folds_of(root, 3) == {path.replace("apple/000", "apple/zzz"): fold for path, fold in before.items()}


def test_copies_are_in_one_fold_and_test_images_in_none(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "fruit" / "train", ("apple", "berry")).parent
    make_dataset(root / "test", ("apple", "berry"), count=3, first=50)
    for number in range(4):
        shutil.copy(root / "train" / "apple" / f"00{number}.png", root / "train" / "apple" / f"copy{number}.png")
    found = folds_of(root, 3)
    assert all(found[f"train/apple/00{number}.png"] == found[f"train/apple/copy{number}.png"] for number in range(4))
    assert len(found) == 28
    assert not [path for path in found if path.startswith("test")]


def test_where_the_test_folder_validates_it_is_still_in_no_fold(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "fruit" / "train", ("apple", "berry")).parent
    make_dataset(root / "test", ("apple", "berry"), count=3, first=50)
    found = stratified_folds(hold_out(scan_dataset(root), 0, 0), 3, 0)
    assert {path.parent.parent.name for path in found} == {"train"}


def test_a_class_with_fewer_images_than_folds_is_named(make_dataset: MakeDataset, tmp_path: Path, run_cli: RunCli) -> None:
    root = make_dataset(tmp_path / "fruit", ("apple", "berry"), count=9)
    for number in range(4, 9):
        (root / "berry" / f"00{number}.png").unlink()
    shutil.copy(root / "berry" / "000.png", root / "berry" / "copy.png")
    result = run_cli("finetune", root, *QUICK, "--folds", 5, "--output", tmp_path / "run")
    assert result.exit_code == 1
    assert "error: the class berry has 4 different images for training and validation, fewer than --folds 5" in result.stderr
    assert "hint: --folds 4 is the most for these classes, or add images" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--folds", "1"], "should be greater than or equal to 2"),
        (["--folds", "21"], "should be less than or equal to 20"),
        (["--folds", "3", "--time-limit", "1m"], "--time-limit does not plan the heads of --folds"),
        (["--folds", "3", "--unfreeze", "last", "--lr-find", "plot"], "--lr-find plot trains nothing"),
    ],
)
def test_what_no_cross_validation_can_be_is_refused(
    words: list[str], said: str, tiny_dataset: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    result = run_cli("finetune", tiny_dataset, *words, "--output", tmp_path / "run")
    assert result.exit_code > 0
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("folds", [1, 2.5, True, "5"])
def test_python_refuses_the_same_numbers_of_folds(folds: object, tiny_dataset: Path) -> None:
    with pytest.raises(ResnetError, match="is not a number of folds"):
        resnet.finetune(tiny_dataset, folds=folds, progress=False)  # type: ignore[arg-type]


def test_each_fold_has_the_figures_of_a_naive_loop_over_the_solver(tmp_path: Path) -> None:
    random, classes, views, count = np.random.default_rng(3), 3, 2, 120
    labels = np.arange(count) % classes
    centres = random.normal(size=(classes, 16)) * 0.5
    clean = (centres[labels] + random.normal(size=(count, 16))).astype(np.float16)
    augmented = (np.repeat(clean, views, 0) + 0.2 * random.normal(size=(count * views, 16))).astype(np.float16)
    samples = tuple(Sample(Path(str(index)), int(label)) for index, label in enumerate(labels))
    fold = random.permutation(count) % 4
    pool = Pool(samples, fold, stored(tmp_path / "augmented", augmented), stored(tmp_path / "clean", clean), views)
    spec = ClassifierSpec(find_network("resnet8"), classes, 32)
    found = cross_validate(pool, spec, FinetuneConfig(unfreeze="none"), tmp_path, False, Silent()).to_json()

    right, losses = np.zeros(count), np.zeros(count)
    for number in range(4):
        train, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        rows = augmented.reshape(count, views, 16)[train].reshape(-1, 16).astype(np.float32)
        scale = feature_scale(rows.var(0))
        owners = np.repeat(np.arange(len(train)), views)
        problem = Problem(
            (rows - rows.mean(0)) * scale, np.repeat(labels[train], views), classes, np.ones(len(rows), np.float32)
        )
        linear = cross_validated(problem, owners, 0, lambda: None)
        logits = linear.logits((clean[held].astype(np.float32) - rows.mean(0)) * scale)
        right[held] = logits.argmax(1) == labels[held]
        losses[held] = -log_softmax(logits, 1)[np.arange(len(held)), labels[held]]
        each = found["folds"][number]
        assert (each["fold"], each["train"], each["count"]) == (number + 1, 90, 30)
        assert each["top1"] == pytest.approx(right[held].mean())
        assert each["loss"] == pytest.approx(losses[held].mean(), abs=1e-4)
    accuracies = [each["top1"] for each in found["folds"]]
    assert len(set(accuracies)) > 1
    assert found["mean"] == pytest.approx(np.mean(accuracies))
    assert found["sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert (found["count"], found["top1"]) == (count, pytest.approx(right.mean()))
    assert found["top1_interval"] == pytest.approx(proportion_ci(int(right.sum()), count))
    with (tmp_path / "folds.csv").open() as file:
        assert [float(line["top1"]) for line in csv.DictReader(file)] == accuracies


def proportion_ci(right: int, count: int) -> tuple[float, float]:
    interval = binomtest(right, count).proportion_ci(0.95, "wilson")
    return interval.low, interval.high


def test_a_head_that_adamw_trains_is_scored_after_its_last_epoch(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    labels = np.arange(60) % 2
    rows = random.normal(size=(60, 8)).astype(np.float16)  # nothing to learn: the best epoch would be best by chance
    samples = tuple(Sample(Path(str(index)), int(label)) for index, label in enumerate(labels))
    pool = Pool(samples, np.arange(60) // 2 % 2, stored(tmp_path / "augmented", rows), stored(tmp_path / "clean", rows), 1)
    spec = ClassifierSpec(find_network("resnet8"), 2, 32)
    found = cross_validate(pool, spec, FinetuneConfig(unfreeze="none", epochs=3), tmp_path, False, Silent())
    for each in found.each:
        last = read_history(tmp_path / "checkpoint" / "folds" / str(each.fold) / "metrics.jsonl")[-1]
        assert (last.epoch, last.val_accuracy, last.val_loss) == (3, each.top1, each.loss)


@pytest.mark.slow
def test_a_run_with_folds_is_the_run_without_and_holds_their_figures(
    run_cli: RunCli, tiny_dataset: Path, tmp_path: Path
) -> None:
    one = run_cli("finetune", tiny_dataset, *QUICK, "--output", tmp_path / "one")
    folded = run_cli("finetune", tiny_dataset, *QUICK, "--folds", 3, "--output", tmp_path / "folded")
    assert (one.exit_code, folded.exit_code) == (0, 0), folded.stderr
    found = json.loads(folded.stdout)
    assert found["val"] == json.loads(one.stdout)["val"]
    record = json.loads((tmp_path / "folded" / "run.json").read_text())
    assert record["results"]["folds"] == found["folds"]
    assert (found["folds"]["phase"], found["folds"]["count"]) == ("head", 36)
    accuracies = [each["top1"] for each in found["folds"]["folds"]]
    assert [each["count"] for each in found["folds"]["folds"]] == [12, 12, 12]
    assert found["folds"]["mean"] == pytest.approx(statistics.mean(accuracies))
    page = (tmp_path / "folded" / "report.html").read_text()
    assert f"head on frozen features, accuracy {statistics.mean(accuracies):.1%}" in page
    text = run_cli("finetune", tiny_dataset, *QUICK[:-1], "--folds", 3, "--output", tmp_path / "text").stdout
    assert f"cross-validated accuracy {statistics.mean(accuracies):.1%}, standard deviation over folds" in text
    assert "cross-validated: the head on frozen features; fine-tuning is not repeated for each fold" in text


@pytest.mark.slow
def test_an_interrupted_cross_validation_resumes_to_the_same_figures(tiny_dataset: Path, tmp_path: Path) -> None:
    config = FinetuneConfig(unfreeze="none", views=2)

    def request(folder: Path, resume: bool) -> FinetuneRequest:
        options = ("crop", folder, False, resume, False, None, False, "resnet")
        return FinetuneRequest(tiny_dataset, "auto", "bundled", "32", *options, folds=3)  # type: ignore[arg-type]

    whole = run_finetune(plan_finetune(request(tmp_path / "whole", False), config, Silent()), Silent())
    stopping = StopAfter(8, title="fold 2")
    with pytest.raises(Interrupted):
        run_finetune(plan_finetune(request(tmp_path / "stopped", False), config, stopping), stopping)
    assert not (tmp_path / "stopped" / "run.json").exists()
    resumed = run_finetune(plan_finetune(request(tmp_path / "stopped", True), config, Silent()), Silent())
    assert resumed["folds"] == whole["folds"]
    assert not (tmp_path / "stopped" / "checkpoint").exists()


@pytest.mark.slow
def test_python_has_the_folds_in_the_results(tiny_dataset: Path, tmp_path: Path) -> None:
    run = resnet.finetune(
        tiny_dataset,
        weights="bundled",
        image_size=32,
        unfreeze="none",
        settings={"views": 2},
        folds=2,
        output=tmp_path / "run",
        progress=Silent(),
    )
    assert [each["count"] for each in run.results["folds"]["folds"]] == [18, 18]
