"""Held-out images whose features are stored are measured by the head alone, which gives the figures of the whole network."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeDataset, MakeRun, RunCli
from numpy.typing import NDArray

from resnet_cli.data.decode import Geometry, decode_square
from resnet_cli.engines.frozen import engine_for
from resnet_cli.engines.openvino import OpenVinoEngine
from resnet_cli.inference.classify import Member
from resnet_cli.inference.scoring import classify_pooled
from resnet_cli.networks.classifier import feature_model


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every CPU computes as one without bf16, whose 8 bits round parts and whole up to 0.01 apart."""
    exact, *others = OpenVinoEngine.__init__.__defaults__ or ()
    assert exact is False
    monkeypatch.setattr(OpenVinoEngine.__init__, "__defaults__", (True, *others))


def probabilities(run: Path) -> dict[str, float]:
    with (run / "predictions.csv").open(newline="") as file:
        return {row["path"]: float(row["probability"]) for row in csv.DictReader(file)}


@pytest.mark.slow
def test_a_head_alone_is_measured_from_features_and_evaluate_finds_the_same(
    sample_data: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    options = ["--weights", "bundled", "--set", "views=2", "--image-size", "64", "--val-split", "0.5", "--unfreeze", "none"]
    run = tmp_path / "run"
    result = run_cli("finetune", sample_data, *options, "--output", run)
    assert result.exit_code == 0, result.stderr
    assert "on stored features" in result.stderr
    assert "on stored features" in (run / "report.html").read_text()
    from_features = probabilities(run)
    measured = json.loads((run / "run.json").read_text())["results"]["val"]
    assert len(from_features) == measured["count"] > 32
    whole = json.loads(run_cli("evaluate", "--run", run, "--json").stdout)
    assert "on stored features" not in (run / "report.html").read_text()
    assert [whole[name] for name in ("count", "top1", "confusion")] == [
        measured[name] for name in ("count", "top1", "confusion")
    ]
    assert probabilities(run) == pytest.approx(from_features, abs=1e-3)


@pytest.mark.slow
def test_features_of_other_images_are_not_trusted(make_dataset: MakeDataset, make_run: MakeRun, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "fruit")
    run = make_run(tmp_path / "run", data)
    paths = sorted(data.glob("*/*.png"))
    model = run / "model.xml"
    member = Member(OpenVinoEngine(model, "many"), Geometry(32))
    features = pooled_features(run, paths)
    results = classify_pooled(model, iter([features[:20], features[20:]]), paths, member)
    assert results is not None and [each.image for each in results] == paths
    (whole,) = member.engine.run(np.stack([decode_square(path, member.geometry) for path in paths]))
    assert np.abs(np.stack([each.probabilities for each in results if each.probabilities is not None]) - whole).max() < 1e-3
    assert classify_pooled(model, iter([features[::-1]]), paths, member) is None
    # So few that all of them would go through the whole network as well.
    assert classify_pooled(model, iter([features[:32]]), paths[:32], member) is None


@pytest.mark.slow
def test_images_near_a_tie_are_answered_by_the_whole_network(
    make_dataset: MakeDataset, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_dataset(tmp_path / "fruit", count=40)
    run = make_run(tmp_path / "run", data)
    paths = sorted(data.glob("*/*.png"))
    member = Member(OpenVinoEngine(run / "model.xml", "many"), Geometry(32))
    (whole,) = member.engine.run(np.stack([decode_square(path, member.geometry) for path in paths]))
    best = np.sort(whole, axis=1)
    margin = best[:, -1] - best[:, -2]
    monkeypatch.setattr("resnet_cli.inference.scoring.NEAR", float(np.median(margin)) / 2)
    nearly = pooled_features(run, paths) * np.float32(1.001)  # no longer the features of these images, to the last digit
    results = classify_pooled(run / "model.xml", iter([nearly]), paths, member)
    assert results is not None
    exact = np.array([np.array_equal(each.probabilities, row) for each, row in zip(results, whole, strict=True)])
    assert exact[margin < np.median(margin) * 0.99].all()
    assert not exact.all()


def pooled_features(run: Path, paths: list[Path]) -> NDArray[np.float32]:
    """What the run's backbone gives for images, by OpenVINO: float32 (N, D)."""
    from resnet_cli.engines.frozen import read_classifier
    from resnet_cli.networks.catalogue import spec_from_record

    record = json.loads((run / "run.json").read_text())
    classifier = read_classifier(run / "model.weights.h5", spec_from_record(record))
    engine = engine_for(feature_model(classifier), "openvino")
    return engine.run(np.stack([decode_square(path, Geometry(32)) for path in paths]))[0]
