"""`--engine`: OpenVINO and Keras give the same answers; what is missing, too old or damaged is said, and stops nobody."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import Finetuned, MakeDataset, MakeRun, RunCli

from resnet_cli.data.decode import decode_square, run_geometry
from resnet_cli.engines.frozen import engine_for, read_classifier
from resnet_cli.engines.openvino import OLDEST, OpenVinoEngine, convert, import_openvino, save
from resnet_cli.networks.catalogue import ClassifierSpec, spec_from_record
from resnet_cli.runs.folder import load_run

QUICK = ("--arch", "resnet8", "--weights", "none", "--image-size", "32", "--set", "views=2", "--epochs", "1")
MEND = f"pip install -U 'openvino>={OLDEST}'"


@pytest.fixture(scope="module")
def fruit(tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "fruit", ("apple", "berry", "cherry"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun, fruit: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", fruit)


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # what Python itself does for a package that is not to be found


def pixels_of(run: Path, fruit: Path) -> np.ndarray:
    geometry = run_geometry(load_run(run))
    return np.stack([decode_square(path, geometry) for path in sorted(fruit.rglob("*.png"))[::3]])


def predicted(run_cli: RunCli, *arguments: object) -> list[dict[str, float]]:
    """Probabilities by class of each image."""
    result = run_cli("predict", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return [{each["class"]: each["probability"] for each in row["predictions"]} for row in json.loads(result.stdout)]


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record


def test_the_engines_agree_to_a_thousandth_in_float32(run: Path, fruit: Path) -> None:
    loaded = load_run(run)
    classifier = read_classifier(loaded.weights, spec_from_record(loaded.record))
    pixels = pixels_of(run, fruit)
    by_keras = engine_for(classifier, "keras")
    by_openvino = OpenVinoEngine(convert(classifier), "many", exact=True)
    assert (by_keras.name, by_keras.precision, by_openvino.name, by_openvino.precision) == ("keras", "f32", "openvino", "f32")
    expected = np.asarray(classifier(pixels, training=False))
    for engine in (by_keras, by_openvino):
        np.testing.assert_allclose(engine.run(pixels)[0], expected, atol=1e-3)
        batches = [pixels[:5], pixels[5:6], pixels[6:]]
        np.testing.assert_allclose(np.concatenate([answer for (answer,) in engine.run_many(batches)]), expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [0, 16])
def test_a_backbone_that_was_not_trained_is_not_converted_again_with_its_new_head(
    hidden: int, fruit: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def anew(spec: ClassifierSpec) -> keras.Model:
        raise AssertionError("the whole network is built once more")

    head = ["--weights", "bundled", "--image-size", "32", "--set", "views=2", "--unfreeze", "none", "--set", f"hidden={hidden}"]
    with monkeypatch.context() as patch:
        patch.setattr("resnet_cli.engines.frozen.build_classifier", anew)
        result = run_cli("finetune", fruit, *head, "--set", "cache=false", "--output", tmp_path / "run")
        assert result.exit_code == 0, result.stderr
    loaded = load_run(tmp_path / "run")
    images = pixels_of(loaded.folder, fruit)
    classifier = read_classifier(loaded.weights, spec_from_record(loaded.record))
    expected = np.asarray(classifier(images))
    np.testing.assert_allclose(OpenVinoEngine(loaded.openvino, "many", exact=True).run(images)[0], expected, atol=2e-3)


def test_half_precision_is_taken_where_the_cpu_has_it_and_the_precision_says_so(run: Path) -> None:
    able = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    engine = OpenVinoEngine(run / "model.xml", "many")
    assert engine.precision == ("bf16" if "BF16" in able else "f16" if "FP16" in able else "f32")


@pytest.mark.slow
def test_predict_and_evaluate_answer_alike_with_either_engine(
    finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path
) -> None:
    folder = finetuned_run.folder
    images = sorted((finetuned_run.data / "cherry").glob("*.png"))
    by_keras = predicted(run_cli, *images, "--run", folder, "--top", 7, "--engine", "keras")
    by_openvino = predicted(run_cli, *images, "--run", folder, "--top", 7, "--engine", "openvino")
    for one, other in zip(by_keras, by_openvino, strict=True):
        assert next(iter(one)) == next(iter(other))
        # fp16 weights, and bf16 where the CPU has it
        assert one == pytest.approx(other, abs=0.05)
    figures = {}
    for engine in ("auto", "openvino", "keras"):
        options = ("--run", folder, "--engine", engine, "--output", tmp_path / engine)
        figures[engine] = json.loads(run_cli("evaluate", *options, "--json").stdout)
        told = run_cli("evaluate", *options).stderr
        assert f"measuring val, engine: {figures[engine]['engine']}" in told
        assert figures[engine]["engine"] in (tmp_path / engine / "report.html").read_text()
    assert figures["auto"]["engine"] == figures["openvino"]["engine"] == record_of(folder)["engine"]
    assert figures["keras"]["engine"] == "keras f32"
    assert figures["keras"]["top1"] == pytest.approx(figures["openvino"]["top1"], abs=1 / 42 + 1e-6)
    assert figures["keras"]["loss"] == pytest.approx(figures["openvino"]["loss"], abs=0.02)


@pytest.mark.slow
def test_finetune_runs_frozen_layers_and_measures_with_the_engine_that_was_asked_for(
    fruit: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    options = ("--unfreeze", "none", "--engine", "keras", "--output", folder)
    told = run_cli("finetune", fruit, *QUICK, *options)
    assert told.exit_code == 0, told.stderr
    record = record_of(folder)
    assert record["config"]["engine"] == "keras" and record["engine"].startswith("keras ")
    assert f"frozen layers, engine: {record['engine']}\n" in told.stderr
    assert "measuring val, engine: keras f32\n" in told.stderr
    assert (folder / "model.xml").exists(), "predict is to be quick whatever trained"
    again = run_cli("evaluate", "--run", folder, "--engine", "keras", "--json")
    assert json.loads(again.stdout)["loss"] == pytest.approx(record["results"]["val"]["loss"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("without_openvino")
def test_without_openvino_keras_takes_its_place_and_says_so(
    run: Path, fruit: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notice = f"OpenVINO is not installed, so Keras is used instead, which is slower; {MEND}\n"
    images = sorted(fruit.rglob("*.png"))[::5]
    told = run_cli("predict", *images, "--run", run, "--json")
    assert (told.exit_code, told.stderr) == (0, notice)
    told = run_cli("evaluate", "--run", run, "--output", tmp_path / "figures")
    assert told.exit_code == 0 and notice in told.stderr
    for command in (("train", fruit, "--arch", "resnet8", "--epochs", "1"), ("finetune", fruit, *QUICK, "--unfreeze", "none")):
        folder = tmp_path / command[0]
        told = run_cli(*command, "--output", folder)
        assert told.exit_code == 0 and told.stderr.count(notice) == 1, told.stderr
        assert record_of(folder)["engine"].startswith("keras ")
        assert not (folder / "model.xml").exists()
    # The ready-made network, where there is no run.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    assert predicted(run_cli, images[0])
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_a_run_that_was_trained_without_openvino_is_answered_by_keras(
    run: Path, fruit: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("model.xml", "model.bin"))
    image = next(fruit.rglob("*.png"))
    told = run_cli("predict", image, "--run", folder)
    assert told.exit_code == 0
    assert told.stderr == f"there is no {folder / 'model.xml'}, so Keras predicts from the weights, which is slower\n"
    refused = run_cli("predict", image, "--run", folder, "--engine", "openvino")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"error: there is no {folder / 'model.xml'} for --engine openvino\n")


def test_openvino_that_is_asked_for_and_cannot_be_had_is_one_sentence(
    run: Path, fruit: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = (("predict", fruit, "--run", run), ("evaluate", "--run", run), ("finetune", fruit, *QUICK))

    def refusals() -> set[str]:
        results = [run_cli(*command, "--engine", "openvino") for command in commands]
        assert {(result.exit_code, result.stdout) for result in results} == {(1, "")}
        return {result.stderr[result.stderr.index("error: ") :] for result in results}

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "openvino", None)
        assert refusals() == {f"error: OpenVINO is not installed\nhint: {MEND}\n"}
    with monkeypatch.context() as patch:
        patch.setattr(import_openvino(), "__version__", "2025.4.1-20426-82bbf0292c5-releases/2025/4")
        assert refusals() == {f"error: OpenVINO 2025.4.1 is too old: at least {OLDEST} is needed\nhint: {MEND}\n"}
        assert predicted(run_cli, next(fruit.rglob("*.png")), "--run", run)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    refused = run_cli("finetune", fruit, *QUICK, "--engine", "openvino")
    assert refused.stderr.endswith(
        "error: --engine openvino cannot convert networks of Keras' backend jax\n"
        "hint: --engine keras, or KERAS_BACKEND=tensorflow\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_openvino_is_the_one_that_the_package_asks_for() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert f"openvino>={OLDEST}" in project["dependencies"]


def test_a_compiled_model_is_kept_and_never_trusted_blindly(
    run: Path, fruit: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "resnet-cli" / "compiled"
    words = (fruit / "apple", "--run", run)
    expected = predicted(run_cli, *words)
    (entry,) = cache.rglob("*.blob")
    whole = entry.read_bytes()
    assert len(whole) < (run / "model.bin").stat().st_size, "weights are not kept twice"
    assert predicted(run_cli, *words) == expected
    for spoilt in (b"", whole[:20], whole[:-3000], os.urandom(len(whole)), whole.replace(b"convolution", b"evolution")):
        entry.chmod(0o600)
        entry.write_bytes(spoilt)
        assert predicted(run_cli, *words) == expected
    # No more than a few: the oldest goes first.
    for number in range(80):
        (cache / f"old-{number:02d}").mkdir()
        os.utime(cache / f"old-{number:02d}", (number, number))
    predicted(run_cli, fruit / "apple", "--run", shutil.copytree(run, tmp_path / "copy"))
    assert len(list(cache.iterdir())) == 64 and entry.exists() and not (cache / "old-00").exists()
    # Where nothing can be kept, nothing is.
    shutil.rmtree(cache)
    cache.write_text("in the way")
    assert predicted(run_cli, *words) == expected
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert predicted(run_cli, *words) == expected


def test_a_compiled_model_answers_with_the_weights_of_today(run: Path, fruit: Path, tmp_path: Path) -> None:
    loaded, pixels = load_run(run), pixels_of(run, fruit)
    folder = shutil.copytree(run, tmp_path / "run")
    classifier = read_classifier(loaded.weights, spec_from_record(loaded.record))
    classifier.get_layer("logits").bias.assign([3.0, 0.0, -3.0])
    save(convert(classifier), tmp_path / "other.xml")
    before = OpenVinoEngine(folder / "model.xml", "many", cache=tmp_path / "cache").run(pixels)[0]
    # Trained anew, and its times put back: the network's file is the same, its weights are not.
    shutil.copy(tmp_path / "other.bin", folder / "model.bin")
    shutil.copystat(run / "model.bin", folder / "model.bin")
    after = OpenVinoEngine(folder / "model.xml", "many", cache=tmp_path / "cache").run(pixels)[0]
    np.testing.assert_array_equal(after, OpenVinoEngine(folder / "model.xml", "many").run(pixels)[0])
    assert np.abs(after - before).max() > 0.1


SIGNALS = """
import ctypes, sys
from resnet_cli.engines.openvino import OpenVinoEngine

def stack():
    found = (ctypes.c_void_p * 3)()
    ctypes.CDLL(None).sigaltstack(None, found)
    return found[0]

before = stack()
engine = OpenVinoEngine(sys.argv[1], "one")
print(stack() == before)
"""


def test_loading_a_model_leaves_the_stack_of_signal_handlers_alone() -> None:
    # On a CPU with AMX, OpenVINO sets one in which a handler has no room: Ctrl-C during TensorFlow's AMX ended by SIGSEGV.
    from resnet_cli.networks.pretrained import bundled_run

    command = [sys.executable, "-c", SIGNALS, str(bundled_run().openvino)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


# --- a converter of another version -------------------------------------------------------------------------------------------

TINY = ("--arch", "resnet8", "--weights", "none", "--image-size", "32", "--epochs", "1")


@pytest.mark.slow
def test_a_converter_that_fails_costs_speed_and_no_finished_training(
    tiny_dataset: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no rule for this operation\nand a trace")

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("openvino.convert_model", fails)
        result = run_cli("train", tiny_dataset, "--arch", "resnet8", "--epochs", 1, "--output", run, "--json")
    assert result.exit_code == 0, result.stderr
    told = "OpenVINO cannot convert the network: no rule for this operation; Keras predicts from the weights, which is slower"
    assert told in json.loads(result.stdout)["warnings"]
    assert not (run / "model.xml").exists()
    image = next(tiny_dataset.rglob("*.png"))
    answered = run_cli("predict", image, "--run", run)
    assert answered.exit_code == 0 and str(image) in answered.stdout
    # The frozen layers of a fine-tuning cannot run at all: that is said before anything is trained.
    with monkeypatch.context() as patch:
        patch.setattr("openvino.convert_model", fails)
        refused = run_cli(
            "finetune", tiny_dataset, *TINY, "--unfreeze", "none", "--set", "cache=false", "--output", tmp_path / "other"
        )
    assert refused.exit_code == 1
    assert refused.stderr.endswith(
        "error: OpenVINO cannot convert the network: no rule for this operation\nhint: use --engine keras\n"
    )


@pytest.mark.slow
def test_where_parts_cannot_be_joined_the_whole_network_is_converted(
    tiny_dataset: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise IndexError("list index out of range")

    answers = []
    for name in ("as usual", "changed"):
        run = tmp_path / name
        options = [*TINY[:-2], "--unfreeze", "none", "--set", "views=1", "--seed", "1", "--output", run, "--json"]
        result = run_cli("finetune", tiny_dataset, *options)
        assert result.exit_code == 0, result.stderr
        assert (run / "model.xml").exists() and "cannot convert" not in result.stdout
        answers.append((run / "predictions.csv").read_text())
        monkeypatch.setattr("resnet_cli.engines.frozen.joined", fails)
        monkeypatch.setattr("resnet_cli.inference.scoring.behind_pooling", fails)
    for ours, theirs in zip(*(text.splitlines() for text in answers), strict=True):
        assert ours.split(",")[:3] == theirs.split(",")[:3]
