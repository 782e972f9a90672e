"""What published weights are: their config.json as timm saves it, or else their tensors (light: the standard library only).

In: a .safetensors file and its config.json. Out: a `Description` with the network, its preprocessing and its classes.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import TORCH_EPSILON, Network, find_network
from resnet_cli.networks.published import COUNTER, NETWORKS, shapes_of, tensors_of

_USUAL = {"in_chans": 3, "global_pool": "avg"}


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
    if architecture not in NETWORKS:
        raise ResnetError(
            f"{config} describes {architecture}, which this program does not build",
            f"supported: {', '.join(NETWORKS)} of timm, without deep stem, SE, group-norm or other variations",
        )
    try:
        return _described(record, find_network(NETWORKS[architecture]), imagenet)
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
    names = {name for name in shapes if not name.startswith("fc.") and not name.endswith(COUNTER)}
    networks = map(find_network, NETWORKS.values())
    # The network with the fewest other names: where any differ, `require_fitting` tells which.
    network = min(networks, key=lambda each: len(names ^ {tensor.name for tensor in tensors_of(each, 0)}))
    head = shapes["fc.weight"][0] if len(shapes.get("fc.weight", ())) == 2 else 0
    told = (
        f"{weights} has no config.json beside it. Assumed from its tensors: {network.name}, with ImageNet's mean and std,"
        " bilinear interpolation, and the middle 224 of 256 pixels"
    )
    fitting = _prepared(network, network.mean, network.std, "bilinear", ((224, 0.875),))
    return Description(fitting, head, tuple(imagenet) if head == 1000 else (), told)
