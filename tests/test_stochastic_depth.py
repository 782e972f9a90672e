"""Stochastic depth: branches are left out in training as the paper says, and nothing else changes."""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import ClassifierSpec, find_network
from resnet_cli.networks.classifier import build_logits
from resnet_cli.networks.residual import StochasticDepth, build_backbone
from resnet_cli.networks.weights import copy_weights, load_weights, named_variables, save_weights
from resnet_cli.training.checkpoints import Point, load_checkpoint, save_checkpoint

SPEC = ClassifierSpec(find_network("resnet8"), 3, 16)
DRAWS = 100_000


@pytest.fixture(autouse=True, params=["float32"])
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    """The precision that layers compute in."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    keras.utils.set_random_seed(0)
    yield request.param
    keras.config.set_dtype_policy(before)


def images(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8), random.integers(0, 3, count)


def dropping(model: keras.Model) -> list[StochasticDepth]:
    return [layer for layer in model.layers if isinstance(layer, StochasticDepth)]


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 9), ("resnet29v2", 9), ("resnet34", 16)])
def test_survival_falls_linearly_from_one_at_the_input_to_the_rate_at_the_last_block(name: str, blocks: int) -> None:
    # Huang et al. 2016, equation 4: p_l = 1 - l / L * (1 - p_L).
    backbone = build_backbone(find_network(name), stochastic_depth=0.5)
    assert [1 - layer.rate for layer in dropping(backbone)] == pytest.approx(
        [1 - block / blocks * 0.5 for block in range(1, blocks + 1)]
    )


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize("rate", [0.5, 0.003])
def test_over_many_draws_a_branch_is_what_it_was_without(policy: str, rate: float) -> None:
    branch = np.ones((DRAWS, 2, 2, 3), np.float32)
    output = StochasticDepth(rate, "drop")(branch, training=True)
    assert keras.backend.standardize_dtype(output.dtype) == ("float32" if policy == "float32" else "bfloat16")
    values = keras.ops.convert_to_numpy(keras.ops.cast(output, "float32"))
    assert (values == values[:, :1, :1, :1]).all(), "a branch is left out whole"
    factors = values[:, 0, 0, 0]
    assert set(np.unique(factors)) == {0.0, factors.max()}
    assert factors.max() == pytest.approx(1 / (1 - rate), rel=0.004)  # half precision has eight bits
    share = (rate * (1 - rate) / DRAWS) ** 0.5
    assert (factors == 0).mean() == pytest.approx(rate, abs=4 * share)


def test_a_block_that_is_left_out_passes_its_shortcut_on() -> None:
    dropped, silent = build_backbone(SPEC.network, stochastic_depth=0.5), build_backbone(SPEC.network)
    copy_weights(dropped, silent)
    for layer in dropping(dropped):
        layer.rate = 1 - 1e-6
    for layer in silent.layers:
        if layer.name.endswith("_2_bn"):
            layer.gamma.assign(np.zeros(layer.gamma.shape))
    x = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")
    carried = np.asarray(silent(x, training=True))
    assert carried.std() > 0.1
    np.testing.assert_allclose(np.asarray(dropped(x, training=True)), carried, atol=1e-5)


def test_inference_and_weights_files_are_the_same_with_and_without(tmp_path: Path) -> None:
    model, plain = build_logits(SPEC, fused=False, stochastic_depth=0.5), build_logits(SPEC, fused=False)
    assert named_variables(model).keys() == named_variables(plain).keys()
    save_weights(model, tmp_path / "weights.h5")
    load_weights(plain, tmp_path / "weights.h5")
    raw, _ = images(4)
    np.testing.assert_array_equal(model.predict_on_batch(raw), plain.predict_on_batch(raw))
    assert not np.allclose(np.asarray(model(raw, training=True)), np.asarray(plain(raw, training=True)))


def learner(policy: str) -> keras.Model:
    model = build_logits(SPEC, fused=policy == "float32", stochastic_depth=0.5)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"], indirect=True)
def test_a_resumed_training_draws_what_it_would_have_drawn(policy: str, tmp_path: Path) -> None:
    batch = images(8)
    whole = learner(policy)
    whole.train_on_batch(*batch)
    save_checkpoint(tmp_path, whole, Point(1))
    resumed = learner(policy)
    assert load_checkpoint(tmp_path, resumed) == Point(1)
    losses = [[float(model.train_on_batch(*batch)) for _ in range(3)] for model in (whole, resumed)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert len(set(losses[0])) == 3 and np.isfinite(losses[0]).all()


@pytest.mark.slow
def test_1202_layers_take_a_step() -> None:
    # The depth that Huang et al. trained; eagerly, for tracing its graph takes longer than a step.
    model = build_logits(ClassifierSpec(find_network("resnet1202"), 3, 8), stochastic_depth=0.5)
    model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    before = keras.ops.convert_to_numpy(named_variables(model)["conv1_conv/kernel"])
    raw, labels = images(2)
    assert np.isfinite(model.train_on_batch(raw[:, :8, :8], labels))
    assert not np.array_equal(keras.ops.convert_to_numpy(named_variables(model)["conv1_conv/kernel"]), before)


@pytest.mark.parametrize(("name", "shortcut"), [("plain8", None), ("resnet8", "none")])
def test_a_plain_network_has_nothing_to_skip(name: str, shortcut: str | None) -> None:
    with pytest.raises(ResnetError, match=f"stochastic_depth contradicts {name}"):
        build_logits(ClassifierSpec(find_network(name, shortcut), 3, 16), stochastic_depth=0.5)
