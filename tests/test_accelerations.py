"""What makes TensorFlow train faster: it engages on the installed one, can be switched off, and is left out where it fails."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import RunCli

from resnet_cli.errors import ResnetError
from resnet_cli.networks import accelerations
from resnet_cli.networks.accelerations import ACCELERATIONS, convolution, engages
from resnet_cli.networks.catalogue import ClassifierSpec, find_network
from resnet_cli.networks.classifier import build_logits
from resnet_cli.networks.precision import CPU, training_precision
from resnet_cli.networks.weights import copy_weights
from resnet_cli.training.config import TrainConfig
from resnet_cli.training.optimizers import make_optimizer, rates


@pytest.fixture(autouse=True)
def tried_anew() -> Iterator[None]:
    accelerations._works.cache_clear()
    yield
    accelerations._works.cache_clear()


def steps_of(model: keras.Model, config: TrainConfig, count: int = 3) -> list[np.ndarray]:
    """Weights after some steps on one batch."""
    random = np.random.default_rng(1)
    images, targets = random.uniform(0, 255, (8, 16, 16, 3)), np.eye(2)[random.integers(0, 2, 8)]
    model.compile(
        optimizer=make_optimizer(config, rates(config, count), model.trainable_variables),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    model.fit(np.repeat(images[None], count, 0).reshape(-1, 16, 16, 3), np.tile(targets, (count, 1)), 8, 1, 0, shuffle=False)
    return [np.asarray(variable) for variable in model.weights]


def network() -> keras.Model:
    return build_logits(ClassifierSpec(find_network("resnet8", "B"), 2, 16))


@pytest.mark.parametrize("name", ACCELERATIONS)
def test_it_engages_on_the_installed_tensorflow(name: str) -> None:
    assert engages(name)


@pytest.mark.parametrize("name", ACCELERATIONS)
def test_it_can_be_switched_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNET_WITHOUT", f" {name},bf16")
    assert not engages(name) and not engages("bf16")
    assert all(engages(other) for other in ACCELERATIONS if other not in (name, "bf16"))


def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNET_WITHOUT", "bf16,float8")
    with pytest.raises(ResnetError, match="RESNET_WITHOUT names an unknown acceleration: float8") as told:
        engages("bf16")
    assert told.value.hint == f"there are {', '.join(ACCELERATIONS)}"


def test_where_tensorflow_lacks_the_kernel_training_goes_keras_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(epochs=1, learning_rate=0.01)
    first = network()
    second = network()
    copy_weights(first, second)
    expected = steps_of(first, config)

    def missing(*_: Any, **__: Any) -> None:
        raise AttributeError("module has no attribute fused_batch_norm")

    monkeypatch.setattr("tensorflow.compat.v1.nn.fused_batch_norm", missing)
    accelerations._works.cache_clear()
    third = network()
    copy_weights(second, third)
    for ours, theirs in zip(steps_of(third, config), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_a_convolution_whose_gradients_come_out_otherwise_is_keras_own(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = convolution(128, 3, 1, bias=False, name="conv", fused=True)
    assert type(layer) is not keras.layers.Conv2D
    assert type(convolution(64, 3, 1, bias=False, name="conv", fused=True)) is keras.layers.Conv2D, "64 filters gain nothing"
    monkeypatch.setattr("tensorflow.raw_ops.Conv2DBackpropInput", lambda input_sizes, **others: tf_zeros(input_sizes))
    accelerations._works.cache_clear()
    assert type(convolution(128, 3, 1, bias=False, name="conv", fused=True)) is keras.layers.Conv2D


def tf_zeros(shape: Any) -> Any:
    import tensorflow as tf

    return tf.zeros(shape)


def test_a_tensorflow_that_cannot_rewrite_graphs_trains_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerations, "_OPTION", "an_option_of_another_version")
    assert not engages("bf16")
    assert training_precision(CPU, "tensorflow", engages("bf16")) == "float32"


@pytest.mark.slow
def test_a_run_records_which_engaged(
    tiny_dataset: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNET_WITHOUT", "fused-batch-norm,bf16")
    result = run_cli("train", tiny_dataset, "--arch", "resnet8", "--epochs", 1, "--output", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["precision"] == "float32"
    assert record["accelerations"] == [name for name in ACCELERATIONS if name not in os.environ["RESNET_WITHOUT"].split(",")]
