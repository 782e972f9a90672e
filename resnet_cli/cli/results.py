"""Results on stdout: tables that fit the terminal, and what a training has reached (light: rich).

On a narrow terminal, a table loses its borders, then its least important columns; at last its rows are stacked.
"""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from resnet_cli.cli.console import escape, out, print_json, prose, room
from resnet_cli.data.contents import kind_of
from resnet_cli.progress import how_long, how_many
from resnet_cli.reports import worst_first

MANY_CLASSES = 30  # from here on only the worst ones are shown
WORST = 10
_GAP = 2  # characters between columns without borders
_WIDEST = 10_000  # columns, more than any table has


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: its heading, in one or two lines.
        cells: plain text of each row, in one or two lines.
        is_number: aligned to the right.
        rank: on a narrow terminal, columns of the highest rank are dropped first, those of rank 0 never.
        name: the heading where it stands alone; by default the heading in one line.
    """

    heading: str
    cells: Sequence[str]
    is_number: bool = False
    rank: int = 0
    name: str = ""

    @property
    def title(self) -> str:
        """The heading where it stands alone."""
        return self.name or " ".join(self.heading.split())


def columns_of(
    rows: Sequence[Mapping[str, str]], numbers: Collection[str] = (), ranks: Mapping[str, int] | None = None
) -> list[Column]:
    """The columns of rows that have the same keys, which are the headings."""
    ranks = ranks or {}
    return [Column(name, [row[name] for row in rows], name in numbers, ranks.get(name, 0)) for name in rows[0]]


def fits(columns: Sequence[Column]) -> bool:
    """Whether a table fits the terminal with its borders."""
    return _fits(_table(columns, True, _GAP, 0))


def print_table(
    columns: Sequence[Column], title: str = "", caption: str = "", total: bool = False, borders: bool = True
) -> None:
    """Print a table on stdout, in the widest form that fits the terminal.

    Args:
        columns: at least one; the first names the rows.
        title: a line above it.
        caption: text below it.
        total: a line separates the last row.
        borders: whether there are lines between columns where the terminal is wide enough.
    """
    if title:
        out.print(f"[italic]{escape(title)}[/]")
    kept, below = list(columns), int(total)
    forms = (_table(kept, *form, below) for form in ((borders, _GAP), (False, _GAP), (False, 1)))
    table = next(filter(_fits, forms), None) or _table(kept, False, 1, below)
    while not _fits(table) and (least := max(kept, key=lambda each: each.rank)).rank:
        kept.remove(least)
        table = _table(kept, False, 1, below)
    if _fits(table):
        table.width = _full_width(table)
        out.print(table)
    else:
        kept = list(columns)
        _print_stacked(columns)
    if hidden := [each.title for each in columns if each not in kept]:
        caption = f"{caption}\n" * bool(caption) + f"Not shown at this width: {', '.join(hidden)}."
    if caption:
        out.print(escape(caption), style="dim", soft_wrap=False, width=min(room() or 100, 100))


def _full_width(table: Table) -> int:
    return out.measure(table, options=out.options.update(width=_WIDEST)).maximum


def _fits(table: Table) -> bool:
    width = room()
    return width is None or _full_width(table) <= width


def _table(columns: Sequence[Column], borders: bool, gap: int, below: int) -> Table:
    bare: dict[str, Any] = {"box": None, "padding": (0, gap, 0, 0), "pad_edge": False}
    table = Table(**({} if borders else bare))
    for each in columns:
        table.add_column(escape(each.heading), justify="right" if each.is_number else "left", no_wrap=True)
    count = len(columns[0].cells)
    for row in range(count):
        table.add_row(*(escape(each.cells[row]) for each in columns), end_section=row == count - 1 - below)
    return table


def _print_stacked(columns: Sequence[Column]) -> None:
    first, *others = columns
    width = max((len(each.title) for each in others), default=0)
    for row, name in enumerate(first.cells):
        out.print(f"[bold]{escape(' '.join(name.split()))}[/]")
        for each in others:
            out.print(f"  {escape(each.title):<{width}}  {escape(' '.join(each.cells[row].split()))}")


def print_headline(figure: str, uncertainty: str) -> None:
    """Print the figure that counts, with its uncertainty after it, or below it on a narrow terminal."""
    width = room()
    between = "  " if width is None or len(figure) + len(uncertainty) + 2 <= width else "\n  "
    out.print(f"[bold]{escape(figure)}[/]{between}{escape(uncertainty)}")


def print_training(result: dict[str, Any], only_search: bool, json: bool) -> None:
    """Print what `finetune` or `train` returned.

    Args:
        result: its JSON output.
        only_search: whether it is that of `--lr-find plot`.
        json: print it as JSON.
    """
    if json:
        print_json(result)
    elif only_search:
        _print_search(result)
    else:
        _print_result(result)


def _print_result(result: dict[str, Any]) -> None:
    """Print the results of `finetune` and `train` as text."""
    split = "test" if "test" in result else "val"
    headline = result[split]
    low, high = headline["top1_interval"]
    print_headline(
        f"{kind_of(split)} accuracy {headline['top1']:.1%}",
        f"(95 % interval {low:.1%} to {high:.1%}, {how_many(headline['count'], 'image')})",
    )
    if "test" in result and result["test"] != result["val"]:
        out.print(f"validation accuracy {result['val']['top1']:.1%} ({how_many(result['val']['count'], 'image')})")
    _print_classes(headline["classes"])
    if "folds" in result:
        _print_folds(result["folds"])
    if result.get("tuning", {}).get("trials"):
        _print_tuning(result["tuning"])
    kept = f"epoch {result['best_epoch']} of {result['epochs']}"
    if result.get("kept") == "tail":
        kept = f"{kept} (the head alone: {result['head_top1']:.1%})"
    elif result.get("kept") == "head":
        kept = f"the head alone, {kept}" if result["epochs"] > 1 else "the head alone"
    out.print(f"kept: {kept}, the best one" if result["epochs"] > 1 else f"kept: {kept}")
    if result.get("fine_tuning") == "skipped":
        out.print("fine-tuning: skipped, the head left nothing to gain in validation")
    elif result.get("fine_tuning") == "no time":
        out.print("fine-tuning: skipped, the time limit was too short for it")
    elif result.get("fine_tuning") == "stopped early":
        out.print(f"fine-tuning: stopped after {how_many(result['fine_tuning_epochs'], 'epoch')} without further gain")
    if warnings := len(result["warnings"]):
        out.print(f"[yellow]{how_many(warnings, 'warning')}[/], see above{' or the report' if result.get('report') else ''}")
    run = shlex.quote(result["run"])
    out.print(f"run {escape(result['run'])}  ({how_long(result['seconds'])})")
    if report := result.get("report"):
        inside = Path(result["run"]) / report
        out.print(f"report: {escape(str(inside if inside.is_file() else report))}")
    out.print(
        f"next: [bold]resnet predict image.jpg --run {escape(run)}[/]\n      [bold]resnet evaluate --run {escape(run)}[/]"
    )


def _print_classes(classes: Sequence[Mapping[str, Any]]) -> None:
    many = len(classes) >= MANY_CLASSES
    rows = [
        {
            "class": each["class"],
            "images": f"{each['count']:,}",
            "accuracy": f"{each['recall']:.1%}" if each["count"] else "-",
        }
        for each in (worst_first(classes)[:WORST] if many else classes)
    ]
    where = f"The {WORST} worst of {how_many(len(classes), 'class')}; all are in run.json and the report." if many else ""
    print_table(columns_of(rows, ("images", "accuracy")), caption=where)


def _print_folds(found: dict[str, Any]) -> None:
    """Print the result of a cross-validation."""
    folds = found["folds"]
    numbers, counts = [str(each["fold"]) for each in folds], [f"{each['count']:,}" for each in folds]
    print_table(
        [
            Column("fold", numbers, is_number=True),
            Column("images", counts, is_number=True),
            Column("accuracy", [f"{each['top1']:.1%}" for each in folds], is_number=True),
        ]
    )
    low, high = found["top1_interval"]
    images = how_many(found["count"], "image")
    prose(
        out,
        f"cross-validated accuracy {found['mean']:.1%}, standard deviation over folds {found['sd']:.1%}"
        f"  (all {images}: {found['top1']:.1%}, 95 % interval {low:.1%} to {high:.1%})",
    )
    prose(out, "cross-validated: the head on frozen features; fine-tuning is not repeated for each fold")


def _print_tuning(found: dict[str, Any]) -> None:
    """Print the result of a search for settings."""
    from resnet_cli.training.tuning import compared  # and with it all recipes, which `resnet --help` does not need

    trials, images = how_many(found["trials"], "trial"), how_many(found["count"], "image")
    of = "the head" if found["phase"] == "head" else "the network"
    prose(
        out,
        f"tuning: {trials} in {how_long(found['seconds'])}; accuracy of {of} on {images} ({found['scored_on']}):"
        f" {compared(found)}",
    )
    if found["trials"] > 1:
        honest = "the test images were not used for it" if found["test"] else "no test folder measures it"
        best = f"the best of {found['trials']} is too good by chance"
        prose(out, f"{best}: {honest}; settings: tuned.toml, trials.csv in the run")


def _print_search(result: dict[str, Any]) -> None:
    """Print the result of a learning-rate range test."""
    if result["suggested"] is None:
        out.print("[bold]no rate is suggested[/]: the loss did not clearly fall at any rate")
    else:
        out.print(f"[bold]suggested: --learning-rate {result['suggested']:g}[/]")
    out.print(f"plot: {escape(result['plot'])}; figures: rate.csv beside it")
