"""`resnet check` finds what is wrong with a data set, all of it, and says what to do."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeDataset, MakeImage, RunCli
from PIL import Image

from resnet_cli.data.check import fingerprint, nearly_same
from resnet_cli.data.dataset import scan_dataset
from resnet_cli.data.decode import decode
from resnet_cli.data.split import hold_out
from resnet_cli.errors import ResnetError


def problems(run_cli: RunCli, folder: Path) -> list[tuple[str, str]]:
    """(kind, path below the folder) of every problem that --json tells."""
    document = json.loads(run_cli("check", folder, "--json").stdout)
    return sorted((problem["kind"], os.path.relpath(problem["path"], folder)) for problem in document["problems"])


def split_dataset(root: Path, make_dataset: MakeDataset) -> Path:
    for number, name in enumerate(("train", "val", "test")):
        make_dataset(root / name, ("cat", "dog"), count=10, first=100 * number)
    return root


def test_a_sound_data_set_has_no_problems(run_cli: RunCli, sample_data: Path) -> None:
    result = run_cli("check", sample_data)
    assert (result.exit_code, result.stderr) == (0, f"scanning {sample_data}\n")
    assert "80 images in 2 classes" in result.stdout and "no problems found" in result.stdout
    assert result.stdout.count("40") == 2


def test_json_is_one_document_with_the_fields_of_the_contract(
    run_cli: RunCli, tmp_path: Path, make_dataset: MakeDataset
) -> None:
    result = run_cli("check", split_dataset(tmp_path / "pets", make_dataset), "--json")
    assert result.exit_code == 0 and result.stderr == ""
    assert json.loads(result.stdout) == {
        "classes": ["cat", "dog"],
        "images": 60,
        "counts": {split: {"cat": 10, "dog": 10} for split in ("train", "val", "test")},
        "problems": [],
    }


def test_every_kind_of_problem_is_found_in_one_go(
    run_cli: RunCli, tmp_path: Path, make_dataset: MakeDataset, make_image: MakeImage
) -> None:
    root = split_dataset(tmp_path / "pets", make_dataset)
    cat, dog = root / "train" / "cat", root / "train" / "dog"
    make_dataset(root / "val", ("emu",), count=1, first=1000)
    (cat / "empty.jpg").touch()
    (cat / "text.jpg").write_text("no image")
    make_image(cat / "cut.jpg", seed=77, size=(300, 300))
    (cat / "cut.jpg").write_bytes((cat / "cut.jpg").read_bytes()[:1500])
    shutil.copy(cat / "000.png", cat / "copy.png")
    shutil.copy(cat / "001.png", dog / "conflict.png")
    shutil.copy(dog / "002.png", root / "test" / "dog" / "leak.png")
    with Image.open(dog / "003.png") as image:
        image.resize((96, 80)).save(dog / "zz-again.jpg", quality=70)
    shutil.move(make_image(tmp_path / "a.jpg", seed=78, label=1), dog / "jpeg.png")
    shutil.move(make_image(tmp_path / "b.jpg", seed=79, label=1), dog / "photo.dat")
    make_image(dog / "tiny.png", seed=80, size=(40, 9))
    (dog / "notes.txt").write_text("hello")
    make_image(root / "train" / "loose.png", seed=81)
    result = run_cli("check", root)
    assert result.exit_code == 1
    assert problems(run_cli, root) == [
        ("class-mismatch", "val"),
        ("conflict", "train/dog/conflict.png"),
        ("corrupt", "train/cat/cut.jpg"),
        ("corrupt", "train/cat/empty.jpg"),
        ("corrupt", "train/cat/text.jpg"),
        ("duplicate", "train/cat/copy.png"),
        ("leak", "test/dog/leak.png"),
        ("left-out", "train/loose.png"),
        ("near-duplicate", "train/dog/zz-again.jpg"),
        ("not-a-image", "train/dog/notes.txt"),
        ("tiny-image", "train/dog/tiny.png"),
        ("wrong-extension", "train/dog/jpeg.png"),
        ("wrong-extension", "train/dog/photo.dat"),
    ]
    for kind in ("class-mismatch", "conflict", "corrupt", "duplicate", "leak", "near-duplicate", "wrong-extension"):
        assert f": {kind} (" in result.stdout
    assert f"{cat / 'empty.jpg'}: is empty (0 bytes)" in result.stdout
    assert f"the same image as {dog / '002.png'}, which is in train, not test" in result.stdout
    assert "6 errors, 7 warnings" in result.stdout


def test_small_and_uneven_classes_are_told(run_cli: RunCli, tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path, ("few",), count=9)
    make_dataset(tmp_path, ("ten",), count=10, first=100)
    make_dataset(tmp_path, ("many",), count=46, first=200)
    assert problems(run_cli, tmp_path) == [("imbalance", "few"), ("small-class", "few")]
    result = run_cli("check", tmp_path)
    assert result.exit_code == 0 and "9 images, and many has 46" in result.stdout
    assert run_cli("check", tmp_path, "--strict").exit_code == 1
    (tmp_path / "many" / "245.png").unlink()
    assert problems(run_cli, tmp_path) == [("small-class", "few")]


@pytest.mark.parametrize(
    ("folders", "kind"),
    [
        ([], "no-classes"),
        (["cat", "dog"], "no-images"),
        (["train/cat", "val/cat"], "no-images"),
        (["test/cat"], "no-train"),
    ],
)
def test_a_folder_that_is_no_data_set_is_a_finding_too(run_cli: RunCli, tmp_path: Path, folders: list[str], kind: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    assert kind in [found for found, _ in problems(run_cli, tmp_path)]
    result = run_cli("check", tmp_path)
    assert result.exit_code == 1 and f"error: {kind}" in result.stdout


def test_one_class_and_an_empty_one_are_told_together(run_cli: RunCli, tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path / "train", ("cat",), count=10)
    make_dataset(tmp_path / "test", ("cat", "dog"), count=10, first=20)
    assert problems(run_cli, tmp_path) == [("class-mismatch", "test"), ("one-class", "train")]
    (tmp_path / "train" / "dog").mkdir()
    assert problems(run_cli, tmp_path) == [("empty-class", "train/dog")]


@pytest.mark.parametrize("copies", [0, 11])
@pytest.mark.parametrize(("place", "splits"), [(".", []), ("train", ["train", "test"]), ("train", ["train", "val"])])
def test_a_class_of_which_none_can_be_held_out_is_an_error_where_training_refuses_it(
    run_cli: RunCli, tmp_path: Path, make_dataset: MakeDataset, place: str, splits: list[str], copies: int
) -> None:
    root = tmp_path / "pets"
    for number, split in enumerate(splits or ["."]):
        make_dataset(root / split, ("cat", "dog"), count=10, first=100 * number)
    for path in sorted((root / place / "dog").iterdir())[1:]:
        path.unlink()
    for number in range(copies):
        shutil.copy(root / place / "dog" / "000.png", root / place / "dog" / f"copy{number}.png")
    refused = "val" not in splits
    assert (("indivisible", os.path.normpath(f"{place}/dog")) in problems(run_cli, root)) == refused
    result = run_cli("check", root)
    assert result.exit_code == refused
    sentence = f"{'12 copies of one image' if copies else 'only one image'}, so none can be held out"
    assert (sentence in result.stdout) == refused
    with pytest.raises(ResnetError, match=sentence) if refused else nullcontext():
        hold_out(scan_dataset(root), 0.1, seed=0)


@pytest.mark.parametrize("name", ["missing", "file.txt"])
def test_a_path_that_is_no_folder_is_an_error_in_one_sentence(run_cli: RunCli, tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").touch()
    result = run_cli("check", tmp_path / name, "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ") and str(tmp_path / name) in result.stderr
    assert len(result.stderr.splitlines()) == 2 and "hint: " in result.stderr


def test_many_problems_of_a_kind_are_counted_and_a_few_shown(run_cli: RunCli, tiny_dataset: Path) -> None:
    for number in range(10):
        (tiny_dataset / "apple" / f"[bold]{number}.jpg").touch()
    result = run_cli("check", tiny_dataset)
    assert "corrupt (10)" in result.stdout and "... and 7 more" in result.stdout
    assert "[bold]0.jpg: is empty" in result.stdout and "[bold]3.jpg" not in result.stdout


@pytest.mark.parametrize(("quality", "scale"), [(50, 1.0), (75, 0.5), (90, 1.5)])
def test_real_images_saved_again_are_recognised_and_others_are_not(
    sample_data: Path, quality: int, scale: float, tmp_path: Path
) -> None:
    paths = sorted(sample_data.glob("*/*.jpg"))[::4]
    copies = []
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            size = (round(image.width * scale), round(image.height * scale))
            image.resize(size, Image.Resampling.LANCZOS).save(tmp_path / f"{number}.jpg", quality=quality)
        copies.append(tmp_path / f"{number}.jpg")
    pairs = nearly_same([fingerprint(decode(path, 64)) for path in paths + copies])
    expected = {(number, number + len(paths)) for number in range(len(paths))}
    assert set(pairs) <= expected
    assert len(pairs) >= 0.85 * len(expected)


def test_comparing_does_not_grow_with_the_square() -> None:
    """The worst case: images that all look the same, as product photos on white nearly do."""
    random = np.random.default_rng(0)
    prints = []
    for _ in range(4000):
        image = np.full((16, 16, 3), 255, np.uint8)
        image[0, 0] = random.integers(0, 256, 3)
        prints.append(fingerprint(image))
    later = [pair[1] for pair in nearly_same(prints)]
    assert len(later) == len(set(later)) < 4000


def test_check_starts_without_tensorflow(sample_data: Path) -> None:
    code = (
        "import sys; from resnet_cli.cli.app import main; sys.argv = ['resnet', 'check', sys.argv[1], '--quiet']\n"
        "try: main()\nfinally: print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(sample_data)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"


def test_damaged_metadata_makes_no_noise(tmp_path: Path, tiny_dataset: Path) -> None:
    """Pillow warns about damaged EXIF; the pixels are sound, so a user hears nothing of it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker" * 10
    with Image.open(tiny_dataset / "apple" / "000.png") as image:
        image.save(tiny_dataset / "apple" / "000.png", exif=exif.tobytes()[:30])
    code = "from resnet_cli.cli.app import main; main()"
    command = [sys.executable, "-c", code, "check", str(tiny_dataset), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_mean_colour_of_a_large_image_is_exact() -> None:
    # A sum in float32 takes 240 for 253 here.
    assert fingerprint(np.full((2000, 3000, 3), 240, np.uint8)).colour.tolist() == [240, 240, 240]


def test_images_that_differ_in_what_is_fine_alone_are_not_the_same(tmp_path: Path, run_cli: RunCli) -> None:
    # Large JPEGs are looked at by an eighth of their size, where stripes of four pixels are grey whichever way they go.
    stripes = np.tile(np.repeat(np.array([0, 255], np.uint8), 4), 80)
    for name, grey in (("across", np.tile(stripes[:, None], (1, 640))), ("down", np.tile(stripes, (640, 1)))):
        (tmp_path / name).mkdir()
        Image.fromarray(grey).save(tmp_path / name / "0.jpg")
        shutil.copy(tmp_path / name / "0.jpg", tmp_path / name / "1.jpg")
    assert {
        kind: path for kind, path in problems(run_cli, tmp_path) if kind in ("conflict", "near-duplicate", "duplicate")
    } == {
        "duplicate": "down/1.jpg",
        "near-duplicate": "down/0.jpg",
    }


@pytest.mark.parametrize(("copy", "kind"), [("val/a/copy.png", "leak"), ("train/b/copy.png", "conflict")])
def test_the_same_pixels_in_files_of_two_kinds_are_copies(
    copy: str, kind: str, tmp_path: Path, run_cli: RunCli, make_image: MakeImage
) -> None:
    photo = np.random.default_rng(0).integers(0, 255, (10, 8, 3), np.uint8)
    for number, (split, name) in enumerate([("train", "a"), ("train", "b"), ("val", "a"), ("val", "b")] * 2):
        make_image(tmp_path / split / name / f"{number}.png", seed=number)
    Image.fromarray(photo).resize((240, 320), Image.Resampling.BICUBIC).save(tmp_path / "train" / "a" / "photo.jpg")
    with Image.open(tmp_path / "train" / "a" / "photo.jpg") as image:
        image.save(tmp_path / copy)
    assert [found for found, path in problems(run_cli, tmp_path) if path == copy] == [kind]


def test_what_is_no_file_is_not_opened(tmp_path: Path, run_cli: RunCli, tiny_dataset: Path) -> None:
    os.mkfifo(tiny_dataset / "apple" / "control")
    assert ("left-out", "apple/control") in problems(run_cli, tiny_dataset)
