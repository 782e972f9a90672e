"""`resnet models`: every network of the catalogue (light)."""

from typing import Annotated

import typer
from rich.table import Table

from resnet_cli.cli import console
from resnet_cli.networks.catalogue import CATALOGUE, parameter_count, usual_classes

_CAPTION = (
    "Parameters: batch-norm's moving statistics included; for 1000 (imagenet), 10 (cifar) or 200 (compact) classes.\n"
    "Input: the usual side in pixels. CIFAR networks of any other depth can be named too: 6n+2 layers, 9n+2 for v2."
)


def models(json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False) -> None:
    """List every network: family, depth, parameters, input size, and where its weights come from."""
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
        console.print_json(rows)
        return
    table = Table(caption=_CAPTION, caption_justify="left")
    for title in ("name", "family", "depth", "parameters", "input", "weights"):
        table.add_column(title, justify="right" if title in ("depth", "parameters", "input") else "left")
    for row in rows:
        table.add_row(*(f"{value:,}" if title == "parameters" else str(value) for title, value in row.items()))
    console.out.print(table)
