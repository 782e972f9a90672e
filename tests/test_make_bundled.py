"""scripts/make_bundled.py: finished runs in, the files of the package and the model card out."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import MakeDataset, MakeRun

from resnet_cli.files import digest
from resnet_cli.runs.folder import load_run, read_splits

SCRIPTS = Path(__file__).parents[1] / "scripts"
SETS = ("bsds", "ikea", "mini", "places", "tiny", "woof")
EPOCH = {"stage": "train", "loss": 2.0, "accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.5, "learning_rate": 0.1}
EPOCH |= {"images_per_second": 100.0, "seconds": 1800.0, "val_top5": 0.7}


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, which writes into `tmp_path` instead of the package."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script, card = importlib.import_module("make_bundled"), importlib.import_module("bundled_card")
    for name in ("TARGET", "METRICS", "PAGE", "CURVES"):
        place = tmp_path / "made" / getattr(card, name).name
        for module in (script, card):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, place)
    (tmp_path / "made").mkdir()
    return script


@pytest.fixture
def photos(make_dataset: MakeDataset, tmp_path: Path) -> Path:
    """Folders named as sets of photos are; that they are the classes as well makes no difference here."""
    return make_dataset(tmp_path / "photos", SETS, count=12)


def run_of(make_run: MakeRun, folder: Path, photos: Path, begins_with: Path | None, epochs: int) -> Path:
    make_run(folder, photos, arch="resnet8")
    lines = [json.dumps({**EPOCH, "epoch": epoch + 1}) + "\n" for epoch in range(epochs)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    path = folder / "run.json"
    record = json.loads(path.read_text())
    record["command"] = f"resnet train {photos} --teacher=/elsewhere/lite/model.onnx --weights {begins_with} --output {folder}"
    record["teacher"] = {"name": "lite", "sha256": "ab" * 32, "path": "/elsewhere/lite/model.onnx"}
    record["weights"]["sha256"] = digest(begins_with / "model.weights.h5") if begins_with else ""
    record["config"] = {"seed": 0, "label_smoothing": 0.0}
    path.write_text(json.dumps(record))
    return folder


def make(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["make_bundled.py", *map(str, words)])
    script.main()
    record: dict[str, Any] = json.loads((script.TARGET / "run.json").read_text())
    return record


@pytest.mark.slow
def test_two_runs_become_the_network_and_its_card(
    script: ModuleType, make_run: MakeRun, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_of(make_run, tmp_path / "first", photos, None, 3)
    second = run_of(make_run, tmp_path / "second", photos, first, 2)
    record = make(script, monkeypatch, first, second, "--image-size", 40)
    assert record["commands"] == [
        "resnet train photos --teacher=lite/model.onnx --weights None --output first",
        "resnet train photos --teacher=lite/model.onnx --weights first --output second",
    ]
    assert record["command"] == record["commands"][1] and record["teacher"] == {"name": "lite", "sha256": "ab" * 32}
    assert str(tmp_path) not in json.dumps(record)
    with h5py.File(second / "model.weights.h5") as trained, h5py.File(script.TARGET / "model.weights.h5") as shipped:
        kernel = trained["logits/kernel"][()]
        assert shipped["logits/kernel"].dtype == np.float16
        np.testing.assert_array_equal(shipped["logits/kernel"][()], kernel.astype(np.float16))
    # Its own records of split and answers agree with the counts.
    rows = read_splits(load_run(second))
    held = [row for row in rows if row.split == "val"]
    folders = record["data"]["folders"]
    assert record["image_size"] == 40 and record["results"]["val"]["count"] == len(held)
    assert {name: each["held_out"] for name, each in folders.items()} == {
        name: sum(row.path.startswith(name) for row in held) for name in SETS
    }
    right = sum(each["top1"] * each["held_out"] for each in folders.values())
    assert right / len(held) == pytest.approx(record["results"]["val"]["top1"])
    assert record["data"]["seen"] == 5 * (len(rows) - len(held))
    epochs = [json.loads(line)["epoch"] for line in script.METRICS.read_text().splitlines()]
    assert epochs == [1, 2, 3, 4, 5]
    page = (tmp_path / "made" / "bundled.md").read_text()
    assert "5 epochs" in page and "2.5 hours" in page and all(command in page for command in record["commands"])
    assert script.METRICS.with_name("bundled-curves.png").is_file()
    before = {path: path.read_bytes() for path in script.TARGET.iterdir()}
    make(script, monkeypatch, "--openvino")
    assert all(path.read_bytes() == content for path, content in before.items() if path.suffix in (".h5", ".json"))


def test_runs_that_do_not_follow_each_other_are_refused(
    script: ModuleType,
    make_run: MakeRun,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = run_of(make_run, tmp_path / "first", photos, None, 1)
    second = run_of(make_run, tmp_path / "second", photos, first, 1)
    for runs, words in (
        ((second,), f"{second} does not begin with random weights"),
        ((first, first), f"{first} does not begin with the weights of the run before it"),
    ):
        with pytest.raises(SystemExit) as caught:
            make(script, monkeypatch, *runs, "--image-size", 40)
        assert caught.value.code == 1 and words in capsys.readouterr().err
        assert list(script.TARGET.parent.iterdir()) == []
