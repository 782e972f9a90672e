"""Recipes: what the papers and tutorials prescribe, changed by what was typed, fitted to the clock."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import pytest
from conftest import MakeDataset, RunCli
from PIL import Image
from training_material import network, run

from resnet_cli.data.augment import Augmentation
from resnet_cli.data.dataset import Sample
from resnet_cli.data.decode import Geometry, decode_square, run_geometry
from resnet_cli.data.images import mean_image, read_images, reader_for_training
from resnet_cli.engines.frozen import read_classifier
from resnet_cli.engines.openvino import OpenVinoEngine
from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import find_network, spec_from_record
from resnet_cli.networks.residual import build_backbone
from resnet_cli.networks.weights import load_weights
from resnet_cli.progress import Silent
from resnet_cli.runs.folder import load_run, read_history
from resnet_cli.training.config import TrainConfig, make_config, parse_duration
from resnet_cli.training.optimizers import plateau_scale, rates
from resnet_cli.training.pace import Pace, fit_to_limit
from resnet_cli.training.recipes import parse_drops


def test_the_paper_s_recipe_is_the_paper_s() -> None:
    # He et al. 2015, section 4.2: 64k iterations of 128, divided by 10 at 32k and 48k.
    config = make_config("paper", find_network("resnet20"), {})
    table = rates(config, 64_000)
    assert round(config.epochs * 50_000 / config.batch_size, -3) == 64_000
    np.testing.assert_allclose(table[[0, 31_999, 32_000, 47_999, 48_000, 63_999]], [0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert (config.optimizer, config.momentum, config.nesterov, config.weight_decay) == ("sgd", 0.9, False, 1e-4)
    assert (config.crop, config.flip, config.pixel_mean, config.mixup, config.cutout) == ("pad", True, True, 0, 0)


def test_110_layers_begin_gently() -> None:
    # "we use 0.01 to warm up the training until the training error is below 80% (about 400 iterations)"
    table = rates(make_config("paper", find_network("resnet110"), {}), 64_000)
    np.testing.assert_allclose(table[[0, 399, 400, 31_999, 32_000]], [0.01, 0.01, 0.1, 0.1, 0.01])
    # Section 3.4 knows of no such beginning for ImageNet.
    assert make_config("paper", find_network("resnet152"), {}) == make_config("paper", find_network("resnet18"), {})


def test_the_recipe_of_keras_is_its_example_s() -> None:
    config = make_config("keras", find_network("resnet20"), {})
    assert (config.optimizer, config.batch_size, config.epochs) == ("adam", 32, 200)
    table = rates(config, 200)  # one step an epoch
    # Its function is called with the epoch from 0 and compares with ">".
    for epoch, factor in ((0, 1), (79, 1), (81, 0.1), (121, 0.01), (161, 0.001), (181, 0.5e-3), (199, 0.5e-3)):
        assert table[epoch] == pytest.approx(1e-3 * factor), epoch
    assert (config.crop, config.flip, config.shift, config.pixel_mean) == ("none", True, 0.1, True)


def test_a_plateau_lowers_the_rate_as_keras_own_callback_does() -> None:
    losses = [2.0, 1.5, 1.6, 1.55, 1.5, 1.52, 1.5, 1.4, 1.41, 1.41, 1.41, 1.41, 1.41, 1.41, 1.3, *[1.35] * 100]
    factor = float(np.sqrt(0.1))
    model = network()
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    callback = keras.callbacks.ReduceLROnPlateau(factor=factor, cooldown=0, patience=5, min_lr=0.5e-6)
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {"val_loss": loss})
        scale = plateau_scale(losses[: epoch + 1], factor)
        assert 1e-3 * scale == pytest.approx(float(model.optimizer.learning_rate), rel=1e-4), epoch


def test_training_follows_a_plateau(tmp_path: Path) -> None:
    # A rate of 0 learns nothing: the loss stays, and the scale alone moves what is recorded.
    config = TrainConfig(epochs=8, learning_rate=1e-12, schedule="constant", warmup=0.0, plateau=0.1)
    _, result = run(tmp_path, config)
    scales = [record.learning_rate / 1e-12 for record in result.history]
    assert scales == pytest.approx([1, 1, 1, 1, 1, 1, 0.1, 0.1], rel=1e-3)


def test_a_plateau_and_the_drops_of_a_schedule_do_not_multiply(tmp_path: Path) -> None:
    config = TrainConfig(
        epochs=12, learning_rate=1e-12, schedule="steps", warmup=0.0, drops=((0.5, 0.1), (0.75, 0.01)), plateau=0.1
    )
    _, result = run(tmp_path, config)
    # What an epoch was trained with: the drops come after 6 and 9 epochs, the plateau is told after 6 and 11.
    shares = [record.learning_rate / 1e-12 for record in result.history]
    assert shares == pytest.approx([1] * 6 + [0.1] * 3 + [0.01] * 3, rel=1e-3)


def test_show_prints_a_recipe_with_its_changes_and_trains_nothing(run_cli: RunCli, tmp_path: Path) -> None:
    result = run_cli("train", "--recipe", "paper", "--arch", "resnet110", "--epochs", 10, "--show")
    assert result.exit_code == 0, result.stderr
    rows = result.stdout.splitlines()
    assert "epochs = 10  # changed from 164" in rows and "weight_decay = 0.0001" in rows
    assert "drops = [[0.0, 0.1], [0.00625, 1.0], [0.5, 0.1], [0.75, 0.01]]" in rows
    shown = json.loads(run_cli("train", "--recipe", "keras", "--show", "--json").stdout)
    assert (shown["recipe"], shown["optimizer"], shown["batch_size"]) == ("keras", "adam", 32)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--optimizer adam --set momentum=0.8", "momentum contradicts the rest: only the optimizers sgd and muon"),
        ("--recipe keras --set nesterov=true", "nesterov contradicts"),
        ("--set drops=0.5:0.1", "drops contradicts the rest: only schedule steps"),
        ("--set scale=0.5", "scale contradicts the rest: only crop resized"),
        ("--set plateau=0.3", "plateau contradicts the rest"),
        ("--recipe paper --set progressive=true", "progressive contradicts the rest: a mean image has only one size"),
        ("--set progressive=true --set pixel_mean=true", "contradicts the rest: a mean image has only one size"),
        ("--set schedule=steps", "schedule steps needs drops"),
        ("--time-limit soon", "--time-limit soon is not a duration"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: str, said: str, run_cli: RunCli, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_cli("train", tiny_dataset, *options.split())
    assert result.exit_code == 1 and said in result.stderr
    assert not (tmp_path / "runs").exists()


def test_what_cannot_be_typed_together_is_a_usage_error(run_cli: RunCli, tiny_dataset: Path, tmp_path: Path) -> None:
    assert run_cli("train", tiny_dataset, "--time-limit", "5m", "--epochs", 3).exit_code == 2
    recipe = tmp_path / "three.toml"
    recipe.write_text("epochs = 3")
    for command in ("train", "finetune"):
        refused = run_cli(command, tiny_dataset, "--recipe", recipe, "--time-limit", "5m")
        assert refused.exit_code == 2 and "three.toml sets them: leave one out" in " ".join(
            refused.stderr.replace("│", "").split()
        )
    assert run_cli("train", tiny_dataset, "--lr-find", "use", "--learning-rate", 0.1).exit_code == 2
    assert run_cli("train", tiny_dataset, "--lr-find", "plot", "--time-limit", "5m").exit_code == 2
    assert run_cli("train", tiny_dataset, "--lr-find", "plot", "--resume").exit_code == 2
    assert run_cli("train", "--show", "--time-limit", "5m").exit_code == 2
    assert run_cli("train").exit_code == 2


def test_durations_and_drops_are_read() -> None:
    assert [parse_duration(text) for text in ("90s", "30m", "1h", "1h30m", "2H1m5s")] == [90, 1800, 3600, 5400, 7265]
    assert parse_drops("0.5:0.1,0.75:0.01") == ((0.5, 0.1), (0.75, 0.01))
    for text in ("", "0s", "30", "m30"):
        with pytest.raises(ResnetError):
            parse_duration(text)


def test_the_limit_is_filled_with_whole_epochs() -> None:
    pace = Pace(step=0.1, small_step=0.1, validation=1.0)  # 100 steps: 11 s an epoch
    assert fit_to_limit(TrainConfig(), 120, pace, 100).epochs == 10
    # Two thirds of the epochs at half the price, rounded down: 11 + 6 + 6, and again.
    assert fit_to_limit(TrainConfig(), 49, Pace(0.1, 0.05, 1.0), 100).epochs == 6
    # A teacher who is asked in the first two epochs: 100 steps of 0.3 s more in these.
    taught = Pace(0.1, 0.1, 1.0, asking=0.3, asking_epochs=2)
    assert taught.seconds_of(5, 100) == pytest.approx(5 * 11 + 2 * 30)
    assert taught.seconds_of(1, 100) == pytest.approx(11 + 30)
    # Ten seconds until the first steps are under way.
    assert fit_to_limit(TrainConfig(), 120, replace(pace, start=10.0), 100).epochs == 9
    with pytest.raises(ResnetError, match="too short: one epoch takes 12 s here"):
        fit_to_limit(TrainConfig(), 11, pace, 100)
    # Half a minute went by while the pace was measured.
    assert fit_to_limit(TrainConfig(), 120, pace, 100, spent=30.0).epochs == 7
    with pytest.raises(ResnetError, match="too short: one epoch takes 43 s here"):
        fit_to_limit(TrainConfig(), 40, pace, 100, spent=30.0)


@pytest.mark.slow
def test_a_training_within_a_time_limit_anneals_to_the_end(
    run_cli: RunCli, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The pace is that of this machine; of the epochs that would fit into ten minutes, five are enough here.
    monkeypatch.setattr("resnet_cli.jobs.train.fit_to_limit", lambda *given: replace(fit_to_limit(*given), epochs=5))
    output = tmp_path / "run"
    options = ["--arch", "resnet8", "--batch-size", "8", "--time-limit", "10m", "--output"]
    result = run_cli("train", tiny_dataset, *options, output)
    assert result.exit_code == 0, result.stderr
    history = read_history(output / "metrics.jsonl")
    record = json.loads((output / "run.json").read_text())
    assert record["config"]["epochs"] == len(history) == 5
    assert f"{len(history)} epochs fit into the time limit" in result.stderr
    told = rf"^time limit 600 s: {len(history)} epochs planned to end after \d+ s, ended after \d+ s$"
    assert re.search(told, result.stderr, re.MULTILINE), result.stderr
    assert history[-1].learning_rate < 0.1 * max(each.learning_rate for each in history)


@pytest.mark.slow
def test_a_run_that_subtracts_the_mean_image_keeps_it(run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=10)
    output = tmp_path / "run"
    options = ["--arch", "resnet8", "--recipe", "paper", "--epochs", "1", "--batch-size", "8", "--output"]
    result = run_cli("train", data, *options, output)
    assert result.exit_code == 0, result.stderr
    loaded = load_run(output)
    geometry = run_geometry(loaded)
    with (output / "splits.csv").open(newline="") as file:
        trained = [row["path"] for row in csv.DictReader(file) if row["split"] == "train"]
    squares = np.stack([decode_square(data / name, geometry) for name in trained])
    expected = (squares / 255.0).mean(0)
    spec = spec_from_record(loaded.record)
    classifier = read_classifier(loaded.weights, spec)
    np.testing.assert_allclose(classifier.get_layer("pixel_mean").adapt_mean, expected, atol=0.01)
    # By hand: the backbone on scaled pixels minus the mean, pooled, through the head.
    backbone = build_backbone(spec.network, spec.image_size)
    load_weights(backbone, loaded.weights, leave=("logits", "pixel_mean"))
    mean = np.asarray(classifier.get_layer("pixel_mean").adapt_mean)
    pooled = np.asarray(backbone((squares[:4] / 255.0 - mean).astype(np.float32))).mean((1, 2))
    kernel, bias = classifier.get_layer("logits").get_weights()
    logits = pooled @ kernel + bias
    exact = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(np.asarray(classifier(squares[:4])), exact, atol=1e-4)
    # What predict loads carries it too.
    (answers,) = OpenVinoEngine(loaded.openvino, "many", exact=True).run(squares[:4])
    np.testing.assert_allclose(answers, exact, atol=2e-3)


@pytest.mark.parametrize("crop", ["resized", "pad", "none"])
def test_the_mean_image_is_that_of_the_images_as_prediction_sees_them(
    crop: Literal["resized", "pad", "none"], tmp_path: Path
) -> None:
    samples = []
    for number, shade in enumerate((0, 100, 200)):
        samples.append(Sample(tmp_path / f"{number}.png", 0))
        Image.new("RGB", (40 + number, 30), (shade, 0, 255)).save(samples[-1].path)
    geometry = Geometry(16)
    images = read_images(samples, reader_for_training(geometry, Augmentation(crop)), Silent(), "")
    mean = mean_image(images, geometry)
    assert mean.shape == (16, 16, 3)
    np.testing.assert_allclose(mean[..., 0], 100 / 255, atol=1e-6)
    np.testing.assert_allclose(mean[..., 2], 1, atol=1e-6)


def test_another_schedule_leaves_the_recipe_s_own_drops_and_plateau_behind() -> None:
    config = make_config("keras", find_network("resnet20"), {"schedule": "cosine"})
    assert (config.schedule, config.drops, config.plateau) == ("cosine", (), 0.0)
    assert make_config("keras", find_network("resnet20"), {"schedule": "steps"}) == make_config(
        "keras", find_network("resnet20"), {}
    )


@pytest.mark.slow
def test_weights_that_scale_pixels_in_another_way_are_refused_before_any_image_is_read(
    run_cli: RunCli, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mean = tmp_path / "mean"
    small = ("--arch", "resnet8", "--image-size", 16, "--epochs", 1, "--batch-size", 8)
    assert run_cli("train", tiny_dataset, *small, "--recipe", "paper", "--output", mean, "--quiet").exit_code == 0
    refused = {
        ("train", "--arch", "resnet18-slim", "--weights", "bundled", "--recipe", "paper"): "add --set pixel_mean=false",
        ("train", "--arch", "resnet8", "--weights", mean, "--image-size", 24): "use --image-size 16",
        ("train", "--arch", "resnet8", "--weights", mean, "--set", "progressive=true"): "leave progressive out",
        ("train", "--arch", "resnet20", "--weights", mean): "add --arch resnet8",
        ("finetune", "--weights", mean, "--image-size", 24): "use --image-size 16",
    }
    for words, hint in refused.items():
        result = run_cli(words[0], tiny_dataset, *words[1:])
        assert result.exit_code == 1 and f"hint: {hint}" in result.stderr and "Traceback" not in result.stderr, result.stderr
        assert "reading" not in result.stderr
    output = tmp_path / "again"
    taken = run_cli("finetune", tiny_dataset, "--weights", mean, "--unfreeze", "none", "--epochs", 1, "--output", output)
    assert taken.exit_code == 0, taken.stderr
    assert json.loads((output / "run.json").read_text())["image_size"] == 16
