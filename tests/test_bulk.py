"""`--ray` with `--input`: many images on Ray Data give the rows that `predict` gives, each exactly once, whatever is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import MakeDataset, MakeImage, MakeRun, Result, RunCli

from resnet_cli.cli.predict import _told
from resnet_cli.data.bulk_folder import (
    Input,
    Manifest,
    block_size,
    find_input,
    finished_blocks,
    read_block,
    read_notes,
    read_rows,
    write_block,
    write_list,
)
from resnet_cli.data.decode import decode
from resnet_cli.data.scoring import labelled
from resnet_cli.data.storage import find_place
from resnet_cli.errors import ResnetError
from resnet_cli.jobs.bulk import BulkDone, _list, _require_same
from resnet_cli.jobs.bulk_actor import BlockClassifier, Work, actors, cores_per_actor, file_hash
from resnet_cli.jobs.predict import load_classifier, run_classifier
from resnet_cli.jobs.ray_cluster import Cluster, Machine, begin, import_ray
from resnet_cli.progress import Silent
from resnet_cli.runs.folder import read_splits

FOREVER = 120  # seconds
# Ray Data warns of its own settings.
pytestmark = pytest.mark.filterwarnings("ignore:.use_push_based_shuffle. is deprecated", "ignore::DeprecationWarning:ray")


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """Ray runs in this process, as it does in a process of the Python API: commands connect to it."""
    begin("local")
    yield
    import_ray().shutdown()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset) -> Path:
    """A folder of 300 images, so two blocks, one of them damaged."""
    folder = make_dataset(tmp_path_factory.mktemp("bulk") / "images", count=100)
    (folder / "berry" / "broken.png").write_bytes(b"no image")
    next((folder / "berry").glob("*.png")).unlink()
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun, images: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", images)


def bulk(run_cli: RunCli, classifier: Path, given: object, output: object, *more: object) -> Result:
    return run_cli("predict", "--run", classifier, "--ray", "local", "--input", given, "--output", output, *more)


def rows_of(output: Path) -> list[dict[str, Any]]:
    files = sorted((output / "predictions").iterdir())
    return [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]


def as_predict_says(run_cli: RunCli, classifier: Path, *words: object) -> list[dict[str, Any]]:
    told = json.loads(run_cli("predict", *words, "--run", classifier, "--json").stdout)
    return [
        {
            "path": row["path"],
            "classes": [each["class"] for each in row["predictions"]] or None,
            "probabilities": [each["probability"] for each in row["predictions"]] or None,
            "error": row["error"],
        }
        for row in told
    ]


@pytest.mark.slow
def test_a_folder_gives_the_rows_of_predict_to_the_last_bit(
    ray: None, run_cli: RunCli, classifier: Path, images: Path, tmp_path: Path
) -> None:
    done = bulk(run_cli, classifier, images, tmp_path / "out", "--top", 2, "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert (told["images"], told["errors"], told["now"], told["output"]) == (300, 1, 300, str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == told
    assert rows_of(tmp_path / "out") == as_predict_says(run_cli, classifier, images, "--top", 2)
    assert len(list((tmp_path / "out" / "predictions").iterdir())) == 2

    # Only the block that is missing is classified again.
    first, second = sorted((tmp_path / "out" / "predictions").iterdir())
    content, when = second.read_bytes(), first.stat().st_mtime_ns
    second.unlink()
    again = bulk(run_cli, classifier, images, tmp_path / "out", "--top", 2)
    assert "300 images, 256 of them before" in again.stdout
    assert (second.read_bytes(), first.stat().st_mtime_ns) == (content, when)

    def refusal(given: object, *more: object, run: Path = classifier) -> str:
        refused = bulk(run_cli, run, given, tmp_path / "out", *more)
        assert refused.exit_code == 1
        return refused.stderr.splitlines()[0]

    out = tmp_path / "out"
    assert refusal(images, "--top", 3) == f"error: {out} was begun with top 2, not 3"
    assert refusal(images / "berry", "--top", 2) == f"error: {out} holds predictions of another input: {images}"
    other = tmp_path / "other"
    other.mkdir()
    for file in classifier.iterdir():
        (other / file.name).write_bytes(file.read_bytes() + (b" " if file.suffix == ".h5" else b""))
    assert refusal(images, "--top", 2, run=other) == f"error: {out} holds predictions of another model"


@pytest.mark.slow
def test_a_table_names_images_relative_to_itself_on_any_file_system(
    ray: None, run_cli: RunCli, classifier: Path, images: Path, tmp_path: Path
) -> None:
    """`local` is a file system of fsspec that pyarrow does not know, as sftp and http are."""
    names = sorted(str(path.relative_to(images)) for path in images.glob("*/*.png"))[:3]
    names += [str(images / names[0]), f"local://{images / names[1]}", "missing.png", f"local://{images}/missing.png"]
    pyarrow.parquet.write_table(pyarrow.table({"image": names}), images / "paths.parquet")
    try:
        here = bulk(run_cli, classifier, images / "paths.parquet", tmp_path / "here")
        there = bulk(run_cli, classifier, f"local://{images}/paths.parquet", f"local://{tmp_path}/there")
    finally:
        (images / "paths.parquet").unlink()
    assert (here.exit_code, there.exit_code) == (0, 0)
    wanted = as_predict_says(run_cli, classifier, *(images / name for name in names[:3]))
    for output in ("here", "there"):
        rows = rows_of(tmp_path / output)
        assert [row["path"] for row in rows] == names
        best = [each["probabilities"] for each in wanted]
        assert [row["probabilities"] for row in rows] == [*best, best[0], best[1], None, None]
        assert [row["error"] is None for row in rows] == [True] * 5 + [False] * 2


@pytest.mark.slow
def test_features_are_what_the_head_reads_in_both_engines(
    ray: None, run_cli: RunCli, classifier: Path, images: Path, tmp_path: Path
) -> None:
    features = {}
    for engine in ("keras", "openvino"):
        assert bulk(run_cli, classifier, images / "apple", tmp_path / engine, "--features", "--engine", engine).exit_code == 0
        features[engine] = np.array([row["features"] for row in rows_of(tmp_path / engine)])
    with h5py.File(classifier / "model.weights.h5") as file:
        logits = features["keras"] @ file["logits/kernel"][:] + file["logits/bias"][:]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    classes = json.loads((classifier / "run.json").read_text())["classes"]
    for row, share in zip(rows_of(tmp_path / "keras"), shares / shares.sum(1, keepdims=True), strict=True):
        told = dict(zip(row["classes"], row["probabilities"], strict=True))
        assert [told[name] for name in classes] == pytest.approx(share.tolist(), abs=1e-5)
    error = np.linalg.norm(features["openvino"] - features["keras"]) / np.linalg.norm(features["keras"])
    assert error < 0.02  # OpenVINO multiplies in bf16 where the CPU can, with 8 significant bits


@pytest.mark.slow
def test_evaluate_gives_the_figures_that_it_gives_without_ray(
    ray: None, run_cli: RunCli, classifier: Path, images: Path, tmp_path: Path
) -> None:
    images = shutil.copytree(images, tmp_path / images.name)
    (images / "cherry" / "torn.png").write_bytes(b"another that is no image")
    paths = sorted(images.glob("*/*.png"))
    table = pyarrow.table({"path": [str(path) for path in paths], "label": [path.parent.name for path in paths]})
    strange = pyarrow.table({"path": ["x.png"], "label": ["pear"]})
    pyarrow.parquet.write_table(pyarrow.concat_tables([table, strange]), tmp_path / "labels.parquet")
    command = ("evaluate", "--run", classifier, "--json")
    plain = json.loads(run_cli(*command, images, "--output", tmp_path / "plain").stdout)
    for given, name in ((images, images.name), (tmp_path / "labels.parquet", "labels")):
        output = tmp_path / f"of-{name}"
        told = json.loads(run_cli(*command, "--ray", "local", "--input", given, "--output", output).stdout)
        assert told["dataset"] == name
        differing = {key for key in plain if told[key] != plain[key]}
        assert differing <= {"output", "dataset", "warnings", "notes", "coverage", "report"}
        assert told["coverage"] is None and told["report"] is None  # they need all rows in memory
        assert (output / "confusion.csv").read_text() == (tmp_path / "plain" / "confusion.csv").read_text()
    known = [each for each in plain["warnings"] if "trained on" in each or "torn.png" in each]
    assert len(known) == 2 and told["warnings"] == ["not scored, unknown to the run: pear", *known]


@pytest.mark.slow
def test_a_machine_that_does_not_see_the_run_gets_its_model(ray: None, classifier: Path, tmp_path: Path) -> None:
    ready = run_classifier(load_classifier(classifier))
    model = tmp_path / "model.xml"
    sent = import_ray().put([(classifier / name).read_bytes() for name in ("model.xml", "model.bin")])
    place, models = find_place(str(tmp_path)), ((file_hash(ready.model), sent),)
    work = Work(place, Manifest("images", "", ["hash"], {}, 1, 256), place, (ready,), models, "openvino", None)
    assert BlockClassifier(work)._model(0, ready).model == classifier / "model.xml"
    copy = BlockClassifier(work)._model(0, replace(ready, model=model))
    assert file_hash(copy.model) == file_hash(ready.model) and copy.model != model


def started(classifier: Path, images: Path, output: Path) -> "subprocess.Popen[str]":
    words = ["predict", "--run", classifier, "--ray", "local", "--input", images, "--output", output]
    command = [sys.executable, "-m", "resnet_cli", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def actor_of(driver: int) -> int | None:
    """The process of the actor, among all that a process started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    family = [driver]
    for pid in family:
        family += [child for child, parent in parents.items() if parent == pid]
    named = (pid for pid in family if b"MapWorker" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return next(named, None)


@pytest.mark.slow
def test_a_killed_actor_and_a_killed_driver_lose_nothing_and_double_nothing(
    classifier: Path, images: Path, tmp_path: Path
) -> None:
    links = tmp_path / "links"
    sources = sorted(images.glob("*/*.png"))
    for number in range(2500):
        path = links / f"{number:05}.png"
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(sources[number % len(sources)])
    output = tmp_path / "out"

    def finished() -> int:
        return len(list(output.glob("predictions/block-*.parquet")))

    def wait_for(blocks: int) -> None:
        ends = time.monotonic() + FOREVER
        while finished() < blocks:
            assert driver.poll() is None and time.monotonic() < ends
            time.sleep(0.05)

    driver = started(classifier, links, output)
    wait_for(1)
    actor = actor_of(driver.pid)
    assert actor is not None
    os.kill(actor, signal.SIGKILL)
    wait_for(finished() + 1)
    driver.kill()
    driver.communicate()
    kept = {file: file.stat().st_mtime_ns for file in output.glob("predictions/block-*.parquet")}
    assert 2 <= len(kept) < 10
    told, shown = started(classifier, links, output).communicate(timeout=FOREVER)
    assert "2,500 images" in told and "of them before" in told and "Traceback" not in shown
    assert kept == {file: file.stat().st_mtime_ns for file in kept}
    counts = Counter(row["path"] for row in rows_of(output))
    assert counts == Counter(str(path) for path in links.iterdir())
    assert not list(output.rglob("attempts*"))


def test_a_block_whose_actor_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    place = find_place(str(tmp_path))
    manifest = Manifest("images", "", ["hash"], {}, 1000, 256)
    for attempt in range(5):
        (tmp_path / "attempts" / "2").mkdir(parents=True, exist_ok=True)
        (tmp_path / "attempts" / "2" / str(attempt)).touch()
    told = BlockClassifier(Work(place, manifest, place, (), (), "auto", None))({"block": [2]})
    assert told["failure"] == ["the actor of block 2, which begins with image 512 of the list, died 5 times"]


def test_an_output_of_the_other_command_is_refused(tmp_path: Path) -> None:
    place = find_place(str(tmp_path))
    options: dict[str, Any] = {"top": 5, "views": 1, "features": False, "engine": "auto"}
    predicted = Manifest("images", "hash", ["model"], options, 0, 0)
    evaluated = replace(predicted, options=options | {"labels": True})
    newer = replace(predicted, options=options | {"zoom": 2})
    _require_same(place, predicted, predicted)
    for begun, wanted, message in (
        (evaluated, predicted, f"{tmp_path} was begun by `resnet evaluate`"),
        (predicted, evaluated, f"{tmp_path} was begun by `resnet predict`"),
        (newer, predicted, f"{tmp_path} was begun with zoom 2, not None"),
    ):
        with pytest.raises(ResnetError) as caught:
            _require_same(place, begun, wanted)
        assert caught.value.message == message


def test_a_folder_of_images_and_a_table_is_ambiguous(
    classifier: Path, make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_image(tmp_path / "some" / "apple" / "a.png")
    pyarrow.parquet.write_table(pyarrow.table({"path": ["apple/a.png"], "label": ["apple"]}), "some/t.parquet")
    table = tmp_path / "some" / "t.parquet"
    for refused in (lambda: find_input("some", False), lambda: labelled("some", [load_classifier(classifier)], None)):
        with pytest.raises(ResnetError) as caught:
            refused()
        assert caught.value.message == f"some holds both images and tables, such as some/apple/a.png and {table}"
    for given in ("some/t.parquet", "some/*.parquet"):
        assert list(find_input(given, False).chunks()) == [(["apple/a.png"], None)]
    assert list(find_input("some/apple", False).chunks()) == [(["some/apple/a.png"], None)]


def refusal_of(call: Callable[[], object]) -> ResnetError:
    with pytest.raises(ResnetError) as caught:
        call()
    return caught.value


def test_a_column_that_is_not_text_is_refused_by_name_and_type(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"

    def refusal(column: str, values: Any) -> str:
        given = {"path": pyarrow.array(["a.png"]), "label": pyarrow.array(["apple"])} | {column: values}
        pyarrow.parquet.write_table(pyarrow.table(given), table)
        return refusal_of(lambda: find_input(str(table), True)).message

    assert refusal("label", pyarrow.array([3])) == f"{table}: the column label has classes of type int64"
    assert refusal("path", pyarrow.array([b"a"])) == f"{table}: the column path has paths of type binary"
    assert refusal("label", pyarrow.array([["a"]])).startswith(f"{table}: the column label has classes of type list<")
    for kind in (pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        pyarrow.parquet.write_table(pyarrow.table({"path": ["a"], "label": pyarrow.array(["apple"]).cast(kind)}), table)
        assert list(find_input(str(table), True).chunks()) == [(["a"], ["apple"])]


def test_text_that_is_not_utf8_is_named_by_its_row(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    paths = pyarrow.array([b"a.png"] * 9000 + [b"\xff.png", b"b.png"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"path": paths}), table)
    told = refusal_of(lambda: list(find_input(str(table), False).chunks()))
    assert told.message == f"{table}: the path of row 9001 is not UTF-8"


def test_files_that_are_no_finished_blocks_are_named(tmp_path: Path) -> None:
    place = find_place(str(tmp_path))
    write_block(place, 0, pyarrow.table({"path": ["a.png"]}), {"images": 1})
    write_block(place, 1_000_000, pyarrow.table({"path": ["a.png"]}), {"images": 1})
    whole = tmp_path / "predictions" / "block-000000.parquet"
    (whole.parent / ".DS_Store").touch()
    assert finished_blocks(place) == {0, 1_000_000}
    copy = shutil.copy(whole, whole.parent / "block-000000 (copy).parquet")
    assert refusal_of(lambda: finished_blocks(place)).message == f"{copy} is not a file of this command"
    whole.write_bytes(whole.read_bytes()[:-9])
    manifest = Manifest("images", "", [], {}, 1, 256)
    for read in (lambda: list(read_notes(place, [0])), lambda: list(read_rows(place, manifest, ["path"]))):
        told = refusal_of(read)
        assert told.message == f"{whole} is not a Parquet file, or is damaged" and told.hint.startswith("delete it")
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a.png"]}), whole)
    assert refusal_of(lambda: list(read_notes(place, [0]))).message == f"{whole} is not a file of this command"


def test_a_url_that_cannot_be_opened_is_an_error_of_its_row(tmp_path: Path) -> None:
    place = find_place(str(tmp_path))
    actor = BlockClassifier(Work(place, Manifest("images", "", [], {}, 3, 256), place, (), (), "auto", None))
    for name in ("strange://host/a.png", "://", "strange://[::1]/a.png"):
        with pytest.raises(ResnetError) as caught:
            decode(actor._source(name))
        assert name in caught.value.message
    assert actor._source("a.png") == tmp_path / "a.png"


def listed(table: Path, classifier: Path, paths: list[str], labels: list[str]) -> list[tuple[str, str]]:
    """The rows that an evaluation of a table scores."""
    pyarrow.parquet.write_table(pyarrow.table({"path": paths, "label": labels}), table)
    chunks = labelled(str(table), [load_classifier(classifier)], None)[1].chunks()
    return [row for names, classes in chunks for row in zip(names, classes or [], strict=True)]


def test_a_path_that_cannot_be_opened_does_not_stop_an_evaluation(classifier: Path, tmp_path: Path) -> None:
    rows = [("strange://host/a.png", "apple"), ("a\0b.png", "berry"), ("c.png", "berry")]
    paths, labels = map(list, zip(*rows, strict=True))
    assert listed(tmp_path / "table.parquet", classifier, paths, labels) == rows


def test_a_file_with_two_labels_is_refused_wherever_its_rows_are(classifier: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    many = [f"{number}.png" for number in range(9000)]
    for again, label in (("7.png", "berry"), ("./7.png", "pear"), (f"file://{tmp_path}/7.png", "berry")):
        given = partial(listed, table, classifier, [*many, again], ["apple"] * 9000 + [label])
        assert refusal_of(given).message == f"{table} says {label} for {again}, and an earlier row says apple"
    there = "memory://bucket/7.png"
    given = partial(listed, table, classifier, [there, "a.png", there], ["apple", "apple", "pear"])
    assert refusal_of(given).message == f"{table} says pear for {there}, and an earlier row says apple"
    twice = listed(table, classifier, ["a.png", "a.png", "b.png"], ["apple", "apple", "berry"])
    assert twice == [("a.png", "apple"), ("a.png", "apple"), ("b.png", "berry")]


def test_the_reasons_are_told_when_no_image_is_left(classifier: Path, images: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    run = load_classifier(classifier)
    learned = next(row.path for row in read_splits(run) if row.split == "train")
    pyarrow.parquet.write_table(pyarrow.table({"path": [str(images / learned), "x.png"], "label": ["apple", "pear"]}), table)
    found = labelled(str(table), [run], None)[1]
    output, here = find_place(str(tmp_path / "out")), Cluster((Machine(1, 0, "here"),), True)
    told = refusal_of(lambda: _list(output, Manifest(found.name, "", [], {}, 0, 0), found, here, Silent()))
    reasons = "not scored, unknown to the run: pear; 1 image that the run was trained on is not scored"
    assert told.message == f"no image of {table} is left: {reasons}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", [1, 8192, 20_000])
@pytest.mark.parametrize("block", [256, 8192])
def test_every_image_is_in_exactly_one_block(count: int, block: int, tmp_path: Path) -> None:
    names = [f"image-{number}.jpg" for number in range(count)]
    place = find_place(str(tmp_path))
    pieces = [names[first : first + 777] for first in range(0, count, 777)]
    written, fingerprint = write_list(place, Input("here", place, lambda: ((piece, None) for piece in pieces), None))
    manifest = Manifest("here", fingerprint, [], {}, written, block)
    assert written == count
    blocks = [read_block(place, manifest, number) for number in range(manifest.blocks)]
    assert [name for some, _ in blocks for name in some] == names
    assert all(labels is None for _, labels in blocks)


def test_blocks_are_small_enough_for_restarts_and_large_enough_for_many_images() -> None:
    assert [block_size(images, 1) for images in (1, 5000, 50_000, 1_000_000, 100_000_000)] == [256, 256, 512, 8192, 8192]
    assert block_size(1_000_000, 100) == 1024  # at least eight blocks for each worker


def test_actors_use_up_every_machine_and_a_gpu_has_one() -> None:
    cluster = Cluster((Machine(16, 0, "a"), Machine(20, 0, "b"), Machine(0, 0, "head")), False)
    assert (cores_per_actor(cluster, "openvino"), actors(cluster, "openvino")) == (8, 4)
    laptop = Cluster((Machine(2, 0, "here"),), True)
    assert (cores_per_actor(laptop, "auto"), actors(laptop, "auto")) == (2, 1)
    gpus = Cluster((Machine(32, 4, "a"), Machine(64, 0, "b")), False)
    assert (cores_per_actor(gpus, "keras"), actors(gpus, "keras")) == (8, 4)


USAGE = [
    (("predict", "--ray", "local"), "--ray needs --input and --output"),
    (("predict", "--ray", "local", "--input", "x"), "--ray needs --input and --output"),
    (("predict", "--ray", "local", "--input", "x", "--output", "y", "a.jpg"), "leave out images, --csv and --null"),
    (("predict", "--input", "x"), "add --ray local"),
    (("predict", "a.jpg", "--features"), "add --ray local"),
    (("predict",), "give images"),
    (("evaluate", "--input", "x"), "--input is for --ray"),
    (("evaluate", "--ray", "local", "--input", "x"), "--ray needs --input and --output"),
    (
        ("evaluate", "x", "--ray", "local", "--input", "x", "--output", "y"),
        "leave DATASET, --labels, --allow-changed, --coverage and --report out",
    ),
    (
        ("evaluate", "--ray", "local", "--input", "x", "--output", "y", "--report", "z.html"),
        "leave DATASET, --labels, --allow-changed, --coverage and --report out",
    ),
    (("predict", "--ray", "local", "--input", "x", "--output", "y", "--explain", "z"), "leave out --explain and --threshold"),
    (("predict", "--ray", "local", "--input", "x", "--output", "y", "--threshold", "0.5"), "leave out --explain and --thr"),
    (("evaluate", "--ray", "local", "--input", "x", "--output", "s3://b/y"), "--output of evaluate is a folder"),
]


@pytest.mark.parametrize(("words", "message"), USAGE)
def test_options_that_do_not_go_together_are_usage_errors(words: tuple[str, ...], message: str, run_cli: RunCli) -> None:
    result = run_cli(*words)
    assert result.exit_code == 2 and message in " ".join(result.stderr.replace("│", " ").split())


def test_bad_input_is_one_sentence(run_cli: RunCli, classifier: Path, make_image: MakeImage, tmp_path: Path) -> None:
    def refusal(given: object, output: object = tmp_path / "out", *more: object) -> str:
        result = bulk(run_cli, classifier, given, output, *more)
        assert result.exit_code == 1 and not (tmp_path / "out").exists()
        return result.stderr.splitlines()[0].removeprefix("error: ")

    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty") == f"there are no images in {tmp_path / 'empty'}"
    assert refusal(tmp_path / "none") == f"there is no {tmp_path / 'none'}"
    assert refusal(tmp_path / "none.parquet") == f"there is no {tmp_path / 'none.parquet'}"
    assert refusal(f"{tmp_path}/no*.jpg") == f"there are no images in {tmp_path}/no*.jpg"
    assert refusal("strange://x") == "strange://x: neither pyarrow nor fsspec opens it: Protocol not known: strange"
    table = tmp_path / "table.parquet"
    table.write_bytes(b"PAR")
    assert refusal(table) == f"{table} is not a Parquet file, or is damaged"
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "size": [2]}), table)
    assert refusal(table) == f"{table} has no column of paths: its columns are id, size"
    make_image(tmp_path / "some" / "a.png")
    assert (
        refusal(tmp_path / "some", tmp_path / "some")
        == f"{tmp_path / 'some'} contains a.png, which is not from a bulk prediction"
    )
    several = ("--run", tmp_path / "copy", "--features")
    (tmp_path / "copy").mkdir()
    for file in classifier.iterdir():
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    assert refusal(tmp_path / "some", tmp_path / "out", *several).startswith("--features are those of one network")


def test_evaluate_needs_classes(run_cli: RunCli, classifier: Path, images: Path, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a.png"]}), tmp_path / "paths.parquet")
    words = ("evaluate", "--run", classifier, "--ray", "local", "--output", tmp_path / "out", "--input")
    refused = run_cli(*words, tmp_path / "paths.parquet")
    message = f"error: {tmp_path / 'paths.parquet'} has no column of classes: its columns are path"
    assert (refused.exit_code, refused.stderr.splitlines()[1]) == (1, message)


def test_one_image_is_told_in_the_singular() -> None:
    told = [_told(BulkDone("out", ("run",), images, 0, images, 0.5, "openvino")) for images in (1, 2)]
    assert [text.partition("[/]")[0] for text in told] == ["[bold]1 image", "[bold]2 images"]
