"""The networks are the published ones: their outputs, their shortcuts, their names."""

from dataclasses import replace
from functools import cache
from math import ceil, prod
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_cli.errors import ResnetError
from resnet_cli.networks.accelerations import convolution
from resnet_cli.networks.catalogue import ClassifierSpec, Network, find_network, parameter_count, usual_classes, widen
from resnet_cli.networks.classifier import build_logits, freeze_batch_norm, prefix_model, preprocess, tail_model
from resnet_cli.networks.residual import build_backbone
from resnet_cli.networks.weights import copy_weights, named_variables

PUBLISHED_WITH_KERAS = ("resnet50", "resnet101", "resnet152", "resnet50v2", "resnet101v2", "resnet152v2")


@cache
def logits_of(name: str) -> keras.Model:
    network = find_network(name)
    return build_logits(ClassifierSpec(network, usual_classes(network), None), fused=False)


def images(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def randomise(model: keras.Model, seed: int = 0) -> None:
    """Values for every variable, batch-norm's statistics too, that keep activations near one: whatever goes astray shows."""
    random = np.random.default_rng(seed)
    for name, variable in named_variables(model).items():
        kind, shape = name.split("/")[1], tuple(variable.shape)
        if kind == "kernel":
            # The last convolution of a block is small, or 50 blocks would add up to enormous numbers.
            gain = 0.2 if "_3_conv" in name else 1.4
            variable.assign(random.normal(0, gain / np.sqrt(prod(shape[:-1])), shape))
        elif kind in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.6, 1.4, shape) * (0.3 if "_3_bn" in name and kind == "gamma" else 1))
        else:
            variable.assign(random.normal(0, 0.1, shape))


# --- the same outputs as keras.applications -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED_WITH_KERAS)
def test_weights_of_keras_applications_give_the_same_feature_maps(name: str) -> None:
    reference = getattr(keras.applications, name.replace("resnet", "ResNet").replace("v2", "V2"))
    theirs = reference(include_top=False, weights=None)
    randomise(theirs)
    ours = logits_of(name)
    copy_weights(theirs, ours, leave=("logits",))
    module = keras.applications.resnet_v2 if name.endswith("v2") else keras.applications.resnet
    raw = images(2, 70, 97)
    expected = np.asarray(theirs(module.preprocess_input(raw.astype("float32"))))
    features = keras.Model(ours.input, ours.get_layer("avg_pool").output)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(np.asarray(features(raw)), expected.mean((1, 2)), atol=1e-4)


# --- shortcuts ----------------------------------------------------------------------------------------------------------------


def silent_residuals(network: Network) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Output of the stem, and of the network after every residual function was made zero: what the shortcuts alone carry."""
    model = build_backbone(network, 32)
    for layer in model.layers:
        if layer.name.endswith("_2_bn"):
            layer.gamma.assign(np.zeros(layer.gamma.shape))
    stem = keras.Model(model.input, model.get_layer("conv1_relu").output)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    return np.asarray(stem(x)), np.asarray(model(x))


def test_option_a_carries_every_second_pixel_and_pads_new_channels_with_zeros() -> None:
    stem, output = silent_residuals(find_network("resnet8"))
    np.testing.assert_allclose(output[..., :16], stem[:, ::4, ::4], atol=1e-6)
    assert output.shape == (2, 8, 8, 64) and not output[..., 16:].any()


def test_options_b_and_c_carry_a_projection_and_a_plain_network_carries_nothing() -> None:
    assert silent_residuals(find_network("resnet8", "B"))[1].any()
    assert silent_residuals(find_network("resnet8", "C"))[1].any()
    assert not silent_residuals(find_network("plain8"))[1].any()


def projections(name: str, shortcut: str | None) -> list[str]:
    layers = build_backbone(find_network(name, shortcut), 32).layers
    return [layer.name.removesuffix("_0_conv") for layer in layers if layer.name.endswith("_0_conv")]


def test_option_a_projects_nowhere_b_where_the_shape_changes_c_everywhere() -> None:
    assert projections("resnet14", "A") == []
    assert projections("resnet14", "B") == ["conv3_block1", "conv4_block1"]
    every = [f"conv{stage}_block{block}" for stage in (2, 3, 4) for block in (1, 2)]
    assert projections("resnet14", "C") == every
    assert projections("resnet20v2", "A") == []
    assert projections("resnet20v2", "B") == ["conv2_block1", "conv3_block1", "conv4_block1"]
    assert projections("resnet20v2", "C") == every


def test_a_projection_adds_its_weights_and_its_batch_norm() -> None:
    a, b, c = (parameter_count(find_network("resnet14", option), 10) for option in ("A", "B", "C"))
    widening = (16 * 32 + 4 * 32) + (32 * 64 + 4 * 64)
    keeping = 2 * (16 * 16 + 4 * 16) + (32 * 32 + 4 * 32) + (64 * 64 + 4 * 64)
    assert (b - a, c - b) == (widening, keeping)


def test_a_plain_network_adds_nothing() -> None:
    for name in ("plain20", "plain18"):
        assert not [layer for layer in build_backbone(find_network(name)).layers if isinstance(layer, keras.layers.Add)]


# --- fused batch-norm ---------------------------------------------------------------------------------------------------------


def twins(name: str) -> tuple[keras.Model, keras.Model]:
    """The same network with the same random weights, on the fused batch-norm and on Keras' own."""
    spec = ClassifierSpec(replace(find_network(name), shortcut="B"), 5, 16)
    fused, plain = build_logits(spec, fused=True), build_logits(spec, fused=False)
    randomise(plain)
    copy_weights(plain, fused)
    return fused, plain


@pytest.mark.parametrize("name", ["resnet8", "resnet11v2"])
def test_fused_batch_norm_gives_keras_outputs_in_training_and_inference(name: str) -> None:
    fused, plain = twins(name)
    raw = images(6, 16, 16)
    for training in (False, True):
        ours, theirs = np.asarray(fused(raw, training=training)), np.asarray(plain(raw, training=training))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    values = named_variables(plain)
    for key, variable in named_variables(fused).items():
        np.testing.assert_allclose(np.asarray(variable), np.asarray(values[key]), atol=1e-5, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet8", "resnet11v2"])
def test_a_step_with_fused_batch_norm_is_a_step_with_keras_own(name: str) -> None:
    models = twins(name)
    before = {key: np.asarray(variable) for key, variable in named_variables(models[1]).items()}
    raw, labels = images(6, 16, 16), np.arange(6) % 5
    for model in models:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
        model.train_on_batch(raw, labels)
    values = named_variables(models[1])
    for key, variable in named_variables(models[0]).items():
        np.testing.assert_allclose(np.asarray(variable), np.asarray(values[key]), atol=2e-5, err_msg=key)
        assert not np.array_equal(np.asarray(variable), before[key]), f"{key} did not learn"


def test_frozen_fused_batch_norm_keeps_its_statistics() -> None:
    fused, plain = twins("resnet8")
    fused.trainable = plain.trainable = False
    raw = images(6, 16, 16)
    before = {key: np.asarray(variable) for key, variable in named_variables(fused).items()}
    np.testing.assert_allclose(np.asarray(fused(raw, training=True)), np.asarray(plain(raw, training=True)), atol=1e-5)
    assert all(np.array_equal(np.asarray(variable), before[key]) for key, variable in named_variables(fused).items())


def test_frozen_batch_norm_asks_for_no_gradient_that_gpus_refuse_to_repeat() -> None:
    import tensorflow as tf

    network = find_network("resnet8")
    model = build_logits(ClassifierSpec(network, 2, 32))
    kinds = {frozen: set[tuple[str, bool]]() for frozen in (False, True)}
    for frozen, found in kinds.items():
        if frozen:
            freeze_batch_norm(model)

        @tf.function  # type: ignore[untyped-decorator]
        def gradients(raw: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(raw, training=True))
            return tape.gradient(loss, [variable.value for variable in model.trainable_variables])

        graph = gradients.get_concrete_function(tf.TensorSpec((4, 32, 32, 3), tf.uint8)).graph
        kernels = [each for each in graph.get_operations() if each.type.startswith("FusedBatchNorm")]
        found.update((each.type, each.get_attr("is_training")) for each in kernels)
    assert kinds[False] == {("FusedBatchNormV3", True), ("FusedBatchNormGradV3", True)}
    assert not any("Grad" in kind for kind, _ in kinds[True])


@pytest.mark.parametrize(
    ("bf16", "side", "stride", "small"),
    [
        (True, 4, 1, True),
        (True, 9, 1, False),
        (False, 4, 1, False),
        (True, 17, 2, True),
        (True, 18, 2, True),  # its last row and column are read by nothing
        (True, 19, 2, False),
        (False, 10, 2, False),
    ],
)
def test_the_filter_gradient_of_small_maps_is_keras_gradient(bf16: bool, side: int, stride: int, small: bool) -> None:
    import tensorflow as tf

    from resnet_cli.networks.accelerations import set_rewriting

    random = np.random.default_rng(0)
    images = random.normal(size=(6, side, side, 3)).astype(np.float32)
    fast, plain = (convolution(128, 3, stride, bias=True, name="conv", fused=fused) for fused in (True, False))
    assert type(plain) is keras.layers.Conv2D and type(fast) is not keras.layers.Conv2D
    fast.build(images.shape)
    plain.build(images.shape)
    upstream = random.normal(size=plain.compute_output_shape(images.shape)).astype(np.float32)
    plain.set_weights(fast.get_weights())

    def gradients(layer: keras.layers.Layer) -> list[Any]:
        pixels = tf.constant(images)
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            outputs = layer(pixels)
        return [outputs, *tape.gradient(outputs, [pixels, *layer.trainable_weights], upstream)]

    set_rewriting(bf16)
    graph = tf.function(gradients, autograph=False).get_concrete_function(fast).graph
    assert ("Conv2DBackpropFilter" in {operation.type for operation in graph.get_operations()}) is not small
    # Outside a graph nothing is rewritten: both compute in float32 here.
    for ours, theirs in zip(gradients(fast), gradients(plain), strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-4, atol=1e-4)


def test_caffe_weights_see_bgr_minus_the_channel_means() -> None:
    raw = images(2, 9, 7)
    np.testing.assert_allclose(
        np.asarray(preprocess(find_network("resnet50"), raw)),
        raw[..., ::-1] - np.float32([103.939, 116.779, 123.68]),
        atol=1e-4,
    )


# --- names, depths and sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "blocks"), [("resnet26", 4), ("resnet38v2", 4), ("Plain14", 2), ("plain110", 18)])
def test_any_depth_of_the_papers_rule_can_be_named(name: str, blocks: int) -> None:
    assert find_network(name).blocks == (blocks,) * 3


@pytest.mark.parametrize(
    ("name", "hints"),
    [
        ("resnet21", ["resnet20", "resnet26"]),
        ("plain21", ["plain20", "plain26"]),
        ("resnet57v2", ["resnet56v2", "resnet65v2"]),
        ("resnet1000", ["resnet998", "resnet1004"]),
        ("resnet2", ["resnet8"]),
        ("resnet050", ["resnet50"]),
        pytest.param("resnet" + 5000 * "9", ["`resnet models`"], id="more digits than Python reads"),
        ("resnet35", ["resnet34", "resnet32", "resnet38"]),
        ("resnet51v2", ["resnet50v2", "resnet47v2", "resnet56v2"]),
        ("plain19", ["plain18", "plain20"]),
        ("resnet5O", ["resnet50"]),
        ("vgg16", ["`resnet models`"]),
    ],
)
def test_an_unknown_network_is_answered_with_the_nearest_names(name: str, hints: list[str]) -> None:
    with pytest.raises(ResnetError) as caught:
        find_network(name)
    assert name.lower() in caught.value.message.lower()
    assert [hint for hint in hints if hint not in caught.value.hint] == []


def test_an_unknown_shortcut_is_refused() -> None:
    with pytest.raises(ResnetError, match="no shortcut option 'D'"):
        find_network("resnet20", "D")  # type: ignore[arg-type]
    with pytest.raises(ResnetError, match="plain network"):
        find_network("plain20", "A")


@pytest.mark.parametrize("side", [33, 75])
@pytest.mark.parametrize(
    "name", ["resnet18", "plain18", "resnet18v2", "resnet50v2", "resnet18-slim", "resnet18-compact", "resnet8", "resnet11v2"]
)
def test_any_image_size_is_halved_rounding_up(name: str, side: int) -> None:
    network = find_network(name)
    expected = ceil(side / network.reduction)
    assert build_backbone(network, side).output.shape == (None, expected, expected, network.outputs[-1])


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *(("resnet50", 16), ("resnet50v2", 31), ("plain34", 8), ("resnet18-slim", 31), ("resnet18-compact", 7)),
        *(("resnet20", 2), ("resnet20v2", 3), ("plain20", 3), ("resnet50", 0)),
    ],
)
def test_an_image_size_too_small_for_the_stages_is_refused(name: str, side: int) -> None:
    network = find_network(name)
    with pytest.raises(ResnetError, match=f"--image-size {side} is too small for {name}") as caught:
        ClassifierSpec(network, 10, side)
    assert f"at least {network.reduction} pixels" in caught.value.hint
    assert ClassifierSpec(network, 10, network.reduction)


def test_one_class_is_refused() -> None:
    with pytest.raises(ResnetError, match="at least two classes, not 1"):
        ClassifierSpec(find_network("resnet20"), 1, 32)


@pytest.mark.slow
def test_hundreds_of_layers_build_and_are_cut_at_the_last_stage() -> None:
    # Keras walks graphs by recursion; 344 layers without shortcuts are past Python's usual limit.
    network = widen(find_network("plain344"), 0.25)
    model = build_logits(ClassifierSpec(network, 3, 16))
    assert [output.shape for output in prefix_model(model, network).outputs] == [(None, 16), (None, 8, 8, 8)]
    assert tail_model(model, network).output.shape == (None, 3)


def test_the_compact_network_is_resnet18_at_half_width_with_the_cifar_stem() -> None:
    compact = find_network("resnet18-compact")
    assert (compact.blocks, compact.outputs, compact.stem, compact.shortcut) == ((2, 2, 2, 2), (32, 64, 128, 256), "cifar", "B")
    assert compact.pretrained == ""


def test_the_bundled_network_is_resnet18_with_fewer_channels() -> None:
    slim, whole = find_network("resnet18-slim"), find_network("resnet18")
    narrow = widen(whole, slim.outputs[0] / whole.outputs[0])
    assert slim == replace(narrow, name="resnet18-slim", image_size=128, sides=slim.sides, unfreeze="all", pretrained="bundled")
    assert slim.outputs[0] in (32, 48)
    assert all(side % slim.reduction == 0 for side in slim.sides) and slim.image_size in slim.sides
