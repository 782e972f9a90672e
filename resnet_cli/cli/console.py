"""The console: what prints. Progress and notices go to stderr, results to stdout (light: typer and rich)."""

import codecs
import json
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["Table", "err", "escape", "json_text", "out", "print_error", "print_json"]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


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
