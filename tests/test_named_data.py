"""cifar10 and cifar100 by name: fetched through keras.datasets, laid out as folders, and then like any other data set."""

import functools
import hashlib
import http.server
import inspect
import io
import json
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import keras
import numpy as np
import pytest
from conftest import MakeDataset, MakeRun, Result, RunCli
from PIL import Image
from test_bad_input import room_for
from training_material import StopAfter

from resnet_cli.data import named
from resnet_cli.data.named import NAMED, lay_out, load_splits
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.files import UNFINISHED
from resnet_cli.networks.catalogue import ClassifierSpec, find_network
from resnet_cli.progress import Silent

HOST = "www.cs.toronto.edu"
ARCHIVE = "cifar-100-python-target_archive"
COUNTS = {"train": 230, "test": 110}  # the published splits have 50,000 and 10,000


class Python2Pickler(pickle._Pickler):
    """Pickles as Python 2 did: strings of bytes, and a numpy of that time. Keras refuses what Python 3 makes of bytes."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_string(self, text: bytes | str) -> None:
        raw = text.encode() if isinstance(text, str) else text
        self.write(pickle.BINSTRING + len(raw).to_bytes(4, "little") + raw)

    dispatch[bytes] = dispatch[str] = save_string

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.dtype):
            return np.dtype, ("u1", 0, 1), (3, "|", None, None, None, -1, -1, 0)
        return NotImplemented


def python2_pickle(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def batch(count: int, seed: int) -> dict[bytes, Any]:
    """Random images as the archive has them (rows of 3 x 32 x 32) and labels that run through all hundred classes."""
    random = np.random.default_rng(seed)
    fine = [number % 100 for number in range(count)]
    rows = random.integers(0, 256, (count, 3072), dtype=np.uint8)
    return {b"data": rows, b"fine_labels": fine, b"coarse_labels": [label // 5 for label in fine]}


BATCHES = {split: batch(count, seed) for seed, (split, count) in enumerate(COUNTS.items())}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the published one's layout, with fewer images."""
    path = tmp_path_factory.mktemp("published") / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for split, content in BATCHES.items():
            raw = python2_pickle(content)
            entry = tarfile.TarInfo(f"cifar-100-python/{split}")
            entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Keras cache and an empty cache of ours; the current directory is empty too."""
    keras_home = tmp_path / "keras"
    keras_home.mkdir()
    monkeypatch.setenv("KERAS_HOME", str(keras_home))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(keras_home))  # Keras read the variable when it was imported
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def publish(path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Keras take a file for the published archive: another origin and hash, and nothing else of it is changed."""
    module, real = inspect.getmodule(keras.datasets.cifar100.load_data), keras.utils.get_file

    def get_file(fname: str, origin: str, extract: bool, file_hash: str) -> str:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return str(real(fname=fname, origin=url, extract=extract, file_hash=digest))

    monkeypatch.setattr(module, "get_file", get_file)
    monkeypatch.setitem(NAMED, "cifar100", replace(NAMED["cifar100"], url=url, size=path.stat().st_size))


@pytest.fixture
def server(archive: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The archive is to be had from a server on this machine. Yields what was asked of it."""
    asked: list[str] = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *values: object) -> None:
            asked.append(self.path)

    handler = functools.partial(Quiet, directory=str(archive.parent))
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    publish(archive, f"http://127.0.0.1:{listening.server_port}/{archive.name}", monkeypatch)
    yield asked
    listening.shutdown()
    listening.server_close()


@pytest.fixture
def at_hand(archive: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive lies where Keras keeps it."""
    folder = home / "keras" / "datasets"
    folder.mkdir()
    (folder / ARCHIVE).write_bytes(archive.read_bytes())
    publish(archive, f"https://{HOST}/{archive.name}", monkeypatch)
    return folder / ARCHIVE


def layout(home: Path) -> Path:
    return home / "cache" / "resnet-cli" / "datasets" / "cifar100"


def assert_laid_out(root: Path) -> None:
    """Every image of the archive, bit for bit, in the folder of its class and under its number."""
    assert [path.name for path in root.parent.iterdir()] == ["cifar100"]
    for split, content in BATCHES.items():
        assert sorted(path.name for path in (root / split).iterdir()) == list(NAMED["cifar100"].classes)
        assert sum(1 for _ in (root / split).glob("*/*.png")) == COUNTS[split]
        for index in (0, 1, 57, COUNTS[split] - 1):
            name = NAMED["cifar100"].classes[content[b"fine_labels"][index]]
            with Image.open(root / split / name / f"{index + 1:05d}.png") as image:
                planes = content[b"data"][index].reshape(3, 32, 32)
                np.testing.assert_array_equal(np.asarray(image), planes.transpose(1, 2, 0))


def assert_one_sentence(result: Result, *words: str) -> None:
    assert (result.exit_code, result.stdout) == (1, "")
    error, hint = result.stderr.splitlines()[-2:]
    assert error.startswith("error: ") and hint.startswith("hint: ")
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_table_is_that_of_keras(name: str) -> None:
    source = inspect.getsource(getattr(keras.datasets, name).load_data)
    data = NAMED[name]
    assert f'"{data.url}"' in source and f'"{data.target}"' in source
    assert data.name == name and len(set(data.classes)) == int(name.removeprefix("cifar"))
    assert list(data.classes) == sorted(data.classes)  # as published; so labels and sorted folders agree


def test_a_name_is_fetched_once_and_laid_out_as_folders(server: list[str], home: Path, run_cli: RunCli) -> None:
    first = run_cli("check", "cifar100", "--json")
    found = json.loads(first.stdout)
    assert found["classes"] == list(NAMED["cifar100"].classes) and found["images"] == sum(COUNTS.values())
    assert set(found["counts"]) == {"train", "test"}
    assert server == ["/cifar-100-python.tar.gz"]
    assert_laid_out(layout(home))
    # Keras' cache keeps the archive, as after any use of keras.datasets, and not what can be extracted from it again.
    assert [path.name for path in (home / "keras" / "datasets").iterdir()] == [ARCHIVE]
    second = run_cli("check", "cifar100", "--json")
    assert (second.stdout, len(server)) == (first.stdout, 1)


def test_an_archive_in_keras_cache_needs_no_connection(
    at_hand: Path, home: Path, offline: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(NAMED["cifar100"], load_splits(NAMED["cifar100"], Silent()), layout(home), Silent())
    assert_laid_out(layout(home))
    assert (offline, capsys.readouterr().out) == ([], "")


def test_a_folder_of_that_name_goes_first(home: Path, offline: list[str], make_dataset: MakeDataset, run_cli: RunCli) -> None:
    make_dataset(home / "here" / "cifar10", ("apple", "berry"))
    assert json.loads(run_cli("check", "cifar10", "--json").stdout)["classes"] == ["apple", "berry"]
    assert offline == []


@pytest.mark.parametrize("command", ["train", "finetune", "check", "evaluate"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_without_a_network_one_sentence_says_so(
    command: str, name: str, home: Path, offline: list[str], run_cli: RunCli
) -> None:
    if command == "evaluate":
        run = home / "here" / "runs" / "mine"
        run.mkdir(parents=True)
        (run / "model.weights.h5").touch()
        spec = ClassifierSpec(find_network("resnet20"), 2, 32).to_record()
        (run / "run.json").write_text(
            json.dumps({"format": 1, "classes": ["cat", "dog"], **spec, "input": {"resize": "crop", "fraction": 0.875}})
        )
    result = run_cli(command, name)
    where = home / "keras" / "datasets" / f"{NAMED[name].target}_archive"
    assert_one_sentence(result, f"{name} is neither a folder here", f"{HOST} cannot be reached", NAMED[name].url, str(where))
    assert offline == [HOST]
    assert not layout(home).parent.exists()


def test_any_other_name_opens_no_connection(home: Path, offline: list[str], run_cli: RunCli) -> None:
    assert_one_sentence(run_cli("check", "cifar11"), "there is no folder cifar11")
    assert offline == []


@pytest.mark.parametrize("command", ["train", "finetune", "check"])
@pytest.mark.parametrize("spelled", ["./cifar10", "cifar10/"])
def test_a_path_is_no_name(command: str, spelled: str, home: Path, offline: list[str], run_cli: RunCli) -> None:
    assert_one_sentence(run_cli(command, spelled), "there is no folder", str(home / "here" / "cifar10"))
    assert offline == []


@pytest.mark.parametrize("spelled", ["./cifar10", "cifar10/"])
def test_what_is_evaluated_is_a_path_too(
    spelled: str, home: Path, offline: list[str], tiny_dataset: Path, make_run: MakeRun, run_cli: RunCli
) -> None:
    run = make_run(home / "run", tiny_dataset)
    assert_one_sentence(run_cli("evaluate", spelled, "--run", run), "there is no folder", str(home / "here" / "cifar10"))
    assert offline == []


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_a_misspelt_network_is_told_before_anything_is_fetched(
    command: str, home: Path, offline: list[str], run_cli: RunCli
) -> None:
    assert_one_sentence(run_cli(command, "cifar10", "--arch", "resnet51"), "resnet51")
    assert offline == []


def test_a_layout_that_was_interrupted_is_not_there(
    at_hand: Path, home: Path, monkeypatch: pytest.MonkeyPatch, run_cli: RunCli
) -> None:
    monkeypatch.setattr(named, "_TOLD", 50)
    splits = load_splits(NAMED["cifar100"], Silent())
    with pytest.raises(Interrupted):
        lay_out(NAMED["cifar100"], splits, layout(home), StopAfter(3))
    assert list(layout(home).parent.iterdir()) == []
    # A process that was killed could not clear away; the next one does, unless that one may still be at work.
    old, young = (layout(home).with_name(f"{UNFINISHED}{number}-cifar100") for number in (11111111, 22222222))
    for partial in (old, young):
        (partial / "train" / "apple").mkdir(parents=True)
    os.utime(old, (0, 0))
    assert json.loads(run_cli("check", "cifar100", "--json").stdout)["images"] == sum(COUNTS.values())
    assert not old.exists() and young.exists()


def test_ctrl_c_ends_a_download_and_leaves_nothing(server: list[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def half(handler: object, source: BinaryIO, target: BinaryIO) -> None:
        target.write(source.read(100_000))
        release.wait(60)

    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "copyfile", half)
    with pytest.raises(Interrupted) as caught:
        load_splits(NAMED["cifar100"], StopAfter(0, signal=2))
    assert caught.value.exit_code == 130
    assert list((home / "keras" / "datasets").iterdir()) == []
    release.set()


def test_a_download_that_is_not_the_published_archive_is_not_kept(
    server: list[str], archive: Path, home: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(Path(__file__), NAMED["cifar100"].url, monkeypatch)
    assert_one_sentence(run_cli("check", "cifar100", "--quiet"), "cifar100 cannot be fetched", "Incomplete or corrupted file")
    assert list((home / "keras" / "datasets").iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(at_hand: Path, home: Path, run_cli: RunCli) -> None:
    with room_for(20_000):  # less than Keras extracts
        result = run_cli("check", "cifar100")
    assert_one_sentence(result, "cifar100 cannot be fetched", "File too large")
    assert list(at_hand.parent.iterdir()) == [at_hand]
    splits = load_splits(NAMED["cifar100"], Silent())
    with room_for(1_000), pytest.raises(ResnetError, match=f"cannot write {layout(home)}: File too large"):
        lay_out(NAMED["cifar100"], splits, layout(home), Silent())
    assert list(layout(home).parent.iterdir()) == []
