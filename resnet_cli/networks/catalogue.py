"""The catalogue: every network by name, as data (light: the standard library only).

A `Network` says in a few words what `residual.py` builds. In: a name such as "resnet56v2". Out: its description,
or an error that names the nearest depths and names.
"""

import difflib
import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

from resnet_cli.errors import ResnetError

Block = Literal["basic", "bottleneck"]
Stem = Literal["imagenet", "cifar"]
Shortcut = Literal["A", "B", "C", "none"]
Unfreeze = Literal["none", "last", "all"]
Preprocessing = Literal["caffe", "tf", "torch", "unit", "pixel-mean"]


@dataclass(frozen=True)
class Network:
    """A residual network in the papers' words (He et al. 2015, 2016).

    Attributes:
        name: catalogue key.
        family: "imagenet", "cifar" or "compact".
        depth: layers with weights, as the papers count.
        block: basic (two 3x3) or bottleneck (1x1, 3x3, 1x1).
        version: 1 = post-activation (2015), 2 = pre-activation (2016).
        stem: "imagenet" = 7x7/2 and 3x3/2 max-pool, "cifar" = one 3x3.
        blocks: residual blocks per stage.
        filters: channels inside a block, per stage.
        outputs: channels that leave a block, per stage.
        shortcut: A zero-padding, B projection where the shape changes, C projection always, none = plain network.
        stride_in: the convolution of a bottleneck that strides: "1x1" (paper, Keras) or "3x3" (v1.5, and v2).
        stride_block: "first" block of a stage strides, or the "last" of the stage before (Keras' V2).
        biased: convolutions that carry a bias: "none", "all", or "ends" (stem, projection and last 1x1: Keras' V2).
        image_size: the usual input side, pixels.
        sides: input sides, ascending, among which `finetune --image-size auto` chooses by the images' sizes; none: image_size.
        unfreeze: layers that `finetune --unfreeze auto` trains in addition to the head: "last" = the last stage, "all" = every
            layer, where that takes seconds as well.
        preprocessing: how uint8 pixels are scaled; see `classifier.py`.
        pretrained: where weights come from: "imagenet" (keras.applications), "bundled", or "" for none.
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

    @property
    def reduction(self) -> int:
        """How many times smaller the last feature map is than the input, per side (rounded up)."""
        stages: int = 2 ** (len(self.blocks) - 1)
        return stages * (4 if self.stem == "imagenet" else 1)

    @property
    def crop_fraction(self) -> float:
        """Share of the short side that prediction sees: 0.875 for ImageNet networks (He et al. 2015), 1 for small pictures."""
        return 0.875 if self.stem == "imagenet" else 1.0


_IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_STAGES = (64, 128, 256, 512)
_SLIM_WIDTH = 0.5  # of ResNet-18's channels; the weights in the package have this width
_SLIM_SIDES = (96, 128)  # pixels; smaller images are scaled up to the first
_SMALL_SIDES = (40, 48, 64, 96, 128)
_TYPICAL_CIFAR_DEPTHS = {1: (20, 32, 44, 56, 110, 1202), 2: (20, 29, 56, 110, 164, 1001)}
# No leading zero, or resnet050 would be a CIFAR network by the name of the ImageNet one.
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
        return network
    if version == 1:
        return replace(network, stride_in="1x1", biased="all", preprocessing="caffe", pretrained="imagenet")
    return replace(network, stride_block="last", biased="ends", preprocessing="tf", pretrained="imagenet")


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
    """ResNet-18 with fewer channels: its weights come with the package. At 128 pixels half of them cost 0.15 GFLOP."""
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
    networks = [*imagenet, _slim(), *plain, *cifar, *plain_cifar, _compact()]
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
    # The name stays: the shortcut is recorded beside it; weights trained with another option do not fit.
    return replace(network, shortcut=shortcut, pretrained="")


def _free_depth(key: str) -> Network | None:
    """A CIFAR network of a depth that is not in the table, when it fits the papers' rule."""
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
