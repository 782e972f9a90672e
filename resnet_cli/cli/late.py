"""The commands by name, each imported when it is called: the program's own help needs none of them (light)."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer
from rich.padding import Padding
from typer.core import TyperGroup

from resnet_cli.cli.console import Table, out

_WIDE = 100  # columns that the tables of the longest options need

# The first sentence of each command's own help, in the order of the list.
SUMMARIES = {
    "finetune": "Turn a folder of photos into a classifier, from a pretrained network.",
    "train": "Train a network of the residual papers on a folder of pictures, from scratch or from weights.",
    "evaluate": "Measure a classifier: top-1, top-5, per class, confusion; writes predictions.csv and confusion.csv.",
    "predict": "Say what images show. Without any run: ImageNet's 1,000 classes.",
    "export": "Write a classifier for other programs, and check it on held-out pictures.",
    "compare": "Compare runs in a table and one figure of error curves; runs of other seeds share a row.",
    "check": "Look for what is wrong with a data set: damaged files, copies, leaks, small classes.",
    "models": "List every network: family, depth, parameters, input size, and where its weights come from.",
}


def command_function(name: str) -> Callable[..., Any]:
    """The function behind a command: `resnet NAME` is `NAME` of the module `resnet_cli.cli.NAME`."""
    function: Callable[..., Any] = getattr(import_module(f"resnet_cli.cli.{name}"), name)
    return function


class LateCommands(TyperGroup):
    """A group that lists its commands by their summaries and builds the one that is called."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the list of commands. Typer's own page would be as long in importing as everything else."""
        out.print(f"\n[bold yellow]Usage:[/] resnet COMMAND [OPTIONS]\n\n{self.help}\n")
        table = Table.grid(padding=(0, 2))
        for name, summary in SUMMARIES.items():
            table.add_row(f"[bold cyan]{name}[/]", summary)
        out.print(Padding(table, (0, 2)), soft_wrap=False)
        out.print("\nOptions of a command: resnet COMMAND --help. The version: resnet --version.")

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The called command, built from its function; unknown names are reported by Typer."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, _build(name) if name else listed, rest


def _build(name: str) -> Any:
    # Typer's tables cut the names of options off where they are too narrow; its plain page breaks lines instead.
    wide = out.width >= _WIDE
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich" if wide else None)
    alone.command(name)(command_function(name))
    command: Any = typer.main.get_command(alone)
    if not wide:
        for option in command.params:
            option.help = (option.help or "").replace("\\[", "[")
    return command
