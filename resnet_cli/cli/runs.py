"""`resnet runs`: the runs of a folder with their figures, newest first (light)."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from resnet_cli.cli import console
from resnet_cli.cli.options import Json
from resnet_cli.data.contents import kind_of
from resnet_cli.progress import how_long
from resnet_cli.runs.folder import RUNS, Summary, summaries

# Left out first on a narrow terminal.
_DISPENSABLE = ("time", "finished", "images", "data")


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
    columns = ["run", "data", "network", "accuracy", "images", "time", "finished"]
    table = _table(found, columns)
    for column in _DISPENSABLE:
        if console.full_width(table) <= console.out.width:
            break
        columns.remove(column)
        table = _table(found, columns)
    console.out.print(table)


def _table(found: list[Summary], columns: list[str]) -> console.Table:
    table = console.Table()
    for column in columns:
        table.add_column(column, justify="right" if column in ("accuracy", "images", "time") else "left")
    for each in found:
        cells = _cells(each)
        table.add_row(*(console.escape(cells[column]) for column in columns))
    return table


def _cells(each: Summary) -> dict[str, str]:
    accuracy = "interrupted" if each.finished is None else "-"
    if each.top1 is not None and each.split is not None:
        accuracy = f"{each.top1:.1%} {kind_of(each.split)}"
    return {
        "run": str(each.folder),
        "data": each.dataset or "-",
        "network": each.network or "-",
        "accuracy": accuracy,
        "images": str(each.images) if each.images is not None else "-",
        "time": how_long(each.seconds) if each.seconds is not None else "-",
        "finished": f"{datetime.fromtimestamp(each.finished):%Y-%m-%d %H:%M}" if each.finished is not None else "-",
    }
