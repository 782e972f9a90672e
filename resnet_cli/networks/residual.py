"""The one residual builder: every network of He et al. 2015 and 2016 from a `Network` description.

In: a description and an input size. Out: a Keras model from preprocessed pixels to the last feature map. Layers have the
names of keras.applications (conv2_block1_1_conv, ...), so that weights can be copied by name.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers, ops

from resnet_cli.errors import ResnetError
from resnet_cli.networks.accelerations import batch_norm, convolution
from resnet_cli.networks.catalogue import Network

Tensor = Any


@dataclass(frozen=True)
class _Place:
    """One block of a network: its stage (from 0), stride, name, and the probability that training drops its branch."""

    stage: int
    stride: int
    name: str
    drop_rate: float


@dataclass(frozen=True)
class _Parts:
    """The layers that every block is made of, named and configured in the same way."""

    network: Network
    fused: bool

    def conv(self, x: Tensor, filters: int, size: int, name: str, stride: int = 1, role: str = "inner") -> Tensor:
        biased = self.network.biased == "all" or (self.network.biased == "ends" and role == "end")
        if size > 1 and stride > 1:
            # Explicit padding: TensorFlow's "same" would pad a strided 3x3 on the right and bottom only.
            x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        return convolution(filters, size, stride, biased, f"{name}_conv", self.fused)(x)

    def subsample(self, x: Tensor, stride: int, name: str) -> Tensor:
        """Every `stride`-th row and column: an identity with a stride, the input of strided 1x1 convolutions.

        In training it is computed once for all of them, and frozen layers end at it: only a quarter of activations is stored.
        OpenVINO is a few percent faster without it.
        """
        return layers.MaxPooling2D(1, strides=stride, name=f"{name}_0_subsample")(x) if stride > 1 else x

    def norm(self, x: Tensor, name: str) -> Tensor:
        return batch_norm(f"{name}_bn", self.fused, self.network.epsilon)(x)

    def add(self, shortcut: Tensor, branch: Tensor, place: _Place, name: str) -> Tensor:
        if place.drop_rate:
            branch = StochasticDepth(place.drop_rate, f"{place.name}_drop")(branch)
        return layers.Add(name=f"{place.name}_{name}")([shortcut, branch])

    def relu(self, x: Tensor, name: str) -> Tensor:
        return layers.Activation("relu", name=f"{name}_relu")(x)

    def conv_norm_relu(self, x: Tensor, filters: int, size: int, name: str, stride: int = 1) -> Tensor:
        return self.relu(self.norm(self.conv(x, filters, size, name, stride), name), name)


def build_backbone(
    network: Network, image_size: int | None = None, fused: bool = False, stochastic_depth: float = 0.0
) -> keras.Model:
    """Build the convolutional part, from preprocessed pixels to the feature map before global pooling.

    Args:
        network: what to build; see `Network`.
        image_size: input side in pixels, or None for any.
        fused: build with the layers of `accelerations.py` that train faster on TensorFlow.
        stochastic_depth: probability that training drops the last block, 0..1, 1 excluded; it falls linearly to 0 at the
            input (Huang et al. 2016, equation 4; their 0.5 suits deep networks).

    Returns:
        A model of float input (N, H, W, 3) and output (N, H / reduction, W / reduction, outputs[-1]), sides rounded up.

    Raises:
        ResnetError: stochastic depth in a plain network.

    Example:
        >>> from resnet_cli.networks.catalogue import find_network
        >>> from resnet_cli.networks.residual import build_backbone
        >>> build_backbone(find_network("resnet20"), image_size=32).output.shape
        (None, 8, 8, 64)
    """
    if stochastic_depth and network.shortcut == "none":
        raise ResnetError(
            f"stochastic_depth contradicts {network.name}, a plain network: there is no shortcut around a dropped block"
        )
    parts = _Parts(network, fused)
    block = _block_v2 if network.version == 2 else _block_v1
    inputs = keras.Input((image_size, image_size, 3), name="pixels")
    x = _stem(parts, inputs)
    for place in _places(network, stochastic_depth):
        x = block(parts, x, place)
    if network.version == 2:
        x = parts.relu(parts.norm(x, "post"), "post")
    with room_for(network):
        return keras.Model(inputs, x, name=network.name)


def _places(network: Network, stochastic_depth: float) -> Iterator[_Place]:
    """The blocks, from the input to the output."""
    last_stage = len(network.blocks) - 1
    before = 0
    for stage, blocks in enumerate(network.blocks):
        for index in range(blocks):
            strides = index == 0 and stage > 0
            if network.stride_block == "last":
                strides = index == blocks - 1 and stage < last_stage
            drop_rate = stochastic_depth * (before + index + 1) / sum(network.blocks)
            yield _Place(stage, 2 if strides else 1, f"conv{stage + 2}_block{index + 1}", drop_rate)
        before += blocks


@contextmanager
def room_for(network: Network) -> Iterator[None]:
    """Raise Python's recursion limit while a model is built: Keras traverses deep networks recursively."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 10 * network.depth)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


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


def _block_v1(parts: _Parts, x: Tensor, place: _Place) -> Tensor:
    """Post-activation: conv-BN-ReLU, ReLU after the addition (He et al. 2015, figures 2 and 5)."""
    network = parts.network
    stride, name = place.stride, place.name
    filters, outputs = network.filters[place.stage], network.outputs[place.stage]
    if parts.fused and network.stride_in == "1x1":
        x, stride = parts.subsample(x, stride, name), 1
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
        y = parts.add(shortcut, y, place, "add")
    return layers.Activation("relu", name=f"{name}_out")(y)


def _block_v2(parts: _Parts, x: Tensor, place: _Place) -> Tensor:
    """Pre-activation: BN-ReLU-conv, nothing after the addition (He et al. 2016, figure 1b)."""
    network = parts.network
    stride, name = place.stride, place.name
    filters, outputs = network.filters[place.stage], network.outputs[place.stage]
    preact = parts.relu(parts.norm(x, f"{name}_preact"), f"{name}_preact")
    shortcut = _shortcut(parts, x, outputs, stride, name, preact)
    if network.block == "basic":
        y = parts.conv_norm_relu(preact, filters, 3, f"{name}_1", stride)
        y = parts.conv(y, outputs, 3, f"{name}_2", role="end")
    else:
        y = parts.conv_norm_relu(preact, filters, 1, f"{name}_1")
        y = parts.conv_norm_relu(y, filters, 3, f"{name}_2", stride)
        y = parts.conv(y, outputs, 1, f"{name}_3", role="end")
    return y if shortcut is None else parts.add(shortcut, y, place, "out")


def _shortcut(parts: _Parts, x: Tensor, outputs: int, stride: int, name: str, preact: Tensor = None) -> Tensor | None:
    """Options A, B and C of He et al. 2015, section 3.3; None for plain networks.

    A projection reads the pre-activation where there is one (He et al. 2016, section 5); an identity never does.
    """
    option = parts.network.shortcut
    if option == "none":
        return None
    if option == "C" or (option == "B" and x.shape[-1] != outputs):
        source = x if preact is None else preact
        if parts.fused:
            source, stride = parts.subsample(source, stride, name), 1
        shortcut = parts.conv(source, outputs, 1, f"{name}_0", stride, role="end")
        return parts.norm(shortcut, f"{name}_0") if preact is None else shortcut
    x = parts.subsample(x, stride, name)
    missing = outputs - x.shape[-1]
    if missing > 0:
        x = ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing)))
    return x


class StochasticDepth(keras.layers.Layer):  # type: ignore[misc]
    """Drop a branch for each image of a batch independently, and scale kept branches by 1 / (1 - rate).

    The paper drops a branch for the whole batch and scales it by 1 - rate in inference: the expectation is the same, and here
    inference needs no scaling. Keras' Dropout with a noise shape is not used: in half precision it draws multiples of 1/128,
    which is more than the rates of the first blocks of a deep network.

    Args:
        rate: probability that the branch is dropped, 0..1, 1 excluded.
        name: layer name.
    """

    def __init__(self, rate: float, name: str) -> None:
        super().__init__(name=name)
        self.rate = rate
        # Its state is a variable of the model: it is part of checkpoints, so a resumed training draws the same numbers.
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, branch: Any, training: bool | None = None) -> Any:
        """A branch (N, H, W, C) to the same shape."""
        if not training:
            return branch
        kept = 1.0 - self.rate
        draws = keras.random.uniform((ops.shape(branch)[0], 1, 1, 1), dtype="float32", seed=self.seed_generator)
        return branch * ops.cast(ops.floor(draws + kept) / kept, branch.dtype)

    def get_config(self) -> dict[str, Any]:
        """See `keras.layers.Layer`."""
        return {"rate": self.rate, "name": self.name}

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the branch; given here so that Keras need not trace `call` for every block."""
        return input_shape
