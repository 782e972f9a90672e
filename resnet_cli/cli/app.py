"""The program `resnet`: its commands, and the one place where errors become text and exit codes (light)."""

import errno
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


def _is_out_of_memory(error: Exception) -> bool:
    """Of the machine or of its GPU, in the words of Python, TensorFlow and jax."""
    told = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    return told or type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error)


def _has_no_repeatable_operation(error: Exception) -> bool:
    """TensorFlow's refusal of an operation whose results on a GPU would differ from time to time."""
    return type(error).__name__ == "UnimplementedError" and "determinis" in str(error).lower()


def main() -> None:
    """Entry point: run a command; errors become one sentence and an exit code, never a traceback."""
    try:
        with results_to_stdout():
            app()
    except ResnetError as error:
        console.print_error(error.message, error.hint)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except ReaderGone:
        sys.exit(141)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            # What a path may be refused for is endless: too long a name, a closed folder above, a disk that is gone.
            console.print_error(f"{error.filename}: {error.strerror}", "")
        elif _is_out_of_memory(error):
            console.print_error("there is not enough memory for this", "a smaller --batch-size or --image-size needs less")
        elif _has_no_repeatable_operation(error):
            console.print_error(
                "TensorFlow has no operation for this network on this GPU whose results are the same every time",
                "KERAS_BACKEND=jax trains on the GPU, CUDA_VISIBLE_DEVICES=-1 on the CPU",
            )
        else:
            raise
        sys.exit(1)
    finally:
        let_go_of_stdout()
        # The process ends: to look for garbage among all that TensorFlow made would take one to two seconds more.
        gc.freeze()
