"""Holding out: a share of every class, the same one every time, and never a copy of what is trained on."""

import shutil
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from conftest import MakeDataset

from resnet_cli.data.dataset import Dataset, Sample, scan_dataset
from resnet_cli.data.split import alike, hold_out
from resnet_cli.errors import ResnetError


def paths(dataset: Dataset, split: str) -> set[Path]:
    return {sample.path for sample in dataset.splits[split]}


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_every_image_is_on_one_side_and_every_class_on_both(tiny_dataset: Path, share: float) -> None:
    whole = scan_dataset(tiny_dataset)
    dataset = hold_out(whole, share, seed=0)
    assert set(dataset.splits) == {"train", "val"}
    assert paths(dataset, "train") | paths(dataset, "val") == paths(whole, "all")
    assert not paths(dataset, "train") & paths(dataset, "val")
    goal = round(share * 12)
    assert all(goal / 2 <= count <= 2 * goal for count in dataset.counts("val"))
    assert all(count >= (12 - goal) / 2 for count in dataset.counts("train"))


def test_a_share_of_a_small_class_is_one_image_at_least_and_never_all(tmp_path: Path, make_dataset: MakeDataset) -> None:
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
    make_dataset(tiny_dataset, ("banana",), count=5, first=100)
    grown = paths(hold_out(scan_dataset(tiny_dataset), 0.25, seed=1), "val")
    assert {path for path in grown if path.parent.name != "banana"} == first


@pytest.fixture(scope="session")
def forty(tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset) -> Path:
    return make_dataset(tmp_path_factory.mktemp("forty"), count=40)


@pytest.mark.slow
@pytest.mark.parametrize("added", [1, 5, 50])
def test_adding_images_moves_no_other_image(forty: Path, tmp_path: Path, make_dataset: MakeDataset, added: int) -> None:
    """But where chance holds out less than half of the share, or more than twice, and the bound has to be kept."""
    copy = shutil.copytree(forty, tmp_path / "forty")
    before = [hold_out(scan_dataset(copy), 0.2, seed) for seed in range(20)]
    make_dataset(copy, count=added, first=1000)
    after = [hold_out(scan_dataset(copy), 0.2, seed) for seed in range(20)]
    at_a_bound = 0
    for old, new in zip(before, after, strict=True):
        moved = (paths(old, "train") & paths(new, "val")) | (paths(old, "val") & paths(new, "train"))
        for label, name in enumerate(old.classes):
            goal, more = 8, round(0.2 * (40 + added))
            if goal / 2 < old.counts("val")[label] < 2 * goal and more / 2 < new.counts("val")[label] < 2 * more:
                assert not [path for path in moved if path.parent.name == name]
            else:
                at_a_bound += 1
                assert len([path for path in moved if path.parent.name == name]) <= added
    assert at_a_bound <= 0.2 * 20 * 3


def test_removing_and_renaming_images_moves_no_other_image(forty: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(forty, tmp_path / "forty")
    before = hold_out(scan_dataset(copy), 0.2, seed=0)
    for number in range(10):
        (copy / "apple" / f"{3 * number:03d}.png").unlink()
    for path in sorted((copy / "berry").iterdir()):
        path.rename(path.with_name(f"new{path.stem[::-1]}.png"))
    (copy / "cherry").rename(copy / "sour cherry")
    after = hold_out(scan_dataset(copy), 0.2, seed=0)

    def held(dataset: Dataset, label: int, split: str) -> set[bytes]:
        return {sample.path.read_bytes() for sample in dataset.splits[split] if sample.label == label}

    for split in ("train", "val"):
        original = {(forty / path.relative_to(copy)).read_bytes() for path in paths(before, split)}
        assert all(held(after, label, split) <= original for label in range(3))


def test_the_share_is_kept_to_on_the_whole(tmp_path: Path) -> None:
    for number in range(2000):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"{number}".encode())
    for seed in range(3):
        # Standard deviation of 1000 draws of a fifth: 12.6.
        assert all(abs(count - 200) < 50 for count in hold_out(scan_dataset(tmp_path), 0.2, seed).counts("val"))


def test_the_content_decides_where_a_file_is_large(tmp_path: Path) -> None:
    """Files of one size, and of the same bytes but in the middle, are not one image to the seed."""
    random = Random(0)
    (tmp_path / "a").mkdir()
    for number in range(40):
        middle = random.randbytes(4096)
        (tmp_path / "a" / f"{number}.bmp").write_bytes(bytes(50_000) + middle + bytes(50_000))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for number in range(40):
        with (tmp_path / "b" / f"{number}.bmp").open("ab") as file:
            file.write(b"b")
    assert all(4 <= count <= 16 for count in hold_out(scan_dataset(tmp_path), 0.2, seed=0).counts("val"))


def test_copies_in_two_classes_stay_on_one_side_and_are_told(tiny_dataset: Path) -> None:
    for number in range(6):
        shutil.copy(tiny_dataset / "apple" / f"{number:03d}.png", tiny_dataset / "berry" / f"apple{number}.png")
    for seed in range(8):
        dataset = hold_out(scan_dataset(tiny_dataset), 0.25, seed)
        sides = [{path.read_bytes() for path in paths(dataset, split)} for split in ("train", "val")]
        assert not sides[0] & sides[1]
        assert len(dataset.copies) == 6
        for group in dataset.copies:
            assert {sample.path.parent.name for _, sample in group} == {"apple", "berry"}
            assert len({split for split, _ in group}) == 1


def test_copies_across_given_splits_are_told(tmp_path: Path, make_dataset: MakeDataset) -> None:
    for number, split in enumerate(("train", "val", "test")):
        make_dataset(tmp_path / split, ("a", "b"), count=5, first=10 * number)
    shutil.copy(tmp_path / "train" / "a" / "000.png", tmp_path / "val" / "a" / "copy.png")
    shutil.copy(tmp_path / "val" / "b" / "010.png", tmp_path / "test" / "b" / "copy.png")
    told = [
        [(split, sample.path.relative_to(tmp_path).as_posix()) for split, sample in sorted(group, key=str)]
        for group in hold_out(scan_dataset(tmp_path), 0.2, seed=0).copies
    ]
    assert sorted(told) == [
        [("test", "test/b/copy.png"), ("val", "val/b/010.png")],
        [("train", "train/a/000.png"), ("val", "val/a/copy.png")],
    ]


def test_classes_that_share_all_of_their_images_and_cannot_be_divided_are_told(
    tmp_path: Path, make_dataset: MakeDataset
) -> None:
    make_dataset(tmp_path, ("a",), count=3)
    for first, name in enumerate(("b", "c")):
        (tmp_path / name).mkdir()
        for number in (first, first + 1):
            shutil.copy(tmp_path / "a" / f"00{number}.png", tmp_path / name)
    (tmp_path / "d").mkdir()
    for number in (0, 2):
        shutil.copy(tmp_path / "a" / f"00{number}.png", tmp_path / "d")
    with pytest.raises(ResnetError, match=r"the images of the class . are in other classes too, so they cannot be divided"):
        hold_out(scan_dataset(tmp_path), 0.3, seed=0)


def test_folders_that_are_there_are_kept(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path / "train", ("a", "b"), count=10)
    make_dataset(tmp_path / "test", ("a", "b"), count=4, first=10)
    held_out = hold_out(scan_dataset(tmp_path), 0.2, seed=0)
    assert set(held_out.splits) == {"train", "val", "test"} and held_out.counts("test") == [4, 4]
    counts = zip(held_out.counts("train"), held_out.counts("val"), strict=True)
    assert all(train + val == 10 and 1 <= val <= 4 for train, val in counts)
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
        assert dataset.counts("val")[0] in range(5, 19) and dataset.counts("val")[0] % 3 == 0


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
    groups = [[samples.index(each) for each in group.samples] for group in alike(samples)]
    # The eighth sample is the file of the first, in another class.
    assert groups == [[0, 7, 3], [1], [2], [4, 6], [5], [8]]


@pytest.mark.parametrize(
    ("share", "copies", "sentence"),
    [
        (0.2, 0, "the class b has only one image, so none can be held out"),
        (0.2, 4, "the class b has 5 copies of one image, so none can be held out"),
        (0, 0, "--val-split 0 needs a test folder to measure on"),
        (1.5, 0, "--val-split 1.5 is not between 0 and 1"),
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
    assert looked_at["label"] <= 10 * len(samples)
