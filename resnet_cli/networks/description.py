"""What published weights are: their config.json as timm saves it, or else their tensors (light: the standard library only).

In: a .safetensors file and its config.json. Out: a `Description` with the network, its preprocessing and its classes.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import TORCH_EPSILON, Network, find_network
from resnet_cli.networks.published import COUNTER, NETWORKS, shapes_of, tensors_of
from resnet_cli.progress import how_many

_USUAL = {"in_chans": 3, "global_pool": "avg"}
_SAVE = "timm.models.save_for_hf writes one; or leave it out"
_LARGEST = 4096  # pixels
_HUGE = 1e6  # no mean or deviation comes near
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


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
    except (OSError, ValueError, RecursionError) as error:
        raise ResnetError(f"{config} is no config.json of timm: {error}", _SAVE) from error
    if not isinstance(record, dict) or not isinstance(record.get("architecture"), str):
        raise ResnetError(f'{config} is no config.json of timm: it does not name its "architecture"', _SAVE)
    if record["architecture"] not in NETWORKS:
        raise ResnetError(
            f"{config} describes {_shown(record['architecture'])}, which this program does not build",
            f"supported: {', '.join(NETWORKS)} of timm, without deep stem, SE, group-norm or other variations",
        )
    return _described(config, record, find_network(NETWORKS[record["architecture"]]), imagenet)


def _described(config: Path, record: dict[str, Any], network: Network, imagenet: Sequence[str]) -> Description:
    told = record.get("pretrained_cfg", record)  # older files have no level of its own
    for name, value in (("pretrained_cfg", told), ("model_args", record.get("model_args", {}))):
        if not isinstance(value, dict):
            _raise_damaged(config, f'"{name}" is {_shown(value)}, not an object')
    arguments = _USUAL | record.get("model_args", {})
    changed = [name for name, value in arguments.items() if name != "num_classes" and _USUAL.get(name) != value]
    if changed:
        what = f"{config} changes the network by {_shown(changed[0])}={_shown(arguments[changed[0]])}"
        raise ResnetError(what, "only timm's own definitions are supported")
    mode, interpolation = told.get("crop_mode", "center"), told.get("interpolation", "bilinear")
    if mode != "center" or interpolation not in ("bilinear", "bicubic"):
        what = f"{config} asks for crop {_shown(mode)} with {_shown(interpolation)} interpolation, which is not supported"
        raise ResnetError(what, "crop center, with bilinear or bicubic interpolation, is supported")
    size, fraction = _side(config, told, "input_size"), _fraction(config, told, "crop_pct")
    tested = size if told.get("test_input_size") is None else _side(config, told, "test_input_size")
    last = fraction if told.get("test_crop_pct") is None else _fraction(config, told, "test_crop_pct")
    mean, std = (_channels(config, told, name) for name in ("mean", "std"))
    if min(std) <= 0:
        _raise_damaged(config, f'"std" is {list(std)}, which must be positive')
    head = record.get("num_classes", told.get("num_classes", 1000))
    if type(head) is not int or head < 0:
        _raise_damaged(config, f'"num_classes" is {_shown(head)}')
    names = next((each["label_names"] for each in (record, told) if each.get("label_names") is not None), None)
    classes = _classes(config, names, head) if names is not None else tuple(imagenet) if head == 1000 else ()
    return Description(_prepared(network, mean, std, interpolation, ((size, fraction), (tested, last))), head, classes)


def _side(config: Path, told: dict[str, Any], name: str) -> int:
    value: Any = told.get(name)
    if not isinstance(value, list) or [type(each) for each in value] != [int] * 3 or value[0] != 3:
        _raise_damaged(config, f'"{name}" is {_shown(value)} instead of [3, height, width]')
    if value[1] != value[2]:
        raise ResnetError(f'{config} has "{name}" {value}, which is not square', "only weights for square images are supported")
    if not 0 < value[1] <= _LARGEST:
        _raise_damaged(config, f'"{name}" is {_shown(value)}; a side has 1 to {_LARGEST} pixels')
    return int(value[1])


def _fraction(config: Path, told: dict[str, Any], name: str) -> float:
    value: Any = told.get(name)
    if not _is_number(value) or not 0 < value <= 1:
        _raise_damaged(config, f'"{name}" is {_shown(value)} instead of a number above 0, at most 1')
    return float(value)


def _channels(config: Path, told: dict[str, Any], name: str) -> tuple[float, ...]:
    value: Any = told.get(name)
    if not isinstance(value, list) or len(value) != 3 or not all(map(_is_number, value)):
        _raise_damaged(config, f'"{name}" is {_shown(value)} instead of three finite numbers')
    return tuple(map(float, value))


def _classes(config: Path, names: Any, head: int) -> tuple[str, ...]:
    if not isinstance(names, list):
        _raise_damaged(config, f'"label_names" is {_shown(names)} instead of a list')
    for name in names:
        if not isinstance(name, str) or not name.strip() or len(name.splitlines()) != 1 or _CONTROL.search(name):
            _raise_damaged(config, f'"label_names" has {_shown(name, repr)}, which is no text of one line')
    if len(names) != head or len(set(names)) != head:
        _raise_damaged(config, f'it has {len(set(names))} different "label_names" for {how_many(head, "class")}')
    return tuple(names)


def _is_number(value: Any) -> bool:
    # An integer may be too long for a float.
    return type(value) in (int, float) and abs(value) < _HUGE


def _shown(value: Any, write: Callable[[Any], str] = str) -> str:
    """A value of the file for a message: one line, not too long."""
    text = "null" if value is None else " ".join(write(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _raise_damaged(config: Path, what: str) -> NoReturn:
    raise ResnetError(f"{config} is damaged: {what}", "fetch it again, correct it, or leave it out")


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
