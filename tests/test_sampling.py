"""`--fraction` and `--per-class`: a sample of the training and validation images of every class, for quick trials."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import MakeDataset, RunCli
from training_material import StopAfter

import resnet_cli as resnet
from resnet_cli.data.dataset import Dataset, scan_dataset, scan_photos
from resnet_cli.data.split import hold_out, hold_out_photos, sampled
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.jobs.finetune import run_finetune
from resnet_cli.jobs.plan import plan_finetune
from resnet_cli.jobs.start import FinetuneRequest
from resnet_cli.progress import Silent
from resnet_cli.training.config import FinetuneConfig


def paths(dataset: Dataset, split: str) -> set[Path]:
    return {sample.path for sample in dataset.splits[split]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset) -> Dataset:
    """A tenth held out of 40 and 120 images, and 10 test images a class."""
    root = tmp_path_factory.mktemp("sampling") / "fruit"
    make_dataset(root / "train", ("few",), count=40)
    make_dataset(root / "train", ("few", "many"), count=1, first=900)
    make_dataset(root / "train", ("unused", "many"), count=119, first=1000)
    shutil.rmtree(root / "train" / "unused")
    make_dataset(root / "test", ("few", "many"), count=10, first=2000)
    return hold_out(scan_dataset(root), 0.25, seed=3)


def test_a_fraction_is_taken_of_every_class_and_split_and_the_test_images_stay(whole: Dataset) -> None:
    part = sampled(whole, 0.2, None, seed=3)
    for split in ("train", "val"):
        assert part.counts(split) == [round(0.2 * count) for count in whole.counts(split)]
        assert paths(part, split) < paths(whole, split)
    assert part.splits["test"] == whole.splits["test"]
    assert part.sampling is not None
    assert part.sampling.of == {split: len(whole.splits[split]) for split in ("train", "val")}


def test_a_number_per_class_is_the_most_of_each_class_and_split(whole: Dataset) -> None:
    part = sampled(whole, None, 12, seed=3)
    for split in ("train", "val"):
        assert part.counts(split) == [min(12, count) for count in whole.counts(split)]


def test_a_larger_sample_contains_a_smaller_one_and_all_is_all(whole: Dataset) -> None:
    few, more = sampled(whole, 0.1, None, seed=3), sampled(whole, 0.5, None, seed=3)
    assert paths(few, "train") < paths(more, "train") and paths(few, "val") < paths(more, "val")
    assert sampled(whole, 1.0, None, seed=3).splits == whole.splits
    assert sampled(whole, None, None, seed=3) is whole


def test_the_seed_chooses_the_sample(whole: Dataset) -> None:
    assert sampled(whole, 0.3, None, seed=3) == sampled(whole, 0.3, None, seed=3)
    assert paths(sampled(whole, 0.3, None, seed=4), "train") != paths(sampled(whole, 0.3, None, seed=3), "train")


def test_a_class_keeps_two_training_images_and_one_for_validation(whole: Dataset) -> None:
    part = sampled(whole, 0.001, None, seed=3)
    assert (part.counts("train"), part.counts("val")) == ([2, 2], [1, 1])
    assert sampled(whole, None, 1, seed=3).counts("train") == [1, 1]


def test_copies_of_an_image_are_sampled_together(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path / "train", ("a", "b"), count=20)
    make_dataset(tmp_path / "val", ("a", "b"), count=4, first=50)
    for path in sorted((tmp_path / "train").glob("*/*.png")):
        shutil.copy(path, path.with_name(f"copy_{path.name}"))
    whole = hold_out(scan_dataset(tmp_path), 0.1, seed=0)
    part = sampled(whole, 0.2, None, seed=0)
    names = {path.name.removeprefix("copy_") for path in paths(part, "train") if path.parent.name == "a"}
    assert part.counts("train") == [8, 8] and len(names) == 4
    assert len(whole.copies) == 40 and len(part.copies) == 8


def test_test_images_that_validate_too_stay(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path / "train", ("a", "b"), count=10)
    make_dataset(tmp_path / "test", ("a", "b"), count=10, first=50)
    part = sampled(hold_out(scan_dataset(tmp_path), 0, seed=0), 0.5, None, seed=0)
    assert part.counts("train") == [5, 5] and part.counts("val") == part.counts("test") == [10, 10]


def test_photos_without_labels_are_sampled_by_share_alone(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path, ("photos",), count=40)
    photos = hold_out_photos(scan_photos(tmp_path, ("a", "b")), 0.25, seed=0)
    assert len(sampled(photos, 0.5, None, seed=0).splits["train"]) == round(0.5 * len(photos.splits["train"]))
    with pytest.raises(ResnetError, match="--per-class needs labels"):
        sampled(photos, None, 5, seed=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--fraction", "0.1", "--per-class", "5"), "--fraction and --per-class both choose a sample: leave one out"),
        (("--fraction", "0"), "0 is not between 0 and 1"),
        (("--fraction", "50"), "50 is not between 0 and 1"),
        (("--fraction", "nan"), "nan is not between 0 and 1"),
        (("--per-class", "0"), "Invalid value for '--per-class'"),
    ],
)
@pytest.mark.parametrize("command", ["train", "finetune"])
def test_samples_that_are_none_are_usage_errors(
    command: str, options: tuple[str, ...], said: str, run_cli: RunCli, tiny_dataset: Path
) -> None:
    result = run_cli(command, tiny_dataset, *options)
    assert result.exit_code == 2 and said in " ".join(result.stderr.split())


def test_from_python_a_sample_is_checked_too(tiny_dataset: Path) -> None:
    for wrong in (
        {"fraction": 2.0},
        {"fraction": "0.1"},
        {"per_class": 0},
        {"per_class": True},
        {"fraction": 0.1, "per_class": 5},
    ):
        with pytest.raises(ResnetError):
            resnet.finetune(tiny_dataset, weights="bundled", progress=False, **wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_sample_is_reported_recorded_and_part_of_what_a_resumed_run_compares(
    run_cli: RunCli, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("fruit", "--weights", "bundled", "--unfreeze", "none", "--augment", "none", "--val-split", "0.4")
    done = run_cli("finetune", *options, "--per-class", "4", "--output", "run")
    assert "sample: 4 per class, of " in done.stderr
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert data["counts"]["train"] == [4, 4, 4] and max(data["counts"]["val"]) <= 4
    assert sum(data["sample"].pop("of").values()) == 36
    assert data["sample"] == {"fraction": None, "per_class": 4}


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_same_table_and_sample_alone(tiny_dataset: Path, tmp_path: Path) -> None:
    rows = [f"{path.relative_to(tiny_dataset).as_posix()},{path.parent.name}" for path in sorted(tiny_dataset.glob("*/*.png"))]
    table = tiny_dataset / "labels.csv"
    table.write_text("\n".join(["path,label", *reversed(rows)]))
    request = FinetuneRequest(
        *(tiny_dataset, "resnet8", "none", "32", "crop", tmp_path / "run", False, False, False, None, False, "resnet"),
        labels=table,
        per_class=6,
    )
    config = FinetuneConfig(views=2, epochs=1, unfreeze="none", val_split=0.4)
    with pytest.raises(Interrupted):
        run_finetune(plan_finetune(request, config, Silent()), StopAfter(1, title="features"))
    again = replace(request, resume=True)
    with pytest.raises(ResnetError, match="began with per_class 6, not 5"):
        plan_finetune(replace(again, per_class=5), config, Silent())
    with pytest.raises(ResnetError, match="began with other images"):
        table.write_text("\n".join(["path,label", *rows[:-4], *(row.replace(",cherry", ",berry") for row in rows[-4:])]))
        plan_finetune(again, config, Silent())
    table.write_text("\n".join(["path,label", *rows]))  # the order of the rows does not matter
    plan = plan_finetune(again, config, Silent())
    assert run_finetune(plan, Silent())["val"]["count"] == len(plan.dataset.splits["val"]) <= 18
