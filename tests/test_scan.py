"""A folder becomes a data set: layouts, what is skipped, and one sentence for every folder that is none."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MakeDataset, MakeImage, RunCli
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from resnet_cli.data.dataset import Dataset, scan_dataset
from resnet_cli.data.folders import OWN_FILES
from resnet_cli.errors import ResnetError


def names_in(dataset: Dataset, split: str) -> list[str]:
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
        ("train", "eval", "tst"),
        ("train", "dev", "test"),
        ("train", "hold-out", "test"),
        ("trn", "holdout", "test"),
        ("train_images", "val_images", "test_images"),
        ("train-data", "valid-data", "test-data"),
        ("Training Data", "Validation Data", "Test Data"),
        ("TrainingSet", "DevSet", "TestSet"),
        ("cars_train", "cars_val", "cars_test"),
        ("fruits-360_Training", "fruits-360_Validation", "fruits-360_Test"),
        ("train2017", "val2017", "test2017"),
        ("seg_train/seg_train", "seg_dev/seg_dev", "seg_test/seg_test"),
        ("train/images", "val/images", "test/images"),
        ("train", "pets_val", "test/Test"),
    ],
)
def test_split_folders_are_known_by_many_names(
    tmp_path: Path, make_dataset: MakeDataset, train: str, val: str, test: str
) -> None:
    for name, count in ((train, 4), (val, 2), (test, 3)):
        make_dataset(tmp_path / name, count=count)
    dataset = scan_dataset(tmp_path)
    assert dataset.classes == ("apple", "berry", "cherry") and dataset.left_out == ()
    assert {split: dataset.counts(split) for split in dataset.splits} == {"train": [4] * 3, "val": [2] * 3, "test": [3] * 3}


@pytest.mark.parametrize("wrapper", ["fruit", "images", "data/images", "archive/train", "archive/seg_train/seg_train"])
def test_a_folder_that_only_wraps_the_data_set_is_no_class(tmp_path: Path, make_dataset: MakeDataset, wrapper: str) -> None:
    root = tmp_path / "fruit"
    make_dataset(root / wrapper, count=2)
    (root / "readme.txt").touch()
    dataset = scan_dataset(root)
    assert dataset.classes == ("apple", "berry", "cherry")
    assert [each.path.name for each in dataset.left_out] == ["readme.txt"]


@pytest.mark.parametrize(
    "classes",
    [
        ("diesel_train", "steam_train"),  # no other split, and no class folders
        ("blood_test", "xray"),
        ("cat", "dev_board"),
        ("pass", "trainers"),
        ("model train", "toy train"),
    ],
)
def test_a_class_may_have_the_word_of_a_split_in_its_name(
    tmp_path: Path, make_dataset: MakeDataset, classes: tuple[str, str]
) -> None:
    assert scan_dataset(make_dataset(tmp_path, classes, count=2)).classes == classes


def test_classes_that_share_a_split_word_and_the_folders_in_them_are_classes(tmp_path: Path, make_dataset: MakeDataset) -> None:
    for name in ("freight_train", "steam_train"):
        make_dataset(tmp_path / name, ("front", "side"), count=2)
    assert scan_dataset(tmp_path).classes == ("freight_train", "steam_train")


def test_a_class_may_be_called_train(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path, ("bus", "train", "tram"), count=2)
    assert scan_dataset(tmp_path).classes == ("bus", "train", "tram")


def test_folders_in_class_folders_belong_to_the_class(tiny_dataset: Path, make_image: MakeImage) -> None:
    make_image(tiny_dataset / "apple" / "green" / "unripe" / "deep.JPG", seed=99)
    dataset = scan_dataset(tiny_dataset)
    assert dataset.counts("all") == [13, 12, 12]
    assert "deep.JPG" in names_in(dataset, "all")


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


@pytest.mark.parametrize("place", [".", "apple"])
def test_exports_evaluations_and_comparisons_are_no_class(tiny_dataset: Path, make_image: MakeImage, place: str) -> None:
    written = {
        "exported": ["README.md", "labels.txt", "classify.py", "model.xml", "model.bin", "export.json", "splits.csv"],
        "saved": ["labels.txt", "classify.py", "saved_model.pb", "fingerprint.pb", "variables/variables.index"],
        "exports/lite": ["labels.txt", "classify.py", "model.tflite"],
        "scores": ["predictions.csv", "confusion.csv", "report.html", ".DS_Store"],
        "evaluations/cars-test": ["predictions.csv", "confusion.csv", "report.html"],
        "rates": ["rate.csv", "rate.png"],
        "runs/fruit-resnet20/": ["run.json", "evaluations/cars-test/predictions.csv"],
        "figures": [],
    }
    for folder, names in written.items():
        for name in names:
            path = tiny_dataset / place / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for figure in ("figures/seeds.png", "compare.png", "any name.png"):
        path = make_image(tiny_dataset / place / figure)
        with Image.open(path) as image:
            information = PngInfo()
            information.add_text("Software", "resnet curves" if "any" in figure else "resnet compare")
            image.save(path, pnginfo=information)
    dataset = scan_dataset(tiny_dataset)
    assert dataset.classes == ("apple", "berry", "cherry") and dataset.counts("all") == [12] * 3
    names = {path.split("/")[0] for path in (*written, "compare.png", "any name.png")}
    assert {each.path.relative_to(tiny_dataset / place).parts[0] for each in dataset.left_out} == names
    assert {each.reason for each in dataset.left_out} == {OWN_FILES}
    # Notes beside them change nothing.
    for folder in ("exported", "runs", "runs/fruit-resnet20", "figures"):
        (tiny_dataset / place / folder / "notes.txt").write_text("to ship")
    assert scan_dataset(tiny_dataset) == dataset
    # A folder is a class as soon as it holds an image.
    for folder in ("exported", "scores", "figures"):
        make_image(tiny_dataset / place / folder / "holiday.jpg")
    grown = scan_dataset(tiny_dataset)
    if place == ".":
        assert set(grown.classes) == {"apple", "berry", "cherry", "exported", "scores", "figures"}
    else:
        assert {"holiday.jpg"} <= set(names_in(grown, "all"))


def test_what_is_no_image_is_named_and_what_is_hidden_is_counted(tiny_dataset: Path, make_image: MakeImage) -> None:
    for hidden in (".DS_Store", "Thumbs.db", "thumbs.DB", "desktop.ini"):
        (tiny_dataset / "apple" / hidden).touch()
    make_image(tiny_dataset / "__MACOSX" / "apple" / "._000.png")
    make_image(tiny_dataset / "apple" / ".ipynb_checkpoints" / "000-checkpoint.png")
    (tiny_dataset / "apple" / "labels.csv").write_text("a,b")
    (tiny_dataset / "berry" / "phone.JXL").write_bytes(b"x")
    make_image(tiny_dataset / "loose.png")
    dataset = scan_dataset(tiny_dataset)
    assert dataset.counts("all") == [12, 12, 12]
    assert dataset.passed_over == 6
    reasons = {file.path.name: file.reason for file in dataset.left_out}
    assert reasons == {
        "labels.csv": "not an image",
        "phone.JXL": "JXL images are not read; convert it to JPEG",
        "loose.png": "in no class folder",
    }


def test_folders_beside_splits_that_can_be_no_class_are_named_with_their_images(
    tmp_path: Path, make_dataset: MakeDataset
) -> None:
    make_dataset(tmp_path / "seg_train" / "seg_train", count=2)
    make_dataset(tmp_path / "seg_test" / "seg_test", count=2)
    make_dataset(tmp_path / "seg_pred", ("seg_pred",), count=5)
    make_dataset(tmp_path, ("validation",), count=1)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "eval" / "results").mkdir(parents=True)
    (tmp_path / "eval" / "results" / "table.csv").touch()
    dataset = scan_dataset(tmp_path)
    assert set(dataset.splits) == {"train", "test"} and dataset.classes == ("apple", "berry", "cherry")
    assert {file.path.name: file.reason for file in dataset.left_out} == {
        "annotations": "beside the seg_train folder",
        "eval": "0 images in no class folder",
        "seg_pred": "5 images beside the seg_train folder",
        "validation": "1 image in no class folder",
    }


def test_hidden_folders_with_images_are_named_and_litter_is_counted(tiny_dataset: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tiny_dataset, (".net", ".Trash-1000", ".ipynb_checkpoints"), count=3)
    make_dataset(tiny_dataset / "apple" / ".unripe" / "green", ("small",), count=2)
    (tiny_dataset / ".empty").mkdir()
    dataset = scan_dataset(tiny_dataset)
    assert dataset.counts("all") == [12, 12, 12] and dataset.passed_over == 5
    found = {each.path.relative_to(tiny_dataset).as_posix(): each.images for each in dataset.hidden_folders}
    assert found == {".net": 3, "apple/.unripe": 2}


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
    make_dataset(root / "railway" / "train", ("steam", "diesel"), count=2)
    make_dataset(root / "railway", ("car", "bus"), count=3)
    make_dataset(root / "extra" / "train", ("cat", "dog"), count=2)
    make_dataset(root / "extra" / "more", ("cat", "dog"), count=2)
    make_dataset(root / "tested", ("cat", "dog", "test"), count=2)
    make_dataset(root / "tested in classes", ("cat", "dog"), count=2)
    make_dataset(root / "tested in classes" / "pets_test", ("cat", "dog"), count=2)
    make_dataset(root / "in names", ("train_cat", "train_dog", "test_cat", "test_dog"), count=1)
    make_dataset(root / "images of train", ("bus", "train_images"), count=1)
    for split in ("train", "val", "dev"):
        make_dataset(root / "two vals" / split, ("cat", "dog"), count=2)
    for split in ("my_val", "my_test"):
        make_dataset(root / "no training" / split, ("cat", "dog"), count=2)
    return {path.name: path for path in root.iterdir()}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing", "there is no folder {root}/missing"),
        ("file.txt", "{root}/file.txt is a file, not a folder"),
        ("nothing", "{root}/nothing has no class folders"),
        ("only empty", "{root}/only empty has no images in its class folders"),
        ("one", "{root}/one has one class only (cat)"),
        ("nested", "{root}/nested has one class only (pets)"),
        ("hole", "the class folder {root}/hole/emu has no images"),
        (
            "other classes",
            "{root}/other classes/val lacks dog and {root}/other classes/val has emu, which {root}/other classes/train has not",
        ),
        ("empty val", "{root}/empty val/val has no images in its class folders"),
        ("twice", "{root}/twice has two train folders: train and Training"),
        ("no train", "{root}/no train has a test folder but no train folder"),
        ("kaggle", "{root}/kaggle/train has no class folders"),
        ("railway", "{root}/railway has bus and car with 6 images beside train, which holds folders of its own"),
        ("extra", "{root}/extra has more with 4 images beside train, which holds folders of its own"),
        ("tested", "{root}/tested has test with 2 images beside cat and dog: a split by name, a class by place"),
        (
            "tested in classes",
            "{root}/tested in classes has pets_test with 4 images beside cat and dog: a split by name, a class by place",
        ),
        (
            "in names",
            "{root}/in names has test_cat, test_dog, train_cat and train_dog with 4 images: splits by name, classes by place",
        ),
        (
            "images of train",
            "{root}/images of train has train_images with 1 image beside bus: a split by name, a class by place",
        ),
        ("two vals", "{root}/two vals has two val folders: dev and val"),
        ("no training", "{root}/no training has a my_val folder but no train folder"),
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


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        (
            "railway",
            "rename train if it is a class; otherwise move bus and car into it as classes, or move them out of {root}/railway",
        ),
        ("tested", "rename test if it is a class; otherwise move cat and dog into a new folder {root}/tested/train"),
    ],
)
def test_a_folder_that_may_be_a_class_or_a_split_gets_both_ways_out(
    tmp_path: Path, make_dataset: MakeDataset, name: str, hint: str
) -> None:
    broken_folders(tmp_path, make_dataset)
    with pytest.raises(ResnetError) as caught:
        scan_dataset(tmp_path / name)
    assert caught.value.hint == hint.format(root=tmp_path)


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_check_finds_what_training_refuses(tmp_path: Path, make_dataset: MakeDataset, run_cli: RunCli, command: str) -> None:
    folders = broken_folders(tmp_path, make_dataset)
    del folders["file.txt"]
    for folder in folders.values():
        checked = run_cli("check", folder, "--json")
        trained = run_cli(command, folder)
        assert trained.exit_code == checked.exit_code == 1
        told = trained.told.splitlines()[0].removeprefix("error: ")
        assert told in [problem["detail"] for problem in json.loads(checked.stdout)["problems"]]


@pytest.mark.parametrize(
    "splits", [("seg_train/seg_train", "seg_test/seg_test"), ("train", "eval"), ("Training Data",), (".",)]
)
def test_check_counts_the_images_that_training_uses(
    tmp_path: Path, make_dataset: MakeDataset, run_cli: RunCli, splits: tuple[str, ...]
) -> None:
    for number, split in enumerate(splits):
        make_dataset(tmp_path / split, ("bus", "train"), count=10, first=100 * number)
    document = json.loads(run_cli("check", tmp_path, "--json").stdout)
    dataset = scan_dataset(tmp_path)
    assert document["problems"] == [] and tuple(document["classes"]) == dataset.classes
    assert {split: list(counts.values()) for split, counts in document["counts"].items()} == {
        split: dataset.counts(split) for split in dataset.splits
    }


def test_one_folder_too_high_is_hinted_at(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path / "nested" / "pets", ("cat", "dog"), count=2)
    with pytest.raises(ResnetError) as caught:
        scan_dataset(tmp_path / "nested")
    assert "give that folder" in caught.value.hint and str(tmp_path / "nested" / "pets") in caught.value.hint


def test_a_rare_class_may_be_absent_from_the_test_images(tmp_path: Path, make_dataset: MakeDataset) -> None:
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


def test_images_of_a_kind_that_is_not_read_are_named_where_there_are_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_cli.data.folders.heif_is_installed", lambda: False)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "IMG_1.HEIC").touch()
    with pytest.raises(ResnetError) as told:
        scan_dataset(tmp_path)
    assert told.value.hint.startswith("2 files there are skipped, such as ")
    assert told.value.hint.endswith("IMG_1.HEIC: HEIC images need: pip install 'resnet-cli[heif]'")
