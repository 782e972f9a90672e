"""Holding out: a share of every class, the same one every time, and never a copy of what is trained on."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import MakeDataset

from resnet_cli.data.scan import Dataset, Sample, scan_dataset
from resnet_cli.data.split import groups_by_class, hold_out
from resnet_cli.errors import ResnetError


def paths(dataset: Dataset, split: str) -> set[Path]:
    return {sample.path for sample in dataset.splits[split]}


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_every_picture_is_on_one_side_and_every_class_on_both(tiny_dataset: Path, share: float) -> None:
    whole = scan_dataset(tiny_dataset)
    dataset = hold_out(whole, share, seed=0)
    assert set(dataset.splits) == {"train", "val"}
    assert paths(dataset, "train") | paths(dataset, "val") == paths(whole, "all")
    assert not paths(dataset, "train") & paths(dataset, "val")
    assert dataset.counts("val") == [round(share * 12)] * 3


def test_a_share_of_a_small_class_is_one_picture_at_least_and_never_all(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path, ("a", "b"), count=2)
    for share in (0.01, 0.99):
        assert hold_out(scan_dataset(tmp_path), share, seed=0).counts("val") == [1, 1]


def test_the_seed_decides_and_nothing_else_does(tiny_dataset: Path, tmp_path: Path, make_dataset: MakeDataset) -> None:
    first = paths(hold_out(scan_dataset(tiny_dataset), 0.25, seed=1), "val")
    assert paths(hold_out(scan_dataset(tiny_dataset), 0.25, seed=1), "val") == first
    assert paths(hold_out(scan_dataset(tiny_dataset), 0.25, seed=2), "val") != first
    copy = shutil.copytree(tiny_dataset, tmp_path / "elsewhere")
    moved = paths(hold_out(scan_dataset(copy), 0.25, seed=1), "val")
    assert {path.relative_to(copy) for path in moved} == {path.relative_to(tiny_dataset) for path in first}
    make_dataset(tiny_dataset, ("banana",), count=5)
    grown = paths(hold_out(scan_dataset(tiny_dataset), 0.25, seed=1), "val")
    assert {path for path in grown if path.parent.name != "banana"} == first


def test_folders_that_are_there_are_kept(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path / "train", ("a", "b"), count=10)
    make_dataset(tmp_path / "test", ("a", "b"), count=4, first=10)
    held_out = hold_out(scan_dataset(tmp_path), 0.2, seed=0)
    assert {split: held_out.counts(split) for split in held_out.splits} == {"train": [8, 8], "val": [2, 2], "test": [4, 4]}
    curves = hold_out(scan_dataset(tmp_path), 0, seed=0)
    assert curves.splits["val"] == curves.splits["test"] and curves.counts("train") == [10, 10]
    make_dataset(tmp_path / "val", ("a", "b"), count=3, first=20)
    given = hold_out(scan_dataset(tmp_path), 0.2, seed=0)
    assert {split: given.counts(split) for split in given.splits} == {"train": [10, 10], "val": [3, 3], "test": [4, 4]}


def test_copies_of_one_file_stay_together(tiny_dataset: Path) -> None:
    apples = tiny_dataset / "apple"
    for number in range(12):
        for copy in range(2):
            shutil.copy(apples / f"{number:03d}.png", apples / f"copy{copy}-{number:03d}.png")
    for seed in range(5):
        dataset = hold_out(scan_dataset(tiny_dataset), 0.25, seed)
        sides = [{path.read_bytes() for path in paths(dataset, split)} for split in ("train", "val")]
        assert not sides[0] & sides[1]
        assert dataset.counts("val") == [9, 3, 3]


def test_a_class_of_few_large_groups_is_still_divided(tiny_dataset: Path) -> None:
    for path in sorted((tiny_dataset / "apple").iterdir())[2:]:
        shutil.copy(tiny_dataset / "apple" / f"{int(path.stem) % 2:03d}.png", path)
    dataset = hold_out(scan_dataset(tiny_dataset), 0.1, seed=0)
    assert dataset.counts("val")[0] == 6


def test_files_of_one_size_or_one_beginning_are_not_taken_for_copies(tmp_path: Path) -> None:
    contents = [b"a" * 40_000, b"a" * 39_999 + b"b", b"b" * 40_000, b"a" * 40_000, b"x", b"y", b"x"]
    samples = []
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
        samples.append(Sample(tmp_path / str(number), 0))
    samples += [Sample(tmp_path / "0", 1), Sample(tmp_path / "gone", 0)]
    groups = {
        label: [[samples.index(each) for each in group] for group in of] for label, of in groups_by_class(samples).items()
    }
    assert groups == {0: [[0, 3], [1], [2], [4, 6], [5], [8]], 1: [[7]]}


@pytest.mark.parametrize(
    ("share", "copies", "sentence"),
    [
        (0.2, 0, "the class b has only one picture, so none can be held out"),
        (0.2, 4, "the class b has 5 copies of one picture, so none can be held out"),
        (0, 0, "--val-split 0 needs a test folder to measure on"),
        (1.5, 0, "--val-split 1.5 is no share between 0 and 1"),
    ],
)
def test_what_cannot_be_held_out_is_told(
    tmp_path: Path, make_dataset: MakeDataset, share: float, copies: int, sentence: str
) -> None:
    make_dataset(tmp_path, ("a",), count=5)
    make_dataset(tmp_path, ("b",), count=1)
    for number in range(copies):
        shutil.copy(tmp_path / "b" / "000.png", tmp_path / "b" / f"copy{number}.png")
    with pytest.raises(ResnetError) as caught:
        hold_out(scan_dataset(tmp_path), share, seed=0)
    assert caught.value.message == sentence


def test_a_large_data_set_is_divided_in_one_pass(tmp_path: Path) -> None:
    looked_at: Counter[str] = Counter()

    class Counting(Sample):
        def __getattribute__(self, name: str) -> object:
            looked_at[name] += name == "label"
            return super().__getattribute__(name)

    samples = tuple(Counting(tmp_path / f"{label}" / f"{number}.png", label) for label in range(200) for number in range(20))
    hold_out(Dataset(tmp_path, tuple(f"{label:03d}" for label in range(200)), {"all": samples}), 0.1, seed=0)
    assert looked_at["label"] <= 5 * len(samples)
