"""The catalogue: every network by name, as data; its parameters, and the classifier made of it (light: the standard library
only).

In: a name such as "resnet56v2". Out: a `Network`, the description from which `residual.py` builds it, or an error that names
the nearest depths and names; its number of parameters; and a `ClassifierSpec`, as stored in run.json.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from resnet_cli.data import Interpolation, Resize, Steps
from resnet_cli.errors import ResnetError

if TYPE_CHECKING:
    from resnet_cli.data.decode import Geometry

Block = Literal["basic", "bottleneck"]
Stem = Literal["imagenet", "cifar"]
Shortcut = Literal["A", "B", "C", "none"]
Unfreeze = Literal["none", "last", "all"]
Preprocessing = Literal["caffe", "tf", "torch", "unit", "pixel-mean"]
KERAS_EPSILON = 1.001e-5  # of keras.applications; also the smallest that TensorFlow's fused batch-norm takes
TORCH_EPSILON = 1e-5


@dataclass(frozen=True)
class Network:
    """A residual network, described in the papers' terms (He et al. 2015, 2016).

    Attributes:
        name: catalogue key.
        family: "imagenet", "cifar" or "compact".
        depth: layers with weights, as the papers count.
        block: basic (two 3x3) or bottleneck (1x1, 3x3, 1x1).
        version: 1 = post-activation (2015), 2 = pre-activation (2016).
        stem: "imagenet" = 7x7/2 and 3x3/2 max-pool, "cifar" = one 3x3.
        blocks: residual blocks per stage.
        filters: channels inside a block, per stage.
        outputs: output channels of a block, per stage.
        shortcut: A zero-padding, B projection where the shape changes, C projection always, none = plain network.
        stride_in: the convolution of a bottleneck that has the stride: "1x1" (paper, Keras) or "3x3" (v1.5, and v2).
        stride_block: the block that has the stride: the "first" of a stage, or the "last" of the stage before (Keras' V2).
        biased: convolutions that have a bias: "none", "all", or "ends" (stem, projection and last 1x1: Keras' V2).
        image_size: the usual input side, pixels.
        sides: input sides, ascending, from which `finetune --image-size auto` chooses by image size; empty: image_size.
        unfreeze: layers that `finetune --unfreeze auto` trains in addition to the head: "last" = the last stage, "all" = every
            layer, for networks small enough to train in seconds.
        preprocessing: how uint8 pixels are scaled; see `classifier.py`.
        pretrained: where weights come from: "imagenet" (keras.applications), "hub" (see `published.py`), "bundled", or "" for
            none.
        epsilon: added to the variance by batch-norm.
        mean, std: means and standard deviations of the channels (RGB, pixels of 0..1) that preprocessing "torch" uses.
        interpolation: filter of the resizing that the weights expect.
        steps: how a square is cropped; see `data.decode.Geometry`.
        crops: (input side in pixels, share of the short side) pairs of published weights: first the one of their training, last
            the one of their published accuracy; empty if there are none.
    """

    name: str
    family: str
    depth: int
    block: Block
    version: int
    stem: Stem
    blocks: tuple[int, ...]
    filters: tuple[int, ...]
    outputs: tuple[int, ...]
    shortcut: Shortcut = "B"
    stride_in: Literal["1x1", "3x3"] = "3x3"
    stride_block: Literal["first", "last"] = "first"
    biased: Literal["none", "all", "ends"] = "none"
    image_size: int = 224
    sides: tuple[int, ...] = ()
    unfreeze: Unfreeze = "last"
    preprocessing: Preprocessing = "torch"
    pretrained: str = ""
    epsilon: float = KERAS_EPSILON
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"
    steps: Steps = "one"
    crops: tuple[tuple[int, float], ...] = ()

    @property
    def reduction(self) -> int:
        """Side of the input divided by the side of the last feature map (rounded up)."""
        stages: int = 2 ** (len(self.blocks) - 1)
        return stages * (4 if self.stem == "imagenet" else 1)

    @property
    def crop_fraction(self) -> float:
        """Share of the short side that prediction sees: 0.875 for ImageNet networks (He et al. 2015), 1 for small images."""
        return 0.875 if self.stem == "imagenet" else 1.0

    def geometry(self, size: int, resize: Resize = "crop") -> "Geometry":
        """How images are brought to an input of `size` pixels: as published with the weights, else by `crop_fraction`."""
        from resnet_cli.data.decode import Geometry

        usual = self.crops[0][1] if self.crops else self.crop_fraction
        return Geometry(size, resize, dict(self.crops).get(size, usual), interpolation=self.interpolation, steps=self.steps)


_IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_STAGES = (64, 128, 256, 512)
_SLIM_WIDTH = 0.5  # share of ResNet-18's channels; the bundled weights have this width
_SLIM_SIDES = (96, 128)  # pixels; smaller images are scaled up to the first
_SMALL_SIDES = (40, 48, 64, 96, 128)
_TYPICAL_CIFAR_DEPTHS = {1: (20, 32, 44, 56, 110, 1202), 2: (20, 29, 56, 110, 164, 1001)}
# No leading zero: resnet050 would be a CIFAR network named like the ImageNet one.
_CIFAR_NAME = re.compile(r"(resnet|plain)([1-9][0-9]{0,3})(v2)?")


def _imagenet(depth: int, version: int = 1, plain: bool = False) -> Network:
    """Tables 1 of He et al. 2015; 50 layers and more exactly as keras.applications builds them."""
    bottleneck = depth >= 50
    network = Network(
        name=f"{'plain' if plain else 'resnet'}{depth}{'v2' if version == 2 else ''}",
        family="imagenet",
        depth=depth,
        block="bottleneck" if bottleneck else "basic",
        version=version,
        stem="imagenet",
        blocks=_IMAGENET_BLOCKS[depth],
        filters=_STAGES,
        outputs=tuple(4 * width for width in _STAGES) if bottleneck else _STAGES,
        shortcut="none" if plain else "B",
    )
    if not bottleneck:
        return network if plain or version == 2 else replace(network, pretrained="hub")
    if version == 1:
        return replace(network, stride_in="1x1", biased="all", preprocessing="caffe", pretrained="imagenet")
    return replace(network, stride_block="last", biased="ends", preprocessing="tf", pretrained="imagenet")


def _strided_in_3x3(depth: int) -> Network:
    """ResNet v1.5, the network of torchvision and timm: the stride is in the 3x3 convolution of a bottleneck."""
    paper = _imagenet(depth)
    return replace(
        paper,
        name=f"{paper.name}v1.5",
        stride_in="3x3",
        biased="none",
        preprocessing="torch",
        pretrained="hub",
        epsilon=TORCH_EPSILON,
    )


def _cifar(depth: int, version: int = 1, plain: bool = False) -> Network:
    """Section 4.2 of He et al. 2015 (6n+2, basic blocks, option A) and He et al. 2016 (9n+2, bottlenecks).

    Up to 110 layers v2 follows Keras' example, whose bottlenecks are 16, 64 and 128 wide; deeper ones
    follow the paper's 16, 32 and 64.
    """
    stages = (16, 32, 64)
    network = Network(
        name=f"{'plain' if plain else 'resnet'}{depth}{'v2' if version == 2 else ''}",
        family="cifar",
        depth=depth,
        block="basic",
        version=version,
        stem="cifar",
        blocks=((depth - 2) // 6,) * 3,
        filters=stages,
        outputs=stages,
        shortcut="none" if plain else "A",
        image_size=32,
        sides=_SMALL_SIDES,
    )
    if version == 1:
        return network
    filters = (16, 64, 128) if depth <= 110 else stages
    outputs = (64, 128, 256)
    blocks = ((depth - 2) // 9,) * 3
    return replace(network, block="bottleneck", blocks=blocks, filters=filters, outputs=outputs, shortcut="B")


def _slim() -> Network:
    """ResNet-18 with half the channels, whose weights come with the package: 0.15 GFLOP at 128 pixels."""
    narrow = widen(_imagenet(18), _SLIM_WIDTH)
    return replace(narrow, name="resnet18-slim", image_size=128, sides=_SLIM_SIDES, unfreeze="all", pretrained="bundled")


def _compact() -> Network:
    """ResNet-18 at half width with the CIFAR stem, for small images."""
    half = widen(_imagenet(18), 0.5)
    return replace(half, name="resnet18-compact", family="compact", stem="cifar", image_size=64, sides=_SMALL_SIDES)


def widen(network: Network, factor: float) -> Network:
    """The network with `factor` times the channels everywhere (Zagoruyko and Komodakis 2016); no published weights fit it."""
    return replace(
        network,
        name=f"{network.name}-x{factor:g}",
        filters=tuple(max(1, round(width * factor)) for width in network.filters),
        outputs=tuple(max(1, round(width * factor)) for width in network.outputs),
        pretrained="",
    )


def _table() -> dict[str, Network]:
    imagenet = [_imagenet(depth, version) for version in (1, 2) for depth in _IMAGENET_BLOCKS]
    plain = [_imagenet(18, plain=True), _imagenet(34, plain=True)]
    cifar = [_cifar(depth, version) for version, depths in _TYPICAL_CIFAR_DEPTHS.items() for depth in depths]
    plain_cifar = [_cifar(depth, plain=True) for depth in (20, 32, 44, 56)]
    strided_in_3x3 = [_strided_in_3x3(depth) for depth in (50, 101, 152)]
    networks = [*imagenet, *strided_in_3x3, _slim(), *plain, *cifar, *plain_cifar, _compact()]
    return {network.name: network for network in networks}


CATALOGUE: dict[str, Network] = _table()


def find_network(name: str, shortcut: Shortcut | None = None) -> Network:
    """The network of that name, optionally with another shortcut option.

    Args:
        name: a catalogue key in any case, or any depth that fits 6n+2 (v1, plain) or 9n+2 (v2).
        shortcut: replaces the usual option (A, B or C; He et al. 2015, section 3.3).

    Raises:
        ResnetError: the name or depth does not exist; the hint lists the nearest ones.
    """
    key = name.strip().lower()
    network = CATALOGUE.get(key) or _free_depth(key)
    if network is None:
        near = difflib.get_close_matches(key, CATALOGUE, n=4, cutoff=0.4)
        hint = f"nearest names: {', '.join(near)}" if near else "`resnet models` lists every network"
        raise ResnetError(f"there is no network named '{name}'", hint)
    if shortcut is None or shortcut == network.shortcut:
        return network
    if shortcut not in get_args(Shortcut):
        raise ResnetError(f"there is no shortcut option '{shortcut}'", f"choose one of {', '.join(get_args(Shortcut))}")
    if network.shortcut == "none":
        raise ResnetError(f"--shortcut {shortcut} contradicts {network.name}, a plain network without shortcuts")
    # The name stays the same, as the shortcut is recorded separately; weights trained with another option do not fit.
    return replace(network, shortcut=shortcut, pretrained="")


def _free_depth(key: str) -> Network | None:
    """A CIFAR network of a depth that is not in the table, if it follows the papers' rule."""
    match = _CIFAR_NAME.fullmatch(key)
    if match is None:
        return None
    kind, digits, v2 = match.groups()
    depth, step = int(digits), 9 if v2 else 6
    if kind == "plain" and v2:
        return None
    if depth >= step + 2 and (depth - 2) % step == 0:
        return _cifar(depth, 2 if v2 else 1, plain=kind == "plain")
    below = max(step + 2, depth - (depth - 2) % step)
    fitting = {network.depth for network in CATALOGUE.values() if network.name == f"{kind}{network.depth}{v2 or ''}"}
    near = sorted(fitting | {below, below + step}, key=lambda other: (abs(other - depth), other))[:3]
    names = ", ".join(f"{kind}{other}{v2 or ''}" for other in near)
    raise ResnetError(
        f"there is no {key}: CIFAR networks of that kind have {step}n+2 layers",
        f"nearest: {names}; `resnet models` lists every network",
    )


_USUAL_CLASSES = {"imagenet": 1000, "cifar": 10, "compact": 200}


def usual_classes(network: Network) -> int:
    """Number of classes for published parameter counts: ImageNet's, CIFAR-10's or Tiny ImageNet's."""
    return _USUAL_CLASSES[network.family]


def parameter_count(network: Network, classes: int, hidden: int = 0) -> int:
    """All parameters of backbone and head (pooled features to classes), batch-norm's moving statistics included.

    Args:
        network: the backbone.
        classes: number of classes.
        hidden: units of a layer between pooled features and classes; 0 for none.
    """
    # With "ends" the stem has a bias too, as in keras.applications' V2.
    weights = _conv(3, network.filters[0], 7 if network.stem == "imagenet" else 3, network.biased != "none")
    for stage, channels in _blocks(network):
        weights += _block(network, stage, channels)
        if _projects(network, stage, channels):
            weights += _conv(channels, network.outputs[stage], 1, network.biased != "none")
    features = network.outputs[-1]
    if hidden:
        weights, features = weights + (features + 1) * hidden, hidden
    return weights + (features + 1) * classes + 4 * norm_channels(network)


def norm_channels(network: Network) -> int:
    """Channels of all batch-norms: each has a scale and an offset, which are trained, and a moving mean and variance."""
    total = network.filters[0] if network.version == 1 else network.outputs[-1]
    for stage, channels in _blocks(network):
        total += network.filters[stage] * (1 if network.block == "basic" else 2)
        # The last batch-norm follows the block in v1 and precedes it in v2; only v1 has one on a projection.
        total += network.outputs[stage] if network.version == 1 else channels
        if network.version == 1 and _projects(network, stage, channels):
            total += network.outputs[stage]
    return total


def _blocks(network: Network) -> Iterator[tuple[int, int]]:
    """The stage of every block, and the channels that enter it."""
    channels = network.filters[0]
    for stage, blocks in enumerate(network.blocks):
        for _ in range(blocks):
            yield stage, channels
            channels = network.outputs[stage]


def _block(network: Network, stage: int, channels: int) -> int:
    inner, outputs = network.filters[stage], network.outputs[stage]
    every, last = network.biased == "all", network.biased != "none"
    if network.block == "basic":
        return _conv(channels, inner, 3, every) + _conv(inner, outputs, 3, last)
    return _conv(channels, inner, 1, every) + _conv(inner, inner, 3, every) + _conv(inner, outputs, 1, last)


def _projects(network: Network, stage: int, channels: int) -> bool:
    return network.shortcut == "C" or (network.shortcut == "B" and channels != network.outputs[stage])


def _conv(inputs: int, outputs: int, size: int, biased: bool) -> int:
    return inputs * outputs * size * size + (outputs if biased else 0)


@dataclass(frozen=True)
class ClassifierSpec:
    """Everything that the shape of a classifier depends on.

    Attributes:
        network: the backbone.
        classes: number of classes.
        image_size: input side, pixels; None builds for any size.
        hidden: units of a ReLU layer between pooling and the classes; 0 for none. The tutorials' head is 2048.
        dropout: share of pooled features dropped in training, 0..1.

    Raises:
        ResnetError: fewer than two classes, or an image size too small for the stem and stages.
    """

    network: Network
    classes: int
    image_size: int | None
    hidden: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ResnetError(f"a classifier needs at least two classes, not {self.classes}")
        smallest, name = self.network.reduction, self.network.name
        if self.image_size is not None and self.image_size < smallest:
            # Checked here and not in the builder, which builds networks for any size: it must fail before the training.
            raise ResnetError(
                f"--image-size {self.image_size} is too small for {name}, which halves its input down to 1/{smallest}",
                f"use at least {smallest} pixels",
            )

    def to_record(self) -> dict[str, Any]:
        """The fields stored in run.json."""
        network: dict[str, Any] = {
            "name": self.network.name,
            "shortcut": self.network.shortcut,
            "preprocessing": self.network.preprocessing,
            "epsilon": self.network.epsilon,
        }
        if self.network.preprocessing == "torch":
            network |= {"mean": list(self.network.mean), "std": list(self.network.std)}
        return {"network": network, "image_size": self.image_size, "head": {"hidden": self.hidden, "dropout": self.dropout}}


def spec_from_record(record: dict[str, Any]) -> ClassifierSpec:
    """The spec that a run was written with.

    Raises:
        ResnetError: run.json lacks a field or names a network that does not exist.
    """
    try:
        words = record["network"]
        usual = find_network(words["name"])
        option = words["shortcut"]
        network = find_network(words["name"], None if option == usual.shortcut else option)
        return ClassifierSpec(
            network=replace(
                network,
                preprocessing=words["preprocessing"],
                epsilon=float(words.get("epsilon", network.epsilon)),  # these three are absent in runs of older versions
                mean=tuple(map(float, words.get("mean", network.mean))),
                std=tuple(map(float, words.get("std", network.std))),
            ),
            classes=len(record["classes"]),
            image_size=int(record["image_size"]),
            hidden=int(record["head"]["hidden"]),
            dropout=float(record["head"]["dropout"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ResnetError(f"run.json does not describe a classifier: {error}", "the run is damaged: train it again") from error
