"""Published weights in timm's format: the names that can be had, what a config.json says, and which tensors belong to which
network (light: safetensors is imported where it is used).

In: a name such as timm:resnet50.a1_in1k, or a .safetensors file with its config.json. Out: a `Checkpoint`, a `Description` with
the network, its preprocessing and its classes; and an error where a file belongs to another network.

Names, input sizes and licences: timm 1.0.31, timm/models/resnet.py. Accuracies: results/results-imagenet.csv of
huggingface/pytorch-image-models, measured by its author on ImageNet's 50,000 validation images at the given input size.
torchvision's weights are the copies in timm's organisation on the hub: torchvision itself publishes pickles only, which may
contain code and are never read here.
"""

import difflib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from resnet_cli.downloads import HUB_INSTALL, Repository
from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import TORCH_EPSILON, Network, find_network

_APACHE, _BSD, _NON_COMMERCIAL = "apache-2.0", "bsd-3-clause", "cc-by-nc-4.0"
_NETWORKS = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50v1.5",
    "resnet101": "resnet101v1.5",
    "resnet152": "resnet152v1.5",
}
# Input side of the published accuracy in pixels, and top-1 in percent.
_TAGS: dict[str, dict[str, tuple[int, float]]] = {
    "resnet18": {
        "a1_in1k": (288, 73.164),
        "a2_in1k": (288, 72.364),
        "a3_in1k": (224, 68.250),
        "gluon_in1k": (224, 70.844),
        "fb_ssl_yfcc100m_ft_in1k": (224, 72.636),
        "fb_swsl_ig1b_ft_in1k": (224, 73.286),
        "tv_in1k": (224, 69.752),
    },
    "resnet34": {
        "a1_in1k": (288, 77.930),
        "a2_in1k": (288, 77.150),
        "a3_in1k": (224, 72.996),
        "bt_in1k": (288, 76.506),
        "gluon_in1k": (224, 74.574),
        "ra4_e3600_r224_in1k": (288, 78.972),
        "tv_in1k": (224, 73.298),
    },
    "resnet50": {
        "a1_in1k": (288, 81.240),
        "a1h_in1k": (224, 80.654),
        "a2_in1k": (288, 80.774),
        "a3_in1k": (224, 78.052),
        "am_in1k": (224, 79.004),
        "b1k_in1k": (288, 80.708),
        "b2k_in1k": (288, 80.466),
        "bt_in1k": (288, 79.652),
        "c1_in1k": (288, 80.928),
        "c2_in1k": (288, 80.862),
        "d_in1k": (288, 81.012),
        "gluon_in1k": (224, 77.580),
        "ra_in1k": (288, 79.864),
        "ram_in1k": (288, 79.982),
        "fb_ssl_yfcc100m_ft_in1k": (224, 79.252),
        "fb_swsl_ig1b_ft_in1k": (224, 81.146),
        "tv_in1k": (224, 76.156),
        "tv2_in1k": (224, 80.846),
    },
    "resnet101": {
        "a1h_in1k": (288, 82.796),
        "a1_in1k": (288, 82.326),
        "a2_in1k": (288, 82.218),
        "a3_in1k": (224, 79.836),
        "gluon_in1k": (224, 79.306),
        "tv_in1k": (224, 77.404),
        "tv2_in1k": (224, 81.906),
    },
    "resnet152": {
        "a1h_in1k": (288, 83.494),
        "a1_in1k": (288, 82.742),
        "a2_in1k": (288, 82.614),
        "a3_in1k": (224, 80.548),
        "gluon_in1k": (224, 79.712),
        "tv_in1k": (224, 78.330),
        "tv2_in1k": (224, 82.294),
    },
}
_TORCHVISION = {"tv_in1k": "imagenet1k_v1", "tv2_in1k": "imagenet1k_v2"}  # torchvision's names of the weights
_USUAL = {"in_chans": 3, "global_pool": "avg"}
_SOURCES = ("timm:", "torchvision:")
_COUNTER = "num_batches_tracked"  # of a batch-norm of PyTorch; nothing depends on it


@dataclass(frozen=True)
class Checkpoint:
    """Published weights.

    Attributes:
        name: timm:ARCHITECTURE.TAG or torchvision:ARCHITECTURE.WEIGHTS.
        repository: owner/name on the hub.
        architecture: timm's name of the network.
        size: input side of the published accuracy, pixels; 0 if unknown, as for weights that are newer than this list.
        top1: published accuracy on ImageNet's validation images, percent; 0 if unknown.
        licence: SPDX identifier, lower case; "" if unknown.
        revision: branch or commit.
    """

    name: str
    repository: str
    architecture: str
    size: int = 0
    top1: float = 0.0
    licence: str = ""
    revision: str = "main"

    @property
    def network(self) -> str:
        """The network's name in the catalogue."""
        return _NETWORKS[self.architecture]

    @property
    def on_hub(self) -> Repository:
        """Where its files are."""
        hint = f"nearest names: {', '.join(nearest(self.name))}; `resnet models --weights` lists them"
        return Repository(self.name, self.repository, self.revision, hint, self.name in CHECKPOINTS)


def _listed() -> Iterator[Checkpoint]:
    for architecture, tags in _TAGS.items():
        for tag, (size, top1) in tags.items():
            licence = _BSD if tag in _TORCHVISION else _NON_COMMERCIAL if tag.startswith("fb_") else _APACHE
            where = f"torchvision:{architecture}.{_TORCHVISION[tag]}" if tag in _TORCHVISION else f"timm:{architecture}.{tag}"
            yield Checkpoint(where, f"timm/{architecture}.{tag}", architecture, size, top1, licence)


CHECKPOINTS = {checkpoint.name: checkpoint for checkpoint in _listed()}


def is_published(words: str) -> bool:
    """Whether `--weights` or `--run` names published weights."""
    return words.lower().startswith(_SOURCES)


def find_checkpoint(words: str) -> Checkpoint:
    """The checkpoint of a name, in any case.

    Args:
        words: a key of `CHECKPOINTS`. Without a tag: timm's own default, or torchvision's newest weights. A commit of the hub's
            repository may follow after @. timm's weights that are newer than this list can be named as well.

    Raises:
        ResnetError: there is no such name; the hint lists the nearest.
    """
    name, _, revision = words.strip().lower().partition("@")
    source, _, rest = name.partition(":")
    architecture, _, tag = rest.partition(".")
    if architecture not in _NETWORKS:
        raise ResnetError(
            f"{words} is not a ResNet-18, 34, 50, 101 or 152 that this program can build",
            f"nearest names: {', '.join(nearest(name))}. Other kinds are not supported: deep stems and average-pooled shortcuts"
            " (resnet50d), wide, ResNeXt, SE, group-norm and pre-activation (resnetv2) networks",
        )
    if source == "timm":
        tag = tag or next(iter(_TAGS[architecture]))
        listed = {each.repository: each for each in CHECKPOINTS.values()}
        repository = f"timm/{architecture}.{tag}"
        found = listed.get(repository, Checkpoint(f"timm:{architecture}.{tag}", repository, architecture))
    else:
        tags = [each for each in CHECKPOINTS if each.startswith(f"torchvision:{architecture}.")]
        name = name if tag else tags[-1]
        if name not in CHECKPOINTS:
            raise ResnetError(f"torchvision has no {rest}", f"it has {', '.join(tags)}")
        found = CHECKPOINTS[name]
    return replace(found, revision=revision or "main")


def nearest(name: str) -> list[str]:
    """The listed names that are most similar to one."""
    near = difflib.get_close_matches(name.partition("@")[0], CHECKPOINTS, n=4, cutoff=0.3)
    return near or ["timm:resnet50.a1_in1k", "torchvision:resnet50.imagenet1k_v2"]


@dataclass(frozen=True)
class Description:
    """What a checkpoint is.

    Attributes:
        network: the network, with the preprocessing and the crops that its weights expect.
        head: number of classes of its head; 0 if it has none.
        classes: their names; empty if config.json has none and they are not ImageNet's 1000.
        assumed: what no config.json said, for a notice; "" if there was one.
    """

    network: Network
    head: int
    classes: tuple[str, ...]
    assumed: str = ""


def describe(weights: Path, config: Path, imagenet: Sequence[str]) -> Description:
    """Read a config.json as timm and the hub save it; without one, tell the network by its tensors.

    Args:
        weights: the .safetensors file.
        config: path of config.json, which may be missing.
        imagenet: names of ImageNet's 1000 classes.

    Raises:
        ResnetError: config.json is damaged or describes another kind of network, or the weights are of none of ours.
    """
    if not config.is_file():
        return _assumed(weights, imagenet)
    try:
        record = json.loads(config.read_text("utf-8"))
        architecture = record["architecture"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResnetError(f"{config} is no config.json of timm: {error}", "timm.models.save_for_hf writes one") from error
    if architecture not in _NETWORKS:
        raise ResnetError(
            f"{config} describes {architecture}, which this program does not build",
            f"supported: {', '.join(_NETWORKS)} of timm, without deep stem, SE, group-norm or other variations",
        )
    try:
        return _described(record, find_network(_NETWORKS[architecture]), imagenet)
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ResnetError(f"{config} is damaged: {error!r}", "fetch it again, or leave it out") from error


def _described(record: dict[str, Any], network: Network, imagenet: Sequence[str]) -> Description:
    told = record.get("pretrained_cfg", record)  # older files have no level of its own
    arguments = _USUAL | record.get("model_args", {})
    changed = [name for name, value in arguments.items() if name != "num_classes" and _USUAL.get(name) != value]
    if changed:
        what = f"config.json changes the network by {changed[0]}={arguments[changed[0]]}"
        raise ResnetError(what, "only timm's own definitions are supported")
    mode, interpolation = told.get("crop_mode", "center"), told.get("interpolation", "bilinear")
    if mode != "center" or interpolation not in ("bilinear", "bicubic"):
        raise ResnetError(f"config.json asks for crop {mode} with {interpolation} interpolation, which is not supported")
    size, fraction = int(told["input_size"][1]), float(told["crop_pct"])
    tested = int((told.get("test_input_size") or told["input_size"])[1])
    last = float(told.get("test_crop_pct") or fraction)
    if not (0 < fraction <= 1 and 0 < last <= 1 and size > 0 and tested > 0):
        raise ValueError(f"crop_pct {fraction}, {last}")
    mean, std = (tuple(map(float, told[name])) for name in ("mean", "std"))
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
            raise ValueError(f'"{name}" is {list(values)}')
    head = int(record.get("num_classes", told.get("num_classes", 1000)))
    names = tuple(record.get("label_names") or told.get("label_names") or (imagenet if head == 1000 else ()))
    if names and (len(names) != head or len(set(names)) != head):
        raise ValueError(f"{len(set(names))} label_names for {head} classes")
    return Description(_prepared(network, mean, std, interpolation, ((size, fraction), (tested, last))), head, names)


def _prepared(network: Network, mean: Any, std: Any, interpolation: Any, crops: Any) -> Network:
    return replace(
        network,
        preprocessing="torch",
        epsilon=TORCH_EPSILON,
        mean=mean,
        std=std,
        interpolation=interpolation,
        steps="two",
        image_size=crops[0][0],
        crops=crops,
    )


def _assumed(weights: Path, imagenet: Sequence[str]) -> Description:
    """The network whose blocks a file has, with ImageNet's usual preprocessing."""
    shapes = shapes_of(weights)
    names = {name for name in shapes if not name.startswith("fc.") and not name.endswith(_COUNTER)}
    networks = map(find_network, _NETWORKS.values())
    # The network with the fewest other names: where any differ, `require_fitting` tells which.
    network = min(networks, key=lambda each: len(names ^ {tensor.name for tensor in tensors_of(each, 0)}))
    head = shapes["fc.weight"][0] if len(shapes.get("fc.weight", ())) == 2 else 0
    told = (
        f"{weights} has no config.json beside it. Assumed from its tensors: {network.name}, with ImageNet's mean and std,"
        " bilinear interpolation, and the middle 224 of 256 pixels"
    )
    fitting = _prepared(network, network.mean, network.std, "bilinear", ((224, 0.875),))
    return Description(fitting, head, tuple(imagenet) if head == 1000 else (), told)


@dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint.

    Attributes:
        name: its name in timm and torchvision.
        shape: its shape there: convolutions (outputs, inputs, height, width), the head (classes, features).
        variable: our variable of the same values, "layer/variable".
    """

    name: str
    shape: tuple[int, ...]
    variable: str


_NORM = (("weight", "gamma"), ("bias", "beta"), ("running_mean", "moving_mean"), ("running_var", "moving_variance"))


def tensors_of(network: Network, head: int) -> Iterator[Tensor]:
    """All tensors of a v1 network with the ImageNet stem, and of its head of so many classes (0 for none)."""

    def convolved(conv: str, norm: str, ours: str, shape: tuple[int, ...]) -> Iterator[Tensor]:
        yield Tensor(f"{conv}.weight", shape, f"{ours}_conv/kernel")
        for theirs, name in _NORM:
            yield Tensor(f"{norm}.{theirs}", shape[:1], f"{ours}_bn/{name}")

    channels = network.filters[0]
    yield from convolved("conv1", "bn1", "conv1", (channels, 3, 7, 7))
    for stage, blocks in enumerate(network.blocks):
        inner, outputs = network.filters[stage], network.outputs[stage]
        for block in range(blocks):
            theirs, ours = f"layer{stage + 1}.{block}", f"conv{stage + 2}_block{block + 1}"
            shapes = [(inner, channels, 3, 3), (outputs, inner, 3, 3)]
            if network.block == "bottleneck":
                shapes = [(inner, channels, 1, 1), (inner, inner, 3, 3), (outputs, inner, 1, 1)]
            for number, shape in enumerate(shapes, 1):
                yield from convolved(f"{theirs}.conv{number}", f"{theirs}.bn{number}", f"{ours}_{number}", shape)
            if channels != outputs:
                down = f"{theirs}.downsample"
                yield from convolved(f"{down}.0", f"{down}.1", f"{ours}_0", (outputs, channels, 1, 1))
            channels = outputs
    if head:
        yield Tensor("fc.weight", (head, channels), "logits/kernel")
        yield Tensor("fc.bias", (head,), "logits/bias")


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of a .safetensors file by name; only its header is read.

    Raises:
        ResnetError: the extra is not installed, or the file is damaged, truncated, or a pickle.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ResnetError(f"{path} needs the package safetensors", HUB_INSTALL) from None
    try:
        with path.open("rb") as file:
            refuse_pickle(path, file.read(9))
        with safe_open(path, framework="numpy") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 -- no mapping
    except (SafetensorError, OSError) as error:
        raise ResnetError(f"{path} is damaged or truncated: {error}", "copy or download it again") from error


def refuse_pickle(path: Path, head: bytes) -> None:
    """Refuse a pickle by the first nine bytes: PyTorch's are zip archives, older ones begin with the protocol.

    Raises:
        ResnetError: it is one.
    """
    # A header's length may begin like a protocol, but then there is a header of JSON.
    if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] <= b"\x05" and head[8:9] != b"{"):
        raise ResnetError(
            f"{path} is a pickle of PyTorch, which may contain code and is never read",
            "save it as .safetensors: safetensors.torch.save_file(model.state_dict(), ...)",
        )


def require_fitting(path: Path, network: Network, head: int) -> None:
    """Check that a file has exactly the tensors of a network, of the same shapes.

    Raises:
        ResnetError: tensors are missing, extra, or of another shape; the message counts them and names the first ones.
    """
    found = shapes_of(path)
    wanted = {tensor.name: tensor.shape for tensor in tensors_of(network, head)}
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted and not name.endswith(_COUNTER)]
    other = [
        f"{name} {found[name]} instead of {shape}" for name, shape in wanted.items() if name in found and found[name] != shape
    ]
    parts = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
        for names, what in ((missing, "missing"), (extra, "extra"), (other, "of another shape"))
        if names
    ]
    if parts:
        _raise_unfitting(path, network, len(wanted), parts)


def _raise_unfitting(path: Path, network: Network, count: int, parts: Sequence[str]) -> NoReturn:
    raise ResnetError(
        f"{path} does not fit {network.name} with its {count} tensors: {'; '.join(parts)}", "it belongs to another network"
    )
