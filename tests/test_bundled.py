"""The network that comes with the program: `predict` answers with it where there is no run, without TensorFlow."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import MakeImage, RunCli

from resnet_cli.engines.frozen import read_classifier
from resnet_cli.engines.openvino import OpenVinoEngine
from resnet_cli.errors import ResnetError
from resnet_cli.files import digest
from resnet_cli.jobs import predict as ready
from resnet_cli.networks.catalogue import find_network, spec_from_record
from resnet_cli.networks.pretrained import BUNDLED, bundled_run
from resnet_cli.progress import Silent
from resnet_cli.runs.folder import Run

ROOT = Path(__file__).parents[1]
_PREDICT = """
import sys
from resnet_cli.cli.app import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
sys.stderr.write(" ".join(name for name in ("tensorflow", "keras", "h5py") if name in sys.modules))
"""


def load_card() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bundled_card", ROOT / "scripts" / "bundled_card.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_first_answer_on_a_machine_imports_no_tensorflow_and_converts_nothing(
    make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["predict", str(make_image(tmp_path / "cat.png")), "--json", "--quiet", "--top", "1000"]
    done = subprocess.run([sys.executable, "-W", "error", "-c", _PREDICT, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = json.loads(done.stdout)
    assert {each["class"] for each in row["predictions"]} == set(bundled_run().classes)
    assert [path.name for path in (tmp_path / "cache" / "resnet-cli").iterdir()] == ["compiled"]


def test_without_any_run_the_bundled_network_answers_with_the_classes_of_imagenet_and_says_so(
    run_cli: RunCli, make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    image = make_image(tmp_path / "cat.png")
    result = run_cli("predict", image, "--json", "--top", 1000)
    assert result.exit_code == 0, result.stderr
    assert "no run here: the bundled resnet18-slim answers with ImageNet's 1,000 classes" in result.stderr
    (row,) = json.loads(result.stdout)
    assert len({each["class"] for each in row["predictions"]}) == 1000
    assert row["runs"] == ["resnet18-slim (bundled)"]
    # A notice is no part of the answer.
    quiet = run_cli("predict", image, "--json", "--top", 1000, "--quiet")
    assert quiet.stderr == "" and json.loads(quiet.stdout) == [row]


def test_the_shipped_openvino_model_is_that_of_the_shipped_weights() -> None:
    run = bundled_run()
    assert run.record["openvino_weights_sha256"] == run.record["weights_sha256"] == digest(run.weights)
    size = run.record["image_size"]
    pixels = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), np.uint8)
    expected = read_classifier(run.weights, spec_from_record(run.record)).predict_on_batch(pixels)
    (found,) = OpenVinoEngine(run.openvino, "many", exact=True).run(pixels)
    # model.bin holds convolutions with their batch norms folded in, rounded to fp16 once more.
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))


def test_the_classes_are_those_of_imagenet_each_with_a_name_of_its_own() -> None:
    classes = bundled_run().classes
    assert len(set(classes)) == len(classes) == 1000
    # In the order of ILSVRC 2012, which that of the teacher's answers is.
    named = {0: "tench", 1: "goldfish", 207: "golden retriever", 817: "sports car", 985: "daisy"}
    assert {place: classes[place].lower() for place in named} == named


def test_it_often_gives_its_teachers_answer_on_photos_that_it_never_saw() -> None:
    record = bundled_run().record
    val = record["results"]["val"]
    assert val["count"] >= 1000 and val["top1"] >= 0.34 and val["top5"] >= 0.64
    assert sum(each["held_out"] for each in record["data"]["folders"].values()) == val["count"]


def test_the_record_says_how_to_train_it_again_and_holds_no_place_of_another_machine() -> None:
    record = bundled_run().record
    assert record["commands"][-1] == record["command"]
    for command in record["commands"]:
        words = shlex.split(command)
        assert words[:2] == ["resnet", "train"] and words[words.index("--arch") + 1] == record["network"]["name"]
        assert record["data"]["name"] in words
        assert not [word for word in words if word.startswith(("/", "~"))]
    assert record["data"]["path"] == "" and len(record["teacher"]["sha256"]) == 64
    assert record["image_size"] == find_network(BUNDLED).image_size


def test_the_model_card_is_what_the_record_says() -> None:
    card = load_card()
    assert card.PAGE.read_text("utf-8") == card.page(bundled_run().record), "run `python scripts/make_bundled.py --card`"


def test_the_model_card_names_every_set_with_its_terms_and_the_figures() -> None:
    record = bundled_run().record
    page = load_card().page(record)
    keys = r"--(teacher-weight|teacher-views|crop|scale|color|cutout) (\S+)"  # options when it was trained
    for command in record["commands"]:
        assert re.sub(keys, lambda key: f"--set {key[1].replace('-', '_')}={key[2]}", command) in page
    val = record["results"]["val"]
    for words in (f"{val['top1']:.1%}", f"{val['top5']:.1%}", f"{val['count']:,}", record["teacher"]["name"], "Apache-2.0"):
        assert words in page
    rows = [line for line in page.splitlines() if line.startswith("| ") and line.count("|") == 6]
    assert len(rows) == 1 + len(record["data"]["folders"])
    assert "<!--" not in page and "{" not in page
    unknown = {**record, "data": {**record["data"], "folders": {"attic": {"photos": 1, "held_out": 0, "top1": None}}}}
    with pytest.raises(ResnetError, match="the terms of the photos in attic"):
        load_card().page(unknown)


def test_an_openvino_model_of_other_weights_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = bundled_run()
    assert ready.classifiers_for((), "openvino", Silent())[0].model == shipped.openvino
    other = Run(shipped.folder, {**shipped.record, "openvino_weights_sha256": "0" * 64})
    monkeypatch.setattr(ready, "bundled_run", lambda: other)
    monkeypatch.setattr(ready, "cached_imagenet_classifier", lambda: None)
    (classifier,) = ready.classifiers_for((), "openvino", Silent())
    assert classifier.model.parent != shipped.folder and classifier.model.is_file()
