"""Training shows the network what prediction shows it: `--resize` first, then random parts of the result."""

import csv
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from conftest import MakeDataset, RunCli
from PIL import Image

from resnet_cli.data.augment import Augmentation, augment, generator
from resnet_cli.data.batches import TrainStream
from resnet_cli.data.dataset import Sample
from resnet_cli.data.decode import Geometry, Pixels, Resize, decode_square, part_of_square
from resnet_cli.data.images import ImageSet, Squares, WholeImages, read_images, reader_for_training, reader_that_fits
from resnet_cli.progress import Silent
from resnet_cli.training.config import FinetuneConfig
from resnet_cli.transfer.features import LIGHT, STRONG, augmentation_of, views_of

RESIZES: tuple[Resize, ...] = ("crop", "pad", "squash")
SHAPES = [(64, 64), (60, 30), (30, 60), (300, 75), (75, 300), (200, 200)]  # width, height
SIZE = 64
GREY = (124, 116, 104)
BILINEAR = Image.Resampling.BILINEAR


def noise(path: Path, width: int, height: int) -> Path:
    Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


def read(path: Path, geometry: Geometry, how: Augmentation, limit: int = 10**9) -> ImageSet:
    return read_images([Sample(path, 0)], reader_for_training(geometry, how), Silent(), "", limit)


def views(images: ImageSet, geometry: Geometry, how: Augmentation, count: int = 60) -> Iterator[Pixels]:
    return (augment(images[0], geometry, how, generator(3, 0, number)) for number in range(count))


def predicted(path: Path, geometry: Geometry) -> Pixels:
    """What prediction is documented to see, by operations of Pillow on the whole image."""
    size = geometry.size
    with Image.open(path) as image:
        if geometry.resize == "squash":
            return np.asarray(image.resize((size, size), BILINEAR))
        if geometry.resize == "pad":
            width, height = (round(side * size / max(image.size)) for side in image.size)
            square = Image.new("RGB", (size, size), GREY)
            square.paste(image.resize((width, height), BILINEAR), ((size - width) // 2, (size - height) // 2))
            return np.asarray(square)
        kept = min(image.size) * size / round(size / geometry.fraction)
        left, top = (image.width - kept) / 2, (image.height - kept) / 2
        return np.asarray(image.resize((size, size), BILINEAR, box=(left, top, left + kept, top + kept)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fraction", [0.875, 1.0])
@pytest.mark.parametrize("resize", RESIZES)
def test_without_augmentation_training_sees_what_prediction_sees(
    resize: Resize, fraction: float, shape: tuple[int, int], tmp_path: Path
) -> None:
    path, geometry = noise(tmp_path / "0.png", *shape), Geometry(SIZE, resize, fraction)
    expected = predicted(path, geometry)
    np.testing.assert_array_equal(decode_square(path, geometry), expected)
    how = Augmentation("none", flip=False)
    for limit in (0, 10**9):
        stream = TrainStream(read(path, geometry, how, limit), 2, 1, geometry, how, seed=0)
        for step in range(3):
            np.testing.assert_array_equal(stream.batch(step)[0][0], expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resize", RESIZES)
def test_the_crop_pad_moves_what_prediction_sees_on_black(resize: Resize, shape: tuple[int, int], tmp_path: Path) -> None:
    path, geometry = noise(tmp_path / "0.png", *shape), Geometry(SIZE, resize)
    framed = np.pad(predicted(path, geometry), ((8, 8), (8, 8), (0, 0)))
    how = Augmentation("pad", flip=False)
    moves = set()
    for view in views(read(path, geometry, how), geometry, how):
        rows = [top for top in range(17) for left in range(17) if (framed[top : top + SIZE, left : left + SIZE] == view).all()]
        assert len(rows) == 1
        moves.update(rows)
    assert len(moves) > 10


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resize", ["pad", "squash"])
def test_a_resized_crop_of_the_whole_area_is_what_prediction_sees(
    resize: Resize, shape: tuple[int, int], tmp_path: Path
) -> None:
    path, geometry = noise(tmp_path / "0.png", *shape), Geometry(SIZE, resize)
    how = Augmentation("resized", scale=1.0, flip=False)
    with Image.open(path) as image:
        whole = replace(read(path, geometry, how), kept=[np.asarray(image)])
    for view in views(whole, geometry, how, 10):
        np.testing.assert_array_equal(view, predicted(path, geometry))
    # Stored smaller, it is that of a smaller image.
    (stored,) = read(path, geometry, how).kept or ()
    edge = (max if resize == "pad" else min)(stored.shape[:2])
    assert edge == min(SIZE, (max if resize == "pad" else min)(shape))
    Image.fromarray(stored).save(tmp_path / "1.png")
    for view in views(read(path, geometry, how), geometry, how, 10):
        np.testing.assert_array_equal(view, predicted(tmp_path / "1.png", geometry))


def ramp(width: int, height: int) -> Pixels:
    """An image whose pixels say where they are: red from 0 at the left to 200 at the right, green from top to bottom."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.round((np.arange(width) + 0.5) / width * 200)[None]
    image[..., 1] = np.round((np.arange(height) + 0.5) / height * 200)[:, None]
    return image


def in_memory(image: Pixels) -> ImageSet:
    return ImageSet((Sample(Path("0"), 0),), lambda path: image, [image], ())


@pytest.mark.parametrize(("width", "height"), [(512, 128), (128, 512), (200, 200)])
def test_resized_crops_of_squash_show_a_part_of_the_squashed_square(width: int, height: int) -> None:
    """A square part of half the area or more is at least 0.71 of each side, of a 4:1 image too."""
    spans = []
    for view in views(in_memory(ramp(width, height)), Geometry(SIZE, "squash"), replace(LIGHT, flip=False), 200):
        spans.append([np.ptp(view[..., channel].astype(float)) / 200 * SIZE / (SIZE - 1) for channel in (0, 1)])
    assert 0.69 < np.min(spans) < 0.75 and np.max(spans) < 1.03
    np.testing.assert_allclose(*np.transpose(spans), atol=0.03)


@pytest.mark.parametrize(("width", "height"), [(512, 128), (128, 512), (300, 200), (200, 200)])
@pytest.mark.parametrize("scale", [0.5, 0.08])
def test_resized_crops_of_pad_show_a_part_of_the_padded_square(scale: float, width: int, height: int) -> None:
    """Its grey bars as well, but never these alone, and the image at its own aspect."""
    geometry, how = Geometry(SIZE, "pad"), Augmentation("resized", scale, flip=False)
    grey_shares, longest = [], max(width, height)
    for view in views(in_memory(ramp(width, height)), geometry, how, 200):
        grey = (view == GREY).all(2)
        rows, columns = np.flatnonzero(~grey.all(1)), np.flatnonzero(~grey.all(0))
        shown = view[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(float)
        assert (~grey).sum() == len(rows) * len(columns), "the image is one rectangle"
        # Pixels of the image to one of the view, in x and y, by the slope of the ramps.
        in_x = (shown[0, -1, 0] - shown[0, 0, 0]) / 200 * width / max(1, len(columns) - 1)
        in_y = (shown[-1, 0, 1] - shown[0, 0, 1]) / 200 * height / max(1, len(rows) - 1)
        if len(rows) > 30 and len(columns) > 30:
            assert 0.9 < in_x / in_y < 1.1
        grey_shares.append(grey.mean())
        # The centre of the part lies on the image: across the bars, half of the view shows it, or half of it is shown.
        assert len(rows) >= min(SIZE, height / longest * SIZE) / 2 - 1
        assert len(columns) >= min(SIZE, width / longest * SIZE) / 2 - 1
    bars = 1 - min(width, height) / longest
    assert (max(grey_shares) > bars / 2) == (bars > 0)


def test_a_part_of_a_padded_square_is_cut_from_what_pillow_pads() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8))
    padded = Image.new("RGB", (96, 96), GREY)
    padded.paste(image, (0, 24))
    # Pixel by pixel: nothing is resampled.
    for left, top in ((24, 24), (0, 0), (48, 10), (7, 48)):
        part = (left / 96, top / 96, (left + 48) / 96, (top + 48) / 96)
        np.testing.assert_array_equal(
            part_of_square(image, Geometry(48, "pad"), part), np.asarray(padded.crop((left, top, left + 48, top + 48)))
        )
    # At half the size: the upper bar takes six of the 24 pixels, the rest is the upper part of the image.
    view = part_of_square(image, Geometry(24, "pad"), (0.25, 0.125, 0.75, 0.625))
    np.testing.assert_array_equal(view[:6], np.broadcast_to(GREY, (6, 24, 3)))
    np.testing.assert_array_equal(view[6:], np.asarray(image.resize((24, 18), BILINEAR, box=(24, 0, 72, 36))))


@pytest.mark.parametrize("resize", ["pad", "squash"])
def test_the_frozen_network_is_shown_all_stripes_of_a_wide_image(resize: Resize, tmp_path: Path) -> None:
    """Eight dark stripes, 4:1: a view of half of the area or more shows most of them, as prediction shows all."""
    wide = np.zeros((128, 512, 3), np.uint8)
    wide[:] = np.where(np.arange(512) // 32 % 2, 255, 20)[None, :, None]
    Image.fromarray(wide).save(tmp_path / "0.png")
    geometry = Geometry(96, resize)
    images = ImageSet((Sample(tmp_path / "0.png", 0),), reader_for_training(geometry, LIGHT), None, ())
    seen = views_of("training", images, geometry, LIGHT, 40, 0, Silent())
    counts = []
    for square in seen.squares(range(40), {}):
        dark = square[square.std(1)[:, 0].argmax(), :, 0] < 70
        counts.append(int(np.count_nonzero(dark[1:] & ~dark[:-1])) + int(dark[0]))
    assert min(counts) >= 5 and max(counts) <= 9


@pytest.mark.parametrize("crop", ["none", "pad", "resized"])
@pytest.mark.parametrize("resize", RESIZES)
def test_without_flip_no_view_is_mirrored(crop: Literal["none", "pad", "resized"], resize: Resize) -> None:
    image = ramp(96, 96)
    for flip in (False, True):
        how = Augmentation(crop, 0.25, flip, rotate=15, sharpness=1)
        seen = in_memory(image)
        rising = [
            bool(view[20:44, 40, 0].mean() > view[20:44, 24, 0].mean()) for view in views(seen, Geometry(SIZE, resize), how)
        ]
        assert all(rising) if not flip else 0.3 < np.mean(rising) < 0.7


def test_light_and_strong_are_what_they_say_and_mirror_only_where_asked() -> None:
    for name, least, most in (("light", 0.5, 0.6), ("strong", 0.25, 0.35)):
        for flip in (True, False):
            how = augmentation_of(FinetuneConfig(augment=name, flip=flip), "crop")  # type: ignore[arg-type]
            assert how == replace(LIGHT if name == "light" else STRONG, flip=flip)
            for resize in ("pad", "squash"):  # prediction sees all of the image there
                larger = augmentation_of(FinetuneConfig(augment=name, flip=flip), resize)  # type: ignore[arg-type]
                assert larger == replace(how, scale={"light": 0.71, "strong": 0.5}[name])
            plain = replace(how, rotate=0, sharpness=0)
            areas, rising = [], []
            for view in views(in_memory(ramp(200, 200)), Geometry(SIZE, fraction=1), plain, 200):
                areas.append(np.prod([np.ptp(view[..., channel].astype(float)) / 200 for channel in (0, 1)]))
                rising.append(bool(view[0, -1, 0] > view[0, 0, 0]))
            assert least - 0.05 < min(areas) < most
            assert (0.4 < np.mean(rising) < 0.6) if flip else all(rising)


# How large images are kept


@pytest.mark.parametrize("scale", [0.08, 0.25, 0.35, 0.5, 1.0])
def test_kept_images_have_the_pixels_for_nine_crops_of_ten(scale: float, tmp_path: Path) -> None:
    """Drawn as the papers say: area uniform, logarithm of the aspect uniform, again where it does not fit."""
    random = np.random.default_rng(0)
    areas, ratios = random.uniform(scale, 1, 50_000), np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3), 50_000))
    widths, heights = np.sqrt(areas * ratios), np.sqrt(areas / ratios)
    fits = (widths <= 1) & (heights <= 1)
    path = noise(tmp_path / "0.png", 1500, 1200)
    for resize in RESIZES:
        geometry = Geometry(SIZE, resize)
        shortest = np.minimum(widths, heights)[fits] if resize == "crop" else np.sqrt(areas)
        if scale == 1:
            shortest = np.ones(1)  # only a square of its own aspect fits
        (kept,) = read(path, geometry, Augmentation("resized", scale)).kept or ()
        side = max(kept.shape[:2]) if resize == "pad" else min(kept.shape[:2])
        assert np.mean(shortest * side < SIZE) < 0.115
        assert side <= 3 * SIZE
    small = noise(tmp_path / "1.png", 40, 30)
    (kept,) = read(small, Geometry(SIZE), Augmentation("resized", scale)).kept or ()
    assert kept.shape == (30, 40, 3), "never more than the image has"


def test_where_all_do_not_fit_into_memory_images_are_kept_as_large_as_fits(tmp_path: Path) -> None:
    samples = [Sample(noise(tmp_path / f"{number}.png", 600, 400), 0) for number in range(4)]
    geometry, how = Geometry(SIZE), Augmentation("resized", scale=0.08)
    full = reader_for_training(geometry, how)
    assert isinstance(full, WholeImages)

    def size(side: int) -> int:
        return 4 * 3 * side * round(600 * side / 400)

    least = round(1.15 * SIZE / 0.875)
    for limit in (10**9, size(full.side) * 2 // 3, size(least) + size(least) // 10, size(least) - 1):
        reader = reader_that_fits(samples, geometry, how, limit)
        images = read_images(samples, reader, Silent(), "", limit)
        assert isinstance(reader, WholeImages)
        if limit < size(least):
            assert (reader, images.kept) == (full, None), "decoded every epoch, at full size"
            continue
        assert images.kept is not None and sum(image.nbytes for image in images.kept) <= limit
        assert reader.side == full.side if limit == 10**9 else full.side > reader.side >= least
        assert limit == 10**9 or size(reader.side) > 0.7 * limit
        again = replace(images, kept=None)
        for index in range(4):
            np.testing.assert_array_equal(images[index], again[index])


@pytest.mark.parametrize("crop", ["none", "pad"])
def test_images_without_random_parts_are_kept_as_squares(crop: Literal["none", "pad"], tmp_path: Path) -> None:
    samples = [Sample(noise(tmp_path / "0.png", 600, 400), 0)]
    for limit in (0, 10**9):
        assert reader_that_fits(samples, Geometry(SIZE), Augmentation(crop), limit) == Squares(Geometry(SIZE))


# On the command line

QUICK = ["--weights", "bundled", "--image-size", "32", "--unfreeze", "none", "--val-split", "0.25", "--json"]


@pytest.mark.slow
def test_what_happens_to_images_is_recorded_in_the_run(tiny_dataset: Path, run_cli: RunCli, tmp_path: Path) -> None:
    def config(*options: str) -> tuple[object, ...]:
        done = run_cli("finetune", tiny_dataset, *QUICK, *options, "--output", tmp_path / "run", "--force")
        assert done.exit_code == 0, done.stderr
        recorded = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
        return recorded["augment"], recorded["flip"], json.loads(done.stdout)["views"]

    assert config("--set", "views=2") == ("light", True, 2)
    assert config("--set", "views=2", "--augment", "strong", "--no-flip") == ("strong", False, 2)
    assert config("--augment", "none") == ("none", False, 1)


@pytest.mark.parametrize(
    ("options", "words", "code"),
    [
        (["--augment", "none", "--set", "views=4"], "with augment none all views are equal", 1),
        (["--augment", "strong", "--set", "views=1"], "augment contradicts the rest: views 1 shows images as they are", 1),
        (["--augment", "some"], "none", 2),
    ],
)
def test_augmentation_and_views_that_contradict_each_other_are_refused(
    options: list[str], words: str, code: int, tiny_dataset: Path, run_cli: RunCli
) -> None:
    done = run_cli("finetune", tiny_dataset, *options)
    assert done.exit_code == code and words in done.stderr


@pytest.mark.slow
def test_features_are_not_shared_between_augmentations_but_squares_are(
    tiny_dataset: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    counts = []
    for number, options in enumerate(([], ["--no-flip"], ["--augment", "strong"], ["--no-flip"])):
        done = run_cli("finetune", tiny_dataset, *QUICK, "--set", "views=2", *options, "--output", tmp_path / str(number))
        assert done.exit_code == 0, done.stderr
        files = (tmp_path / "cache" / "resnet-cli" / "features").glob("*/*.rows")
        counts.append(sum((path.stat().st_size - 36) // (16 + 2 * 256) for path in files))
    with (tmp_path / "0" / "splits.csv").open() as file:
        splits = [row["split"] for row in csv.DictReader(file)]
    training, held_out = splits.count("train"), splits.count("val")
    # Squares of held-out images, and of training images for the distance from them.
    assert counts == [held_out + training + 2 * training * times for times in (1, 2, 3, 3)]


@pytest.mark.slow
def test_finetune_train_and_check_warn_of_mirrored_classes(
    make_dataset: MakeDataset, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_dataset(tmp_path / "signs", ("arrow left", "arrow right"), count=12)
    warning = (
        "mirrored images of the classes arrow left and arrow right may belong to another class or to none: --no-flip keeps"
        " training images as they are"
    )
    done = run_cli("finetune", data, *QUICK, "--set", "views=2", "--output", tmp_path / "run")
    assert warning in json.loads(done.stdout)["warnings"] and warning in done.stderr
    # It comes before any work, so the others are stopped there.
    train, finetune = ["train", data, "--arch", "resnet8"], ["finetune", data, *QUICK]
    commands = {
        "train": (train, True),
        "train, not mirrored": ([*train, "--no-flip"], False),
        "views": ([*finetune, "--set", "views=2"], True),
        "views, not mirrored": ([*finetune, "--set", "views=2", "--no-flip"], False),
        "no views": ([*finetune, "--augment", "none"], False),
    }
    with monkeypatch.context() as patch:
        patch.setattr("resnet_cli.cli.reporter.Reporter.stop_signal", lambda reporter: signal.SIGINT)
        for name, (command, warned) in commands.items():
            done = run_cli(*command, "--output", tmp_path / name)
            assert (done.exit_code, warning in done.stderr) == (130, warned), name
    problems = json.loads(run_cli("check", data, "--json").stdout)["problems"]
    assert [(each["kind"], each["path"]) for each in problems] == [
        ("mirror-sensitive", str(data / "arrow left")),
        ("mirror-sensitive", str(data / "arrow right")),
    ]
