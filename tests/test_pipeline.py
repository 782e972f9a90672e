"""The stream of training batches is a function of the seed and the step, and augmentations do what they say."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from training_material import stored

from resnet_cli.data.augment import Augmentation, augment, generator, mix
from resnet_cli.data.batches import EvaluationBatches, TrainStream
from resnet_cli.data.dataset import Sample, scan_dataset
from resnet_cli.data.decode import Geometry, Pixels, decode_square
from resnet_cli.data.images import ImageSet, mean_image, read_images, reader_for_prediction, reader_for_training
from resnet_cli.data.split import hold_out
from resnet_cli.data.threads import map_in_order, workers
from resnet_cli.errors import ResnetError
from resnet_cli.progress import Silent
from resnet_cli.transfer.tail import EngineStream, StoredStream

GEOMETRY = Geometry(24)
EVERYTHING = Augmentation("resized", 0.3, True, rotate=20, shift=0.1, sharpness=1.0, cutout=0.3, mixup=0.2)
NOTHING = Augmentation("none", flip=False)


def read(folder: Path, limit: int = 10**9) -> ImageSet:
    return read_images(scan_dataset(folder).splits["all"], reader_for_training(GEOMETRY, EVERYTHING), Silent(), "", limit)


def numbered(count: int, size: int = 24) -> ImageSet:
    """Images that say which they are: number n is all of the value n."""
    kept = [np.full((size, size, 3), number, np.uint8) for number in range(count)]
    samples = tuple(Sample(Path(str(number)), number % 3) for number in range(count))
    return ImageSet(samples, lambda path: kept[int(path.name)], kept, ())


class Means:
    """An engine whose one output is the mean of each image."""

    name, precision, pixels = "means", "f32", 1

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        return (images.mean((1, 2, 3), dtype=np.float32)[:, None],)

    def run_many(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[NDArray[np.float32], ...]]:
        yield from map(self.run, batches)


@pytest.fixture
def stream(tiny_dataset: Path) -> TrainStream:
    return TrainStream(read(tiny_dataset), 3, 8, GEOMETRY, EVERYTHING, seed=5)


def test_a_batch_is_the_same_whenever_and_however_it_is_made(stream: TrainStream) -> None:
    in_order = stream.batches()
    made = [next(in_order) for _ in range(10)]
    resumed = stream.batches(first_step=7)
    for images, targets in made[7:]:
        again = next(resumed)
        np.testing.assert_array_equal(images, again[0])
        np.testing.assert_array_equal(targets, again[1])
    for step in (9, 2, 5):
        np.testing.assert_array_equal(stream.batch(step)[0], made[step][0])
        np.testing.assert_array_equal(stream.batch(step)[1], made[step][1])


def test_the_number_of_threads_changes_nothing(stream: TrainStream, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    for threads in (1, 7):
        monkeypatch.setattr("resnet_cli.data.threads.workers", lambda threads=threads: threads)
        made = stream.batches()
        batches.append([next(made)[0] for _ in range(6)])
    np.testing.assert_array_equal(batches[0], batches[1])


def test_images_kept_in_memory_and_read_again_give_the_same_batches(tiny_dataset: Path) -> None:
    kept, again = read(tiny_dataset), read(tiny_dataset, limit=1000)
    assert kept.kept is not None and again.kept is None
    streams = [TrainStream(images, 3, 8, GEOMETRY, EVERYTHING, 0) for images in (kept, again)]
    np.testing.assert_array_equal(streams[0].batch(3)[0], streams[1].batch(3)[0])


def test_another_seed_and_another_epoch_give_other_batches(stream: TrainStream) -> None:
    first = stream.batch(0)[0]
    assert (stream.batch(9)[0] != first).any()
    assert (replace(stream, seed=6).batch(0)[0] != first).any()


# Images, the batch size asked for; steps an epoch, images in each batch: never more than asked for, nor than the set has.
EPOCHS = [
    (1, 64, 1, 1),
    (5, 64, 1, 5),
    (95, 64, 2, 48),
    (128, 64, 2, 64),
    (129, 64, 3, 43),
    (12, 4, 3, 4),
    (13, 4, 4, 4),
    (7, 1, 7, 1),
]


@pytest.mark.parametrize(("count", "batch_size", "steps", "images"), EPOCHS)
def test_every_epoch_shows_every_image_and_few_of_them_twice(count: int, batch_size: int, steps: int, images: int) -> None:
    stream = TrainStream(numbered(count), 3, batch_size, GEOMETRY, NOTHING, seed=0)
    assert (stream.steps_per_epoch, stream.images_per_step) == (steps, images)
    orders = set()
    for epoch in range(3):
        batches = [stream.batch(step)[0][:, 0, 0, 0].tolist() for step in range(epoch * steps, (epoch + 1) * steps)]
        assert {len(batch) for batch in batches} == {images}
        assert all(len(set(batch)) == images for batch in batches), "no image twice in one batch"
        shown = list(itertools.chain.from_iterable(batches))
        assert sorted(shown[:count]) == list(range(count))
        assert shown[count:] == shown[: steps * images - count] and steps * images - count < steps
        orders.add(tuple(shown))
    assert count < 7 or len(orders) == 3


@pytest.mark.parametrize(("count", "batch_size", "steps", "images"), EPOCHS)
def test_stored_rows_and_activations_computed_as_needed_have_the_same_epochs(
    count: int, batch_size: int, steps: int, images: int, tmp_path: Path
) -> None:
    views = 3
    rows = stored(tmp_path, np.arange(count * views, dtype=np.float16)[:, None])
    stream = StoredStream(rows, np.zeros(count, np.int64), 3, batch_size, seed=0)
    pixels = TrainStream(numbered(count), 3, batch_size, GEOMETRY, NOTHING, seed=0)
    live = EngineStream(pixels, Means())
    for each in (stream, live):
        assert (each.steps_per_epoch, each.images_per_step) == (steps, images)
    for step, (activations, _) in zip(range(steps), live.batches(), strict=False):
        expected = pixels.batch(step)[0][:, 0, 0, 0]
        np.testing.assert_array_equal(stream.batch(step)[0][:, 0] // views, expected)
        np.testing.assert_array_equal(activations[:, 0], expected)


def test_an_image_comes_with_its_own_class() -> None:
    images, targets = TrainStream(numbered(30), 3, 30, GEOMETRY, NOTHING, seed=0).batch(0)
    np.testing.assert_array_equal(targets, np.eye(3)[images[:, 0, 0, 0] % 3])
    assert images.dtype == np.uint8 and targets.dtype == np.float32


def test_validation_sees_exactly_what_prediction_sees(sample_data: Path) -> None:
    """Training-time validation and `predict` share the pixels, or the figure of a run would not hold."""
    held_out = hold_out(scan_dataset(sample_data), 0.1, 0).splits["val"]
    for geometry in (Geometry(64), Geometry(64, "pad"), Geometry(64, "squash")):
        read = read_images(held_out, reader_for_prediction(geometry), Silent(), "")
        batches = EvaluationBatches(read, 2, batch_size=3)
        images = np.concatenate([batches[number][0] for number in range(len(batches))])
        labels = np.concatenate([batches[number][1] for number in range(len(batches))]).argmax(1)
        np.testing.assert_array_equal(images, np.stack([decode_square(sample.path, geometry) for sample in held_out]))
        assert labels.tolist() == [sample.label for sample in held_out]


def test_damaged_images_are_left_out_and_named(tiny_dataset: Path) -> None:
    (tiny_dataset / "apple" / "003.png").write_bytes(b"")
    (tiny_dataset / "berry" / "note.jpg").write_text("no image")
    images = read(tiny_dataset)
    assert len(images) == 35 and np.bincount(images.labels).tolist() == [11, 12, 12]
    assert [(file.path.name, file.reason.split()[-3:]) for file in images.left_out] == [
        ("003.png", ["empty", "(0", "bytes)"]),
        ("note.jpg", ["AVIF", "or", "HEIC)"]),
    ]


def test_results_come_in_order_and_an_error_comes_through() -> None:
    assert list(map_in_order(lambda item: item * 2, range(200), ahead=5)) == list(range(0, 400, 2))

    def work(item: int) -> int:
        if item == 30:
            raise ResnetError("broken")
        return item

    results = []
    with pytest.raises(ResnetError, match="broken"):
        results.extend(map_in_order(work, range(100), ahead=4))


def test_work_ahead_is_bounded() -> None:
    begun: Counter[int] = Counter()
    results = map_in_order(lambda item: begun.update([item]), range(1000), ahead=6)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 6


# Augmentations


def pattern(size: int = 24) -> Pixels:
    return np.random.default_rng(1).integers(1, 100, (size, size, 3), np.uint8)


def views(how: Augmentation, image: Pixels, count: int = 200) -> list[Pixels]:
    return [augment(image, Geometry(24, fraction=1.0), how, generator(0, 0, index)) for index in range(count)]


@pytest.mark.parametrize("crop", ["resized", "pad", "none"])
@pytest.mark.parametrize("shape", [(24, 24), (40, 60), (60, 40), (5, 90), (1, 1)])
def test_a_view_has_the_size_of_the_input_and_the_image_stays_as_it_was(crop: str, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    before = image.copy()
    for view in views(replace(EVERYTHING, crop=crop), image, 40):  # type: ignore[arg-type]
        assert view.shape == (24, 24, 3) and view.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


def test_no_augmentation_changes_nothing() -> None:
    for view in views(NOTHING, pattern(), 5):
        np.testing.assert_array_equal(view, pattern())


def test_half_of_the_images_are_mirrored() -> None:
    mirrored = [bool((view == pattern()[:, ::-1]).all()) for view in views(replace(NOTHING, flip=True), pattern(), 400)]
    straight = [bool((view == pattern()).all()) for view in views(replace(NOTHING, flip=True), pattern(), 400)]
    assert all(a != b for a, b in zip(mirrored, straight, strict=True))
    assert 0.4 < np.mean(mirrored) < 0.6


def test_a_padded_crop_is_the_image_moved_by_an_eighth_at_most() -> None:
    moves = set()
    framed = np.pad(pattern(), ((3, 3), (3, 3), (0, 0)))
    for view in views(replace(NOTHING, crop="pad"), pattern(), 400):
        fits = [(y, x) for y in range(7) for x in range(7) if (framed[y : y + 24, x : x + 24] == view).all()]
        assert len(fits) == 1
        moves.add(fits[0])
    assert len(moves) == 49


@pytest.mark.parametrize("scale", [0.1, 0.5, 0.9])
def test_a_resized_crop_keeps_the_share_of_the_area_that_it_says(scale: float) -> None:
    """Measured on a ramp: what a view spans of the values is its share of each side."""
    ramp = np.zeros((200, 200, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(200)[:, None], np.arange(200)[None]
    areas, ratios = [], []
    for view in views(replace(NOTHING, crop="resized", scale=scale), ramp):
        height, width = (np.ptp(view[..., channel].astype(float)) / 23 * 24 / 200 for channel in (0, 1))
        areas.append(height * width)
        ratios.append(width / height)
    assert scale - 0.06 < min(areas) < scale + 0.06 and max(areas) < 1.1
    assert min(ratios) > 0.68 and max(ratios) < 1.46
    assert scale > 0.5 or max(ratios) > 1.2


def test_a_shift_moves_by_its_share_at_most_and_repeats_the_edge() -> None:
    ramp = np.repeat(np.repeat(np.arange(24, dtype=np.uint8)[None, :, None] * 10, 24, 0), 3, 2)
    moved = [float(view[12, 12, 0]) / 10 - 12 for view in views(replace(NOTHING, shift=0.25), ramp)]
    assert 5 < max(moved) <= 6.1 and -6.1 <= min(moved) < -5


@pytest.mark.parametrize(("rotate", "shift"), [(180.0, 0.0), (0.0, 0.5), (45.0, 0.5)])
def test_nothing_black_comes_in_from_outside(rotate: float, shift: float) -> None:
    white = np.full((24, 24, 3), 255, np.uint8)
    assert all(view.min() == 255 for view in views(replace(NOTHING, rotate=rotate, shift=shift), white))


def test_a_rotation_turns_by_its_angle_at_most() -> None:
    """Measured on the direction of a gradient through the centre."""
    size = 96
    ramp = np.repeat(np.repeat(np.linspace(20, 230, size).astype(np.uint8)[None, :, None], size, 0), 3, 2)
    angles = []
    for index in range(100):
        view = augment(ramp, Geometry(size), replace(NOTHING, rotate=30), generator(0, 0, index))[..., 0].astype(float)
        down, right = np.gradient(view[32:64, 32:64])
        angles.append(np.degrees(np.arctan2(down.mean(), right.mean())))
    assert 25 < max(angles) < 31 and -31 < min(angles) < -25


def test_sharpness_blurs_and_sharpens_by_its_factor_at_most_and_keeps_the_brightness() -> None:
    """Measured on a weak edge, where nothing is clipped: contrast across it, against the image's own."""
    edge = np.full((24, 24, 3), 100, np.uint8)
    edge[:, 12:] = 140
    contrasts = []
    for view in views(replace(NOTHING, sharpness=1.0), edge):
        contrasts.append((float(view[12, 12, 0]) - float(view[12, 11, 0])) / 40)
        assert abs(float(view.mean()) - 120) < 1
    # Pillow's smoothing kernel (1 1 1, 1 5 1, 1 1 1) / 13 leaves 7 / 13 of the step: 1 - factor times what it takes away.
    taken = 1 - 7 / 13
    assert 1 - 0.5 * taken - 0.03 < min(contrasts) < 1 - 0.3 * taken and 1 + 0.6 * taken < max(contrasts) < 1 + taken + 0.03


def test_cutout_greys_one_square_and_leaves_the_rest() -> None:
    for view in views(replace(NOTHING, cutout=0.5), pattern()):
        grey = np.all(view == 124, axis=2)
        rows, columns = np.flatnonzero(grey.any(1)), np.flatnonzero(grey.any(0))
        assert grey.sum() == len(rows) * len(columns) and 6 <= len(rows) <= 12 and 6 <= len(columns) <= 12
        np.testing.assert_array_equal(view[~grey], pattern()[~grey])


def test_mixup_mixes_images_and_targets_by_one_share() -> None:
    dark_and_light = np.zeros((6, 4, 4, 3), np.uint8)
    dark_and_light[:3] = 200
    shares = []
    for step in range(50):
        images, targets = dark_and_light.copy(), np.eye(2, dtype=np.float32)[[0, 0, 0, 1, 1, 1]]
        mix(images, targets, 0.4, generator(0, step, 0))
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(images[:, 0, 0, 0] / 200, targets[:, 0], atol=0.5 / 200 + 1e-6)
        shares.append(targets[0, 0])
    assert min(shares) < 0.1 and max(shares) > 0.9


@pytest.mark.parametrize("side", [23, 24, 25, 100])
@pytest.mark.parametrize("crop", ["none", "pad", "resized"])
def test_a_mean_image_and_crops_of_squares_are_at_the_scale_of_prediction_whatever_the_size_of_the_image(
    crop: Literal["none", "pad", "resized"], side: int, tmp_path: Path
) -> None:
    geometry = Geometry(24)  # which leaves the outer sixteenth of every side out
    image = np.zeros((side, side, 3), np.uint8)
    image[: max(1, side // 40)] = 255
    Image.fromarray(image).save(tmp_path / "0.png")
    how = Augmentation(crop, flip=False)
    images = read_images([Sample(tmp_path / "0.png", 0)], reader_for_training(geometry, how), Silent(), "")
    assert not mean_image(images, geometry).any()
    views = [augment(images[0], geometry, how, generator(0, 0, index)) for index in range(20)]
    assert np.any(views) == (crop == "resized")


def test_targets_of_a_mixed_stream_sum_to_one(stream: TrainStream) -> None:
    targets = np.concatenate([stream.batch(step)[1] for step in range(8)])
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    assert ((targets > 0.01) & (targets < 0.99)).any()


@pytest.mark.parametrize(
    ("words", "threads"), [("200000 100000", 2), ("250000 100000", 3), ("10000 100000", 2), ("max 100000", 64), (None, 64)]
)
def test_a_container_s_quota_of_cores_is_kept(
    words: str | None, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words is not None:
        (tmp_path / "cpu.max").write_text(f"{words}\n")
    monkeypatch.setattr("resnet_cli.data.threads.QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)))
    assert workers() == threads
