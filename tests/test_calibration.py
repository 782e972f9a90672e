"""Probabilities are calibrated: the temperature is the one with the lowest loss, and is in every file of a run."""

import csv
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Finetuned, MakeDataset, RunCli
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from resnet_cli.cli import console
from resnet_cli.data.decode import decode_square, run_geometry
from resnet_cli.engines.frozen import read_classifier
from resnet_cli.engines.openvino import OpenVinoEngine
from resnet_cli.inference.calibration import coverage, fit_temperature, suggested_threshold, tempered, threshold_for
from resnet_cli.inference.metrics import measure
from resnet_cli.networks.catalogue import spec_from_record
from resnet_cli.runs.folder import load_run


def drawn(count: int, temperature: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits, and classes drawn with the probabilities softmax(logits / temperature)."""
    generator = np.random.default_rng(0)
    logits = 3 * generator.normal(size=(count, 4))
    chances = softmax(logits / temperature, axis=1)
    return logits, np.array([generator.choice(4, p=row) for row in chances])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_is_that_of_maximum_likelihood(temperature: float) -> None:
    logits, labels = drawn(20_000, temperature)
    found = fit_temperature(softmax(logits, axis=1).astype(np.float32), labels)
    # By search over a grid.
    grid = np.linspace(0.3, 3.5, 641)
    likelihood = [log_softmax(logits / t, axis=1)[np.arange(len(labels)), labels].sum() for t in grid]
    assert found == pytest.approx(grid[np.argmax(likelihood)], abs=0.006)
    assert found == pytest.approx(temperature, rel=0.03)


def test_tempered_probabilities_are_those_of_divided_logits() -> None:
    logits, _ = drawn(100, 1.0)
    before = softmax(logits, axis=1).astype(np.float32)
    np.testing.assert_allclose(tempered(before, 1.7), softmax(logits / 1.7, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(tempered(before, 0.3).argmax(1), before.argmax(1))


def test_ten_images_that_are_all_right_do_not_make_a_network_certain() -> None:
    probabilities = np.full((10, 2), [0.7, 0.3], np.float32)
    found = tempered(probabilities, fit_temperature(probabilities, np.zeros(10, np.int64)))
    assert 0.8 < found[0, 0] < 0.95


def test_a_run_is_calibrated_in_its_weights_and_in_its_openvino_model(finetuned_run: Finetuned) -> None:
    run = load_run(finetuned_run.folder)
    fitted = run.record["calibration"]
    assert fitted["images"] == finetuned_run.held and fitted["loss_after"] <= fitted["loss_before"]
    assert fitted["loss_after"] == pytest.approx(finetuned_run.result["val"]["loss"])
    assert fitted["ece_after"] == pytest.approx(finetuned_run.result["val"]["ece"])
    held = [line.split(",") for line in (run.folder / "predictions.csv").read_text().splitlines()[1:]]
    squares = np.stack([decode_square(Path(line[0]), run_geometry(run)) for line in held])
    labels = np.array([run.classes.index(line[1]) for line in held])
    answers = {
        "openvino": OpenVinoEngine(run.openvino, "many", exact=True).run(squares)[0],
        "keras": np.asarray(read_classifier(run.weights, spec_from_record(run.record))(squares)),
    }
    for probabilities in answers.values():
        assert measure(probabilities, labels, run.classes).loss == pytest.approx(fitted["loss_after"], abs=0.02)
        # What is calibrated already needs no further temperature, but for the prior.
        again = fit_temperature(probabilities, labels)
        assert abs(np.log(again)) < abs(np.log(fitted["temperature"])) + 0.05
    report = (run.folder / "report.html").read_text(encoding="utf-8")
    assert f"{fitted['temperature']:.3f}, fitted on {finetuned_run.held} validation images" in " ".join(report.split())
    assert json.loads((run.folder / "run.json").read_text())["calibration"] == fitted


def test_coverage_counts_the_images_above_each_threshold() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55], [0.6, 0.4]], np.float32)
    points = coverage(probabilities, np.array([0, 1, 1, 1, 0]))
    assert [(round(each.threshold, 2), each.answered, each.accuracy) for each in points] == [
        (0.55, 1.0, 0.8),
        (0.6, 0.8, 0.75),
        (0.8, 0.4, 1.0),
        (0.9, 0.2, 1.0),
    ]
    best = threshold_for(0.9, points)
    assert best is not None and best.answered == 0.4
    assert threshold_for(0.9, coverage(probabilities, np.array([1, 1, 0, 1, 0]))) is None


@pytest.mark.parametrize(("wanted", "images"), [(0.9, 10), (0.95, 20), (0.99, 100)])
def test_an_accuracy_is_suggested_only_on_so_many_images_that_one_mistake_would_not_miss_it(wanted: float, images: int) -> None:
    for count in (images - 1, images):
        probabilities = np.full((2 * count, 2), [0.9, 0.1], np.float32)
        probabilities[count:] = [0.6, 0.4]
        labels = np.repeat([0, 1], count)  # the certain half is right, the other one wrong
        found = suggested_threshold(wanted, coverage(probabilities, labels), 2 * count)
        assert found == (None if count < images else pytest.approx(0.9))


def test_a_validation_image_or_a_missing_class_is_enough_for_a_temperature() -> None:
    probabilities = softmax(drawn(1, 1.0)[0], axis=1).astype(np.float32)
    assert 0.4 < fit_temperature(probabilities, np.array([0])) < 2.5
    logits, labels = drawn(4000, 2.0)
    seen = labels != 3
    found = fit_temperature(softmax(logits[seen], axis=1).astype(np.float32), labels[seen])
    assert found == pytest.approx(2.0, rel=0.1)
    figures = measure(softmax(logits[seen] / found, axis=1).astype(np.float32), labels[seen], ("a", "b", "c", "d"))
    assert figures.classes[3].count == 0 and figures.ece < 0.05


def evaluated(run_cli: RunCli, *words: object) -> dict[str, Any]:
    result = run_cli("evaluate", *words, "--json", "--no-report")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def answers(path: Path) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probabilities of a predictions.csv, and which are right."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array([float(row["probability"]) for row in rows]), np.array([row["true"] == row["predicted"] for row in rows])


def test_thresholds_are_fitted_on_validation_images(finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path) -> None:
    run = shutil.copytree(finetuned_run.folder, tmp_path / "run")
    fitted = json.loads((run / "run.json").read_text())["calibration"]
    assert (fitted["split"], [each["accuracy"] for each in fitted["thresholds"]]) == ("val", [0.9, 0.95, 0.99])
    confidence, right = answers(run / "predictions.csv")
    for each in fitted["thresholds"]:
        # The lowest of all probabilities above which so many answers are right.
        enough = [at for at in np.sort(confidence) if right[confidence >= at].mean() >= each["accuracy"]]
        count = int((confidence >= enough[0]).sum()) if enough else 0
        is_told = count * (1 - each["accuracy"]) >= 1 - 1e-6
        assert each["threshold"] == (pytest.approx(enough[0], abs=2e-6) if is_told else None)
    assert evaluated(run_cli, "--run", run)["coverage"]["suggested"] is None  # of the very images that they were fitted on
    printed = run_cli("evaluate", "--run", run, "--coverage", "--no-report").stdout
    assert "these thresholds were fitted on the images of this table" in printed


def test_thresholds_are_tried_on_the_scored_images(
    finetuned_run: Finetuned, run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, scored = shutil.copytree(finetuned_run.folder, tmp_path / "run"), tmp_path / "scored"
    others = make_dataset(tmp_path / "others", ("apple", "berry", "cherry"), count=8, first=30)
    words = (others, "--run", run, "--output", scored)
    evaluated(run_cli, *words)
    confidence, right = answers(scored / "predictions.csv")
    middle = float(np.median(confidence))
    record = json.loads((run / "run.json").read_text())
    known = [(0.9, middle), (0.95, 1.0), (0.99, None)]
    record["calibration"]["thresholds"] = [{"accuracy": wanted, "threshold": at} for wanted, at in known]
    (run / "run.json").write_text(json.dumps(record))
    told = evaluated(run_cli, *words)["coverage"]["suggested"]
    assert (told["split"], told["images"]) == ("val", finetuned_run.held)
    assert [(each["accuracy"], each["threshold"]) for each in told["thresholds"]] == known
    assert [each["point"] for each in told["thresholds"]][1:] == [None, None]
    point, chosen = told["thresholds"][0]["point"], confidence >= middle
    expected = pytest.approx([chosen.mean(), right[chosen].mean()])
    assert [point["answered"], point["accuracy"]] == expected
    printed = run_cli("evaluate", *words, "--coverage", "--no-report").stdout
    assert f"thresholds fitted on {finetuned_run.held} validation images, and what they do here:\n" in printed
    does = f"which answers {point['answered']:.1%}, {point['accuracy']:.1%} of them right\n"
    assert f"90% right: predict --threshold {middle:.3f}, {does}" in printed
    assert "95% right: predict --threshold 1.000, which answers nothing\n" in printed
    assert "99% right: none, or too few validation images are answered to tell\n" in printed
    monkeypatch.setattr(console.out, "_force_terminal", True)
    monkeypatch.setattr(console.out, "_width", 60)
    in_terminal = run_cli("evaluate", *words, "--coverage", "--no-report").stdout
    assert "99% right: none, or too few validation images are answered\n  to tell\n" in in_terminal
    record["calibration"]["thresholds"][0]["threshold"] = 0.99987  # 1.000 would answer nothing
    (run / "run.json").write_text(json.dumps(record))
    in_terminal = run_cli("evaluate", *words, "--coverage", "--no-report").stdout
    assert "90% right: predict --threshold 0.99987, which" in in_terminal


def test_older_runs_and_ensembles_get_the_thresholds_of_the_scored_images(
    finetuned_run: Finetuned, run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    others = make_dataset(tmp_path / "others", ("apple", "berry"), count=4, first=30)
    older, other = (shutil.copytree(finetuned_run.folder, tmp_path / name) for name in ("older", "other"))
    record = json.loads((older / "run.json").read_text())
    del record["calibration"]["thresholds"], record["calibration"]["split"]
    (older / "run.json").write_text(json.dumps(record))
    for words in (
        ("--run", older),
        ("--run", finetuned_run.folder, "--run", other),
        ("--run", finetuned_run.folder, "--views", 2),
    ):
        found = evaluated(run_cli, others, *words, "--output", tmp_path / "scored")["coverage"]
        assert found["suggested"] is None and found["points"]


QUICK = ("--weights", "bundled", "--unfreeze", "none", "--set", "views=1", "--image-size", "32")


@pytest.mark.slow
def test_a_run_that_is_interrupted_after_its_calibration_is_calibrated_once(
    make_dataset: MakeDataset, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_dataset(tmp_path / "fruit", count=16)
    (data / "train").mkdir()
    for folder in ("apple", "berry", "cherry"):
        (data / folder).rename(data / "train" / folder)
    make_dataset(data / "test", count=4, first=40)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    result = run_cli("finetune", data, *QUICK, "--folds", 3, "--output", whole)
    assert result.exit_code == 0, result.stderr
    fitted = json.loads((whole / "run.json").read_text())["calibration"]
    said = f"calibration error {fitted['ece_before']:.3f} before and {fitted['ece_after']:.3f} after"
    assert f"temperature {fitted['temperature']:.3f}, {said}" in " ".join(result.stderr.split())
    with monkeypatch.context() as patch:
        # The test images are measured last.
        asked = "resnet_cli.cli.reporter.Reporter.stop_signal"
        patch.setattr(asked, lambda self: signal.SIGINT if (stopped / "novelty.npz").exists() else 0)
        assert run_cli("finetune", data, *QUICK, "--folds", 3, "--output", stopped).exit_code == 130
    assert not (stopped / "run.json").exists() and (stopped / "model.xml").exists()
    result = run_cli("finetune", data, *QUICK, "--folds", 3, "--output", stopped, "--resume")
    assert result.exit_code == 0, result.stderr
    assert json.loads((stopped / "run.json").read_text())["calibration"] == fitted
    kernels = []
    for folder in (whole, stopped):
        with h5py.File(folder / "model.weights.h5", "r") as file:
            kernels.append(file["logits/kernel"][()])
    np.testing.assert_array_equal(*kernels)
    assert (whole / "novelty.npz").read_bytes() == (stopped / "novelty.npz").read_bytes()


def test_an_ensemble_averages_the_calibrated_probabilities(finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path) -> None:
    other = shutil.copytree(finetuned_run.folder, tmp_path / "other")
    from resnet_cli.engines.frozen import calibrate

    calibrate(other, 2.0)
    image = next((finetuned_run.data / "apple").iterdir())

    def found(*runs: Path) -> dict[str, float]:
        words = [word for run in runs for word in ("--run", run)]
        (row,) = json.loads(run_cli("predict", image, *words, "--top", 7, "--json").stdout)
        return {each["class"]: each["probability"] for each in row["predictions"]}

    one, two, both = found(finetuned_run.folder), found(other), found(finetuned_run.folder, other)
    cooler = np.array(list(one.values())) ** 0.5
    assert list(two.values()) == pytest.approx(cooler / cooler.sum(), abs=0.01)
    assert both == pytest.approx({name: (one[name] + two[name]) / 2 for name in one}, abs=1e-5)
