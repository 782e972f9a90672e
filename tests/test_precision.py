"""In which precision a device trains, and that fp16 trains as float32 does: forced on a CPU, where it is slow and the same."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import RunCli
from training_material import FEATURES, STEPS, Points, StopAfter, network, run, values

from resnet_cli.engines.frozen import read_classifier, write_classifier
from resnet_cli.errors import Interrupted
from resnet_cli.networks.accelerations import ACCELERATIONS
from resnet_cli.networks.catalogue import ClassifierSpec, find_network
from resnet_cli.networks.classifier import build_logits
from resnet_cli.networks.precision import CPU, Device, computed_on, current_device, least_capable, prepare, training_precision
from resnet_cli.progress import Silent
from resnet_cli.training.config import TrainConfig
from resnet_cli.training.optimizers import inner_optimizer
from resnet_cli.training.rate_finder import find_rate
from resnet_cli.training.reading import copied_ahead, on_device

CONFIG = TrainConfig(epochs=3, optimizer="adamw", learning_rate=0.03, weight_decay=0.01)
# Adam takes steps of one size along gradients that are nothing but rounding errors, such as of a bias before batch-norm.
SGD = replace(CONFIG, optimizer="sgd")


@pytest.fixture(autouse=True)
def a_checkpoint_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_cli.training.callbacks.CHECKPOINT_SECONDS", 0)


@pytest.fixture(autouse=True)
def policy() -> Iterator[None]:
    """Whatever a test trains in, the next one begins in float32."""
    keras.mixed_precision.set_dtype_policy("float32")
    yield
    keras.mixed_precision.set_dtype_policy("float32")


def gpu(*capability: int) -> Device:
    major, minor = capability
    return Device("gpu", "NVIDIA", (major, minor))


@pytest.mark.parametrize(
    ("device", "backend", "cpu_has_bf16", "expected"),
    [
        pytest.param(gpu(9, 0), "tensorflow", False, "mixed_bfloat16", id="Hopper"),
        pytest.param(gpu(10, 0), "tensorflow", False, "mixed_bfloat16", id="Blackwell"),
        pytest.param(gpu(8, 9), "jax", False, "mixed_bfloat16", id="Ada, JAX"),
        pytest.param(gpu(8, 0), "tensorflow", True, "mixed_bfloat16", id="Ampere"),
        pytest.param(gpu(7, 5), "tensorflow", True, "mixed_float16", id="Turing"),
        pytest.param(gpu(7, 0), "jax", False, "mixed_float16", id="Volta, JAX"),
        pytest.param(gpu(6, 1), "tensorflow", True, "float32", id="Pascal"),
        pytest.param(gpu(6, 1), "jax", True, "float32", id="Pascal, JAX"),
        pytest.param(Device("gpu", "AMD Instinct MI210"), "tensorflow", True, "float32", id="AMD"),
        pytest.param(CPU, "tensorflow", True, "bfloat16", id="CPU with bf16"),
        pytest.param(CPU, "tensorflow", False, "float32", id="CPU without"),
        pytest.param(CPU, "jax", True, "float32", id="CPU with bf16, JAX"),
    ],
)
def test_a_device_trains_in_the_fastest_precision_that_it_supports(
    device: Device, backend: str, cpu_has_bf16: bool, expected: str
) -> None:
    assert training_precision(device, backend, cpu_has_bf16) == expected


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ([("A100", (8, 0))], Device("gpu", "A100", (8, 0))),
        ([("A100", "8.0")], Device("gpu", "A100", (8, 0))),
        ([("H100", (9, 0)), ("V100", (7, 0)), ("A100", (8, 0))], Device("gpu", "V100", (7, 0))),
        ([("RTX 5090", "12.0")], Device("gpu", "RTX 5090", (12, 0))),
        ([("MI210", "gfx90a")], Device("gpu", "MI210", None)),
        ([("A100", (8, 0)), ("METAL", None)], Device("gpu", "METAL", None)),
    ],
)
def test_of_several_gpus_the_least_capable_decides(gpus: list[Any], expected: Device) -> None:
    assert least_capable(gpus) == expected


@pytest.mark.parametrize(
    ("details", "precision", "name"),
    [
        ({"device_name": "Tesla V100-SXM2-16GB", "compute_capability": (7, 0)}, "mixed_float16", "Tesla V100-SXM2-16GB"),
        ({"device_name": "NVIDIA A100", "compute_capability": (8, 0)}, "mixed_bfloat16", "NVIDIA A100"),
        ({"device_name": "Tesla P100", "compute_capability": (6, 0)}, "float32", "Tesla P100"),
        ({}, "float32", "gpu"),
    ],
)
def test_tensorflow_is_asked_what_its_gpu_supports(
    details: dict[str, Any], precision: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    monkeypatch.setattr(keras.distribution, "list_devices", lambda kind=None: ["gpu:0"])
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["the GPU"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    assert prepare(0) == precision
    assert keras.mixed_precision.dtype_policy().name == precision
    expected = {"backend": "tensorflow", "device": name, "deterministic": True, "accelerations": list(ACCELERATIONS)}
    assert computed_on() == expected


def test_without_a_gpu_the_cpu_is_the_device() -> None:
    assert current_device() == CPU


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(CONFIG, id="adamw"),
        pytest.param(replace(SGD, ema=0.8), id="sgd with averaged weights"),
        pytest.param(replace(CONFIG, schedule="constant", plateau=0.5), id="plateau"),
    ],
)
def test_fp16_trains_with_a_loss_scale_and_resumes_bit_for_bit(config: TrainConfig, tmp_path: Path) -> None:
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    model, result = run(tmp_path / "whole", config)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.get_layer("first").compute_dtype == "float16"
    assert {value.dtype for value in values(model)} == {np.dtype("float32")}
    assert result.history[-1].val_loss < result.history[0].val_loss
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", config, StopAfter(STEPS + 2))
    resumed, _ = run(tmp_path / "stopped", config, resume=True)
    for value, other in zip(values(resumed), values(model), strict=True):
        np.testing.assert_array_equal(value, other)
    for variable, other in zip(resumed.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), other.numpy())


@pytest.fixture
def without_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras draws other masks in other precisions."""

    def plain(seed: int = 0) -> keras.Model:
        model = network(seed)
        model.get_layer("dropout").rate = 0.0
        return model

    monkeypatch.setattr("training_material.network", plain)


@pytest.mark.slow
@pytest.mark.usefixtures("without_dropout")
def test_fp16_comes_to_what_float32_comes_to(tmp_path: Path) -> None:
    _, exact = run(tmp_path / "exact", SGD)
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    _, half = run(tmp_path / "half", SGD)
    for one, other in zip(half.history, exact.history, strict=True):
        assert one.val_loss == pytest.approx(other.val_loss, abs=0.01)
        assert one.learning_rate == other.learning_rate


def test_a_step_whose_gradients_overflow_is_left_out_and_the_schedule_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    whole = keras.optimizers.LossScaleOptimizer.__init__

    def too_high(self: Any, *arguments: Any, **options: Any) -> None:
        whole(self, *arguments, **{**options, "initial_scale": 2.0**24})

    monkeypatch.setattr(keras.optimizers.LossScaleOptimizer, "__init__", too_high)
    model, result = run(tmp_path, CONFIG)
    taken = int(inner_optimizer(model).iterations)
    assert 0 < taken < 3 * STEPS
    assert float(model.optimizer.dynamic_scale) == 2.0 ** (24 - (3 * STEPS - taken))
    assert result.history[-1].val_loss < result.history[0].val_loss


@pytest.mark.slow
@pytest.mark.usefixtures("without_dropout")
@pytest.mark.parametrize(("before", "after"), [("mixed_float16", "float32"), ("float32", "mixed_float16")])
def test_a_run_goes_on_in_another_precision(before: str, after: str, tmp_path: Path) -> None:
    _, exact = run(tmp_path / "exact", SGD)
    keras.mixed_precision.set_dtype_policy(before)
    with pytest.raises(Interrupted):
        run(tmp_path / "run", SGD, StopAfter(STEPS + 2))
    keras.mixed_precision.set_dtype_policy(after)
    model, result = run(tmp_path / "run", SGD, resume=True)
    assert int(inner_optimizer(model).iterations) == 3 * STEPS
    assert [each.val_loss for each in result.history] == pytest.approx([each.val_loss for each in exact.history], abs=0.01)


def test_a_range_test_works_in_fp16() -> None:
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    search = find_rate(network(), Points(), CONFIG, Silent())
    assert len(search.rates) == len(search.losses) and np.isfinite(search.losses).all()


def test_weights_and_answers_are_float32_whatever_trained_them(tmp_path: Path) -> None:
    spec = ClassifierSpec(find_network("resnet8"), 3, 32)
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    model = build_logits(spec)
    backbone = model.get_layer("resnet8")
    assert {layer.compute_dtype for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D)} == {"float16"}
    write_classifier(tmp_path, model, spec)
    classifier = read_classifier(tmp_path / "model.weights.h5", spec)
    assert {layer.compute_dtype for layer in classifier.layers} == {"float32"}
    assert {value.dtype for value in values(classifier)} == {np.dtype("float32")}
    for value, other in zip(values(classifier), values(model), strict=True):
        np.testing.assert_array_equal(value, other)
    assert keras.mixed_precision.dtype_policy().name == "mixed_float16"


@pytest.mark.slow
def test_batches_that_are_copied_to_a_device_train_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, class_weights=True)
    expected = values(run(tmp_path / "plain", config)[0])
    monkeypatch.setattr("resnet_cli.training.loop.on_device", lambda begin: copied_ahead(begin(), "/CPU:0"))
    for value, other in zip(values(run(tmp_path / "copied", config)[0]), expected, strict=True):
        np.testing.assert_array_equal(value, other)


def test_batches_of_any_length_are_copied_ahead_in_order() -> None:
    batches = [(np.full((rows, FEATURES), rows, np.uint8), np.ones((rows, 2), np.float32)) for rows in (4, 4, 4, 1)]
    copied = list(copied_ahead(iter(batches), "/CPU:0"))
    assert [images.shape[0] for images, _ in copied] == [4, 4, 4, 1]
    for (images, targets), (expected, wanted) in zip(copied, batches, strict=True):
        np.testing.assert_array_equal(images.numpy(), expected)
        np.testing.assert_array_equal(targets.numpy(), wanted)


def test_without_a_gpu_batches_stay_where_they_are() -> None:
    batches = iter([(np.zeros((1, 2)),)])
    assert on_device(lambda: batches) is batches


def test_an_operation_that_is_not_repeatable_on_a_gpu_is_one_sentence(
    run_cli: RunCli, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    def refused(*arguments: object, **options: object) -> None:
        raise tf.errors.UnimplementedError(None, None, "A deterministic GPU implementation of X is not currently available.")

    monkeypatch.setattr("resnet_cli.jobs.train.train", refused)
    result = run_cli("train", tiny_dataset, "--arch", "resnet8", "--output", tmp_path / "run")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-2:] == [
        "error: TensorFlow has no deterministic operation for this network on this GPU",
        "hint: KERAS_BACKEND=jax trains on the GPU, CUDA_VISIBLE_DEVICES=-1 on the CPU",
    ]
