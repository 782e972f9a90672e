"""`resnet train --teacher`: a student learns a teacher's probabilities of the crops that it sees, with labels or without."""

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeDataset, MakeImage, MakeRun, Result, RunCli, room_for
from PIL import Image
from scipy.special import log_softmax, softmax
from test_resume import assert_same_run, histories

from resnet_cli.data.augment import Augmentation, crop_view, generator
from resnet_cli.data.batches import TrainStream
from resnet_cli.data.dataset import UNKNOWN, Sample
from resnet_cli.data.decode import Geometry
from resnet_cli.data.images import ImageSet, WholeImages
from resnet_cli.engines.openvino import import_openvino, save
from resnet_cli.engines.teacher import TeacherEngine, find_teacher
from resnet_cli.errors import ResnetError
from resnet_cli.training.distillation import Answers, Distillation, Lesson, Taught

COLOURS = ("red", "green", "blue")
QUICK = ("--arch", "resnet8", "--image-size", "16", "--epochs", "3", "--batch-size", "8", "--val-split", "0.25", "--seed", "3")


def make_teacher(
    folder: Path, side: int = 16, classes: tuple[str, ...] = COLOURS, kind: str = "u8", batch: int = -1, ending: bool = True
) -> Path:
    """A teacher that answers with the softmax of an image's mean red, green and blue, each divided by 20."""
    ops = import_openvino().opset13
    images = ops.parameter([batch, side, side, 3], np.uint8 if kind == "u8" else np.float32, "image")
    mean = ops.reduce_mean(ops.convert(images, "f32"), ops.constant(np.array([1, 2])), False)
    logits = ops.divide(mean, ops.constant(np.float32(20)))
    folder.mkdir(parents=True, exist_ok=True)
    save(import_openvino().Model([ops.softmax(logits, 1) if ending else logits], [images]), folder / "model.xml")
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in classes))
    return folder


def answer(image: np.ndarray) -> np.ndarray:
    return softmax(image.astype(np.float64).mean((0, 1)) / 20)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return make_teacher(tmp_path / "teacher")


@pytest.fixture
def photos(tmp_path: Path, make_image: MakeImage) -> Path:
    """A tree of 24 images of no classes, one of them not readable."""
    for number in range(24):
        make_image(tmp_path / "photos" / ("a" if number % 2 else "b/deep") / f"{number}.png", seed=number, label=number % 4)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    return tmp_path / "photos"


def splits(run: Path) -> list[dict[str, str]]:
    with (run / "splits.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("weight", "temperature", "smoothing"), [(1.0, 1.0, 0.0), (1.0, 4.0, 0.1), (0.7, 2.0, 0.1)])
def test_the_loss_is_that_of_hinton_and_others(weight: float, temperature: float, smoothing: float) -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(6, 5)) * 3, np.eye(5)[random.integers(0, 5, 6)]
    taught = softmax(random.normal(size=(6, 5)) * 2, axis=1)
    targets = np.concatenate([labels, taught], axis=1).astype(np.float32)
    found = Distillation(weight, temperature, smoothing)(targets, logits.astype(np.float32))

    soft = softmax(np.log(taught) / temperature, axis=1)
    divergence = (soft * (np.log(soft) - log_softmax(logits / temperature, axis=1))).sum(1)
    smooth = labels * (1 - smoothing) + smoothing / 5
    cross_entropy = -(smooth * log_softmax(logits, axis=1)).sum(1)
    expected = weight * temperature**2 * divergence + (1 - weight) * cross_entropy
    assert float(found) == pytest.approx(expected.mean(), rel=1e-5)


def stream_of(photos: Path, how: Augmentation, size: int, stored: int = 64) -> TrainStream:
    paths = sorted(photos.rglob("*.png"))
    images = ImageSet(tuple(Sample(path, UNKNOWN) for path in paths), WholeImages(stored, "short"), None, ())
    return TrainStream(images, 3, 6, Geometry(size, fraction=1.0), how, seed=5)


@pytest.mark.parametrize("crop", ["resized", "pad", "none"])
def test_the_teacher_answers_the_very_crop_that_the_student_sees(crop: Any, photos: Path, teacher: Path) -> None:
    how = Augmentation(crop, scale=0.2, flip=True)
    stream = stream_of(photos, how, 16)
    if crop != "resized":
        squares = [np.asarray(Image.open(sample.path).resize((16, 16))) for sample in stream.images.samples]
        stream = TrainStream(
            ImageSet(stream.images.samples, WholeImages(16, "short"), squares, ()), 3, 6, stream.geometry, how, 5
        )
    taught = Taught(stream, Lesson(TeacherEngine(find_teacher(teacher)), None, views=2))
    images, targets = taught.batch(1)
    for image, target in zip(images, targets, strict=True):
        # A mirror image has the same mean; labels are not known, so the teacher's answers stand in both halves.
        np.testing.assert_allclose(target, np.tile(answer(image), 2), atol=1e-3)


def test_a_larger_teacher_sees_the_same_part_in_more_pixels(photos: Path, tmp_path: Path) -> None:
    how = Augmentation("resized", scale=0.2, flip=False)
    stream = stream_of(photos, how, 8)
    lesson = Lesson(TeacherEngine(find_teacher(make_teacher(tmp_path / "large", 32))), None, views=0)
    _, targets = Taught(stream, lesson).batch(0)
    for (epoch, index), target in zip(stream.order.drawn(0), targets, strict=True):
        small = crop_view(stream.images[index], stream.geometry, how, generator(5, epoch, index))
        large = crop_view(stream.images[index], stream.geometry, how, generator(5, epoch, index), 32)
        assert abs(large.mean((0, 1)) - small.mean((0, 1))).max() < 6  # the same part
        np.testing.assert_allclose(target[:3], answer(large), atol=1e-3)


def test_views_come_again_and_answers_are_given_once(photos: Path, teacher: Path, tmp_path: Path) -> None:
    """Of every image as many crops as there are views, in turn; the rest of the augmentation is drawn anew each epoch."""
    stream = stream_of(photos, Augmentation("resized", scale=0.2, flip=True), 16)
    engine = TeacherEngine(find_teacher(teacher))
    taught = Taught(stream, Lesson(engine, None, views=2)).remembering(tmp_path / "answers")
    epochs = [
        {index: (image, target) for step in range(4) for image, target, index in drawn(taught, 4 * epoch + step)}
        for epoch in range(4)
    ]
    engine.run_many = None  # type: ignore[assignment]
    again = {index: (image, target) for step in range(4) for image, target, index in drawn(taught, step)}
    for index, (image, target) in epochs[0].items():
        np.testing.assert_array_equal(again[index][0], image)
        np.testing.assert_array_equal(again[index][1], target)
        np.testing.assert_array_equal(epochs[2][index][1], target)
        assert not np.array_equal(epochs[1][index][1], target)
        other = epochs[2][index][0]
        assert np.array_equal(other, image) or np.array_equal(other, image[:, ::-1])
    assert any(not np.array_equal(epochs[2][index][0], image) for index, (image, _) in epochs[0].items())


def drawn(taught: Taught, step: int) -> list[tuple[np.ndarray, np.ndarray, int]]:
    images, targets = taught.batch(step)
    return [
        (image, target, index)
        for image, target, (_, index) in zip(images, targets, taught.stream.order.drawn(step), strict=True)
    ]


def test_an_answer_that_a_crash_cut_off_counts_as_none(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "answers", 4, 3)
    row = np.array([0.5, 0.25, 0.25], np.float16)
    answers.write(2, row)
    np.testing.assert_array_equal(answers.read(2), row)
    assert answers.read(1) is None
    answers.write(2, np.array([0.5, 0, 0], np.float16))
    assert answers.read(2) is None


@pytest.mark.slow
def test_photos_without_labels_get_the_teachers_classes(photos: Path, teacher: Path, run_cli: RunCli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = run_cli("train", photos, "--teacher", teacher, "--set", "teacher_weight=1", *QUICK, "--output", run, "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads((run / "run.json").read_text())
    assert record["classes"] == list(COLOURS)
    assert record["teacher"] == {"name": "teacher", "sha256": find_teacher(teacher).sha256, "image_size": 16}
    assert record["config"]["teacher_weight"] == 1
    assert "calibration" not in record  # the labels are those of the teacher
    rows = splits(run)
    assert len(rows) == 24
    assert {row["class"] for row in rows if row["split"] == "train"} == {""}
    held = [row for row in rows if row["split"] == "val"]
    assert len(held) >= 2
    for row in held:
        square = np.asarray(Image.open(photos / row["path"]).convert("RGB"))[
            :, 4:44
        ]  # 48 x 40: the centre, as prediction sees it
        assert row["class"] == COLOURS[answer(square).argmax()]
    assert json.loads(result.stdout)["val"]["count"] == len(held)
    assert run_cli("evaluate", "--run", run).exit_code == 0
    unlabelled = run_cli("evaluate", "--run", run, "--split", "train")
    assert unlabelled.exit_code == 1
    assert "have no labels: it learned from a teacher" in " ".join(unlabelled.stderr.split())
    assert "teacher" in (run / "report.html").read_text()
    assert run_cli("predict", next(photos.rglob("1.png")), "--run", run).exit_code == 0


@pytest.mark.slow
def test_a_folder_of_images_alone_has_no_labels(teacher: Path, run_cli: RunCli, tmp_path: Path, make_image: MakeImage) -> None:
    for number in range(16):
        make_image(tmp_path / "flat" / f"{number}.png", seed=number, label=number % 3)
    result = run_cli(
        "train", tmp_path / "flat", "--teacher", teacher / "model.xml", *QUICK, "--output", tmp_path / "run", "--json"
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["teacher_weight"] == 1


@pytest.mark.slow
def test_with_class_folders_of_its_classes_labels_count_too(make_dataset: MakeDataset, run_cli: RunCli, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", ("red", "blue", "green"))
    teacher = make_teacher(tmp_path / "teacher")
    result = run_cli("train", data, "--teacher", teacher, *QUICK, "--output", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["classes"] == ["blue", "green", "red"]
    assert record["config"]["teacher_weight"] == 0.9
    assert {row["class"] for row in splits(tmp_path / "run")} == set(COLOURS)


@pytest.mark.slow
def test_a_run_teaches_and_an_interrupted_student_goes_on_exactly(
    make_dataset: MakeDataset, make_run: MakeRun, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_dataset(tmp_path / "data", COLOURS)
    make_run(tmp_path / "master", data, arch="resnet8", size=16)
    lesson = ("train", data, "--teacher", tmp_path / "master", *QUICK)
    assert run_cli(*lesson, "--output", tmp_path / "whole").exit_code == 0

    from resnet_cli.training import callbacks

    signal_of = callbacks.Recorder._agreed_signal
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    steps = iter(range(100))

    def once(recorder: callbacks.Recorder) -> int:
        return 2 if next(steps) == 4 else signal_of(recorder)

    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(callbacks, "MID_EPOCH_SECONDS", 0)
    monkeypatch.setattr(callbacks.Recorder, "_agreed_signal", once)
    assert run_cli(*lesson, "--output", tmp_path / "cut").exit_code == 130
    shutil.rmtree(tmp_path / "cache")  # what the teacher said is lost
    monkeypatch.setattr(callbacks.Recorder, "_agreed_signal", signal_of)
    other = make_teacher(tmp_path / "other")
    result = run_cli("train", data, "--teacher", other, *QUICK, "--output", tmp_path / "cut", "--resume")
    assert result.exit_code == 1
    assert "began with other teachers" in " ".join(result.stderr.split())
    assert run_cli(*lesson, "--output", tmp_path / "cut", "--resume").exit_code == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert histories(tmp_path / "whole") == histories(tmp_path / "cut")


@pytest.mark.slow
def test_a_second_student_of_the_same_crops_asks_nothing(
    photos: Path, teacher: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("train", photos, "--teacher", teacher, "--set", "teacher_weight=1", *QUICK, "--set", "crop=resized")
    assert run_cli(*command, "--output", tmp_path / "first").exit_code == 0
    asked = []
    run_many = TeacherEngine.run_many

    def counted(self: TeacherEngine, batches: Any) -> Any:
        return run_many(self, (asked.append(len(images)) or images for images in batches))

    monkeypatch.setattr(TeacherEngine, "run_many", counted)
    assert run_cli(*command, "--arch", "plain8", "--image-size", 12, "--output", tmp_path / "second").exit_code == 0
    held = sum(row["split"] == "val" for row in splits(tmp_path / "second"))
    assert sum(asked) == 1 + -(-held // 8) * 8  # a first answer, and the held-out images alone, in batches of eight


@pytest.mark.slow
def test_an_onnx_export_teaches(make_dataset: MakeDataset, make_run: MakeRun, run_cli: RunCli, tmp_path: Path) -> None:
    data, teacher = make_dataset(tmp_path / "data", COLOURS), tmp_path / "onnx"
    run = make_run(tmp_path / "run", data, arch="resnet8", size=16)
    assert run_cli("export", "--run", run, "--format", "onnx", "--output", teacher).exit_code == 0
    assert find_teacher(teacher / "model.onnx").classes == ("blue", "green", "red")
    result = run_cli("train", data, "--teacher", teacher, *QUICK, "--output", tmp_path / "student", "--json")
    assert result.exit_code == 0, result.stderr


def wrong_teachers(folder: Path) -> dict[str, tuple[Path, str]]:
    nothing = make_teacher(folder / "unlabelled")
    (nothing / "labels.txt").unlink()
    (folder / "note.txt").write_text("no network")
    (folder / "broken").mkdir()
    (folder / "broken" / "model.onnx").write_bytes(b"no network")
    return {
        "no labels": (nothing, "there is no labels.txt next to the teacher"),
        "fewer labels": (make_teacher(folder / "few", classes=("red", "blue")), "has 3 classes, and 2 labels"),
        "a label twice": (make_teacher(folder / "twice", classes=("red", "red", "blue")), "a line more than once"),
        "float input": (make_teacher(folder / "float", kind="f32"), "takes f32 input, not uint8 images"),
        "fixed batch": (make_teacher(folder / "fixed", batch=4), "takes batches of exactly 4"),
        "logits": (make_teacher(folder / "logits", ending=False), "are not probabilities: they sum to"),
        "missing": (folder / "nowhere", "there is no teacher"),
        "a text": (folder / "note.txt", "neither a run nor an ONNX or OpenVINO file"),
        "broken": (folder / "broken", "cannot be read"),
    }


@pytest.mark.parametrize(
    "kind",
    ["no labels", "fewer labels", "a label twice", "float input", "fixed batch", "logits", "missing", "a text", "broken"],
)
def test_a_wrong_teacher_is_one_sentence_and_leaves_nothing(kind: str, photos: Path, run_cli: RunCli, tmp_path: Path) -> None:
    teacher, words = wrong_teachers(tmp_path)[kind]
    result = run_cli("train", photos, "--teacher", teacher, "--set", "teacher_weight=1", *QUICK, "--output", tmp_path / "run")
    assert result.exit_code == 1
    assert words in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


def test_a_teacher_larger_than_memory_is_refused(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    with pytest.raises(ResnetError, match="GB of weights, too many for the"):
        find_teacher(teacher)


def test_other_classes_than_the_teachers_are_refused(
    make_dataset: MakeDataset, teacher: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    other = make_dataset(tmp_path / "fruit", ("apple", "berry"))
    result = run_cli("train", other, "--teacher", teacher, *QUICK)
    assert result.exit_code == 1
    assert "other classes than" in " ".join(result.stderr.split())
    assert "add --set teacher_weight=1" in " ".join(result.stderr.split())
    some = make_dataset(tmp_path / "some", ("red", "green"))
    result = run_cli("train", some, "--teacher", teacher, "--set", "teacher_weight=1", *QUICK)
    assert result.exit_code == 1
    assert "has no folder for its blue" in " ".join(result.stderr.split())


@pytest.mark.slow
def test_a_table_of_labels_teaches_with_the_teachers_classes(
    photos: Path, teacher: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    files = sorted(photos.rglob("*.png"))
    table = photos / "labels.csv"

    def train(names: Sequence[str], *more: str) -> Result:
        rows = [f"{path.relative_to(photos).as_posix()},{names[n % len(names)]}" for n, path in enumerate(files)]
        table.write_text("\n".join(["path,label", *rows]))
        output = ("--output", tmp_path / "taught", "--json")
        return run_cli("train", "--labels", table, "--teacher", teacher, *QUICK, *more, *output)

    refused = train(("red", "green", "pink"), "--set", "teacher_weight=1")
    assert refused.exit_code == 1
    assert f"other classes than {table}: it does not know pink, and {table} has no label for its blue" in refused.stderr
    done = train(COLOURS, "--fraction", "0.5")
    assert done.exit_code == 0, done.stderr
    rows = splits(tmp_path / "taught")
    assert {row["class"] for row in rows} == set(COLOURS)
    record = json.loads((tmp_path / "taught" / "run.json").read_text())
    assert record["config"]["teacher_weight"] == 0.9 and record["data"]["sample"]["fraction"] == 0.5
    assert len(rows) == sum(sum(counts) for counts in record["data"]["counts"].values()) < len(files)


def test_a_folder_without_images_is_refused(teacher: Path, run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    result = run_cli("train", tmp_path / "empty", "--teacher", teacher, "--set", "teacher_weight=1", *QUICK)
    assert result.exit_code == 1
    assert "contains no images" in result.stderr


@pytest.mark.parametrize(("key", "value"), [("temperature", 2), ("teacher_weight", 0.5), ("teacher_views", 3)])
def test_keys_of_the_teacher_need_one(key: str, value: float, tiny_dataset: Path, run_cli: RunCli) -> None:
    result = run_cli("train", tiny_dataset, "--set", f"{key}={value}")
    assert result.exit_code == 1
    assert f"error: {key} only has an effect with --teacher\nhint: leave it out, or name a teacher\n" in result.stderr


def test_class_weights_need_labels(photos: Path, teacher: Path, run_cli: RunCli) -> None:
    result = run_cli("train", photos, "--teacher", teacher, "--set", "teacher_weight=1", "--set", "class_weights=true", *QUICK)
    assert result.exit_code == 1
    assert "class_weights needs labels" in result.stderr


def test_answers_of_other_images_with_the_same_names_and_sizes_are_not_taken(teacher: Path, tmp_path: Path) -> None:
    engine = TeacherEngine(find_teacher(teacher))
    targets = []
    for shade in (40, 200):
        for number in range(6):
            path = tmp_path / str(shade) / f"{number}.bmp"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (32, 32), (shade, 255 - shade, number)).save(path)
        images = ImageSet(
            tuple(Sample(path, UNKNOWN) for path in sorted(path.parent.iterdir())), WholeImages(64, "short"), None, ()
        )
        stream = TrainStream(images, 3, 6, Geometry(16), Augmentation(), seed=5)
        taught = Taught(stream, Lesson(engine, None, views=1)).remembering(tmp_path / "answers")
        targets.append(taught.batch(0)[1])
        assert targets[-1][0].argmax() == (shade == 40)
    assert len(list((tmp_path / "answers").iterdir())) == 2


@pytest.mark.parametrize("side", [9, 10, 15, 16, 20, 33])
def test_padded_crops_of_any_size_show_the_same_part(side: int) -> None:
    square = np.repeat(np.repeat(np.arange(16, dtype=np.uint8)[:, None, None] * 16, 16, 1), 3, 2)
    how, geometry = Augmentation("pad", flip=False), Geometry(16, fraction=1.0)
    for index in range(40):
        small = crop_view(square, geometry, how, generator(1, 0, index))
        other = crop_view(square, geometry, how, generator(1, 0, index), side)
        assert other.shape == (side, side, 3)
        centres = [np.interp((len(view) - 1) / 2, range(len(view)), view[:, len(view) // 2, 0]) for view in (small, other)]
        assert abs(centres[0] - centres[1]) < 16  # one pixel of sixteen


def test_half_the_size_shows_the_teacher_the_same_crops(photos: Path, teacher: Path) -> None:
    stream = stream_of(photos, Augmentation("pad"), 16, 16)
    squares = [np.asarray(Image.open(sample.path).resize((16, 16))) for sample in stream.images.samples]
    stream = replace(stream, images=replace(stream.images, kept=squares))
    whole = Taught(stream, Lesson(TeacherEngine(find_teacher(teacher)), None, views=1))
    half = replace(whole, side=8)
    assert half.batch(0)[0].shape == (6, 8, 8, 3)
    np.testing.assert_array_equal(half.batch(0)[1], whole.batch(0)[1])


def test_a_teacher_is_told_by_all_files_and_by_its_labels(tmp_path: Path) -> None:
    folder = make_teacher(tmp_path / "teacher")
    before = find_teacher(folder)
    (folder / "labels.txt").write_text("\ufeffgreen \nred\nblue\n", "utf-8")
    other = find_teacher(folder)
    assert other.classes == ("green", "red", "blue")
    assert other.sha256 != before.sha256
    (folder / "labels.txt").write_text("red\ngreen\nblue\n")
    assert find_teacher(folder).sha256 == before.sha256
    make_teacher(folder, side=32)
    assert find_teacher(folder).sha256 != before.sha256


def test_force_never_replaces_the_teacher(
    make_dataset: MakeDataset, make_run: MakeRun, run_cli: RunCli, tmp_path: Path
) -> None:
    data = make_dataset(tmp_path / "data", COLOURS)
    run = make_run(tmp_path / "run", data, arch="resnet8", size=16)
    before = (run / "run.json").read_bytes()
    result = run_cli("train", data, "--teacher", run, *QUICK, "--output", run, "--force")
    assert result.exit_code == 1
    assert "which the new run begins with" in " ".join(result.stderr.split())
    assert (run / "run.json").read_bytes() == before


@pytest.mark.slow
def test_a_recipe_with_a_mean_image_takes_a_teacher_of_larger_input(
    make_dataset: MakeDataset, run_cli: RunCli, tmp_path: Path
) -> None:
    data, teacher = make_dataset(tmp_path / "data", COLOURS), make_teacher(tmp_path / "teacher", 40)
    command = ("train", data, "--teacher", teacher, "--recipe", "keras", *QUICK, "--epochs", 1, "--output", tmp_path / "run")
    result = run_cli(*command)
    assert result.exit_code == 0, result.stderr


def test_a_test_folder_among_photos_without_labels_is_refused(photos: Path, teacher: Path, run_cli: RunCli) -> None:
    (photos / "a").rename(photos / "test")
    result = run_cli("train", photos, "--teacher", teacher, "--set", "teacher_weight=1", *QUICK)
    assert result.exit_code == 1
    assert "has a folder test, and without labels nothing is measured on it" in " ".join(result.stderr.split())


def test_a_full_disk_costs_answers_and_not_the_training(tmp_path: Path) -> None:
    answers, row = Answers(tmp_path / "answers", 4, 3), np.array([0.5, 0.25, 0.25], np.float16)
    with room_for(row.nbytes):
        answers.write(0, row)
        answers.write(1, row)
    np.testing.assert_array_equal(answers.read(0), row)
    assert answers.read(1) is None
