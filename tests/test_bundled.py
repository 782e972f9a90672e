"""The network that comes with the program: `predict` answers with it where there is no run, without TensorFlow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import MakePicture, RunCli

from resnet_cli.cli import ready
from resnet_cli.engines.openvino import OpenVinoEngine
from resnet_cli.engines.portable import read_classifier
from resnet_cli.files import digest
from resnet_cli.networks.pretrained import bundled_run
from resnet_cli.networks.spec import spec_from_record
from resnet_cli.progress import Silent
from resnet_cli.runs import Run

_PREDICT = """
import sys
from resnet_cli.cli.app import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
sys.stderr.write(" ".join(name for name in ("tensorflow", "keras", "h5py") if name in sys.modules))
"""


def test_the_first_answer_on_a_machine_imports_no_tensorflow_and_converts_nothing(
    make_picture: MakePicture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["predict", str(make_picture(tmp_path / "cat.png")), "--json", "--quiet", "--top", "500"]
    done = subprocess.run([sys.executable, "-W", "error", "-c", _PREDICT, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = json.loads(done.stdout)
    assert {each["class"] for each in row["predictions"]} == set(bundled_run().classes)
    assert [path.name for path in (tmp_path / "cache" / "resnet-cli").iterdir()] == ["compiled"]


def test_without_any_run_the_bundled_network_answers_with_its_own_classes_and_says_so(
    run_cli: RunCli, make_picture: MakePicture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    picture = make_picture(tmp_path / "cat.png")
    result = run_cli("predict", picture, "--json", "--top", 500)
    assert result.exit_code == 0, result.stderr
    assert "no run here: the bundled resnet18-compact answers with its own 200 classes" in result.stderr
    (row,) = json.loads(result.stdout)
    assert len({each["class"] for each in row["predictions"]}) == 200
    assert row["runs"] == ["resnet18-compact (bundled)"]
    # A notice is no part of the answer.
    quiet = run_cli("predict", picture, "--json", "--top", 500, "--quiet")
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


def test_an_openvino_model_of_other_weights_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = bundled_run()
    assert ready.classifiers_for((), "openvino", Silent())[0].model == shipped.openvino
    other = Run(shipped.folder, {**shipped.record, "openvino_weights_sha256": "0" * 64})
    monkeypatch.setattr(ready, "bundled_run", lambda: other)
    monkeypatch.setattr(ready, "cached_imagenet_classifier", lambda: None)
    (classifier,) = ready.classifiers_for((), "openvino", Silent())
    assert classifier.model.parent != shipped.folder and classifier.model.is_file()
