"""`resnet train`: recipes that do what the papers say, and a run that later commands can use."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from conftest import MakeDataset, RunCli
from scipy.special import softmax
from sklearn.metrics import log_loss
from training_material import CLASSES, STEPS, HeldOut, Points, network, run, values

from resnet_cli.errors import ResnetError
from resnet_cli.progress import Silent
from resnet_cli.runs.folder import load_run, read_history
from resnet_cli.training.checkpoints import Stage
from resnet_cli.training.config import TrainConfig
from resnet_cli.training.loop import balanced_weights, train
from resnet_cli.training.optimizers import make_optimizer, rates

CONFIG = TrainConfig(epochs=4, optimizer="adamw", learning_rate=0.03, weight_decay=0.01)


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, [0.1] * 10),
        ("constant", 0.4, [0.025, 0.05, 0.075] + [0.1] * 7),
        ("one-cycle", 0.5, [0.02, 0.04, 0.06, 0.08, 0.1, 0.5 / 6, 0.4 / 6, 0.3 / 6, 0.2 / 6, 0.1 / 6]),
        ("steps", 0.0, [0.1] * 5 + [0.01] * 2 + [0.001] * 3),
        ("steps", 0.2, [0.05] + [0.1] * 4 + [0.01] * 2 + [0.001] * 3),
        ("cosine", 0.2, [0.05, 0.1] + [0.05 * (1 + math.cos(math.pi * i / 9)) for i in range(1, 9)]),
    ],
)
def test_the_rate_of_every_step_is_as_computed_by_hand(schedule: str, warmup: float, expected: list[float]) -> None:
    config = TrainConfig(learning_rate=0.1, schedule=schedule, warmup=warmup, drops=((0.5, 0.1), (0.7, 0.01)))  # type: ignore[arg-type]
    np.testing.assert_allclose(rates(config, 10), expected, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle", "steps", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_every_schedule_reaches_its_peak_and_stays_above_zero(schedule: str, steps: int) -> None:
    table = rates(TrainConfig(schedule=schedule, learning_rate=0.3), steps)  # type: ignore[arg-type]
    assert len(table) == steps
    assert table.max() == pytest.approx(0.3)
    assert table.min() > 0


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_weight_decay_shrinks_kernels_and_nothing_else(optimizer: str) -> None:
    config = TrainConfig(optimizer=optimizer, momentum=0.9, weight_decay=0.01)  # type: ignore[arg-type]
    model = network()
    variables = model.trainable_variables
    for variable in variables:
        variable.assign(np.ones(variable.shape))
    made = make_optimizer(config, np.full(10, 0.1, np.float32), variables)
    made.build(variables)
    made.apply([keras.ops.zeros(variable.shape) for variable in variables])
    assert {variable.name for variable in variables} == {"kernel", "bias", "gamma", "beta"}
    # Nothing pulls but the decay. sgd: the gradient lambda * w, once more times the momentum (Nesterov); adam: a step of the
    # rate's size but for its epsilon of 1e-7, beside a second moment of a thousandth; adamw: rate * lambda.
    adam = 0.1 * 0.01 / (0.01 + 1e-7 / np.sqrt(0.001))
    shrunk = 1 - {"sgd": 0.1 * 0.01 * 1.9, "adam": adam, "adamw": 0.1 * 0.01}[optimizer]
    for variable in variables:
        expected = shrunk if variable.name == "kernel" else 1.0
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), expected, rtol=1e-5, err_msg=variable.path)


def test_the_decay_of_sgd_is_the_papers_l2_penalty() -> None:
    # Reference: momentum SGD with lambda * w added to the gradient (He et al. 2015 in Caffe), no other force on the weight.
    rate, momentum, strength, steps = 0.05, 0.9, 5e-3, 400
    weight, velocity = 1.0, 0.0
    for _ in range(steps):
        gradient = strength * weight
        velocity = momentum * velocity - rate * gradient
        weight += momentum * velocity - rate * gradient  # Nesterov
    kernel = keras.Variable(np.ones(1), name="kernel", dtype="float32")
    config = TrainConfig(optimizer="sgd", momentum=momentum, weight_decay=strength)
    optimizer = make_optimizer(config, np.full(steps, rate, np.float32), [kernel])
    optimizer.build([kernel])
    for _ in range(steps):
        optimizer.apply([keras.ops.zeros((1,))])
    assert float(kernel.value[0]) == pytest.approx(weight, rel=1e-4)


@pytest.mark.parametrize(("optimizer", "nesterov"), [("sgd", False), ("sgd", True), ("adam", False)])
def test_steps_are_those_of_keras_own_optimizers(optimizer: str, nesterov: bool) -> None:
    own = keras.optimizers.SGD(0.05, momentum=0.9, nesterov=nesterov) if optimizer == "sgd" else keras.optimizers.Adam(0.05)
    config = TrainConfig(optimizer=optimizer, nesterov=nesterov, weight_decay=0.0)  # type: ignore[arg-type]
    kernels = [keras.Variable(np.ones((7, 3)), name="kernel", dtype="float32") for _ in range(2)]
    made = make_optimizer(config, np.full(20, 0.05, np.float32), kernels[:1])
    random = np.random.default_rng(0)
    for _ in range(20):
        gradient = random.normal(size=(7, 3)).astype(np.float32)
        made.apply([keras.ops.convert_to_tensor(gradient)], kernels[:1])
        own.apply([keras.ops.convert_to_tensor(gradient)], kernels[1:])
    ours, expected = (keras.ops.convert_to_numpy(kernel) for kernel in kernels)
    assert np.abs(expected - 1).max() > 0.1
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_class_weights_make_every_class_count_alike() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2], np.int64)
    weights = balanced_weights(labels, 4)
    np.testing.assert_allclose(weights, [10 / 24, 10 / 12, 10 / 4, 0])
    assert weights[labels].reshape(-1).sum() == pytest.approx(10 * 3 / 4)


def test_class_weights_weigh_the_loss_of_each_image(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=1, learning_rate=0.0, weight_decay=0.0, class_weights=True)
    model = network()
    stream = Points()
    model.get_layer("dropout").rate = 0.0
    result = train(model, stream, HeldOut(), config, Stage("train", tmp_path, announce=False), Silent())
    weights = balanced_weights(stream.labels, CLASSES)
    losses = []
    fresh = network()
    for step in range(stream.steps_per_epoch):
        points, targets = stream.batch(step)
        # Batch-norm by the statistics of the batch, as in training.
        x = points @ values(fresh)[0]
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
        logits = np.maximum(x, 0) @ values(fresh)[6]
        cross_entropy = np.log(np.exp(logits).sum(1)) - (logits * targets).sum(1)
        losses.append(np.mean(cross_entropy * weights[targets.argmax(1)]))
    assert result.history[0].loss == pytest.approx(np.mean(losses), rel=0.02)


def test_averaged_weights_are_what_is_validated_and_kept(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=1, schedule="constant", warmup=0.0, ema=0.6)
    seen: list[list[np.ndarray]] = []

    class Watching(Points):
        def batches(self, first_step: int = 0):  # type: ignore[no-untyped-def]
            for batch in super().batches(first_step):
                seen.append([np.asarray(variable) for variable in model.trainable_variables])
                yield batch

    model = network()
    result = train(model, Watching(), HeldOut(), config, Stage("train", tmp_path, announce=False), Silent())
    kept = [np.asarray(variable) for variable in model.trainable_variables]
    with np.load(tmp_path / "checkpoint" / "train" / "step-000000005.npz") as archive:
        last = [archive[f"v{place}"] for place in range(len(model.variables))]
    assert not any(np.array_equal(value, other) for value, other in zip(kept, last, strict=False))
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    loss, accuracy = model.evaluate(HeldOut(), verbose=0)
    assert (loss, accuracy) == pytest.approx((result.best.val_loss, result.best.val_accuracy), rel=1e-5)


def test_a_loss_that_is_no_number_stops_with_one_sentence_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    class Poisoned(Points):
        def batch(self, step: int):  # type: ignore[no-untyped-def]
            points, targets = super().batch(step)
            return (points * np.nan if step == 7 else points), targets

    model = network()
    with pytest.raises(ResnetError) as caught:
        train(model, Poisoned(), HeldOut(), CONFIG, Stage("train", tmp_path, announce=False), Silent())
    assert "the loss is no longer a number at step 8" in caught.value.message
    assert "--learning-rate 0.003" in caught.value.hint
    (checkpoint,) = (tmp_path / "checkpoint" / "train").glob("step-*.npz")
    assert checkpoint.name == "step-000000005.npz"
    with np.load(checkpoint) as archive:
        assert all(np.isfinite(archive[name]).all() for name in archive.files)


def test_a_network_that_is_lost_in_the_last_step_of_an_epoch_is_not_kept(tmp_path: Path) -> None:
    # The loss of a step is that before it moves the weights: of the last one only the held-out images tell.
    last_alone = ((0.0, 1e-40), (0.8, 1.0))
    config = replace(CONFIG, epochs=1, optimizer="sgd", learning_rate=1e38, schedule="steps", drops=last_alone, warmup=0.0)
    with pytest.raises(ResnetError, match=f"the loss is no longer a number at step {STEPS}:"):
        run(tmp_path, config)
    assert not (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_training_stops_when_it_no_longer_gains_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    model, result = run(tmp_path, replace(CONFIG, epochs=50, patience=3))
    accuracies = [record.val_accuracy for record in result.history]
    losses = [record.val_loss for record in result.history]
    last_gain = 1 + max(accuracies.index(max(accuracies)), losses.index(min(losses)))
    assert len(accuracies) == last_gain + 3 < 50
    assert result.best.val_accuracy == max(accuracies)
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    assert model.evaluate(HeldOut(), verbose=0) == pytest.approx([result.best.val_loss, result.best.val_accuracy], rel=1e-5)


@pytest.mark.parametrize("options", [{"label_smoothing": 0.2}, {"class_weights": True}, {"ema": 0.5, "label_smoothing": 0.1}])
def test_the_validation_loss_is_plain_cross_entropy_whatever_the_training_loss(options: dict[str, Any], tmp_path: Path) -> None:
    model, result = run(tmp_path, replace(CONFIG, **options))
    points, targets = (np.concatenate(parts) for parts in zip(*(HeldOut()[index] for index in range(2)), strict=True))
    probabilities = softmax(np.asarray(model(points, training=False), np.float64), axis=1)
    assert result.best.val_loss == pytest.approx(log_loss(targets.argmax(1), probabilities), rel=1e-5)


def test_progressive_training_sees_small_images_first_and_knows_the_size_of_each(tmp_path: Path) -> None:
    sides: list[int | None] = []

    class Seen(keras.layers.Layer):  # type: ignore[misc]
        def call(self, images: Any) -> Any:
            sides.append(images.shape[1])
            return images

    class Squares(Points):
        def batch(self, step: int) -> tuple[Any, Any]:
            points, targets = super().batch(step)
            return np.zeros((len(points), 4 if self.seed else 8, 4, 3), np.float32), targets

    class Large(HeldOut):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            return Squares().batch(index)

    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling2D()(Seen()(inputs))))
    sides.clear()
    config = TrainConfig(epochs=3, progressive=True)
    train(model, Squares(), Large(), config, Stage("train", tmp_path), Silent(), small=Squares(seed=1))
    # Training, and measuring once; a size that a graph does not know (None) would be slower.
    assert sides == [4, 8, 8]


@pytest.mark.slow
def test_train_writes_a_run_with_the_whole_recipe(run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "fruit", tuple("abcdef"), count=10)
    recipe = (
        "--arch resnet8 --epochs 2 --batch-size 16 --optimizer sgd --set schedule=one-cycle --set warmup=0.3"
        " --set label_smoothing=0.1 --set ema=0.1 --set mixup=0.2 --set cutout=0.3 --set rotate=10 --set shift=0.1"
        " --set crop=pad --set progressive=true --set class_weights=true --set dropout=0.1"
    )
    output = tmp_path / "run"
    result = run_cli("train", data, *recipe.split(), "--shortcut", "B", "--json", "--output", output)
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert {"run", "arch", "weights", "epochs", "seconds", "val", "best_epoch"} <= figures.keys()
    assert (figures["arch"], figures["weights"], figures["epochs"]) == ("resnet8", "none", 2)
    low, high = figures["val"]["top1_interval"]
    count = figures["val"]["count"]
    assert 6 <= count <= 12 and 0 <= low <= figures["val"]["top1"] <= high <= 1
    names = {"run.json", "splits.csv", "model.weights.h5", "model.xml", "model.bin", "metrics.jsonl", "curves.png"}
    names |= {"metrics.csv", "novelty.npz", "predictions.csv", "confusion.csv", "report.html"}
    assert {path.name for path in output.iterdir()} == names
    record = json.loads((output / "run.json").read_text())
    assert record["format"] == 1 and record["network"]["shortcut"] == "B"
    wanted = {"mixup": 0.2, "ema": 0.1, "progressive": True, "schedule": "one-cycle", "label_smoothing": 0.1}
    assert record["config"] | wanted == record["config"]
    history = read_history(output / "metrics.jsonl")
    assert [(line.stage, line.epoch) for line in history] == [("train", 1), ("train", 2)]
    assert all(line.images_per_second > 0 and line.val_top5 is not None for line in history)
    # The run is a classifier: what was measured in training is what evaluate measures.
    measured = run_cli("evaluate", "--run", output, "--json")
    assert measured.exit_code == 0, measured.stderr
    assert json.loads(measured.stdout)["top1"] == pytest.approx(figures["val"]["top1"], abs=1.01 / count)


@pytest.mark.slow
def test_a_run_says_that_its_test_images_chose_the_epoch(run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path) -> None:
    data, output = tmp_path / "pets", tmp_path / "run"
    make_dataset(data / "train", ("cat", "dog"), count=4)
    make_dataset(data / "test", ("cat", "dog"), count=3, first=4)
    (data / "test" / "dog" / "damaged.jpg").write_bytes(b"no image")
    options = ["--arch", "resnet8", "--epochs", 1, "--image-size", 16, "--val-split", 0, "--output", output]
    result = run_cli("train", data, *options)
    assert result.exit_code == 0, result.stderr
    said = "the test images also selected the epoch (--val-split 0)"
    assert f"warning: {said}" in result.stderr and "validation accuracy" not in result.stdout
    assert "only 1 optimizer step:" in result.stderr
    results = json.loads((output / "run.json").read_text())["results"]
    assert results["test"] == results["val"] and results["test"]["count"] == 6
    assert any(said in warning for warning in results["warnings"])
    assert "the test images also selected the epoch" in (output / "report.html").read_text()
    notes = json.loads(run_cli("evaluate", "--run", output, "--json").stdout)["notes"]
    assert any(said in note for note in notes)


@pytest.mark.slow
def test_a_network_learns_what_colours_tell(run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=24)
    recipe = [
        "--arch",
        "resnet8",
        "--epochs",
        12,
        "--batch-size",
        16,
        "--learning-rate",
        0.05,
        "--set",
        "ema=0",
        "--val-split",
        0.25,
    ]
    recipe += ["--seed", 5]  # a quarter of each class, to the image
    result = run_cli("train", data, *recipe, "--output", tmp_path / "run", "--quiet")
    assert result.exit_code == 0 and all(line.startswith("warning: ") for line in result.stderr.splitlines())
    assert "held-out accuracy 100.0%" in result.stdout and "12 images)" in result.stdout


@pytest.mark.slow
def test_a_training_from_a_run_of_the_same_classes_keeps_its_head(
    run_cli: RunCli, tiny_dataset: Path, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    quick = ("--arch", "resnet8", "--epochs", "1", "--batch-size", "16", "--image-size", "16")
    assert run_cli("train", tiny_dataset, *quick, "--output", tmp_path / "first").exit_code == 0
    again = ("--weights", tmp_path / "first", "--learning-rate", "0")
    result = run_cli("train", tiny_dataset, *quick, *again, "--output", tmp_path / "second")
    assert result.exit_code == 0, result.stderr
    assert "with their head, of the same classes" in result.stderr
    kernels = []
    for name in ("first", "second"):
        with h5py.File(tmp_path / name / "model.weights.h5", "r") as file:
            kernels.append(file["logits/kernel"][()])
    temperature = load_run(tmp_path / "second").record["calibration"]["temperature"]
    np.testing.assert_allclose(kernels[1] * temperature, kernels[0], rtol=1e-6)
    others = make_dataset(tmp_path / "others", ("pear", "plum", "quince"))
    result = run_cli("train", others, *quick, *again, "--output", tmp_path / "third")
    assert "with a new head" in result.stderr
