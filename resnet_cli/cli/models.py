"""`resnet models`: every network of the catalogue, and published weights for them (light)."""

from typing import Annotated

import typer

from resnet_cli.cli import console
from resnet_cli.cli.results import columns_of, print_table
from resnet_cli.networks.catalogue import CATALOGUE, parameter_count, usual_classes
from resnet_cli.networks.published import CHECKPOINTS

_CAPTION = (
    "Parameters: batch-norm's moving statistics included; for 1000 (imagenet), 10 (cifar) or 200 (compact) classes.\n"
    "Input: the usual side in pixels. CIFAR networks of any other depth can be named too: 6n+2 layers, 9n+2 for v2.\n"
    "Weights: hub = see `resnet models --weights`."
)
_WEIGHTS_CAPTION = (
    "For train and finetune --weights NAME, predict and evaluate --run NAME.\n"
    "px: input side of the published accuracy. top-1: percent of ImageNet's 50,000 validation images, measured by timm.\n"
    "cc-by-nc-4.0: not for commercial use. fb_ssl and fb_swsl were trained on more images than ImageNet's."
)


def models(
    weights: Annotated[bool, typer.Option("--weights", help="List published weights instead.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List every network: family, depth, parameters, input size, and where its weights come from."""
    if weights:
        return _list_weights(json)
    rows = [
        {
            "name": network.name,
            "family": network.family,
            "depth": network.depth,
            "parameters": parameter_count(network, usual_classes(network)),
            "input": network.image_size,
            "weights": network.pretrained or "none",
        }
        for network in CATALOGUE.values()
    ]
    if json:
        return console.print_json(rows)
    shown = [{name: f"{value:,}" if name == "parameters" else str(value) for name, value in row.items()} for row in rows]
    return print_table(columns_of(shown, ("depth", "parameters", "input"), {"family": 1, "depth": 2}), caption=_CAPTION)


def _list_weights(json: bool) -> None:
    rows = [
        {
            "name": each.name,
            "network": each.network,
            "input": each.size,
            "top1": each.top1,
            "licence": each.licence,
            "repository": each.repository,
        }
        for each in CHECKPOINTS.values()
    ]
    if json:
        return console.print_json(rows)
    shown = [
        {"name": each.name, "px": str(each.size), "top-1": f"{each.top1:.2f}", "licence": each.licence}
        for each in CHECKPOINTS.values()
    ]
    return print_table(columns_of(shown, ("px", "top-1"), {"licence": 1, "px": 2}), caption=_WEIGHTS_CAPTION, borders=False)
