"""`resnet compare`: a table and a figure of error curves of several runs (light)."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_cli.cli import console
from resnet_cli.cli.options import Json
from resnet_cli.errors import ResnetError
from resnet_cli.reports import require_own_report

if TYPE_CHECKING:
    from resnet_cli.jobs.compare import Errors, Row, Spread

_CAPTION = (
    "Errors in %: best = the lowest of all epochs, final = after the last. Training error is measured while learning, on"
    " augmented images."
)
_SEEDS = " ± = standard deviation over runs that differ by their seed alone; other figures are means."
_TEST = " kept, test = the weights of the run on the test folder, which chose nothing."


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, all trained on one data set.")],
    output: Annotated[
        Path, typer.Option(help="Figure to write, .png or .svg; only an earlier comparison is overwritten.")
    ] = Path("compare.png"),
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report too, with the images on which runs differ.", metavar="FILE")
    ] = None,
    json: Json = False,
) -> None:
    """Compare runs in a table and a figure of error curves; runs that differ only by seed share a row."""
    from resnet_cli.jobs.compare import group_by_seed, make_rows, notes_on, read_runs
    from resnet_cli.reports.curves import Curve, check_image, draw_comparison

    check_image(output)
    if report is not None:
        require_own_report(report)
    trained = read_runs(runs)
    groups = group_by_seed(trained)
    rows, name = make_rows(groups), trained[0].dataset
    held_out = rows[0].held_out if len({row.held_out for row in rows}) == 1 else "held-out"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResnetError(f"cannot write to {output.parent}: {error.strerror}", "choose another --output") from error
    curves = [
        Curve(row.label, [each.train_errors for each in group], [each.held_out_errors for each in group])
        for row, group in zip(rows, groups, strict=True)
    ]
    draw_comparison(curves, name, held_out, output)
    notes = notes_on(trained, rows)
    if report is not None:
        from resnet_cli.jobs.compare import pairs_of
        from resnet_cli.reports.comparison import Comparison, write_comparison

        headings, cells = _headings(rows, held_out), [[" ".join(cell.split("\n")) for cell in _row(row, rows)] for row in rows]
        title = f"{name}: {len(rows)} networks compared" if len(rows) > 1 else name
        plain = [" ".join(heading.split()) for heading in headings]
        plain[4], plain[6] = f"training {plain[4]}", f"{plain[5].split()[0]} {plain[6]}"
        write_comparison(report, Comparison(title, plain, cells, curves, held_out, pairs_of(trained), notes))
    if json:
        where = {"figure": str(output), **({"report": str(report)} if report else {})}
        console.print_json({**where, "dataset": name, "rows": [asdict(row) for row in rows], "notes": notes})
        return
    _print_table(rows, f"{name}: training and {held_out} error", held_out)
    for note in notes:
        console.out.print(f"[yellow]note:[/] {console.escape(note)}")
    console.out.print(f"figure: {console.escape(str(output))}")
    if report is not None:
        console.out.print(f"report: {console.escape(str(report))}")


def _print_table(rows: "Sequence[Row]", title: str, held_out: str) -> None:
    several = any(len(row.runs) > 1 for row in rows)
    tested = any(row.test_error for row in rows)
    # Up to ten columns in eighty characters: without lines between them, and ± in the line below the mean.
    table = console.Table(title=console.escape(title), caption_justify="left", box=None, padding=(0, 1, 0, 0))
    table.caption = _CAPTION + (_TEST if tested else "") + (_SEEDS if several else "")
    first, *others = _headings(rows, held_out)
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(console.escape, _row(row, rows)))
    # On a narrower terminal lines wrap: rich would omit the names.
    table.width = console.full_width(table)
    console.out.print(table)


def _headings(rows: "Sequence[Row]", held_out: str) -> list[str]:
    """Of the columns, in two lines each."""
    short = "val" if held_out == "validation" else held_out
    kept = ["kept,\ntest"] if any(row.test_error for row in rows) else []
    errors = ["training\nbest", "\nfinal", f"{short}\nbest", "\nfinal", *kept]
    return ["\nnetwork", "million\nparams", "\nepochs", *errors, "images\nper s", "\ntime"]


def _row(row: "Row", rows: "Sequence[Row]") -> list[str]:
    """The cells of a row, some in two lines."""
    low, high = min(row.epochs), max(row.epochs)
    return [
        row.label + (f"\n{len(row.runs)} seeds" if len(row.runs) > 1 else ""),
        f"{row.parameters / 1e6:.2f}",
        str(low) if low == high else f"{low} to {high}",
        *_cells(row.train_error),
        *_cells(row.held_out_error),
        *([_cell(row.test_error)] if any(each.test_error for each in rows) else []),
        f"{row.images_per_second:,.0f}",
        str(timedelta(seconds=round(row.seconds))),
    ]


def _cells(errors: "Errors") -> tuple[str, str]:
    return _cell(errors.best), _cell(errors.final)


def _cell(spread: "Spread | None") -> str:
    if spread is None:
        return "-"
    return f"{100 * spread.mean:.2f}" + (f"\n± {100 * spread.sd:.2f}" if spread.sd is not None else "")
