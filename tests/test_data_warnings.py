"""What is said of a data set before it is trained on: one sentence a kind, with names and counts; `check` says it too."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeDataset, MakeImage, RunCli
from PIL import Image

from resnet_cli.data.dataset import scan_dataset
from resnet_cli.data.split import hold_out
from resnet_cli.data.warnings import dataset_warnings, mirror_sensitive


def warnings_of(root: Path, flips: bool = True) -> list[str]:
    return dataset_warnings(hold_out(scan_dataset(root), 0.2, seed=0), flips)


def kinds(run_cli: RunCli, folder: Path) -> list[tuple[str, str, str]]:
    """(kind, path below the folder, severity) of what `check` finds."""
    problems = json.loads(run_cli("check", folder, "--json").stdout)["problems"]
    return [(each["kind"], os.path.relpath(each["path"], folder), each["severity"]) for each in problems]


def deep(path: Path, top: int, seed: int = 0, kind: str = "<u2") -> Path:
    """A 16-bit greyscale image of noise below `top`, whose brightest value is top - 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, top, (24, 24)).astype(kind)
    values[0, 0] = top - 1
    Image.fromarray(values).save(path)
    return path


def test_a_sound_data_set_gives_no_warning(sample_data: Path, tiny_dataset: Path) -> None:
    assert warnings_of(sample_data) == warnings_of(tiny_dataset) == []


def test_skipped_files_are_counted_by_reason_and_the_first_is_named(tiny_dataset: Path, make_image: MakeImage) -> None:
    (tiny_dataset / "berry" / "notes.txt").touch()
    assert warnings_of(tiny_dataset) == [f"skipped 1 file ({tiny_dataset}/berry/notes.txt: not an image)"]
    (tiny_dataset / "apple" / "list.csv").touch()
    make_image(tiny_dataset / "loose.png")
    assert warnings_of(tiny_dataset) == [
        f"skipped 3 files: {tiny_dataset}/loose.png: in no class folder, 2 (first: {tiny_dataset}/apple/list.csv: not an image)"
    ]


def test_what_this_program_wrote_is_no_warning(tiny_dataset: Path) -> None:
    (tiny_dataset / "runs" / "one").mkdir(parents=True)
    (tiny_dataset / "runs" / "one" / "run.json").touch()
    assert warnings_of(tiny_dataset) == []


def test_hidden_folders_with_images_are_named(tiny_dataset: Path, make_dataset: MakeDataset, run_cli: RunCli) -> None:
    make_dataset(tiny_dataset, (".net",), count=3)
    (told,) = warnings_of(tiny_dataset)
    assert told == f"skipped the hidden folder {tiny_dataset}/.net (3 images): rename it without the dot to use its images"
    make_dataset(tiny_dataset / "apple", (".green",), count=1)
    (told,) = warnings_of(tiny_dataset)
    assert told.startswith(
        f"skipped 2 hidden folders: {tiny_dataset}/.net (3 images) and {tiny_dataset}/apple/.green (1 image)"
    )
    assert ("hidden-folder", ".net", "warning") in kinds(run_cli, tiny_dataset)
    result = run_cli("check", tiny_dataset)
    assert result.exit_code == 0 and f"{tiny_dataset}/.net: 3 images in a hidden folder" in result.stdout


def test_images_in_two_classes_are_named(tiny_dataset: Path) -> None:
    shutil.copy(tiny_dataset / "apple" / "003.png", tiny_dataset / "berry" / "copy.png")
    assert warnings_of(tiny_dataset) == [
        f"1 image is in more than one class, byte for byte: {tiny_dataset}/apple/003.png and {tiny_dataset}/berry/copy.png"
    ]
    for number in range(4, 8):
        shutil.copy(tiny_dataset / "apple" / f"00{number}.png", tiny_dataset / "berry" / f"copy{number}.png")
    (told,) = warnings_of(tiny_dataset)
    assert told.startswith("5 images are in more than one class") and told.endswith("; and 3 more, which `resnet check` lists")


def test_copies_across_splits_are_named_for_every_pair(tmp_path: Path, make_dataset: MakeDataset) -> None:
    for number, split in enumerate(("train", "val", "test")):
        make_dataset(tmp_path / split, ("cat", "dog"), count=5, first=10 * number)
    train, val, test = (tmp_path / split / "cat" for split in ("train", "val", "test"))
    shutil.copy(train / "000.png", val / "copy0.png")
    shutil.copy(train / "001.png", test / "copy1.png")
    shutil.copy(val / "010.png", test / "copy2.png")
    shutil.copy(val / "011.png", test / "copy3.png")
    assert warnings_of(tmp_path) == [
        f"1 image in test is a copy of train images, so the test figures are too good: {test}/copy1.png of {train}/001.png",
        f"1 image in val is a copy of train images, so the val figures are too good: {val}/copy0.png of {train}/000.png",
        "2 images in test are copies of val images, so the test figures are too good:"
        f" {test}/copy2.png of {val}/010.png; {test}/copy3.png of {val}/011.png",
    ]


def test_copies_that_were_held_out_together_are_no_leak(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path / "train", ("cat", "dog"), count=10)
    make_dataset(tmp_path / "test", ("cat", "dog"), count=5, first=10)
    for number in range(10):
        shutil.copy(tmp_path / "train" / "cat" / f"00{number}.png", tmp_path / "train" / "cat" / f"copy{number}.png")
    assert warnings_of(tmp_path) == []
    curves = hold_out(scan_dataset(tmp_path), 0, seed=0)  # test images choose the epoch, and are no copies of themselves
    assert dataset_warnings(curves, flips=True) == []


def test_twelve_bits_in_sixteen_are_told(tmp_path: Path, run_cli: RunCli) -> None:
    for number in range(12):
        deep(tmp_path / "cell" / f"{number}.png", 4096, number)
        deep(tmp_path / "dust" / f"{number}.tif", 2000, number)
        deep(tmp_path / "fibre" / f"{number}.tif", 3000, number, ">u2")
        deep(tmp_path / "grain" / f"{number}.png", 65536 if number == 11 else 3000, number)
        deep(tmp_path / "hair" / f"{number}.png", 4097, number)
    assert warnings_of(tmp_path) == [
        "16-bit greyscale images of the classes cell, dust and fibre look black, as no value is above 4095 of 65535 (12 bits):"
        " multiply the values by 16"
    ]
    found = [each for each in kinds(run_cli, tmp_path) if each[0] == "dark-16-bit"]
    assert found == [("dark-16-bit", name, "warning") for name in ("cell", "dust", "fibre")]
    assert "16-bit" in run_cli("check", tmp_path).stdout


def test_ordinary_images_are_not_opened_for_their_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(200):
        for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
            path = tmp_path / name / f"{number}.{'png' if number % 2 else 'jpg'}"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 4), (colour[0], number, colour[2])).save(path, quality=95)
    dataset = hold_out(scan_dataset(tmp_path), 0.2, seed=0)
    read: list[Path] = []
    original = Path.open

    def watched(self: Path, *arguments: object, **options: object) -> object:
        read.append(self)
        return original(self, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", watched)
    monkeypatch.setattr(Image, "open", None)
    assert dataset_warnings(dataset, flips=True) == []
    looked_at = [path for path in read if path.is_relative_to(tmp_path)]
    assert 0 < len(looked_at) <= 2 * 24 and {path.suffix for path in looked_at} == {".png"}


@pytest.mark.parametrize(
    ("classes", "sensitive"),
    [
        (("left", "right", "straight"), ("left", "right")),
        (("turn_left", "turn-right", "stop"), ("turn_left", "turn-right")),
        (("TurnLeft", "stop"), ("TurnLeft",)),
        (("links", "rechts"), ("links", "rechts")),
        (("golf links", "park"), ()),
        (("sign_L", "sign_R", "none"), ("sign_L", "sign_R")),
        (("digit_3", "digit_5"), ("digit_3", "digit_5")),
        (("right", "wrong"), ()),
        (("leftovers", "rightful"), ()),
        (("←", "→", "↑"), ("←", "→", "↑")),
        (("arrow", "circle"), ("arrow",)),
        (tuple("0123456789"), tuple("0123456789")),
        (("3", "7"), ("3", "7")),
        (("0", "1"), ()),
        (("1", "car", "truck"), ()),
        (("seven", "six", "three"), ("seven", "six", "three")),
        (("one", "two"), ()),
        (tuple("ABCDEFGH"), tuple("ABCDEFGH")),
        (("b", "d"), ("b", "d")),
        (("p", "q", "none"), ("p", "q")),
        (("a", "b"), ()),
        (("a", "b", "c"), ()),
        (("Σ", "Ж", "л", "я", "space"), ("Σ", "Ж", "л", "я")),
        (("car", "truck"), ()),
    ],
)
def test_class_names_tell_where_a_mirror_does_harm(classes: tuple[str, ...], sensitive: tuple[str, ...]) -> None:
    assert tuple(mirror_sensitive(classes)) == sensitive


def test_classes_that_a_mirror_changes_are_told_where_images_are_mirrored(
    tmp_path: Path, make_dataset: MakeDataset, run_cli: RunCli
) -> None:
    make_dataset(tmp_path, ("left", "right", "stop"), count=10)
    assert warnings_of(tmp_path, flips=True) == [
        "mirrored images of the classes left and right may belong to another class or to none: --no-flip keeps training images"
        " as they are"
    ]
    assert warnings_of(tmp_path, flips=False) == []
    found = [each for each in kinds(run_cli, tmp_path) if each[0] == "mirror-sensitive"]
    assert found == [("mirror-sensitive", name, "warning") for name in ("left", "right")]
    assert "--no-flip" in run_cli("check", tmp_path).stdout


def test_classes_that_all_hold_the_same_folders_may_be_splits(tmp_path: Path, make_dataset: MakeDataset) -> None:
    for fold in ("fold1", "fold2"):
        make_dataset(tmp_path / fold, ("daisy", "rose"), count=10, first=0 if fold == "fold1" else 20)
    assert warnings_of(tmp_path, flips=True) == [
        "the classes fold1 and fold2 all contain the folders daisy and rose: if these are the classes, give a folder that"
        " contains them, or name the upper folders train, val and test"
    ]
    (tmp_path / "fold2" / "rose").rename(tmp_path / "fold2" / "tulip")
    assert warnings_of(tmp_path, flips=True) == []
