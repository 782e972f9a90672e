"""The model card of the bundled network: docs/bundled.md, from the record in the package and scripts/bundled.template.md.

In: resnet_cli/networks/bundled/run.json and docs/bundled-metrics.jsonl, which scripts/make_bundled.py writes. Out: the page,
whose figures are all filled in from there, and docs/bundled-curves.png. It needs no TensorFlow.
"""

import re
from inspect import signature
from pathlib import Path
from typing import Any

from resnet_cli.cli.train import train
from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import find_network, parameter_count
from resnet_cli.runs.folder import load_run, read_history
from resnet_cli.training.config import TrainConfig
from resnet_cli.training.recipes import keys_of

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "resnet_cli" / "networks" / "bundled"
TEMPLATE = ROOT / "scripts" / "bundled.template.md"
PAGE = ROOT / "docs" / "bundled.md"
METRICS = ROOT / "docs" / "bundled-metrics.jsonl"
CURVES = ROOT / "docs" / "bundled-curves.png"

# By folder of the photos: the set, and the terms of its images.
_SETS = {
    "tiny": ("Tiny ImageNet, 64 pixels", "ImageNet's: non-commercial research and education"),
    "mini": ("mini-ImageNet, 84 pixels", "ImageNet's: non-commercial research and education"),
    "woof": ("Imagewoof (dogs of ImageNet), 320 pixels", "ImageNet's: non-commercial research and education"),
    "caltech": ("Caltech-101", "CC BY 4.0"),
    "corel": ("Corel-5k", "research"),
    "pacs": ("PACS, photos and paintings", "none stated"),
    "cars": ("Stanford cars", "research"),
    "scenes": ("scenes (Intel image classification)", "CC0"),
    "ikea": ("IKEA's catalogue", "non-commercial"),
    "flickr": ("Flickr", "research"),
    "bsds": ("BSDS500", "non-commercial"),
    "places": ("MiniPlaces", "Places': non-commercial research"),
}


def page(record: dict[str, Any]) -> str:
    """The whole of docs/bundled.md."""
    parts = {"facts": _facts(record), "data": _data(record), "commands": _commands(record), "classes": _classes(record)}
    text = TEMPLATE.read_text(encoding="utf-8").replace("{network}", record["network"]["name"])
    for name, part in parts.items():
        text = text.replace(f"<!-- {name} -->", part)
    return text


def write_card() -> None:
    """Write docs/bundled.md."""
    PAGE.write_text(page(load_run(TARGET).record), encoding="utf-8")


def write_curves() -> None:
    """Draw docs/bundled-curves.png from docs/bundled-metrics.jsonl."""
    from resnet_cli.reports.curves import draw_curves

    record = load_run(TARGET).record
    title = f"{record['network']['name']}: accuracy is the share of the teacher's first answers"
    draw_curves(METRICS, CURVES, title, record["config"]["label_smoothing"])


def _facts(record: dict[str, Any]) -> str:
    network, val = find_network(record["network"]["name"]), record["results"]["val"]
    widths = f"{', '.join(map(str, network.outputs[:-1]))} and {network.outputs[-1]}"
    low, high = val["top1_interval"]
    history, folders = read_history(METRICS), record["data"]["folders"]
    photos = sum(each["photos"] for each in folders.values())
    hours = sum(each.seconds for each in history) / 3600
    sizes = [f"{(TARGET / name).stat().st_size / 1e6:.1f} MB" for name in ("model.weights.h5", "model.bin")]
    rows = {
        "network": f"ResNet-18 v1 (He et al. 2015) with fewer channels: 7x7 stem, stages of {widths} channels with two basic"
        " blocks each",
        "parameters": f"{parameter_count(network, len(record['classes'])):,} with its {len(record['classes']):,}-class head",
        "files": f"`resnet_cli/networks/bundled/model.weights.h5`, fp16, {sizes[0]}; beside it `run.json` with classes,"
        f" commands, configuration and figures, and `model.xml`, `model.bin` ({sizes[1]}), the same network for OpenVINO:"
        " `predict` loads it, without TensorFlow",
        "classes": "the 1,000 of ImageNet (ILSVRC 2012), by their English names",
        "teacher": f"{record['teacher']['name']}, Apache-2.0 (SHA-256 of its file and classes"
        f" {record['teacher']['sha256'][:16]}...)",
        "data": f"{photos:,} photos without labels in {len(folders)} sets; {val['count']:,} more were held out",
        "training": f"{len(history)} epochs, {record['data']['seen'] / 1e6:.2g} million samples, {hours:.1f} hours on"
        f" {record['device']}",
        "input": f"any size of {network.reduction} pixels or more; answers at {record['image_size']}. `finetune` chooses"
        f" {_alternatives(network.sides)} pixels by the size of the images",
        "result": f"the teacher's first answer on {val['top1']:.1%} of the held-out photos (95 % interval {low:.1%} to"
        f" {high:.1%}), and among the first five on {val['top5']:.1%}, from the fp16 weights, at {record['image_size']} pixels",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])


def _data(record: dict[str, Any]) -> str:
    rows = ["| set | photos | held out | same first answer as the teacher | terms of the images |", "|---|---|---|---|---|"]
    for folder, each in record["data"]["folders"].items():
        if folder not in _SETS:
            raise ResnetError(f"scripts/bundled_card.py does not know the terms of the photos in {folder}: add them to _SETS")
        name, terms = _SETS[folder]
        share = "" if each["top1"] is None else f"{each['top1']:.1%}"
        rows.append(f"| {name} | {each['photos']:,} | {each['held_out']:,} | {share} | {terms} |")
    return "\n".join(rows)


def _commands(record: dict[str, Any]) -> str:
    last = f"python scripts/make_bundled.py RUN ... --image-size {record['image_size']}"
    return "\n".join(["```", *map(_as_typed_today, record["commands"]), last, "```"])


def _as_typed_today(command: str) -> str:
    """A recorded `resnet train`, whose options of then are keys of the recipe now."""
    options, keys = signature(train).parameters, keys_of(TrainConfig)

    def setting(match: re.Match[str]) -> str:
        name = match[1].replace("-", "_")
        return f"--set {name}={match[2]}" if name in keys and name not in options else match[0]

    return re.sub(r"--([a-z-]+) (\S+)", setting, command)


def _classes(record: dict[str, Any]) -> str:
    val = record["results"]["val"]
    if not val["worst_classes"]:
        return "No class has enough held-out photos to say more."
    lines = []
    for word, found in {"most": val["best_classes"], "least": val["worst_classes"]}.items():
        shares = ", ".join(f"{name} ({share:.0%} of {count})" for name, count, share in found)
        lines.append(f"It agrees {word} often with its teacher on: {shares}.")
    return "\n\n".join(lines)


def _alternatives(sides: tuple[int, ...]) -> str:
    *first, last = map(str, sides)
    return f"{', '.join(first)} or {last}" if first else last
