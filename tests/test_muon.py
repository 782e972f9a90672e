"""Muon: its orthogonal steps, what they leave alone, and how fast they learn beside momentum alone."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_cli.networks.catalogue import ClassifierSpec, find_network
from resnet_cli.networks.classifier import build_logits
from resnet_cli.training.config import TrainConfig, make_config
from resnet_cli.training.optimizers import make_optimizer, orthogonal

CONFIG = TrainConfig(optimizer="muon", learning_rate=0.05, weight_decay=0.01)


@pytest.mark.parametrize("shape", [(27, 16), (16, 16), (9, 32)], ids=["high", "square", "wide"])
def test_a_step_is_of_one_size_in_every_direction_of_the_gradient(shape: tuple[int, int]) -> None:
    # Singular values between 1 and 1/8 of the largest; the reference is numpy's decomposition.
    random = np.random.default_rng(0)
    left, _, right = np.linalg.svd(random.normal(size=shape), full_matrices=False)
    matrix = (left * np.geomspace(1, 1 / 8, min(shape))) @ right
    step = keras.ops.convert_to_numpy(orthogonal(keras.ops.convert_to_tensor(matrix.astype(np.float32))))
    sizes = left.T @ step @ right.T
    np.testing.assert_allclose(sizes - np.diag(np.diag(sizes)), 0, atol=1e-3)
    # The iteration's own tolerance: Jordan et al. 2024 chose it for speed.
    assert np.diag(sizes).min() > 0.65 and np.diag(sizes).max() < 1.25


def test_no_gradient_is_no_step() -> None:
    assert not keras.ops.convert_to_numpy(orthogonal(keras.ops.zeros((9, 4)))).any()


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.9, False), (0.0, False)])
def test_kernels_move_by_the_rate_and_keep_their_norm(momentum: float, nesterov: bool) -> None:
    random = np.random.default_rng(1)
    kernel = keras.Variable(random.normal(size=(3, 3, 4, 8)), name="kernel", dtype="float32")
    made = make_optimizer(replace(CONFIG, momentum=momentum, nesterov=nesterov), np.full(9, 0.05, np.float32), [kernel])
    sums = np.zeros(kernel.shape)
    for _ in range(3):
        before, gradient = _values(kernel), random.normal(size=kernel.shape)
        made.apply([keras.ops.convert_to_tensor(gradient.astype(np.float32))], [kernel])
        sums = momentum * sums + gradient
        direction = gradient + momentum * sums if nesterov else sums
        matrix = keras.ops.convert_to_tensor(direction.reshape(36, 8).astype(np.float32))
        step = _values(orthogonal(matrix)).reshape(kernel.shape)
        norm = np.linalg.norm(before)
        moved = before - step * 0.05 * norm / np.linalg.norm(step)
        np.testing.assert_allclose(_values(kernel), moved * norm / np.linalg.norm(moved), rtol=1e-4, atol=1e-5)


def test_all_else_moves_as_by_sgd_at_three_times_the_rate() -> None:
    model = build_logits(ClassifierSpec(find_network("resnet8"), 3, 32))
    random = np.random.default_rng(2)
    gradients = [random.normal(size=variable.shape).astype(np.float32) for variable in model.trainable_variables]
    after: dict[str, list[NDArray[np.float32]]] = {}
    for optimizer, rate in (("muon", 0.02), ("sgd", 0.06)):
        twin = build_logits(ClassifierSpec(find_network("resnet8"), 3, 32))
        twin.set_weights(model.get_weights())
        config = replace(CONFIG, optimizer=optimizer)  # type: ignore[arg-type]
        made = make_optimizer(config, np.full(3, rate, np.float32), twin.trainable_variables)
        for _ in range(3):
            made.apply(list(map(keras.ops.convert_to_tensor, gradients)), twin.trainable_variables)
        after[optimizer] = [_values(variable) for variable in twin.trainable_variables]
    for ours, theirs, variable in zip(after["muon"], after["sgd"], model.trainable_variables, strict=True):
        if len(variable.shape) == 4:
            assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(_values(variable)), rel=1e-4), variable.path
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6, err_msg=variable.path)


def test_an_optimizer_that_is_asked_for_brings_its_usual_rate() -> None:
    assert make_config("fast", find_network("resnet20"), {}).optimizer == "muon"
    assert make_config("fast", find_network("resnet20"), {"optimizer": "sgd"}).learning_rate == 0.1
    assert make_config("fast", find_network("resnet20"), {"optimizer": "adam", "learning_rate": 0.01}).learning_rate == 0.01
    assert make_config("keras", find_network("resnet20"), {"optimizer": "adam"}) == make_config(
        "keras", find_network("resnet20"), {}
    )


@pytest.mark.slow
def test_twenty_steps_of_muon_learn_more_than_those_of_momentum() -> None:
    # Images of noise about three means: both learn them, at the rates that recipes give.
    random = np.random.default_rng(3)
    labels = np.arange(48) % 3
    images = np.clip(128 + 25 * random.normal(size=(3, 8, 8, 3))[labels] + 25 * random.normal(size=(48, 8, 8, 3)), 0, 255)
    losses = {}
    for optimizer in ("muon", "sgd"):
        keras.utils.set_random_seed(0)
        config = make_config("fast", find_network("resnet8"), {"optimizer": optimizer})
        model = build_logits(ClassifierSpec(find_network("resnet8"), 3, 8))
        table = np.full(20, config.learning_rate / 5, np.float32)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(make_optimizer(config, table, model.trainable_variables), loss, jit_compile=False)
        history = model.fit(images.astype(np.uint8), labels, batch_size=48, epochs=20, verbose=0).history
        losses[optimizer] = history["loss"]
    assert losses["muon"][-1] < 0.5 * losses["muon"][0]
    assert losses["muon"][-1] < losses["sgd"][-1]


def _values(variable: object) -> NDArray[np.float32]:
    return np.array(keras.ops.convert_to_numpy(variable))
