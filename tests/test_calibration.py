"""Probabilities are calibrated: the temperature is the one with the lowest loss, and is in every file of a run."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Finetuned
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from resnet_cli.data.decode import decode_square, run_geometry
from resnet_cli.engines.frozen import read_classifier
from resnet_cli.engines.openvino import OpenVinoEngine
from resnet_cli.inference.calibration import coverage, fit_temperature, tempered, threshold_for
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
