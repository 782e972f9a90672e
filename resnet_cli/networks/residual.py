"""The one residual builder: every network of He et al. 2015 and 2016 from a `Network` description.

In: a description and an input size. Out: a Keras model from preprocessed pixels to the last feature map. Layers carry
the names of keras.applications (conv2_block1_1_conv, ...), so weights are carried over by name.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers, ops

from resnet_cli.errors import ResnetError
from resnet_cli.networks.batch_norm import batch_norm
from resnet_cli.networks.catalogue import Network

Tensor = Any


@dataclass(frozen=True)
class _Parts:
    """The three parts that every block is made of, named and configured alike."""

    network: Network
    fused: bool

    def conv(self, x: Tensor, filters: int, size: int, name: str, stride: int = 1, role: str = "inner") -> Tensor:
        biased = self.network.biased == "all" or (self.network.biased == "ends" and role == "end")
        if size > 1 and stride > 1:
            # Explicit padding: TensorFlow's "same" would pad a strided 3x3 on the far side only.
            x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        return layers.Conv2D(
            filters,
            size,
            strides=stride,
            padding="valid" if size > 1 and stride > 1 else "same",
            use_bias=biased,
            kernel_initializer="he_normal",
            name=f"{name}_conv",
        )(x)

    def norm(self, x: Tensor, name: str) -> Tensor:
        return batch_norm(f"{name}_bn", self.fused)(x)

    def relu(self, x: Tensor, name: str) -> Tensor:
        return layers.Activation("relu", name=f"{name}_relu")(x)

    def conv_norm_relu(self, x: Tensor, filters: int, size: int, name: str, stride: int = 1) -> Tensor:
        return self.relu(self.norm(self.conv(x, filters, size, name, stride), name), name)


def build_backbone(network: Network, image_size: int | None = None, fused: bool = False) -> keras.Model:
    """Build the convolutional part, from preprocessed pixels to the feature map before global pooling.

    Args:
        network: what to build; see `Network`.
        image_size: input side in pixels, or None for any.
        fused: build with the fast batch-norm of `batch_norm.py` (for training on TensorFlow).

    Returns:
        A model of float input (N, H, W, 3) and output (N, H / reduction, W / reduction, outputs[-1]), sides rounded up.

    Raises:
        ResnetError: the image size is too small for the stem and stages.
    """
    if image_size is not None and image_size < network.reduction:
        raise ResnetError(
            f"--image-size {image_size} is too small for {network.name}, which halves its input down to 1/{network.reduction}",
            f"use at least {network.reduction} pixels",
        )
    parts = _Parts(network, fused)
    inputs = keras.Input((image_size, image_size, 3), name="pixels")
    x = _stem(parts, inputs)
    last_stage = len(network.blocks) - 1
    for stage, blocks in enumerate(network.blocks):
        for index in range(blocks):
            strides = index == 0 and stage > 0
            if network.stride_block == "last":
                strides = index == blocks - 1 and stage < last_stage
            block = _block_v2 if network.version == 2 else _block_v1
            x = block(parts, x, stage, 2 if strides else 1, f"conv{stage + 2}_block{index + 1}")
    if network.version == 2:
        x = parts.relu(parts.norm(x, "post"), "post")
    with _room_for(network):
        return keras.Model(inputs, x, name=network.name)


@contextmanager
def _room_for(network: Network) -> Iterator[None]:
    """Keras walks a new model's graph by recursion, a few levels a layer: 200 layers and more pass Python's usual limit."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 10 * network.depth)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def stage_names(network: Network) -> list[str]:
    """Layer-name prefixes of the stages, from the input: ["conv2_", "conv3_", ...]."""
    return [f"conv{stage + 2}_" for stage in range(len(network.blocks))]


def _stem(parts: _Parts, x: Tensor) -> Tensor:
    network = parts.network
    if network.stem == "cifar":
        x = parts.conv(x, network.filters[0], 3, "conv1")
        return x if network.version == 2 else parts.relu(parts.norm(x, "conv1"), "conv1")
    x = layers.ZeroPadding2D(3, name="conv1_pad")(x)
    x = layers.Conv2D(
        network.filters[0],
        7,
        strides=2,
        use_bias=network.biased != "none",
        kernel_initializer="he_normal",
        name="conv1_conv",
    )(x)
    if network.version == 1:
        x = parts.relu(parts.norm(x, "conv1"), "conv1")
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    return layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)


def _block_v1(parts: _Parts, x: Tensor, stage: int, stride: int, name: str) -> Tensor:
    """Post-activation: conv-BN-ReLU, ReLU after the addition (He et al. 2015, figures 2 and 5)."""
    network = parts.network
    filters, outputs = network.filters[stage], network.outputs[stage]
    shortcut = _shortcut(parts, x, outputs, stride, name)
    if network.block == "basic":
        y = parts.conv_norm_relu(x, filters, 3, f"{name}_1", stride)
        y = parts.norm(parts.conv(y, outputs, 3, f"{name}_2"), f"{name}_2")
    else:
        early = network.stride_in == "1x1"
        y = parts.conv_norm_relu(x, filters, 1, f"{name}_1", stride if early else 1)
        y = parts.conv_norm_relu(y, filters, 3, f"{name}_2", 1 if early else stride)
        y = parts.norm(parts.conv(y, outputs, 1, f"{name}_3"), f"{name}_3")
    if shortcut is not None:
        y = layers.Add(name=f"{name}_add")([shortcut, y])
    return layers.Activation("relu", name=f"{name}_out")(y)


def _block_v2(parts: _Parts, x: Tensor, stage: int, stride: int, name: str) -> Tensor:
    """Pre-activation: BN-ReLU-conv, nothing after the addition (He et al. 2016, figure 1b)."""
    network = parts.network
    filters, outputs = network.filters[stage], network.outputs[stage]
    preact = parts.relu(parts.norm(x, f"{name}_preact"), f"{name}_preact")
    shortcut = _shortcut(parts, x, outputs, stride, name, preact)
    if network.block == "basic":
        y = parts.conv_norm_relu(preact, filters, 3, f"{name}_1", stride)
        y = parts.conv(y, outputs, 3, f"{name}_2", role="end")
    else:
        y = parts.conv_norm_relu(preact, filters, 1, f"{name}_1")
        y = parts.conv_norm_relu(y, filters, 3, f"{name}_2", stride)
        y = parts.conv(y, outputs, 1, f"{name}_3", role="end")
    return y if shortcut is None else layers.Add(name=f"{name}_out")([shortcut, y])


def _shortcut(parts: _Parts, x: Tensor, outputs: int, stride: int, name: str, preact: Tensor = None) -> Tensor | None:
    """Options A, B and C of He et al. 2015, section 3.3; None for plain networks.

    A projection reads the pre-activation where there is one (He et al. 2016, section 5); an identity never does.
    """
    option = parts.network.shortcut
    if option == "none":
        return None
    if option == "C" or (option == "B" and x.shape[-1] != outputs):
        source = x if preact is None else preact
        shortcut = parts.conv(source, outputs, 1, f"{name}_0", stride, role="end")
        return parts.norm(shortcut, f"{name}_0") if preact is None else shortcut
    if stride > 1:
        x = layers.MaxPooling2D(1, strides=stride, name=f"{name}_0_subsample")(x)
    missing = outputs - x.shape[-1]
    if missing > 0:
        x = ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing)))
    return x
