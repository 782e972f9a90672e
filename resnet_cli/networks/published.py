"""Published weights in timm's format: the names that can be had, and which tensors belong to which network (light: safetensors
is imported where it is used).

In: a name such as timm:resnet50.a1_in1k, or a .safetensors file. Out: a `Checkpoint`; and an error where a file belongs to
another network.

Names, input sizes and licences: timm 1.0.31, timm/models/resnet.py. Accuracies: results/results-imagenet.csv of
huggingface/pytorch-image-models, measured by its author on ImageNet's 50,000 validation images at the given input size.
torchvision's weights are the copies in timm's organisation on the hub: torchvision itself publishes pickles only, which may
contain code and are never read here.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from resnet_cli.downloads import HUB_INSTALL, Repository
from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import Network
from resnet_cli.progress import how_many

_APACHE, _BSD, _NON_COMMERCIAL = "apache-2.0", "bsd-3-clause", "cc-by-nc-4.0"
NETWORKS = {
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
_SOURCES = ("timm:", "torchvision:")
COUNTER = "num_batches_tracked"  # of a batch-norm of PyTorch; nothing depends on it
# What the hub allows as the name of a repository, in parts.
_TAG = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9_])?")
_REVISION = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9_])?")
_LONGEST = 96


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
        return NETWORKS[self.architecture]

    @property
    def on_hub(self) -> Repository:
        """Where its files are."""
        return Repository(self.name, self.repository, self.revision, _hint(self.name), self.name in CHECKPOINTS)


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
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision or len(revision) > _LONGEST):
        _raise_impossible(words, "a commit or branch must follow the @", name)
    source, _, rest = name.partition(":")
    architecture, _, tag = rest.partition(".")
    if architecture not in NETWORKS:
        raise ResnetError(
            f"{words} is not a ResNet-18, 34, 50, 101 or 152 that this program can build",
            f"nearest names: {', '.join(nearest(name))}. Other kinds are not supported: deep stems and average-pooled shortcuts"
            " (resnet50d), wide, ResNeXt, SE, group-norm and pre-activation (resnetv2) networks",
        )
    if source == "timm":
        tag = tag or next(iter(_TAGS[architecture]))
        listed = {each.repository: each for each in CHECKPOINTS.values()}
        repository = f"timm/{architecture}.{tag}"
        if not _TAG.fullmatch(tag) or "--" in tag or len(f"{architecture}.{tag}") > _LONGEST:
            _raise_impossible(words, "its tag must be letters, digits, _ and single -, at most 96 characters in all", name)
        found = listed.get(repository, Checkpoint(f"timm:{architecture}.{tag}", repository, architecture))
    else:
        tags = [each for each in CHECKPOINTS if each.startswith(f"torchvision:{architecture}.")]
        name = name if tag else tags[-1]
        if name not in CHECKPOINTS:
            raise ResnetError(f"torchvision has no {rest}", f"it has {', '.join(tags)}")
        found = CHECKPOINTS[name]
    return replace(found, revision=revision or "main")


def _raise_impossible(words: str, why: str, name: str) -> NoReturn:
    raise ResnetError(
        f"{' '.join(words.split())[:200]} cannot be published weights: {why}",
        _hint(name[:32]),
    )


def _hint(name: str) -> str:
    return f"nearest names: {', '.join(nearest(name))}; `resnet models --weights` lists them"


def nearest(name: str) -> list[str]:
    """The listed names that are most similar to one."""
    near = difflib.get_close_matches(name.partition("@")[0], CHECKPOINTS, n=4, cutoff=0.3)
    return near or ["timm:resnet50.a1_in1k", "torchvision:resnet50.imagenet1k_v2"]


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
    extra = [name for name in found if name not in wanted and not name.endswith(COUNTER)]
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
        f"{path} does not fit {network.name} with its {how_many(count, 'tensor')}: {'; '.join(parts)}",
        "it belongs to another network",
    )
