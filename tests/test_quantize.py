"""int8: every format's own tool makes a smaller model that takes and returns the same, measured before it is kept."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finetuned, MakeDataset, MakeRun, RunCli
from numpy.typing import NDArray
from test_export import ANSWER

from resnet_cli.data.contents import contents
from resnet_cli.data.decode import decode_square, run_geometry
from resnet_cli.engines.openvino import OpenVinoEngine, convert, save
from resnet_cli.export import export as quantize
from resnet_cli.export import quantizers
from resnet_cli.export.parity import Both, answer_both
from resnet_cli.runs.folder import load_run, read_splits, write_splits

FORMATS = ("openvino", "onnx", "tflite")


def types_openvino(path: Path) -> list[str]:
    import openvino

    operations = openvino.Core().read_model(path).get_ops()
    return [each.get_element_type().get_type_name() for each in operations if each.get_type_name() == "Constant"]


def types_onnx(path: Path) -> list[str]:
    import onnx

    return [onnx.TensorProto.DataType.Name(each.data_type).lower() for each in onnx.load(path).graph.initializer]


def types_tflite(path: Path) -> list[str]:
    from ai_edge_litert.interpreter import Interpreter

    return [np.dtype(each["dtype"]).name for each in Interpreter(str(path)).get_tensor_details()]


TYPES: dict[str, Callable[[Path], list[str]]] = {"openvino": types_openvino, "onnx": types_onnx, "tflite": types_tflite}


def held_out(run: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images that a run held out, and their classes."""
    loaded = load_run(run)
    rows = [row for row in read_splits(loaded) if row.split == "val"]
    pixels = [decode_square(loaded.data / row.path, run_geometry(loaded)) for row in rows]
    return np.stack(pixels), np.array([loaded.classes.index(row.label) for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_an_int8_export_is_smaller_takes_and_returns_the_same_and_is_measured(
    name: str, finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path
) -> None:
    # Forced: on so few images two more mistakes are a drop of more than a point.
    held = finetuned_run.held
    options = ("--format", name, "--quantize", "int8", "--run", finetuned_run.folder, "--output", tmp_path / "out", "--force")
    result = run_cli("export", *options, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    images, labels = held_out(finetuned_run.folder)
    got = ANSWER[name](Path(document["model"]), images)
    assert got.dtype == np.float32 and got.shape == (held, 7)
    np.testing.assert_allclose(got.sum(1), 1, atol=0.02)
    figures, parity = document["int8"], document["parity"]
    before, after = figures["before"], figures["after"]
    assert (figures["calibration_pictures"], figures["split"], figures["count"]) == (finetuned_run.trained, "val", held)
    assert before["correct"] == pytest.approx(held * finetuned_run.result["val"]["top1"], abs=1)
    assert after["correct"] == pytest.approx((got.argmax(1) == labels).sum(), abs=1)
    assert after["top1"] == pytest.approx(after["correct"] / held)
    assert (parity["pictures"], parity["source"]) == (held, "held-out images")
    # Two of the seven classes look alike: which of them is named is a coin toss, but no probability is far off.
    exact = OpenVinoEngine(finetuned_run.folder / "model.xml", "many", exact=True).run(images)[0]
    assert parity["top1_agreement"] == pytest.approx((got.argmax(1) == exact.argmax(1)).mean(), abs=0.05)
    assert np.abs(got - exact).mean() < 0.04
    # OpenVINO's float weights take 2 bytes, the others' 4.
    assert after["bytes"] < (0.65 if name == "openvino" else 0.35) * before["bytes"]
    assert document["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    lost = before["correct"] - after["correct"]
    assert figures["drop"] == {"points": pytest.approx(100 * lost / held), "images": lost}
    assert figures["max_drop"] == {"points": 1, "images": 1}
    few = few_images(held)
    more = f"int8 loses {in_images(lost, held)}, more than {in_images(1, held)}"
    forced = f"{more}: kept because of --force"
    assert document["warnings"] == figures["notes"] == ([few, forced] if lost > 1 else [few])
    assert result.stderr == "".join(f"warning: {warning}\n" for warning in document["warnings"])
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    section = page[page.index("\n`export`: ") : page.index("\n`check`\n")]
    fields = {*document, *parity, *figures, *before}
    assert [name for name in sorted(fields) if f'"{name}"' not in section and f"`{name}`" not in section] == []
    assert min(before["pictures_per_second"], after["pictures_per_second"]) > 0
    assert sum(kind in ("i8", "int8") for kind in TYPES[name](Path(document["model"]))) >= 20  # convolutions of 18 layers


@pytest.mark.slow
def test_predict_and_evaluate_take_an_openvino_export_wherever_it_is(
    finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, data = shutil.copytree(finetuned_run.folder, tmp_path / "run"), finetuned_run.data
    held, trained = finetuned_run.held, finetuned_run.trained
    result = run_cli("export", "--format", "openvino", "--quantize", "int8", "--run", run, "--force")
    folder = run / "export" / "openvino-int8"
    assert result.exit_code == 0, result.stderr
    assert str(folder / "model.xml") in result.stdout and f"calibrated on {trained} training images" in result.stdout
    assert f"--max-drop 1 allows {in_images(1, held)}" in result.stdout
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    document = json.loads(run_cli("evaluate", data, "--run", folder, "--json").stdout)
    assert (document["run"], document["split"], document["count"]) == (str(folder), "all", held)
    assert f"{round(held * document['top1'])} of {held}" in result.stdout.replace("  ", " ")
    # What is handed on stays as it was; figures are kept beside, and none replaces others.
    assert document["output"] == "runs/openvino-int8-fruit-all"
    page = (tmp_path / "runs" / "openvino-int8-fruit-all" / "report.html").read_text(encoding="utf-8")
    assert "exported as openvino in int8" in page and "<td>fruit</td>" in page and "command" not in page
    again, second = json.loads(run_cli("evaluate", data, "--run", folder, "--json").stdout), "runs/openvino-int8-fruit-all-2"
    assert again == {**document, "output": second, "report": f"{second}/report.html"}
    inside = run_cli("evaluate", data, "--run", folder, "--output", folder / "figures")
    assert (inside.exit_code, inside.stdout) == (1, "")
    assert f"{folder / 'figures'} lies in the export {folder}, which stays as it is\n" in inside.stderr
    monkeypatch.chdir(folder)
    assert "lies in the export ., which stays as it is\n" in run_cli("evaluate", data, "--run", ".").stderr
    monkeypatch.chdir(tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    together = json.loads(run_cli("evaluate", "--run", run, "--run", folder, "--output", tmp_path / "both", "--json").stdout)
    assert together["runs"] == [str(run), str(folder)]
    assert run_cli("export", "--format", "openvino", "--run", run, "--output", folder, "--force").exit_code == 0
    moved = folder.rename(tmp_path / "moved")
    shutil.rmtree(run)
    images, _ = held_out(finetuned_run.folder)
    first = next(row.path for row in read_splits(load_run(finetuned_run.folder)) if row.split == "val")
    (row,) = json.loads(run_cli("predict", finetuned_run.data / first, "--run", moved, "--json").stdout)
    best = row["predictions"][0]
    expected = ANSWER["openvino"](moved / "model.xml", images[:1])[0]
    assert (moved / "labels.txt").read_text().splitlines().index(best["class"]) == expected.argmax()
    assert best["probability"] == pytest.approx(expected.max(), abs=0.02)
    # It does not know where its images are, but which ones it was trained on.
    lost = run_cli("evaluate", "--run", moved)
    assert (lost.exit_code, lost.stdout) == (1, "")
    assert lost.stderr == (
        f"evaluating {moved}\n"
        f"error: the export {moved} does not record where its images are\n"
        "hint: give a folder of images: resnet evaluate FOLDER\n"
    )
    document = json.loads(run_cli("evaluate", data, "--run", moved, "--json").stdout)
    assert document["count"] == held
    assert f"{trained} images that the run was trained on are not scored" in document["warnings"]
    (moved / "splits.csv").unlink()
    refused = run_cli("evaluate", data, "--run", moved)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"error: {moved / 'splits.csv'} cannot be read" in refused.stderr and "export the run again" in refused.stderr
    assert f"error: {moved} is an export, not a run" in run_cli("export", "--format", "onnx", "--run", moved).stderr


def answering_worse(monkeypatch: pytest.MonkeyPatch, mistakes: int) -> None:
    """int8 answers as the float model does, but for so many images that the float model has right and it has not."""

    def unchanged(subject: Any, exact: Path, images: Any, path: Path) -> None:
        save(convert(subject.network), path)

    def spoilt(answers: Any, samples: Any, geometry: Any) -> Both:
        both = answer_both(answers, samples, geometry)
        return replace(both, correct=(both.correct[0], both.correct[0] - mistakes))

    monkeypatch.setitem(quantizers.QUANTIZERS, "openvino", replace(quantizers.QUANTIZERS["openvino"], write=unchanged))
    monkeypatch.setattr(quantize, "answer_both", spoilt)


def in_images(lost: int, count: int) -> str:
    return f"{lost} of {count} images ({100 * lost / count:.1f} points)"


def few_images(count: int) -> str:
    words = f"only {count} images are held out, so one is {100 / count:.1f} points"
    return f"{words}: too few to see a loss of 1 point, and int8 may lose one"


INT8 = ("--format", "openvino", "--quantize", "int8")


@pytest.mark.parametrize(
    ("points", "count", "images"),
    # Of 40, one image is 2.5 points; whole images are rounded down; a bound of 0 allows none.
    [(1, 40, 1), (2.5, 40, 1), (4.9, 40, 1), (5, 40, 2), (1, 300, 3), (1, 399, 3), (0.5, 2000, 10), (0, 40, 0), (100, 40, 40)],
)
def test_the_bound_of_int8_is_whole_images_and_at_least_one(points: float, count: int, images: int) -> None:
    assert quantize.allowed_loss(points, count) == images


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "options", "allowed", "kept"),
    [
        (1, (), 1, True),
        (2, (), 1, False),
        (2, ("--max-drop", 5), 2, True),
        (3, ("--max-drop", 5), 2, False),
        (0, ("--max-drop", 0), 0, True),
        (1, ("--max-drop", 0), 0, False),
        (-2, ("--max-drop", 0), 0, True),
    ],
)
def test_one_lost_image_of_forty_is_no_failure_and_a_failure_says_images_and_points(
    lost: int,
    options: tuple[object, ...],
    allowed: int,
    kept: bool,
    finetuned_run: Finetuned,
    run_cli: RunCli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = finetuned_run.held
    answering_worse(monkeypatch, lost)
    result = run_cli("export", *INT8, *options, "--run", finetuned_run.folder, "--output", tmp_path / "out", "--json")
    if kept:
        assert result.exit_code == 0, result.stderr
        figures = json.loads(result.stdout)["int8"]
        assert figures["drop"] == {"points": pytest.approx(100 * lost / held), "images": lost}
        assert figures["max_drop"] == {"points": options[1] if options else 1, "images": allowed}
        return
    assert (result.exit_code, result.stdout) == (1, "")
    error, hint = result.stderr.splitlines()
    right = int(error.rpartition(" ")[2])
    # Two classes look alike: which of them is named is a coin toss.
    assert right == pytest.approx(held * finetuned_run.result["val"]["top1"], abs=1)
    assert error == (
        f"error: int8 loses {in_images(lost, held)}, more than --max-drop"
        f" {options[1] if options else 1} allows, which is {in_images(allowed, held)}: it has"
        f" {right - lost} of {held} held-out images right, the float export {right}"
    )
    assert hint == ("hint: nothing was kept; export without --quantize, raise --max-drop, or keep it anyway with --force")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_held_out_images_that_changed_or_are_damaged_are_in_no_figure_of_int8(
    make_run: MakeRun, make_dataset: MakeDataset, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_dataset(tmp_path / "data", count=12)
    run = make_run(tmp_path / "run", data, arch="resnet8")
    rows = read_splits(load_run(run))
    (damaged, *_, last) = (row for row in rows if row.split == "val")
    # As it was when the run was trained, and named there.
    (data / damaged.path).write_bytes(b"no image")
    known = replace(damaged, content=contents([data / damaged.path])[0])
    write_splits(run, [known if row == damaged else row for row in rows])
    changed = data / last.path
    changed.write_bytes(changed.read_bytes() + b"more")
    answering_worse(monkeypatch, 0)
    result = run_cli("export", *INT8, "--run", run, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["int8"]["count"] == sum(row.split == "val" for row in rows) - 2
    assert document["warnings"][:2] == [
        f"held-out images that have changed since training are left out (1): {changed}",
        "held-out images that cannot be read are left out (1)",
    ]


@pytest.mark.slow
def test_what_loses_more_than_it_may_is_refused_unless_forced(
    finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(subject: Any, exact: Path, images: Any, path: Path) -> None:
        """The classifier with its classes in another order."""
        import keras

        model = subject.network
        save(convert(keras.Model(model.input, keras.ops.roll(model.output["probabilities"], 1, axis=1))), path)

    monkeypatch.setitem(quantizers.QUANTIZERS, "openvino", replace(quantizers.QUANTIZERS["openvino"], write=worse))
    held = finetuned_run.held
    options = (*INT8, "--run", finetuned_run.folder, "--output", tmp_path / "new" / "out")
    refused = run_cli("export", *options, "--quiet")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: int8 loses ") and ", more than --max-drop 1 allows, which is" in refused.stderr
    assert list(tmp_path.iterdir()) == []
    kept = run_cli("export", *options, "--force", "--quiet")
    assert kept.exit_code == 0
    few, forced = kept.stderr.splitlines()
    assert few == f"warning: {few_images(held)}"
    assert forced.startswith("warning: int8 loses ") and forced.endswith(
        f" points), more than {in_images(1, held)}: kept because of --force"
    )
    assert "warning" not in kept.stdout and "note:" not in kept.stdout
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == [
        "README.md",
        "classify.py",
        "export.json",
        "labels.txt",
        "model.bin",
        "model.xml",
        "splits.csv",
    ]


# --- wrong use ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["savedmodel", "keras"])
def test_a_bound_without_int8_is_a_usage_error(name: str, run_cli: RunCli) -> None:
    result = run_cli("export", "--format", name, "--max-drop", "2")
    assert result.exit_code == 2 and "--max-drop is the bound of int8" in result.stderr


@pytest.mark.parametrize("name", ["savedmodel", "keras"])
def test_a_format_without_int8_is_a_usage_error_that_names_those_with_it(name: str, run_cli: RunCli) -> None:
    result = run_cli("export", "--format", name, "--quantize", "int8")
    assert result.exit_code == 2
    assert f"--quantize int8 goes with --format openvino, onnx, tflite, not with {name}" in result.stderr


@pytest.mark.parametrize(("name", "package"), [("openvino", "nncf"), ("onnx", "onnxruntime")])
def test_a_missing_tool_is_named_with_the_command_that_installs_it(
    name: str, package: str, finetuned_run: Finetuned, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = run_cli("export", "--format", name, "--quantize", "int8", "--run", finetuned_run.folder)
    assert result.exit_code == 1
    error, hint = result.stderr.splitlines()
    assert error.startswith(f"error: --format {name} ") and error.endswith(f"needs {package}")
    assert hint == "hint: pip install 'resnet-cli[export]'"


def test_without_the_images_there_is_no_int8(make_run: MakeRun, sample_data: Path, run_cli: RunCli, tmp_path: Path) -> None:
    data = shutil.copytree(sample_data, tmp_path / "data")
    folder = make_run(tmp_path / "run", data, arch="resnet8")
    trained = [row for row in read_splits(load_run(folder)) if row.split == "train"]
    for row in trained:
        (data / row.path).unlink()
    options = ("--format", "openvino", "--quantize", "int8", "--run", folder)
    result = run_cli("export", *options, "--quiet")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: none of the {len(trained)} training images of {data} can be read\n")
    shutil.rmtree(data)
    result = run_cli("export", *options, "--quiet")
    assert f"{80 - len(trained)} of {80 - len(trained)} held-out images are no longer there" in result.stderr.splitlines()[0]
    assert result.stderr.splitlines()[1].startswith("hint: put the data set back: int8 is measured on")
    assert not (folder / "export").exists()


def test_an_export_without_its_record_is_one_sentence(finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    (tmp_path / "labels.txt").touch()
    image = next(finetuned_run.data.rglob("*.png"))
    result = run_cli("predict", image, "--run", tmp_path)
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: {tmp_path} has no export.json, which names the classes of {tmp_path.name} and how images are prepared\n"
        "hint: copy export.json there, and splits.csv for `evaluate`; or export the run again\n"
    )
