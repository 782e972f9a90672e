"""What an export can be asked for: resizing inside, weights in half precision, a least accuracy; and its README.md."""

import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Exported, MakeDataset, MakeRun, RunCli, written_once
from numpy.typing import NDArray
from test_export import ANSWER

from resnet_cli.data.decode import decode, decode_square, run_geometry
from resnet_cli.engines.frozen import calibrate, read_classifier
from resnet_cli.export.formats import FORMATS
from resnet_cli.networks.catalogue import spec_from_record
from resnet_cli.runs.folder import load_run, read_splits, write_splits

Pixels = NDArray[np.uint8]


def savedmodel(path: Path, images: Pixels) -> Any:
    import tensorflow as tf

    model = tf.saved_model.load(path)
    return model.signatures["serving_default"](image=tf.constant(images))["probabilities"].numpy()


IN_PROCESS: dict[str, Callable[[Path, Pixels], Any]] = {**ANSWER, "savedmodel": savedmodel}


TEMPERATURE = 1.7


@pytest.fixture(scope="module")
def untempered(make_run: MakeRun, sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "untempered", sample_data, arch="resnet8")


@pytest.fixture(scope="module")
def run_folder(make_run: MakeRun, sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, calibrated."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "cars", sample_data, arch="resnet8")
    calibrate(folder, TEMPERATURE)
    record = json.loads((folder / "run.json").read_text())
    fitted = {"temperature": TEMPERATURE, "images": 20, "ece_before": 0.2, "ece_after": 0.1}
    (folder / "run.json").write_text(json.dumps({**record, "calibration": fitted}))
    return folder


@pytest.fixture(scope="module")
def photos(sample_data: Path) -> list[Path]:
    return [sorted((sample_data / name).iterdir())[place] for name in ("cars", "trucks") for place in (0, 7)]


@pytest.fixture(scope="module")
def squares(run_folder: Path, photos: list[Path]) -> Pixels:
    return np.stack([decode_square(path, run_geometry(load_run(run_folder))) for path in photos])


@pytest.fixture(scope="module")
def expected(untempered: Path, squares: Pixels) -> Any:
    """softmax(logits / T), from the probabilities of the run before its calibration."""
    run = load_run(untempered)
    shares = np.asarray(read_classifier(run.weights, spec_from_record(run.record))(squares, training=False))
    powers = shares ** (1 / TEMPERATURE)
    return powers / powers.sum(1, keepdims=True)


MakeExport = Callable[..., Exported]


@pytest.fixture(scope="module")
def export(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeExport:
    """`export(format, *options) -> (folder, JSON)`, each written once."""
    return written_once(run_folder, tmp_path_factory.mktemp("exports"))


def exported(run_cli: RunCli, run: Path, output: Path, *options: object) -> dict[str, Any]:
    result = run_cli("export", "--run", run, "--output", output, *options, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


# --- resizing inside ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["savedmodel", "keras", "onnx", "tflite"])
def test_a_model_that_resizes_takes_photos_of_any_size_and_answers_like_the_run(
    name: str, run_folder: Path, photos: list[Path], expected: Any, export: MakeExport
) -> None:
    folder, document = export(name, "--with-resize")
    whole = [decode(path, run_geometry(load_run(run_folder)).enough) for path in photos]
    assert len({pixels.shape for pixels in whole}) > 1
    got = np.concatenate([IN_PROCESS[name](Path(document["model"]), pixels[None]) for pixels in whole])
    np.testing.assert_allclose(got, expected, atol=5e-3)
    record = json.loads((folder / "export.json").read_text())["export"]
    assert document["with_resize"] and record["with_resize"]
    stored = record["parity"]["max_probability_difference"], record["parity"]["top1_agreement"]
    assert stored == (document["parity"]["max_probability_difference"], 1.0)
    assert stored[0] < 5e-3
    assert f"by at most {stored[0]:.1e}" in (folder / "README.md").read_text()


def test_the_default_folder_says_what_an_export_is(run_folder: Path, run_cli: RunCli) -> None:
    result = run_cli("export", "--format", "keras", "--with-resize", "--run", run_folder, "--force")
    assert result.exit_code == 0, result.stderr
    assert str(run_folder / "export" / "keras-with-resize" / "model.keras") in result.stdout
    words = "N x height x width x 3 (resized to 32 pixels inside the model: short side to 32, then the centre, bilinear)"
    assert words in result.stdout


# --- half precision -----------------------------------------------------------------------------------------------------------


def kinds_onnx(path: Path) -> list[str]:
    import onnx

    return [onnx.TensorProto.DataType.Name(each.data_type).lower() for each in onnx.load(path).graph.initializer]


def kinds_tflite(path: Path) -> list[str]:
    from ai_edge_litert.interpreter import Interpreter

    return [np.dtype(each["dtype"]).name for each in Interpreter(str(path)).get_tensor_details()]


def kinds_savedmodel(path: Path) -> list[str]:
    import tensorflow as tf

    return [np.dtype(kind.as_numpy_dtype).name for _, kind in kinds(tf.train.load_checkpoint(path / "variables" / "variables"))]


def kinds(reader: Any) -> list[tuple[str, Any]]:
    return [(name, kind) for name, kind in reader.get_variable_to_dtype_map().items() if "weights" in name]


KINDS = {"onnx": kinds_onnx, "tflite": kinds_tflite, "savedmodel": kinds_savedmodel}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_weights_in_half_precision_take_half_the_space_and_answer_alike(
    name: str, run_folder: Path, squares: Pixels, expected: Any, export: MakeExport
) -> None:
    (_, whole), (_, half) = export(name), export(name, "--quantize", "float16")
    assert (half["quantize"], half["parity"]["top1_agreement"]) == ("float16", 1.0)
    assert half["parity"]["max_probability_difference"] < 1e-2
    np.testing.assert_allclose(IN_PROCESS[name](Path(half["model"]), squares), expected, atol=1e-2)
    kernels = kernel_shapes(run_folder)
    assert KINDS[name](Path(half["model"])).count("float16") >= len(kernels)
    assert "float16" not in KINDS[name](Path(whole["model"]))
    # 2 bytes less for each weight; graphs differ a little.
    assert whole["bytes"] - half["bytes"] == pytest.approx(2 * sum(map(np.prod, kernels)), rel=0.2)


def kernel_shapes(run: Path) -> list[tuple[int, ...]]:
    loaded = load_run(run)
    model = read_classifier(loaded.weights, spec_from_record(loaded.record))
    return [variable.shape for variable in model.trainable_variables if len(variable.shape) > 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("openvino", "--quantize", "float16"),
            "float16 goes with --format savedmodel, onnx, tflite, not with openvino: its weights are always stored in half",
        ),
        (("keras", "--quantize", "float16"), "float16 goes with --format savedmodel, onnx, tflite, not with keras: Keras"),
        (("openvino", "--with-resize"), "--with-resize goes with --format savedmodel, keras, onnx, tflite, not with openvino"),
        (("onnx", "--with-resize", "--quantize", "int8"), "--with-resize goes with --quantize float16 or without it"),
    ],
)
def test_what_a_format_cannot_do_is_a_usage_error_that_says_why(options: tuple[str, ...], words: str, run_cli: RunCli) -> None:
    result = run_cli("export", "--format", *options)
    assert result.exit_code == 2 and words in " ".join(result.stderr.replace("│", "").split())


# --- a least accuracy ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_export_below_the_least_accuracy_is_not_kept(run_folder: Path, run_cli: RunCli, tmp_path: Path) -> None:
    measured = json.loads(run_cli("evaluate", "--run", run_folder, "--output", tmp_path / "figures", "--json").stdout)
    top1, count = measured["top1"], measured["count"]
    assert top1 < 0.97
    out = tmp_path / "out"
    options = ("--format", "keras", "--with-resize")
    command = ("export", *options, "--run", run_folder, "--output", out)
    refused = run_cli(*command, "--min-accuracy", top1 + 0.01, "--quiet")
    assert (refused.exit_code, refused.stdout) == (3, "")
    error, hint = refused.stderr.splitlines()
    assert error.startswith(
        f"error: top-1 accuracy {top1:.4f} of the exported model ({round(top1 * count)} of {count} held-out"
    )
    assert error.endswith(f"is below --min-accuracy {top1 + 0.01:g}") and hint == "hint: nothing was kept"
    assert not out.exists()
    document = exported(run_cli, run_folder, out, *options, "--min-accuracy", top1 - 0.01)
    right = round(top1 * count)
    assert document["accuracy"] == {"top1": pytest.approx(top1), "split": "val", "count": count, "correct": right}
    assert json.loads((out / "export.json").read_text())["export"]["accuracy"]["correct"] == right
    assert f"Top-1 accuracy {top1:.1%} on {count} images held out" in (out / "README.md").read_text()


def test_a_least_accuracy_needs_held_out_images(run_folder: Path, run_cli: RunCli, tmp_path: Path) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["data"]["path"] = str(tmp_path / "gone")
    (run / "run.json").write_text(json.dumps(record))
    result = run_cli("export", "--format", "keras", "--run", run, "--min-accuracy", "0.5", "--quiet")
    assert result.exit_code == 1 and not (run / "export" / "keras").exists()
    assert "held-out images are no longer there" in result.stderr
    assert "hint: put the data set back: --min-accuracy is measured on held-out images" in result.stderr


@pytest.mark.slow
def test_a_class_without_held_out_images_is_no_obstacle(
    make_run: MakeRun, make_dataset: MakeDataset, run_cli: RunCli, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", make_dataset(tmp_path / "data", count=12), arch="resnet8")
    rows = read_splits(load_run(run))
    lost = rows[0].label
    write_splits(run, [replace(row, split="train") if row.label == lost else row for row in rows])
    held = sum(row.split == "val" for row in read_splits(load_run(run)))
    document = exported(run_cli, run, tmp_path / "out", "--format", "keras", "--min-accuracy", 0)
    assert document["parity"]["source"] == f"images ({held} held-out, {len(rows) - held} training)"
    assert (document["parity"]["pictures"], document["accuracy"]["count"]) == (len(rows), held)


# --- calibration, README.md ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_every_export_answers_with_calibrated_probabilities(
    name: str, squares: Pixels, expected: Any, export: MakeExport
) -> None:
    folder, document = export(name)
    close = 1e-2 if name == "openvino" else 1e-4
    np.testing.assert_allclose(IN_PROCESS[name](Path(document["model"]), squares), expected, atol=close)
    assert "Probabilities are calibrated: logits are divided by 1.700" in (folder / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, ()) for name in FORMATS), ("onnx", ("--with-resize", "--quantize", "float16")), ("tflite", ("--with-resize",))],
)
def test_the_ten_lines_of_the_readme_print_the_class_of_a_photo(
    name: str,
    options: tuple[str, ...],
    run_folder: Path,
    photos: list[Path],
    export: MakeExport,
    run_cli: RunCli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(export(name, *options)[0], tmp_path / "for others")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(program.splitlines()) <= 10 and "resnet8" in readme and "(cars and trucks)" in readme
    (folder / "program.py").write_text(program)
    engine = "openvino" if name == "openvino" else "keras"
    (row,) = json.loads(run_cli("predict", photos[0], "--run", run_folder, "--engine", engine, "--json").stdout)
    # As `python program.py photo.jpg` in the folder, where this package is not installed.
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "argv", ["program.py", str(photos[0])])
    monkeypatch.delitem(sys.modules, "classify", raising=False)
    monkeypatch.setitem(sys.modules, "resnet_cli", None)
    capsys.readouterr()
    runpy.run_path("program.py", run_name="__main__")
    label, _, share = capsys.readouterr().out.rstrip().rpartition(" (")
    best = row["predictions"][0]
    assert label == best["class"]
    assert float(share.rstrip("%)")) == pytest.approx(100 * best["probability"], abs=2.0 if name == "openvino" else 0.6)
