"""An export answers like the run that it came from: in its own runtime, on real images, without this package."""

import gc
import json
import shutil
import struct
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeDataset, MakeRun, RunCli
from numpy.typing import NDArray
from PIL import Image

from resnet_cli.engines.frozen import read_classifier
from resnet_cli.errors import ResnetError
from resnet_cli.export import formats
from resnet_cli.export.folder import check_free
from resnet_cli.networks.catalogue import spec_from_record
from resnet_cli.runs.folder import load_run, read_splits

SIZE = 32
FORMATS = tuple(formats.FORMATS)
Probabilities = NDArray[np.float32]


@pytest.fixture(scope="module")
def run_folder(make_run: MakeRun, sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "cars", sample_data, size=SIZE)


@pytest.fixture(scope="module")
def images(sample_data: Path) -> NDArray[np.uint8]:
    """Seven real images, brought to size by Pillow alone: no power of two, so that the batch dimension has to be free."""
    found = [path for name in ("cars", "trucks") for path in sorted((sample_data / name).iterdir())[:4]][:7]
    squares = []
    for path in found:
        with Image.open(path) as image:
            squares.append(np.asarray(image.convert("RGB").resize((SIZE, SIZE))))
    return np.stack(squares)


@pytest.fixture(scope="module")
def expected(run_folder: Path, images: NDArray[np.uint8]) -> Probabilities:
    """What Keras says of them, with the run's weights."""
    run = load_run(run_folder)
    return np.asarray(read_classifier(run.weights, spec_from_record(run.record))(images, training=False))


def answer_savedmodel(path: Path, images: NDArray[np.uint8]) -> Any:
    """In a process where this package cannot be imported."""
    script = textwrap.dedent(f"""
        import sys
        sys.modules["resnet_cli"] = None
        import numpy as np, tensorflow as tf
        signature = tf.saved_model.load({str(path)!r}).signatures["serving_default"]
        answer = signature(image=tf.constant(np.load({str(path / "images.npy")!r})))
        np.save({str(path / "answer.npy")!r}, answer["probabilities"].numpy())
    """)
    np.save(path / "images.npy", images)
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    return np.load(path / "answer.npy")


def answer_keras(path: Path, images: NDArray[np.uint8]) -> Any:
    import keras

    return keras.saving.load_model(path).predict(images, verbose=0)


def answer_onnx(path: Path, images: NDArray[np.uint8]) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(path).run(["probabilities"], {"image": images})[0]


def answer_tflite(path: Path, images: NDArray[np.uint8]) -> Any:
    """By index instead of name, in the interpreter that comes with TensorFlow."""
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf\.lite\.Interpreter is deprecated")
        interpreter = tf.lite.Interpreter(str(path))
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, images)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def answer_openvino(path: Path, images: NDArray[np.uint8]) -> Any:
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"EXECUTION_MODE_HINT": "ACCURACY"})
    return compiled({"image": images})["probabilities"]


ANSWER: dict[str, Callable[[Path, NDArray[np.uint8]], Any]] = {
    "savedmodel": answer_savedmodel,
    "keras": answer_keras,
    "onnx": answer_onnx,
    "tflite": answer_tflite,
    "openvino": answer_openvino,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_an_export_answers_like_the_run_in_its_own_runtime(
    name: str, run_folder: Path, images: NDArray[np.uint8], expected: Probabilities, run_cli: RunCli, tmp_path: Path
) -> None:
    collector = gc.get_threshold()
    result = run_cli("export", "--format", name, "--run", run_folder, "--output", tmp_path / "out", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert gc.get_threshold() == collector
    document = json.loads(result.stdout)
    assert (document["format"], document["path"]) == (name, str(tmp_path / "out"))
    assert document["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    parity = document["parity"]
    held = sum(row.split == "val" for row in read_splits(load_run(run_folder)))
    # fp16 weights have 11 bits.
    close = 1e-2 if name == "openvino" else 1e-4
    assert (parity["pictures"], parity["top1_agreement"]) == (50, 1.0)
    assert parity["source"] == f"images ({held} held-out, {50 - held} training)"
    assert parity["max_probability_difference"] <= close
    assert (tmp_path / "out" / "labels.txt").read_text() == "cars\ntrucks\n"
    assert np.ptp(expected[:, 0]) > 0.1
    np.testing.assert_allclose(ANSWER[name](Path(document["model"]), images), expected, atol=close)


@pytest.mark.parametrize("preprocessing", ["caffe", "tf", "unit"])
def test_every_preprocessing_is_inside(
    preprocessing: str, make_run: MakeRun, sample_data: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "run", sample_data, arch="resnet8")
    record = json.loads((folder / "run.json").read_text())
    record["network"]["preprocessing"] = preprocessing
    (folder / "run.json").write_text(json.dumps(record))
    result = run_cli("export", "--format", "openvino", "--run", folder, "--json")
    assert json.loads(result.stdout)["parity"]["max_probability_difference"] < 1e-2
    assert (folder / "export" / "openvino" / "model.xml").exists()


def test_labels_stand_in_the_order_of_the_probabilities(
    make_run: MakeRun, make_dataset: MakeDataset, run_cli: RunCli, tmp_path: Path
) -> None:
    names = ("Zebra", "ape", "çaña", "b c")
    folder = make_run(tmp_path / "run", make_dataset(tmp_path / "data", names, 4), arch="resnet8")
    assert run_cli("export", "--format", "keras", "--run", folder).exit_code == 0
    labels = (folder / "export" / "keras" / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert labels == list(load_run(folder).classes)
    assert sorted(labels) == sorted(names)


@pytest.mark.slow
def test_without_the_images_random_patterns_stand_in_and_it_says_so(
    make_run: MakeRun, make_dataset: MakeDataset, run_cli: RunCli, tmp_path: Path
) -> None:
    data = make_dataset(tmp_path / "data", count=4)
    folder = make_run(tmp_path / "run", data, arch="resnet8")
    data.rename(tmp_path / "moved")
    result = run_cli("export", "--format", "keras", "--run", folder, "--quiet")
    assert result.exit_code == 0
    assert "on 50 random patterns (none of the run's images is there any more)" in result.stdout
    warning = f"none of the run's images is in {data} any more, so the export was checked on random patterns"
    assert result.stderr == f"warning: {warning}\n"
    resizing = run_cli("export", "--format", "keras", "--run", folder, "--with-resize", "--json")
    assert json.loads(resizing.stdout)["parity"]["max_probability_difference"] < 5e-3
    again = run_cli("export", "--format", "keras", "--run", folder, "--force", "--json")
    assert (json.loads(again.stdout)["warnings"], again.stderr) == ([warning], result.stderr)


@pytest.mark.slow
def test_litert_answers_alike_in_its_own_package_and_in_tensorflow(
    run_folder: Path, images: NDArray[np.uint8], run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cli("export", "--format", "tflite", "--run", run_folder, "--output", tmp_path / "out")
    load = formats.find_format("tflite").load
    own = load(tmp_path / "out" / "model.tflite")(images)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    np.testing.assert_allclose(load(tmp_path / "out" / "model.tflite")(images), own, atol=1e-6)


# --- never half, never over something else ------------------------------------------------------------------------------------


def export_keras(run_cli: RunCli, run: Path, output: Path, *more: str) -> tuple[int, str]:
    result = run_cli("export", "--format", "keras", "--run", run, "--output", output, "--quiet", *more)
    return result.exit_code, result.stderr


def with_tolerance(monkeypatch: pytest.MonkeyPatch, tolerance: float) -> None:
    monkeypatch.setitem(formats.FORMATS, "keras", replace(formats.FORMATS["keras"], tolerance=tolerance))


def test_an_export_that_answers_differently_is_not_kept(
    run_folder: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_tolerance(monkeypatch, -1.0)
    code, told = export_keras(run_cli, run_folder, tmp_path / "new" / "out")
    assert code == 1
    assert "the exported keras model answers differently from the run" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_export_that_fails_leaves_the_earlier_one_alone(
    run_folder: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert export_keras(run_cli, run_folder, out) == (0, "")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    code, told = export_keras(run_cli, run_folder, out)
    assert (code, told.splitlines()[0]) == (1, f"error: {out} exists already")
    with_tolerance(monkeypatch, -1.0)
    assert export_keras(run_cli, run_folder, out, "--force")[0] == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    monkeypatch.undo()
    assert export_keras(run_cli, run_folder, out, "--force") == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_ctrl_c_leaves_nothing_behind(
    run_folder: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path) -> formats.Answer:
        assert path.exists()
        raise KeyboardInterrupt

    monkeypatch.setitem(formats.FORMATS, "keras", replace(formats.FORMATS["keras"], load=interrupted))
    assert export_keras(run_cli, run_folder, tmp_path / "out")[0] == 130
    assert list(tmp_path.iterdir()) == []


def test_force_replaces_nothing_but_an_export(run_folder: Path, run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "labels.txt").write_text("mine")
    (tmp_path / "photos" / "cat.jpg").write_text("mine")
    code, told = export_keras(run_cli, run_folder, tmp_path / "photos", "--force")
    assert code == 1
    assert "photos holds more than an export, so --force does not replace it" in told
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == ["cat.jpg", "labels.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [("savedmodel",), ("tflite", "--quantize", "int8", "--force")])
def test_tensorflow_reads_no_pattern_in_the_name_of_a_folder(
    options: tuple[str, ...], run_folder: Path, run_cli: RunCli, sample_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos [2024]*" / "out"
    result = run_cli("export", "--run", run_folder, "--output", folder, "--format", *options)
    assert result.exit_code == 0, result.stderr
    result = run_cli("predict", next((sample_data / "cars").iterdir()), "--model", folder)
    assert result.exit_code == 0, result.stderr


def test_what_python_and_the_finder_leave_in_an_export_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "out" / "__pycache__").mkdir(parents=True)  # after `from classify import pixels`
    for name in ("labels.txt", "classify.py", "model.keras", ".DS_Store"):
        (tmp_path / "out" / name).touch()
    check_free(tmp_path / "out", force=True)
    (tmp_path / "out" / "program.py").touch()
    with pytest.raises(ResnetError, match="holds more than an export"):
        check_free(tmp_path / "out", force=True)


def test_an_output_that_exists_is_said_before_anything_is_loaded(run_folder: Path, run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cat.jpg").write_text("mine")
    result = run_cli("export", "--run", run_folder, "--format", "keras", "--output", tmp_path / "out")
    words = f"error: {tmp_path / 'out'} exists already\nhint: choose another --output, or add --force to replace it\n"
    assert (result.exit_code, result.stderr) == (1, words)  # without the line that precedes the import of TensorFlow


def test_a_folder_that_cannot_be_written_is_one_sentence(run_folder: Path, run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    code, told = export_keras(run_cli, run_folder, tmp_path / "file" / "out")
    assert code == 1
    assert told.startswith(f"error: cannot write to {tmp_path / 'file' / 'out'}: ")
    assert len(told.splitlines()) == 2


# --- wrong use ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd_images(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photos that were turned and are decoded smaller than they are, one with transparent parts, and a long one in grey."""
    folder = tmp_path_factory.mktemp("odd")
    with Image.open(next((sample_data / "cars").iterdir())) as image:
        large = image.convert("RGB").resize((600, 400))
    exif = Image.Exif()
    exif[0x0112] = 6
    large.save(folder / "turned.jpg", exif=exif)
    # Orientation 6 beside a tag of a wrong type, over which Pillow stumbles once the image is turned.
    tags = struct.pack("<HHHIIHHI4sI", 2, 0x0112, 3, 1, 6, 0x0102, 7, 4, b"abcd", 0)
    large.save(folder / "stumbling.jpg", exif=b"Exif\0\0II*\0" + struct.pack("<I", 8) + tags)
    clear = large.convert("RGBA")
    clear.putalpha(large.convert("L"))
    clear.save(folder / "clear.png")
    large.convert("L").resize((50, 300)).save(folder / "long.webp")
    return sorted(folder.iterdir())


# classify.py once for every image, in one process, which imports the runtime once; this package cannot be imported there.
BETWEEN = "-- image --\n"
CLASSIFY_EACH = f"""
import runpy, sys
sys.modules["resnet_cli"] = None
program, *images = sys.argv[1:]
for image in images:
    sys.argv = [program, image]
    sys.stdout.write({BETWEEN!r})
    runpy.run_path(program, run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "resize", "steps"),
    [*((name, "crop", "one") for name in FORMATS), ("onnx", "pad", "one"), ("onnx", "squash", "one"), ("keras", "crop", "two")],
)
def test_the_program_beside_an_export_answers_as_predict_does(
    name: str, resize: str, steps: str, run_folder: Path, odd_images: list[Path], run_cli: RunCli, tmp_path: Path
) -> None:
    run, output = shutil.copytree(run_folder, tmp_path / "run"), tmp_path / "moved"
    record = json.loads((run / "run.json").read_text())
    interpolation = "bilinear" if steps == "one" else "bicubic"
    shape = {"resize": resize, "fraction": 0.875, "interpolation": interpolation, "steps": steps}
    (run / "run.json").write_text(json.dumps({**record, "input": shape}))
    result = run_cli("export", "--run", run, "--format", name, "--output", tmp_path / "made", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)["input"]
    assert told == {"size": SIZE, "resize": resize, "fraction": 0.875, "filter": interpolation, "steps": steps}
    (tmp_path / "made").rename(output)
    # On the same arithmetic: OpenVINO rounds weights to half precision, and activations to bf16 where the CPU has it.
    engine = "openvino" if name == "openvino" else "keras"
    said = run_cli("predict", *odd_images, "--run", run, "--engine", engine, "--csv").stdout
    rows = [line.split(",") for line in said.splitlines()[1:]]
    done = subprocess.run(
        [sys.executable, "-c", CLASSIFY_EACH, output / "classify.py", *odd_images],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for path, printed in zip(odd_images, done.stdout.split(BETWEEN)[1:], strict=True):
        answers = {label: float(share) for share, label in (line.split(" ", 1) for line in printed.split("\n") if line)}
        expected = {label: float(share) for where, _, label, share, *_ in rows if where == str(path)}
        assert answers == pytest.approx(expected, abs=1e-3) and len(answers) == 2


def test_an_unknown_format_is_a_usage_error(run_cli: RunCli) -> None:
    result = run_cli("export", "--format", "pdf")
    assert result.exit_code == 2
    assert all(name in result.stderr for name in FORMATS)


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    run_folder: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    result = run_cli("export", "--format", "onnx", "--run", run_folder, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr == "error: --format onnx needs tf2onnx\nhint: pip install 'resnet-cli[export]'\n"


def test_no_run_and_an_unfinished_run_are_one_sentence(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_cli("export", "--format", "keras").stderr.startswith("error: there is no run under runs/\n")
    for name in ("begun", "photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "begun" / "metrics.jsonl").touch()
    (tmp_path / "cat.jpg").touch()
    said = {
        "begun": "error: the run begun is not complete: it has no run.json",
        "photos": "error: photos is not a run folder: it has no run.json",
        "cat.jpg": "error: cat.jpg is a file, not a run folder",
    }
    for name, words in said.items():
        result = run_cli("export", "--format", "keras", "--run", name)
        assert (result.exit_code, result.stderr.splitlines()[0]) == (1, words)


def test_a_run_with_damaged_weights_is_one_sentence(
    make_run: MakeRun, sample_data: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "run", sample_data, arch="resnet8")
    (folder / "model.weights.h5").write_bytes(b"no weights")
    code, told = export_keras(run_cli, folder, tmp_path / "out")
    assert code == 1
    assert told.startswith(f"error: the weights {folder / 'model.weights.h5'} cannot be read")
    assert not (tmp_path / "out").exists()


def test_only_openvino_answers_an_export(
    run_folder: Path, run_cli: RunCli, sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = json.loads((run_folder / "run.json").read_text())
    made = {"format": "openvino", "precision": "float", "run": str(run_folder)}
    (tmp_path / "export.json").write_text(json.dumps({**record, "export": made}))
    for name in ("model.xml", "model.bin"):
        shutil.copy(run_folder / name, tmp_path)
    image = next((sample_data / "cars").iterdir())
    assert run_cli("predict", image, "--run", tmp_path).exit_code == 0
    said = f"error: {tmp_path} is an export for OpenVINO, and only OpenVINO can run it"
    asked = run_cli("predict", image, "--run", tmp_path, "--engine", "keras")
    monkeypatch.setitem(sys.modules, "openvino", None)
    missing = run_cli("predict", image, "--run", tmp_path)
    for result in (asked, missing):
        error, hint = result.stderr.splitlines()[-2:]
        assert (result.exit_code, result.stdout, error) == (1, "", said)
        assert hint.startswith("hint: leave --engine keras out and install OpenVINO")
