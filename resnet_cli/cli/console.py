"""The console: what prints. Progress and notices go to stderr, results to stdout (light: typer and rich)."""

import codecs
import json
import sys
from typing import Any

from rich import markup
from rich.console import Console
from rich.table import Table

__all__ = ["Table", "err", "escape", "full_width", "json_text", "out", "print_error", "print_json"]

# Names of files come out as they are: no emoji for what stands between colons.
out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
_WIDEST = 10_000  # columns, more than any table has

# Control characters but tab and line feed: a terminal would obey them.
_CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(9), *range(11, 32), *range(127, 160))}


def escape(text: str) -> str:
    """Text for rich that comes out as it is: no markup in it, and control characters as escapes."""
    return markup.escape(text.translate(_CONTROL))


def full_width(table: Table) -> int:
    """Columns that a table takes where nothing of it is cut off."""
    return out.measure(table, options=out.options.update(width=_WIDEST)).maximum


def print_json(document: Any) -> None:
    """The result of a command with --json: one document on stdout."""
    sys.stdout.write(json_text(document) + "\n")


def json_text(document: Any) -> str:
    """JSON as this program writes it: UTF-8, or ASCII where stdout has another encoding."""
    return json.dumps(document, indent=2, ensure_ascii=not _writes_utf8(sys.stdout.encoding))


def print_error(message: str, hint: str) -> None:
    """One `error:` line, one `hint:` line."""
    err.print(f"[bold red]error:[/] {escape(message)}")
    if hint:
        err.print(f"[bold]hint:[/] {escape(hint)}")


def _writes_utf8(encoding: str | None) -> bool:
    # A stream of text alone, as in tests, has none.
    return encoding is None or codecs.lookup(encoding).name == "utf-8"
