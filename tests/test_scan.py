"""A folder becomes a data set: layouts, what is passed over, and one sentence for every folder that is none."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MakeDataset, MakePicture

from resnet_cli.data.scan import Dataset, scan_dataset
from resnet_cli.errors import ResnetError


def names(dataset: Dataset, split: str) -> list[str]:
    return [sample.path.name for sample in dataset.splits[split]]


def test_class_folders_become_classes_in_the_order_of_their_names(tiny_dataset: Path) -> None:
    dataset = scan_dataset(tiny_dataset)
    assert dataset.classes == ("apple", "berry", "cherry")
    assert dataset.name == "fruit"
    assert dataset.counts("all") == [12, 12, 12]
    assert all(sample.path.parent.name == dataset.classes[sample.label] for sample in dataset.splits["all"])


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("TRAINING", "Validation", "Testing"),
        ("training_set", "valid", "test_set"),
        ("Train_Set", "val_set", "TEST"),
    ],
)
def test_split_folders_are_known_by_many_names(
    tmp_path: Path, make_dataset: MakeDataset, train: str, val: str, test: str
) -> None:
    for name, count in ((train, 4), (val, 2), (test, 3)):
        make_dataset(tmp_path / name, count=count)
    dataset = scan_dataset(tmp_path)
    assert {split: dataset.counts(split) for split in dataset.splits} == {"train": [4] * 3, "val": [2] * 3, "test": [3] * 3}


def test_a_class_may_be_called_train(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path, ("bus", "train", "tram"), count=2)
    assert scan_dataset(tmp_path).classes == ("bus", "train", "tram")


def test_folders_in_class_folders_belong_to_the_class(tiny_dataset: Path, make_picture: MakePicture) -> None:
    make_picture(tiny_dataset / "apple" / "green" / "unripe" / "deep.JPG", seed=99)
    dataset = scan_dataset(tiny_dataset)
    assert dataset.counts("all") == [13, 12, 12]
    assert "deep.JPG" in names(dataset, "all")


def test_runs_among_the_classes_are_no_class(tiny_dataset: Path) -> None:
    run = tiny_dataset / "runs" / "fruit-resnet20"
    for path in (run, tiny_dataset / "mine"):
        path.mkdir(parents=True)
        for name in ("metrics.jsonl", "curves.png", "rate.png"):
            (path / name).touch()
    dataset = scan_dataset(tiny_dataset)
    assert dataset.classes == ("apple", "berry", "cherry") and dataset.counts("all") == [12] * 3
    assert [each.path.name for each in dataset.left_out] == ["mine", "runs"]
    # A folder is a class as soon as it holds anything else.
    next((tiny_dataset / "apple").iterdir()).rename(tiny_dataset / "mine" / "holiday.jpg")
    assert "mine" in scan_dataset(tiny_dataset).classes


def test_what_is_no_picture_is_named_and_what_is_hidden_is_counted(tiny_dataset: Path, make_picture: MakePicture) -> None:
    for hidden in (".DS_Store", "Thumbs.db", "thumbs.DB", "desktop.ini"):
        (tiny_dataset / "apple" / hidden).touch()
    make_picture(tiny_dataset / "__MACOSX" / "apple" / "._000.png")
    make_picture(tiny_dataset / "apple" / ".ipynb_checkpoints" / "000-checkpoint.png")
    (tiny_dataset / "apple" / "labels.csv").write_text("a,b")
    (tiny_dataset / "berry" / "phone.JXL").write_bytes(b"x")
    make_picture(tiny_dataset / "loose.png")
    dataset = scan_dataset(tiny_dataset)
    assert dataset.counts("all") == [12, 12, 12]
    assert dataset.passed_over == 6
    reasons = {file.path.name: file.reason for file in dataset.left_out}
    assert reasons == {
        "labels.csv": "not a picture",
        "phone.JXL": "JXL pictures are not read; convert it to JPEG",
        "loose.png": "in no class folder",
    }


def test_folders_beside_train_are_named_and_not_silently_ignored(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path / "train", count=2)
    make_dataset(tmp_path / "extra", count=2)
    dataset = scan_dataset(tmp_path)
    assert [(file.path.name, file.reason) for file in dataset.left_out] == [("extra", "beside the train folder")]


def test_links_to_folders_are_followed_and_circles_end(tiny_dataset: Path, tmp_path: Path, make_dataset: MakeDataset) -> None:
    elsewhere = make_dataset(tmp_path / "elsewhere", ("date",), count=3) / "date"
    (tiny_dataset / "date").symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "again").symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "up").symlink_to(tiny_dataset / "date", target_is_directory=True)
    (elsewhere / "self").symlink_to(elsewhere / "self")
    (elsewhere / "gone.png").symlink_to(elsewhere / "nowhere.png")
    os.mkfifo(elsewhere / "pipe.png")
    dataset = scan_dataset(tiny_dataset)
    assert dataset.classes == ("apple", "berry", "cherry", "date")
    assert dataset.counts("all") == [12, 12, 12, 3]
    assert {(file.path.name, file.reason) for file in dataset.left_out} == {
        ("self", "a broken link"),
        ("gone.png", "a broken link"),
        ("pipe.png", "not a file"),
    }


@pytest.mark.parametrize("name", ["two words", "Bäume und Blüten", "写真", "[bold]"])
def test_names_may_be_any_text(tmp_path: Path, make_dataset: MakeDataset, name: str) -> None:
    dataset = scan_dataset(make_dataset(tmp_path / name, (f"{name} 1", f"{name} 2"), count=2))
    assert (dataset.name, dataset.classes) == (name, (f"{name} 1", f"{name} 2"))


def test_a_dot_is_the_folder_we_are_in(tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_dataset)
    assert scan_dataset(Path()).name == "fruit"


def test_a_file_whose_name_is_no_text_is_left_out(tiny_dataset: Path) -> None:
    shutil.copy(tiny_dataset / "apple" / "000.png", os.fsencode(tiny_dataset / "apple") + b"/\xff.png")
    dataset = scan_dataset(tiny_dataset)
    assert dataset.counts("all") == [12, 12, 12]
    (left_out,) = dataset.left_out
    assert left_out.reason == "its name is not valid UTF-8; rename it"
    assert str(left_out.path).isprintable()


def broken_folders(root: Path, make_dataset: MakeDataset) -> dict[str, Path]:
    """A folder of each kind that is no data set."""
    (root / "file.txt").touch()
    (root / "nothing").mkdir()
    (root / "only empty" / "a").mkdir(parents=True)
    (root / "only empty" / "b").mkdir()
    make_dataset(root / "one", ("cat",), count=2)
    make_dataset(root / "nested" / "pets", ("cat", "dog"), count=2)
    make_dataset(root / "hole", ("cat", "dog"), count=2)
    (root / "hole" / "emu").mkdir()
    make_dataset(root / "other classes" / "train", ("cat", "dog"), count=2)
    make_dataset(root / "other classes" / "val", ("cat", "emu"), count=2)
    make_dataset(root / "empty val" / "train", ("cat", "dog"), count=2)
    for name in ("cat", "dog"):
        (root / "empty val" / "val" / name).mkdir(parents=True)
    make_dataset(root / "twice" / "train", ("cat", "dog"), count=2)
    make_dataset(root / "twice" / "Training", ("cat", "dog"), count=2)
    make_dataset(root / "no train" / "test", ("cat", "dog"), count=2)
    make_dataset(root / "kaggle", ("train", "test"), count=2)
    return {path.name: path for path in root.iterdir()}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing", "there is no folder {root}/missing"),
        ("file.txt", "{root}/file.txt is a file, not a folder"),
        ("nothing", "{root}/nothing has no class folders"),
        ("only empty", "{root}/only empty has no pictures in its class folders"),
        ("one", "{root}/one has one class only (cat)"),
        ("nested", "{root}/nested has one class only (pets)"),
        ("hole", "the class folder {root}/hole/emu has no pictures"),
        (
            "other classes",
            "{root}/other classes/val lacks dog and {root}/other classes/val has emu, which {root}/other classes/train has not",
        ),
        ("empty val", "{root}/empty val/val has no pictures in its class folders"),
        ("twice", "{root}/twice has two train folders: train and Training"),
        ("no train", "{root}/no train has a test folder but no train folder"),
        ("kaggle", "{root}/kaggle/train has no class folders"),
    ],
)
def test_a_folder_that_is_no_data_set_is_told_in_one_sentence(
    tmp_path: Path, make_dataset: MakeDataset, name: str, sentence: str
) -> None:
    broken_folders(tmp_path, make_dataset)
    with pytest.raises(ResnetError) as caught:
        scan_dataset(tmp_path / name)
    assert caught.value.message == sentence.format(root=tmp_path)
    assert caught.value.hint


def test_one_folder_too_high_is_hinted_at(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path / "nested" / "pets", ("cat", "dog"), count=2)
    with pytest.raises(ResnetError) as caught:
        scan_dataset(tmp_path / "nested")
    assert "give that folder" in caught.value.hint and str(tmp_path / "nested" / "pets") in caught.value.hint


def test_a_rare_class_may_be_absent_from_the_test_pictures(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path / "train", ("cat", "dog"), count=3)
    make_dataset(tmp_path / "test", ("cat",), count=3)
    (tmp_path / "test" / "dog").mkdir()
    assert scan_dataset(tmp_path).counts("test") == [3, 0]


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that everybody may read, and no privileges to read others; the superuser would read everything."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    user = os.geteuid()
    yield folder
    os.seteuid(user)
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("closed", ["", "cat"])
def test_a_folder_that_may_not_be_read_is_named(as_nobody: Path, make_dataset: MakeDataset, closed: str) -> None:
    root = make_dataset(as_nobody / "pets", ("cat", "dog"), count=2)
    (root / closed).chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    with pytest.raises(ResnetError, match=f"the folder {root / closed} cannot be read: Permission denied"):
        scan_dataset(root)


def test_pictures_of_a_kind_that_is_not_read_are_named_where_there_are_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_cli.data.heif.is_installed", lambda: False)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "IMG_1.HEIC").touch()
    with pytest.raises(ResnetError) as told:
        scan_dataset(tmp_path)
    assert told.value.hint.startswith("2 files there are passed over, such as ")
    assert told.value.hint.endswith("IMG_1.HEIC: HEIC images need: pip install 'resnet-cli[heif]'")
