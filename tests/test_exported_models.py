"""`predict --model` and `evaluate --model` take every export, as folder or file, and run it in its own runtime."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeRun, RunCli, run_once, written_once
from test_serve import serving

import resnet_cli

RUNTIMES = {
    ("savedmodel",): ("saved_model.pb", "TensorFlow f32"),
    ("keras",): ("model.keras", "Keras f32"),
    ("onnx",): ("model.onnx", "ONNX Runtime f32"),
    ("tflite",): ("model.tflite", "LiteRT f32"),
    ("openvino",): ("model.xml", "openvino"),
    ("onnx", "--with-resize", "--quantize", "float16"): ("model.onnx", "ONNX Runtime f32"),
    ("keras", "--with-resize"): ("model.keras", "Keras f32"),
    ("onnx", "--quantize", "int8", "--force"): ("model.onnx", "ONNX Runtime int8"),
}
MakeExport = Callable[..., Path]


@pytest.fixture(scope="module")
def run_folder(make_run: MakeRun, sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "cars", sample_data, arch="resnet8")


@pytest.fixture(scope="module")
def export(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeExport:
    """`export(format, *options) -> folder`, each written once."""
    made = written_once(run_folder, tmp_path_factory.mktemp("exports"))
    return lambda *options: made(*options)[0]


@pytest.fixture(scope="module")
def command(sample_data: Path) -> tuple[object, ...]:
    images = [sorted((sample_data / label).iterdir())[place] for label in ("cars", "trucks") for place in range(3)]
    return ("predict", *images, "--views", 2, "--json")


@pytest.fixture(scope="module")
def exact(command: tuple[object, ...], run_folder: Path, sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What Keras says with the run's weights: predictions, and the figures of an evaluation."""
    own = ("--run", run_folder, "--engine", "keras")
    output = ("--output", tmp_path_factory.mktemp("figures") / "run")
    return [json.loads(run_once(*words, *own).stdout) for words in (command, ("evaluate", sample_data, "--json", *output))]


@pytest.mark.slow
@pytest.mark.parametrize("options", RUNTIMES)
def test_predict_and_evaluate_run_every_export_in_its_own_runtime(
    options: tuple[str, ...],
    export: MakeExport,
    command: tuple[object, ...],
    exact: Any,
    sample_data: Path,
    run_cli: RunCli,
    tmp_path: Path,
) -> None:
    folder, (name, engine) = export(*options), RUNTIMES[options]
    predictions, expected = exact
    from_folder, from_file = (run_cli(*command, "--model", model) for model in (folder, folder / name))
    assert from_folder.exit_code == 0, from_folder.stderr
    assert json.loads(from_file.stdout) == json.loads(from_folder.stdout)
    close = 0.3 if "int8" in options else 2e-2
    for mine, other in zip(json.loads(from_folder.stdout), predictions, strict=True):
        found = {each["class"]: each["probability"] for each in mine["predictions"]}
        assert found == pytest.approx({each["class"]: each["probability"] for each in other["predictions"]}, abs=close)
    result = run_cli("evaluate", sample_data, "--json", "--output", tmp_path / "model", "--model", folder / name)
    assert result.exit_code == 0, result.stderr
    measured = json.loads(result.stdout)
    assert measured["engine"].startswith(engine)
    assert measured["count"] == expected["count"] == 20  # without the images that the run was trained on
    if "int8" not in options:
        assert measured["top1"] == expected["top1"]
        assert measured["loss"] == pytest.approx(expected["loss"], abs=0.02)
    assert (tmp_path / "model" / "report.html").exists()


@pytest.mark.slow
def test_a_run_and_its_export_form_an_ensemble(
    export: MakeExport, run_folder: Path, sample_data: Path, run_cli: RunCli
) -> None:
    image = next((sample_data / "cars").iterdir())
    models = ("--run", run_folder, "--model", export("onnx"), "--model", export("keras", "--with-resize"))
    (row,) = json.loads(run_cli("predict", image, *models, "--json").stdout)
    (alone,) = json.loads(run_cli("predict", image, "--run", run_folder, "--json").stdout)
    assert row["predictions"][0]["probability"] == pytest.approx(alone["predictions"][0]["probability"], abs=0.02)


@pytest.mark.slow
def test_a_renamed_model_file_is_found(export: MakeExport, sample_data: Path, run_cli: RunCli, tmp_path: Path) -> None:
    folder = shutil.copytree(export("onnx"), tmp_path / "out")
    (folder / "model.onnx").rename(folder / "cars.onnx")
    image = next((sample_data / "cars").iterdir())
    assert run_cli("predict", image, "--model", folder / "cars.onnx").exit_code == 0
    lost = run_cli("predict", image, "--model", folder)
    assert lost.stderr == f"error: the export {folder} has no model.onnx\nhint: export the run again\n"


def alone(folder: Path, make: MakeExport) -> tuple[Path, str]:
    shutil.copy(make("onnx") / "model.onnx", folder)
    return folder / "model.onnx", f"{folder} has no export.json, which names the classes of model.onnx and how"


def changed(folder: Path, make: MakeExport, format: str) -> None:
    """An export whose user has changed the model."""
    shutil.copytree(make(format), folder, dirs_exist_ok=True)
    record = json.loads((folder / "export.json").read_text())
    del record["export"]["sha256"]
    (folder / "export.json").write_text(json.dumps(record))


def no_onnx(folder: Path, make: MakeExport) -> tuple[Path, str]:
    changed(folder, make, "onnx")
    (folder / "model.onnx").write_bytes(b"no graph")
    return folder, f"{folder / 'model.onnx'} cannot be run by ONNX Runtime: "


def keras_of_another_program(folder: Path, make: MakeExport) -> tuple[Path, str]:
    import keras

    changed(folder, make, "keras")
    pixels = keras.Input((None, None, 3), dtype="uint8")
    other = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1.0)(pixels))
    keras.Model(pixels, other).save(folder / "model.keras")
    words = "is a model of another kind: it answers with the shape (1, 3) instead of (1, 2)"
    return folder, f"{folder / 'model.keras'} {words}"


def cut_tflite(folder: Path, make: MakeExport) -> tuple[Path, str]:
    changed(folder, make, "tflite")
    whole = (folder / "model.tflite").read_bytes()
    (folder / "model.tflite").write_bytes(whole[: len(whole) // 2])
    return folder / "model.tflite", f"{folder / 'model.tflite'} cannot be run by LiteRT: "


def swapped(folder: Path, make: MakeExport) -> tuple[Path, str]:
    """A model that resizes, which would resize the squares of this export again, and answer."""
    shutil.copytree(make("onnx"), folder, dirs_exist_ok=True)
    shutil.copy(make("onnx", "--with-resize", "--quantize", "float16") / "model.onnx", folder)
    return folder, f"{folder / 'model.onnx'} is not the model that {folder / 'export.json'} describes, or is damaged: "


def swapped_weights(folder: Path, make: MakeExport) -> tuple[Path, str]:
    shutil.copytree(make("openvino"), folder, dirs_exist_ok=True)
    weights = bytearray((folder / "model.bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    (folder / "model.bin").write_bytes(weights)
    return folder / "model.xml", f"{folder / 'model.bin'} is not the model that {folder / 'export.json'} describes, or is"


def swapped_variables(folder: Path, make: MakeExport) -> tuple[Path, str]:
    shutil.copytree(make("savedmodel"), folder, dirs_exist_ok=True)
    (folder / "variables" / "variables.index").unlink()
    return folder, f"the export {folder} has no variables/variables.index"


def no_hashes(folder: Path, make: MakeExport) -> tuple[Path, str]:
    shutil.copytree(make("onnx"), folder, dirs_exist_ok=True)
    record = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps({**record, "export": {**record["export"], "sha256": "a"}}))
    return folder, f"{folder / 'export.json'} is damaged: it has no hashes of the model's files"


def another_path(folder: Path, make: MakeExport) -> tuple[Path, str]:
    """Nothing outside of the folder is read for a record that comes from elsewhere."""
    shutil.copytree(make("savedmodel"), folder, dirs_exist_ok=True)
    record = json.loads((folder / "export.json").read_text())
    (folder / "variables" / ".DS_Store").touch()  # does not matter
    record["export"]["sha256"]["/dev/zero"] = ""
    (folder / "export.json").write_text(json.dumps(record))
    return folder, f"the export {folder} has no /dev/zero"


def no_precision(folder: Path, make: MakeExport) -> tuple[Path, str]:
    shutil.copytree(make("onnx"), folder, dirs_exist_ok=True)
    record = json.loads((folder / "export.json").read_text())
    del record["export"]["precision"]
    (folder / "export.json").write_text(json.dumps(record))
    return folder, f"{folder / 'export.json'} is damaged: it names no format and precision"


def another_format(folder: Path, make: MakeExport) -> tuple[Path, str]:
    shutil.copytree(make("onnx"), folder, dirs_exist_ok=True)
    shutil.copy(make("keras") / "model.keras", folder)
    words = f"is not the model that {folder / 'export.json'} describes: that is onnx"
    return folder / "model.keras", f"{folder / 'model.keras'} {words}"


def random_folder(folder: Path, make: MakeExport) -> tuple[Path, str]:
    (folder / "notes.txt").write_text("no model")
    return folder, f"{folder} is not a run folder: it has no run.json"


def photo(folder: Path, make: MakeExport) -> tuple[Path, str]:
    (folder / "cat.jpg").write_bytes(b"no model")
    return (
        folder / "cat.jpg",
        f"{folder / 'cat.jpg'} is neither a run folder nor an exported model (a SavedModel folder, .keras",
    )


def missing(folder: Path, make: MakeExport) -> tuple[Path, str]:
    return folder / "model.onnx", f"there is no model {folder / 'model.onnx'}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        *(alone, no_onnx, keras_of_another_program, cut_tflite, swapped, swapped_weights, swapped_variables, no_precision),
        *(no_hashes, another_path),
        *(another_format, random_folder, photo, missing),
    ],
)
def test_a_file_of_another_kind_is_one_sentence(
    make: Callable[[Path, MakeExport], tuple[Path, str]],
    export: MakeExport,
    sample_data: Path,
    run_cli: RunCli,
    tmp_path: Path,
) -> None:
    model, words = make(tmp_path, export)
    image = next((sample_data / "cars").iterdir())
    result = run_cli("predict", image, "--model", model)
    assert (result.exit_code, result.stdout) == (1, "")
    error, hint = result.stderr.splitlines()
    assert error.startswith(f"error: {words}") and hint.startswith("hint: ")


def test_a_file_of_a_run_is_named_by_its_run(run_folder: Path, sample_data: Path, run_cli: RunCli) -> None:
    result = run_cli("predict", next((sample_data / "cars").iterdir()), "--model", run_folder / "model.xml")
    words = f"error: {run_folder / 'model.xml'} is a file of the run {run_folder}, not an export"
    assert result.stderr == f"{words}\nhint: name the run: {run_folder}\n"


@pytest.mark.slow
def test_what_an_export_cannot_do_is_one_sentence(
    export: MakeExport, sample_data: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = next((sample_data / "cars").iterdir())
    model, resizing = export("onnx") / "model.onnx", export("keras", "--with-resize") / "model.keras"
    for options, words in (
        ((model, "--engine", "keras"), f"{model} runs in its own runtime, not with --engine keras"),
        ((resizing, "--views", 10), f"{resizing} resizes images itself, so --views 10 cannot crop them"),
        ((model, "--explain", tmp_path / "maps"), f"{model} answers with probabilities only, so there are no heat maps"),
    ):
        result = run_cli("predict", image, "--model", *options)
        assert (result.exit_code, result.stdout) == (1, "") and result.stderr.startswith(f"error: {words}\nhint: ")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run_cli("predict", image, "--model", model)
    assert result.stderr == f"error: {model} needs onnxruntime\nhint: pip install 'resnet-cli[export]'\n"


@pytest.mark.slow
def test_an_export_that_resizes_is_served_without_a_map(export: MakeExport, sample_data: Path, run_cli: RunCli) -> None:
    model, image = export("keras", "--with-resize"), next((sample_data / "cars").iterdir())
    (expected,) = json.loads(run_cli("predict", image, "--model", model, "--json").stdout)
    with serving((model,)) as server:
        (row,) = server.ask("/predict", image.read_bytes()).json
        assert [each["class"] for each in row["predictions"]] == [each["class"] for each in expected["predictions"]]
        assert row["predictions"][0]["probability"] == pytest.approx(expected["predictions"][0]["probability"], abs=1e-5)
        assert server.ask("/predict?explain=1", image.read_bytes()).status == 400
        assert b'id="heat"' not in server.ask("/").body


@pytest.mark.slow
def test_the_python_api_opens_an_export(
    export: MakeExport, sample_data: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, image = export("tflite") / "model.tflite", next((sample_data / "cars").iterdir())
    opened = resnet_cli.load(model)
    (expected,) = json.loads(run_cli("predict", image, "--model", model, "--json").stdout)
    (found,) = opened.predict(image)
    assert found.top == tuple((each["class"], pytest.approx(each["probability"])) for each in expected["predictions"])
    with pytest.warns(UserWarning, match="60 images that the run was trained on are not scored"):
        assert opened.evaluate(sample_data, progress=False).count == 20
    with pytest.raises(resnet_cli.ResnetError, match="runs in its own runtime, not with --engine openvino"):
        opened.predict(image, engine="openvino")
