"""The program `resnet`: its commands, and the one place where errors become text and exit codes (light)."""

import gc
import sys

import typer

from resnet_cli import __version__
from resnet_cli.cli import console
from resnet_cli.cli.late import SUMMARIES, LateCommands
from resnet_cli.cli.streams import ReaderGone, let_go_of_stdout, results_to_stdout
from resnet_cli.errors import ResnetError

app = typer.Typer(
    name="resnet",
    cls=LateCommands,
    help="A folder of photos in, a trained, measured, portable residual-network classifier out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
for _name, _summary in SUMMARIES.items():
    app.command(_name, help=_summary)(lambda: None)


def _version(value: bool) -> None:
    if value:
        console.out.print(f"resnet {__version__}")
        raise typer.Exit


@app.callback()
def root(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version.")) -> None:
    """A folder of photos in, a trained, measured, portable residual-network classifier out."""


def main() -> None:
    """Entry point: run a command; errors become one sentence and an exit code, never a traceback."""
    try:
        with results_to_stdout():
            app()
    except ResnetError as error:
        console.print_error(error.message, error.hint)
        sys.exit(error.exit_code)
    except OSError as error:
        # What a path may be refused for is endless: too long a name, a closed folder above, a disk that is gone.
        if error.filename is None:
            raise
        console.print_error(f"{error.filename}: {error.strerror}", "")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except ReaderGone:
        sys.exit(141)
    finally:
        let_go_of_stdout()
        # The process ends: to look for garbage among all that TensorFlow made would take one to two seconds more.
        gc.freeze()
