"""Cut a network at the freeze boundary: a prefix that is computed once, and a tail that is trained.

In: a network made by `build_logits` to train (`fused`). Out: Keras models that share its layers, so what the tail learns the
whole network knows.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from resnet_cli.networks.catalogue import Network
from resnet_cli.networks.classifier import preprocess, set_pixel_mean
from resnet_cli.networks.residual import room_for
from resnet_cli.networks.weights import PIXEL_MEAN


def boundary_layer(network: Network) -> str:
    """Name of the layer whose output the last stage reads.

    Where it begins with strided 1x1 convolutions that is every second row and column of what the stage before gives.
    """
    stage = len(network.blocks) - 2
    if network.stride_in == "1x1":
        return f"conv{stage + 3}_block1_0_subsample"
    # A plain v2 block ends in a convolution, every other kind in its addition or activation.
    plain_v2 = network.version == 2 and network.shortcut == "none"
    ending = f"{3 if network.block == 'bottleneck' else 2}_conv" if plain_v2 else "out"
    return f"conv{stage + 2}_block{network.blocks[stage]}_{ending}"


def feature_model(model: keras.Model) -> keras.Model:
    """uint8 pictures (N, H, W, 3) to pooled features (N, D)."""
    return keras.Model(model.input, model.get_layer("avg_pool").output, name="features")


def boundary_model(model: keras.Model, network: Network) -> keras.Model:
    """uint8 pictures to the boundary's feature map (N, h, w, c), as `tail_model` takes it."""
    backbone = model.get_layer(network.name)
    # Of the layers before the boundary alone: jax takes the others' variables away while they are trained.
    with room_for(network):
        inner = keras.Model(backbone.input, backbone.get_layer(boundary_layer(network)).output)
    return _on_pixels(model, network, "boundary", inner)


def prefix_model(model: keras.Model, network: Network) -> keras.Model:
    """uint8 pictures to two outputs: pooled features (N, D), and the boundary's feature map (N, h, w, c)."""
    backbone = model.get_layer(network.name)
    with room_for(network):
        inner = keras.Model(backbone.input, [backbone.output, backbone.get_layer(boundary_layer(network)).output])

    def outputs(pixels: Any) -> list[Any]:
        last, boundary = inner(pixels)
        return [layers.GlobalAveragePooling2D(name="avg_pool")(last), boundary]

    return _on_pixels(model, network, "prefix", outputs)


def tail_model(model: keras.Model, network: Network) -> keras.Model:
    """The boundary's feature map (N, h, w, c) to logits (N, classes), through the same layers as the whole network."""
    backbone = model.get_layer(network.name)
    boundary = backbone.get_layer(boundary_layer(network)).output
    with room_for(network):
        stage = keras.Model(boundary, backbone.output, name="last_stage")
    inputs = keras.Input(boundary.shape[1:], name="boundary")
    x = model.get_layer("avg_pool")(stage(inputs))
    for name in ("hidden", "dropout", "logits"):
        if any(layer.name == name for layer in model.layers):
            x = model.get_layer(name)(x)
    return keras.Model(inputs, x, name="tail")


def _on_pixels(model: keras.Model, network: Network, name: str, outputs: Callable[[Any], Any]) -> keras.Model:
    """A model of uint8 pictures, whose pixels reach the layers as those of the whole network do."""
    pixels = keras.Input(model.input.shape[1:], dtype="uint8", name="image")
    first = keras.Model(pixels, outputs(preprocess(network.preprocessing, pixels)), name=name)
    if network.preprocessing == "pixel-mean":
        set_pixel_mean(first, model.get_layer(PIXEL_MEAN).adapt_mean)
    return first


def freeze_batch_norm(model: keras.Model) -> None:
    """Put every batch-norm, nested ones too, in inference mode for good: small data would spoil its statistics."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            freeze_batch_norm(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
