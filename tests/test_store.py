"""Rows of frozen layers by key: nothing is computed twice, whatever stopped, was damaged or was deleted; without TensorFlow."""

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import MakeImage, room_for
from numpy.typing import NDArray

from resnet_cli.data.augment import Augmentation
from resnet_cli.data.dataset import scan_dataset
from resnet_cli.data.decode import Geometry
from resnet_cli.data.images import ImageSet, reader_for_training
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.progress import Progress, Silent, Task
from resnet_cli.transfer.features import AS_IT_IS, LIGHT, Views, frozen_rows, views_of
from resnet_cli.transfer.store import FROZEN_FOLDER, KEY, Cache, ResumeRecord, Store, room_for_features, stores_of, write_rows

LIMIT = 10**9
SIDE = 32


class Colours:
    """An engine whose features are mean colours, and its activations the images."""

    name, precision, pixels = "colours", "f32", 8 * SIDE * SIDE  # eight images a batch

    def __init__(self, outputs: int = 1) -> None:
        self.seen, self.outputs = 0, outputs

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        self.seen += len(images)
        values = images.astype(np.float32)
        return (values.mean((1, 2)), values)[: self.outputs]

    def run_many(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[NDArray[np.float32], ...]]:
        return map(self.run, batches)


class StopAfterBatches(Silent):
    """Progress that asks to stop, as Ctrl-C does, after some batches of features."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches + 1  # the bar begins with what is there already

    def start(self, title: str, total: int | None) -> Task:
        def advance(steps: int = 1, figures: object = None) -> None:
            self.left -= 1

        return SimpleNamespace(advance=advance, finish=lambda: None)

    def stop_signal(self) -> int:
        return 2 if self.left <= 0 else 0


class Killed(Silent):
    """A process that is killed at the end of a batch."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def unsaved(self) -> None:
        self.left -= 1
        if not self.left:
            raise MemoryError


def views_in(data: Path, how: Augmentation = LIGHT, per_image: int = 2, seed: int = 0, step: int = 1) -> Views:
    images = ImageSet(scan_dataset(data).splits["all"][::step], reader_for_training(Geometry(SIDE), how), None, ())
    return views_of("training", images, Geometry(SIDE), how, per_image, seed, Silent())


def compute(
    run: Path, views: Views, engine: Colours, progress: Progress | None = None, cache: Cache | None = None
) -> tuple[list[NDArray[np.float32]], dict[int, str]]:
    """What a process that begins or goes on with a run in that folder learns from, and what it leaves out."""
    stores = stores_of(run, [(3,), (SIDE, SIDE, 3)][: engine.outputs])
    stored, unreadable = frozen_rows(engine, views, stores, cache, ResumeRecord(run), progress or Silent())
    return [each.read(range(each.count)) for each in stored], unreadable


def assert_same(
    one: tuple[list[NDArray[np.float32]], dict[int, str]], other: tuple[list[NDArray[np.float32]], dict[int, str]]
) -> None:
    assert one[1] == other[1]
    for array, expected in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(array, expected)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_rows_are_those_that_the_engine_gave_image_after_image(tiny_dataset: Path, tmp_path: Path) -> None:
    views = views_in(tiny_dataset)
    (features, boundary), unreadable = compute(tmp_path / "run", views, Colours(2))
    squares = np.stack(list(views.squares(range(72), {}))).astype(np.float32)
    np.testing.assert_array_equal(boundary, squares)
    np.testing.assert_array_equal(features, squares.mean((1, 2)).astype(np.float16))
    assert unreadable == {} and len(squares) == 72


@pytest.mark.parametrize("outputs", [1, 2])
def test_what_an_interrupted_run_stored_is_taken_though_an_image_is_unreadable(
    outputs: int, tiny_dataset: Path, tmp_path: Path
) -> None:
    broken = tiny_dataset / "berry" / "004.png"
    content = broken.read_bytes()
    broken.write_bytes(b"")
    engine = Colours(outputs)
    first = compute(tmp_path / "run", views_in(tiny_dataset), engine)
    assert engine.seen == 35 * 2 == len(first[0][0])
    assert first[1] == {12 + 4: f"{broken} is empty (0 bytes)"}
    # It stays left out, also when somebody has put it back: the run goes on with the images that it began with.
    broken.write_bytes(content)
    assert_same(compute(tmp_path / "run", views_in(tiny_dataset), engine), first)
    assert engine.seen == 35 * 2
    # Rows of other views are others, though they are as many.
    compute(tmp_path / "run", views_in(tiny_dataset, seed=1), engine)
    assert engine.seen == 2 * 35 * 2


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("how", ["asked to stop", "killed", "other views", "cut"])
def test_a_pass_that_stops_half_way_goes_on_there_where_its_rows_are_the_same(
    how: str, outputs: int, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("apple/000.png", "cherry/011.png"):  # one is found before the stop, and one after it
        (tiny_dataset / name).write_bytes(b"")
    whole = compute(tmp_path / "whole", views_in(tiny_dataset), Colours(outputs))
    assert list(whole[1]) == [0, 35] and len(whole[0][0]) == 34 * 2
    run, engine = tmp_path / "run", Colours(outputs)
    if how == "killed":
        # It loses what came since files were made whole the last time, which is a minute ago at most.
        monkeypatch.setattr("resnet_cli.transfer.store._WHOLE_EVERY", 0)
        with pytest.raises(MemoryError):
            compute(run, views_in(tiny_dataset), engine, Killed(4))
        (run / FROZEN_FOLDER / "features" / ".partial-01234567-rows").write_bytes(b"unfinished")
    else:
        with pytest.raises(Interrupted):
            compute(run, views_in(tiny_dataset), engine, StopAfterBatches(4))
    assert engine.seen == 4 * 8
    left, seed = 68 - engine.seen, 0
    if how == "other views":
        left, seed = 68, 1
        whole = compute(tmp_path / "other", views_in(tiny_dataset, seed=1), Colours(outputs))
    elif how == "cut":
        left = 68
        for path in run.rglob("*.rows"):
            path.write_bytes(path.read_bytes()[:-1])
    engine = Colours(outputs)
    assert_same(compute(run, views_in(tiny_dataset, seed=seed), engine), whole)
    assert engine.seen == left
    assert not [name for name in files(run) if "partial" in name]


def test_a_second_stop_loses_nothing_of_the_first_and_a_third_process_finishes(tiny_dataset: Path, tmp_path: Path) -> None:
    seen = []
    for batches in (2, 3):
        engine = Colours(2)
        with pytest.raises(Interrupted):
            compute(tmp_path / "run", views_in(tiny_dataset), engine, StopAfterBatches(batches))
        seen.append(engine.seen)
    engine = Colours(2)
    resumed = compute(tmp_path / "run", views_in(tiny_dataset), engine)
    assert [*seen, engine.seen] == [16, 24, 72 - 40]
    assert_same(resumed, compute(tmp_path / "whole", views_in(tiny_dataset), Colours(2)))


def test_rows_of_which_one_store_has_half_are_computed_for_both(tiny_dataset: Path, tmp_path: Path) -> None:
    """As where a process was killed after it had finished the first of two files."""
    views = views_in(tiny_dataset)
    first = compute(tmp_path / "run", views, Colours(2))
    shutil.rmtree(tmp_path / "run" / FROZEN_FOLDER / "boundary")
    engine = Colours(2)
    assert_same(compute(tmp_path / "run", views, engine), first)
    assert engine.seen == 72


def test_an_image_that_was_renamed_or_copied_is_known_by_its_content(
    tiny_dataset: Path, make_image: MakeImage, tmp_path: Path
) -> None:
    compute(tmp_path / "run", views_in(tiny_dataset), Colours())
    (tiny_dataset / "apple" / "003.png").rename(tiny_dataset / "apple" / "zebra.png")
    shutil.copy(tiny_dataset / "apple" / "005.png", tiny_dataset / "apple" / "copy.png")
    make_image(tiny_dataset / "apple" / "new.png", seed=99)
    engine = Colours()
    resumed = compute(tmp_path / "run", views_in(tiny_dataset), engine)
    assert engine.seen == 2 and len(resumed[0][0]) == 38 * 2
    assert_same(resumed, compute(tmp_path / "anew", views_in(tiny_dataset), Colours()))


def test_on_a_full_disk_no_file_is_half_written_and_there_is_one_sentence(tiny_dataset: Path, tmp_path: Path) -> None:
    with room_for(10 * SIDE * SIDE * 3 * 2), pytest.raises(ResnetError) as told:
        compute(tmp_path / "run", views_in(tiny_dataset), Colours(2))
    assert told.value.message == f"cannot store activations in {tmp_path / 'run' / FROZEN_FOLDER}: File too large"
    assert files(tmp_path / "run") == []


# The store itself: eight numbers in two rows.


def two_keys(number: int) -> list[bytes]:
    return [bytes([number]) * KEY, bytes([number, 9] * (KEY // 2))]


TWO_ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
SIZE = 2 * KEY + 16 + 36  # bytes of their file


def two_rows_in(store: Store, number: int) -> Store:
    write_rows([store], [(two_keys(number), (TWO_ROWS + 10 * number,))])
    return store


def test_rows_are_found_by_key_in_any_order_and_whatever_file_they_are_in(tmp_path: Path) -> None:
    for number in range(3):
        two_rows_in(Store(tmp_path, (4,)), number)
    store = Store(tmp_path, (4,))
    (a, b), (c, d) = two_keys(2), two_keys(0)
    np.testing.assert_array_equal(
        store.rows([d, a, c, d]).read(range(4)), [[4, 5, 6, 7], [20, 21, 22, 23], [0, 1, 2, 3], [4, 5, 6, 7]]
    )
    np.testing.assert_array_equal(store.rows([a, b, c]).read([2, 0]), [[0, 1, 2, 3], [20, 21, 22, 23]])
    assert [key in store for key in (a, d, bytes([7]) * KEY)] == [True, True, False]


def test_numbers_beyond_half_precision_become_its_largest_and_moments_are_those_of_all_rows(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float16).astype(np.float32)
    rows[7, 1] = 1e9
    store, keys = Store(tmp_path, (4,)), [number.to_bytes(KEY) for number in range(3000)]
    write_rows([store], [(keys[:1000], (rows[:1000],)), (keys[1000:], (rows[1000:],))])
    stored = store.rows(keys)
    assert stored.read([7])[0, 1] == 65504
    rows[7, 1] = 65504
    np.testing.assert_array_equal(np.concatenate(list(stored.pieces())), rows)
    mean, variance = stored.moments()
    np.testing.assert_allclose(mean, rows.mean(0, dtype=np.float64), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(variance, rows.var(0, dtype=np.float64), rtol=1e-5)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "longer", "of another width", "of an older version"])
def test_a_damaged_file_is_deleted_and_its_rows_alone_are_missing(damage: str, tmp_path: Path) -> None:
    two_rows_in(Store(tmp_path, (4,)), 0)
    (path,) = tmp_path.iterdir()
    two_rows_in(Store(tmp_path, (4,)), 1)
    content = path.read_bytes()
    changed = bytearray(content)
    changed[3] ^= 1
    old = b"resnet features\n" + bytes([2, *[0] * 7, 4, *[0] * 7]) + content + bytes(32)
    other = two_rows_in(Store(tmp_path / "other", (2, 4)), 0) if damage == "of another width" else None
    wider = next(other.folder.iterdir()).read_bytes() if other else b""
    damaged = {"cut": content[:-1], "changed": changed, "longer": content + b"\0", "of another width": wider}
    path.write_bytes({**damaged, "empty": b"", "of an older version": old}[damage])
    store = Store(tmp_path, (4,))
    assert [key in store for key in (*two_keys(0), *two_keys(1))] == [False, False, True, True]
    assert not path.exists()


def test_a_file_of_the_run_that_is_cut_while_it_is_read_is_named(tmp_path: Path) -> None:
    stored = two_rows_in(Store(tmp_path, (4,)), 0).rows(two_keys(0))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(OSError, match="it was cut") as told:
        stored.read([1])
    assert told.value.filename == str(path)


# The user's cache.


def cached(folder: Path, number: int, limit: int, tmp: Path) -> None:
    """A run puts its two rows into the cache of a network."""
    source = two_rows_in(Store(tmp / f"run-{number}", (4,)), number)
    Cache(folder / str(number), (4,), limit).keep(two_keys(number), source)


def networks_in(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.rglob("*.rows"))


def grow_old(folder: Path, days: float) -> None:
    for path in folder.rglob("*.rows"):
        os.utime(path, (0, time.time() - days * 24 * 60 * 60))


def test_the_oldest_features_make_room_but_not_those_that_were_used_within_a_day(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for number in range(3):
        cached(kept, number, 2 * SIZE, tmp_path)
        grow_old(kept / str(number), 3 - number)
    assert networks_in(kept) == ["1", "2"]
    last = Cache(kept / "2", (4,), LIMIT)  # which is a use
    np.testing.assert_array_equal(last.rows(two_keys(2)[:1]).read([0]), [[20, 21, 22, 23]])
    cached(kept, 3, 2 * SIZE, tmp_path)
    assert networks_in(kept) == ["2", "3"]
    cached(kept, 4, 2 * SIZE, tmp_path)
    assert networks_in(kept) == ["2", "3"], "what another run may still read stays, and the limit holds"


def test_a_file_larger_than_the_limit_with_its_keys_drives_nothing_out(tmp_path: Path) -> None:
    cached(tmp_path / "kept", 0, SIZE, tmp_path)
    grow_old(tmp_path / "kept", 3)
    cached(tmp_path / "kept", 1, SIZE - 1, tmp_path)
    assert networks_in(tmp_path / "kept") == ["0"]


def test_rows_that_are_there_are_not_added_again(tmp_path: Path) -> None:
    cached(tmp_path / "kept", 0, LIMIT, tmp_path)
    before = files(tmp_path / "kept")
    source = two_rows_in(Store(tmp_path / "run", (4,)), 0)
    Cache(tmp_path / "kept" / "0", (4,), LIMIT).keep(two_keys(0) * 2, source)
    assert files(tmp_path / "kept") == before


def test_the_room_for_features_is_that_of_their_own_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def usage(folder: Path) -> SimpleNamespace:
        asked.append(folder)
        return SimpleNamespace(free=1000)

    monkeypatch.setattr("resnet_cli.transfer.store.shutil.disk_usage", usage)
    assert room_for_features(tmp_path / "cache" / "features") == 500
    cached(tmp_path / "cache", 0, LIMIT, tmp_path)
    assert room_for_features(tmp_path / "cache") == (1000 + SIZE) // 2
    assert asked == [tmp_path, tmp_path / "cache"]


class Deleting(Colours):
    """An engine beside which another process empties the cache."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        shutil.rmtree(self._folder, ignore_errors=True)
        return super().run(images)


@pytest.mark.parametrize("when", ["before they are read", "while others are computed"])
def test_features_that_another_process_deleted_are_computed(when: str, tiny_dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept" / "network"
    every, some = (views_in(tiny_dataset, AS_IT_IS, 1, step=step) for step in (1, 2))
    compute(tmp_path / "earlier", some, Colours(), cache=Cache(folder, (3,), LIMIT))
    expected = compute(tmp_path / "alone", every, Colours())
    cache, engine = Cache(folder, (3,), LIMIT), Deleting(folder)
    if when == "before they are read":
        shutil.rmtree(folder)
    assert_same(compute(tmp_path / "run", every, engine, cache=cache), expected)
    assert engine.seen == (36 if when == "before they are read" else 18)


def test_a_later_run_with_more_images_computes_those_alone_and_shares_them(tiny_dataset: Path, tmp_path: Path) -> None:
    def cache() -> Cache:
        return Cache(tmp_path / "kept" / "network", (3,), LIMIT)

    seen = []
    for run, step in (("first", 2), ("second", 1), ("third", 1)):
        engine = Colours()
        result = compute(tmp_path / run, views_in(tiny_dataset, step=step), engine, cache=cache())
        seen.append(engine.seen)
    assert seen == [36, 36, 0]
    assert_same(result, compute(tmp_path / "alone", views_in(tiny_dataset), Colours()))
    # Features that were computed together with activations are shared as well, and not taken where activations are needed.
    engine = Colours(2)
    compute(tmp_path / "both", views_in(tiny_dataset, seed=1), engine, cache=cache())
    compute(tmp_path / "both again", views_in(tiny_dataset, seed=1), engine, cache=cache())
    features_alone = Colours()
    compute(tmp_path / "alone again", views_in(tiny_dataset, seed=1), features_alone, cache=cache())
    assert (engine.seen, features_alone.seen) == (2 * 72, 0)


# What a run remembers besides its rows.


def test_a_choice_holds_for_the_whole_run(tmp_path: Path) -> None:
    def once(name: str, values: Sequence[int]) -> list[int]:
        return [ResumeRecord(tmp_path).once(name, lambda value=value: value) for value in values]

    assert once("views", [7, 2]) == [7, 7]
    assert once("epochs", [0, 5]) == [0, 0]
    ResumeRecord(tmp_path).add_unreadable({"a.png": "a.png is empty"})
    ResumeRecord(tmp_path).add_unreadable({"b.png": "b.png is damaged"})
    assert once("views", [1]) == [7]
    assert ResumeRecord(tmp_path).unreadable() == {"a.png": "a.png is empty", "b.png": "b.png is damaged"}
    assert json.loads((tmp_path / FROZEN_FOLDER / "resume.json").read_text()) == {
        "views": 7,
        "epochs": 0,
        "unreadable": {"a.png": "a.png is empty", "b.png": "b.png is damaged"},
    }


def test_a_record_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    ResumeRecord(tmp_path).once("views", lambda: 3)
    path = tmp_path / FROZEN_FOLDER / "resume.json"
    path.write_text(path.read_text()[:-1])
    with pytest.raises(ResnetError, match=f"{path} cannot be read, so the run cannot be resumed"):
        ResumeRecord(tmp_path).once("views", lambda: 3)


def test_views_are_named_by_content_and_seed(tiny_dataset: Path) -> None:
    views = views_in(tiny_dataset)
    keys = views.keys()
    assert len(set(keys)) == len(keys) == 72
    assert set(replace(views, seed=1).keys()).isdisjoint(keys)
