"""`resnet compare`: a table and a figure of error curves of several runs (light)."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_cli.cli import console
from resnet_cli.cli.options import Json, complete_runs
from resnet_cli.cli.results import Column, print_table
from resnet_cli.errors import ResnetError
from resnet_cli.progress import how_many
from resnet_cli.reports import require_own_report

if TYPE_CHECKING:
    from resnet_cli.jobs.compare import Row, Spread

_CAPTION = (
    "Errors in %: best = the lowest of all epochs, final = after the last. Training error is measured while learning, on"
    " augmented images."
)
_SEEDS = " ± = standard deviation over runs that differ by their seed alone; other figures are means."
_TEST = " kept, test = the weights of the run on the test folder, which chose nothing."


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, all trained on one data set.", autocompletion=complete_runs),
    ],
    output: Annotated[
        Path, typer.Option(help="Figure to write, .png or .svg; only an earlier comparison is overwritten.")
    ] = Path("compare.png"),
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report too, with the images on which runs differ.", metavar="FILE")
    ] = None,
    json: Json = False,
) -> None:
    """Compare runs in a table and a figure of error curves; runs that differ only by seed share a row."""
    from resnet_cli.jobs.compare import group_by_seed, make_rows, notes_on, pairs_of, read_runs, require_own_figure

    require_own_figure(output)
    if report is not None:
        require_own_report(report)
    trained = read_runs(runs)
    groups = group_by_seed(trained)
    rows, name = make_rows(groups), trained[0].dataset
    held_out = rows[0].held_out if len({row.held_out for row in rows}) == 1 else "held-out"
    notes, columns = notes_on(trained, rows), _columns(rows, held_out)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResnetError(f"cannot write to {output.parent}: {error.strerror}", "choose another --output") from error
    if not json:  # before the plotting library is imported
        print_table(columns, f"{name}: training and {held_out} error", _caption(rows), borders=False)
    from resnet_cli.reports.curves import Curve, draw_comparison

    curves = [
        Curve(row.label, [each.train_errors for each in group], [each.held_out_errors for each in group])
        for row, group in zip(rows, groups, strict=True)
    ]
    draw_comparison(curves, name, held_out, output)
    if report is not None:
        from resnet_cli.reports.comparison import Comparison, write_comparison

        pairs = pairs_of(trained)
        shown = {each.second for each in pairs}
        notes += [
            f"{trained[0].folder} and {each.folder} have no measured image in common: the report cannot show what changed"
            for each in trained[1:]
            if str(each.folder) not in shown
        ]
        title = f"{name}: {how_many(len(rows), 'network')} compared" if len(rows) > 1 else name
        cells = [[" ".join(cell.split("\n")) for cell in row] for row in zip(*(each.cells for each in columns), strict=True)]
        headings = [each.title for each in columns]
        write_comparison(report, Comparison(title, headings, cells, curves, held_out, pairs, notes))
    if json:
        where = {"figure": str(output), **({"report": str(report)} if report else {})}
        console.print_json({**where, "dataset": name, "rows": [asdict(row) for row in rows], "notes": notes})
        return
    for note in notes:
        console.prose(console.out, note, "note:")
    console.out.print(f"figure: {console.escape(str(output))}")
    if report is not None:
        console.out.print(f"report: {console.escape(str(report))}")


def _columns(rows: "Sequence[Row]", held_out: str) -> list[Column]:
    short = "val" if held_out == "validation" else held_out
    few, many = [min(row.epochs) for row in rows], [max(row.epochs) for row in rows]
    errors = [
        Column("training\nbest", [_cell(row.train_error.best) for row in rows], True, 5),
        Column("\nfinal", [_cell(row.train_error.final) for row in rows], True, 4, "training final"),
        Column(f"{short}\nbest", [_cell(row.held_out_error.best) for row in rows], True),
        Column("\nfinal", [_cell(row.held_out_error.final) for row in rows], True, 1, f"{short} final"),
    ]
    if any(row.test_error for row in rows):
        errors.append(Column("kept,\ntest", [_cell(row.test_error) for row in rows], True))
    return [
        Column("\nnetwork", [row.label + (f"\n{len(row.runs)} seeds" if len(row.runs) > 1 else "") for row in rows]),
        Column("million\nparams", [f"{row.parameters / 1e6:.2f}" for row in rows], True, 3),
        Column("\nepochs", [str(a) if a == b else f"{a} to {b}" for a, b in zip(few, many, strict=True)], True, 2),
        *errors,
        Column("images\nper s", [f"{row.images_per_second:,.0f}" for row in rows], True, 7),
        Column("\ntime", [str(timedelta(seconds=round(row.seconds))) for row in rows], True, 6),
    ]


def _caption(rows: "Sequence[Row]") -> str:
    several, tested = any(len(row.runs) > 1 for row in rows), any(row.test_error for row in rows)
    return _CAPTION + (_TEST if tested else "") + (_SEEDS if several else "")


def _cell(spread: "Spread | None") -> str:
    if spread is None:
        return "-"
    return f"{100 * spread.mean:.2f}" + (f"\n± {100 * spread.sd:.2f}" if spread.sd is not None else "")
