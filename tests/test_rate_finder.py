"""The learning-rate range test suggests a rate that trains well, and leaves no trace in the network."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from training_material import CLASSES, FEATURES, HeldOut, Points, StopAfter, network, values

from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.networks.catalogue import ClassifierSpec, find_network
from resnet_cli.networks.classifier import build_logits, freeze_batch_norm, tail_model
from resnet_cli.progress import Silent
from resnet_cli.reports.curves import write_rate_curve
from resnet_cli.training.checkpoints import Stage
from resnet_cli.training.config import TrainConfig
from resnet_cli.training.loop import train
from resnet_cli.training.rate_finder import STEPS, RateSearch, find_rate, smooth, suggest

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]
RATES = tuple(np.geomspace(1e-4, 10, STEPS))


@dataclass(frozen=True)
class Spoiled(Points):
    """Points that are no numbers from a step on."""

    first: int = 0

    def batch(self, step: int) -> Batch:
        points, targets = super().batch(step)
        return points if step < self.first else points * np.float32("nan"), targets


@dataclass(frozen=True)
class Unrelated(Points):
    """Points whose classes are drawn by lot."""

    def batch(self, step: int) -> Batch:
        points, targets = super().batch(step)
        return points, np.random.default_rng(step).permutation(targets)


@dataclass(frozen=True)
class Activations(Points):
    """What a frozen prefix might give: feature maps (16, 16, 32)."""

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        for points, targets in super().batches(first_step):
            yield np.tile(points[:, None, None], (1, 16, 16, 4)), targets


def logistic_regression() -> keras.Model:
    inputs = keras.Input((FEATURES,))
    return keras.Model(inputs, keras.layers.Dense(CLASSES, kernel_initializer="zeros")(inputs))


def everything(model: keras.Model) -> list[NDArray[np.float32]]:
    """All variables, random states among them."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in model.variables]


def assert_same(first: list[NDArray[np.float32]], second: list[NDArray[np.float32]]) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_the_suggested_rate_is_stable_and_better_than_far_lower_and_far_higher_ones(tmp_path: Path) -> None:
    stream = Points(images_per_step=32)
    config = TrainConfig(epochs=6, schedule="constant", warmup=0, weight_decay=0, label_smoothing=0.1)
    search = find_rate(logistic_regression(), stream, config, Silent())
    np.testing.assert_allclose(search.rates, RATES[: len(search.rates)], rtol=1e-5)
    assert search.suggested is not None

    # Böhning 1992: no Hessian of this loss is above half the points' second moments. Nesterov's method with momentum m
    # converges on a quadratic of curvature L up to the rate 2 (1 + m) / ((1 + 2 m) L).
    points = np.concatenate([stream.batch(step)[0] for step in range(100)])
    points = np.hstack([points, np.ones((len(points), 1))])
    curvature = np.linalg.eigvalsh(points.T @ points / len(points)).max() / 2
    assert search.suggested < 2 * 1.9 / (2.8 * curvature)

    def loss_after_training(rate: float) -> float:
        stage = Stage("train", tmp_path / f"{rate}", announce=False)
        result = train(logistic_regression(), stream, HeldOut(), replace(config, learning_rate=rate), stage, Silent())
        return result.history[-1].val_loss

    good = loss_after_training(search.suggested)
    assert good < loss_after_training(search.suggested / 100)
    assert good < loss_after_training(search.suggested * 30)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(TrainConfig(ema=0.9), id="sgd"),
        pytest.param(TrainConfig(optimizer="adam", class_weights=True), id="adam, weighed classes"),
        pytest.param(TrainConfig(optimizer="adamw"), id="adamw"),
    ],
)
def test_a_training_after_the_search_is_the_one_without_it(config: TrainConfig, tmp_path: Path) -> None:
    def weights_after_training(name: str, search: bool) -> list[NDArray[np.float32]]:
        model = network()
        if search:
            before = everything(model)
            assert len(find_rate(model, Points(), config, Silent()).losses) > 50
            assert_same(everything(model), before)
            assert not model.compiled
        train(model, Points(), HeldOut(), replace(config, epochs=1), Stage("train", tmp_path / name, announce=False), Silent())
        return values(model)

    assert_same(weights_after_training("with", True), weights_after_training("without", False))


@pytest.mark.slow
def test_the_last_stage_on_stored_activations_is_searched_and_left_as_it_was() -> None:
    whole = build_logits(ClassifierSpec(find_network("resnet8"), CLASSES, 32, dropout=0.2))
    freeze_batch_norm(whole)
    before = everything(whole)
    tail = tail_model(whole, find_network("resnet8"))
    assert tail.input.shape[1:] == (16, 16, 32)
    search = find_rate(tail, Activations(), TrainConfig(optimizer="adamw", learning_rate=5e-4), Silent())
    assert search.rates[0] == pytest.approx(1e-6)
    assert search.suggested is not None
    assert_same(everything(whole), before)


def test_a_stop_signal_ends_the_search_and_restores_the_network() -> None:
    model = network()
    before = everything(model)
    with pytest.raises(Interrupted) as stopped:
        find_rate(model, Points(), TrainConfig(), StopAfter(5, title="learning rate"))
    assert stopped.value.exit_code == 143
    assert_same(everything(model), before)


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_search() -> None:
    model = network()
    before = everything(model)
    search = find_rate(model, Spoiled(first=60), TrainConfig(), Silent())
    assert len(search.rates) == len(search.losses) == len(search.smoothed) == 60
    assert np.isfinite(search.losses).all()
    assert search.suggested is None or search.suggested < RATES[55]
    assert_same(everything(model), before)
    with pytest.raises(ResnetError, match=r"the loss is NaN or Inf even at the learning rate 0\.0001"):
        find_rate(model, Spoiled(), TrainConfig(), Silent())
    assert_same(everything(model), before)


def test_where_nothing_can_be_learned_no_rate_is_suggested() -> None:
    assert find_rate(logistic_regression(), Unrelated(), TrainConfig(), Silent()).suggested is None


@pytest.mark.parametrize("height", [3.0, 1e8])
@pytest.mark.parametrize("steps", [STEPS, 95, 80])
def test_the_suggestion_is_where_the_loss_stops_falling_however_high_it_flies_afterwards(height: float, steps: int) -> None:
    # A valley whose floor is at 0.05, single batches scattered around it, a cliff from 0.4 on, and a deeper valley behind it.
    losses = 2.0 + 0.1 * np.log10(np.array(RATES) / 0.05) ** 2 + np.random.default_rng(0).normal(0, 0.02, STEPS)
    losses[np.array(RATES) > 0.4] = height
    losses[np.array(RATES) > 2] = 1.0
    suggested = suggest(RATES[:steps], losses[:steps].tolist())
    assert suggested is not None and 0.02 < suggested < 0.12


@pytest.mark.parametrize("suggested", [0.05, None])
def test_image_and_table_hold_the_curve(suggested: float | None, tmp_path: Path) -> None:
    losses = (*np.linspace(2.3, 1.1, STEPS - 1), 1e8)
    curve = RateSearch(RATES, losses, tuple(smooth(losses)), suggested)
    write_rate_curve(curve, tmp_path / "rates.png", "resnet20 on fruit")
    with Image.open(tmp_path / "rates.png") as image:
        image.load()
        assert image.format == "PNG" and image.size == (840, 480)
    with (tmp_path / "rates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(float(row["rate"]), float(row["loss"]), float(row["smoothed"])) for row in rows] == list(
        zip(curve.rates, curve.losses, curve.smoothed, strict=True)
    )


@pytest.mark.parametrize("title", ["toys_$5_to_$10-resnet8", "$x^$ 猫"])
def test_a_title_is_drawn_as_it_is_even_where_it_reads_as_a_formula(title: str, tmp_path: Path) -> None:
    curve = RateSearch((0.1, 1.0), (2.0, 1.0), (2.0, 1.0), None)
    write_rate_curve(curve, tmp_path / "rates.png", title)
    assert (tmp_path / "rates.png").exists()
