"""`resnet runs`: the runs of a folder with their figures, newest first (light)."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from resnet_cli.cli import console
from resnet_cli.cli.options import Json
from resnet_cli.cli.results import columns_of, print_table
from resnet_cli.data.contents import kind_of
from resnet_cli.progress import how_long
from resnet_cli.runs.folder import RUNS, Summary, summaries

_RANKS = {"time": 5, "finished": 4, "images": 3, "data": 2, "network": 1}  # on a narrow terminal, the highest is dropped first


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of runs.")] = RUNS,
    json: Json = False,
) -> None:
    """List runs with their networks and figures, newest first."""
    found = summaries(folder)
    if json:
        console.print_json([each.to_json() for each in found])
        return
    if not found:
        console.out.print(f"there are no runs in {console.escape(str(folder))}")
        return
    rows = list(map(_cells, found))
    print_table(columns_of(rows, ("accuracy", "images", "time"), _RANKS))


def _cells(each: Summary) -> dict[str, str]:
    accuracy = "interrupted" if each.finished is None else "-"
    if each.top1 is not None and each.split is not None:
        accuracy = f"{each.top1:.1%} {kind_of(each.split)}"
    return {
        "run": str(each.folder),
        "data": each.dataset or "-",
        "network": each.network or "-",
        "accuracy": accuracy,
        "images": f"{each.images:,}" if each.images is not None else "-",
        "time": how_long(each.seconds) if each.seconds is not None else "-",
        "finished": f"{datetime.fromtimestamp(each.finished):%Y-%m-%d %H:%M}" if each.finished is not None else "-",
    }
