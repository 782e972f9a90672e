"""The program `resnet`: its commands, each imported when it is called; only this module turns errors into text and exit codes
(light).
"""

import errno
import gc
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer
from rich.padding import Padding
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

from resnet_cli import __version__
from resnet_cli.cli import console
from resnet_cli.cli.console import VERBOSE, ReaderGone, let_go_of_stdout, out, prose, results_to_stdout
from resnet_cli.errors import ResnetError
from resnet_cli.progress import how_many

_WIDE = 100  # columns that help tables with the longest options need

# The first sentence of each command's own help, in the order of the list.
SUMMARIES = {
    "finetune": "Turn a folder of photos into a classifier, from a pretrained network.",
    "train": "Train a network of the residual papers on a folder of images, from scratch or from weights.",
    "evaluate": "Measure a classifier: top-1, top-5, per class, confusion; writes predictions.csv and confusion.csv.",
    "predict": "Classify images; without any run, into ImageNet's 1,000 classes.",
    "export": "Write a classifier for other programs, and check it on held-out images.",
    "serve": "Classify images that are sent over HTTP: a page in the browser, and an interface for programs.",
    "runs": "List runs with their networks and figures, newest first.",
    "compare": "Compare runs in a table and a figure of error curves; runs that differ only by seed share a row.",
    "check": "Check a data set for problems: damaged files, copies, leaks, small classes.",
    "models": "List every network: family, depth, parameters, input size, and where its weights come from.",
}

# The end of each command's help page.
EXAMPLES = {
    "finetune": (
        "resnet finetune photos",
        "resnet finetune photos --unfreeze all --epochs 10 --set dropout=0.3",
        "resnet finetune photos.zip --labels labels.csv",
    ),
    "train": (
        "resnet train cifar10 --arch resnet56 --recipe paper",
        "resnet train photos --time-limit 1h --set cutout=0.5",
    ),
    "evaluate": ("resnet evaluate", "resnet evaluate other-photos --run runs/photos-resnet50"),
    "predict": ("resnet predict image.jpg", "resnet predict folder --run runs/photos-resnet50 --csv"),
    "export": ("resnet export --format onnx", "resnet export --format openvino --quantize int8"),
    "serve": ("resnet serve", "resnet serve --run runs/photos-resnet50 --port 8080 --threshold 0.7"),
    "runs": ("resnet runs", "resnet runs --json"),
    "compare": ("resnet compare runs/plain56 runs/resnet56",),
    "check": ("resnet check photos",),
    "models": ("resnet models", "resnet models --json"),
}
_HELP = {"help_option_names": ["-h", "--help"]}
_VERBOSE = "Show times, engines, TensorFlow's log and, for an error, its cause."


def command_function(name: str) -> Callable[..., Any]:
    """The function behind a command: `resnet NAME` is `NAME` of the module `resnet_cli.cli.NAME`."""
    function: Callable[..., Any] = getattr(import_module(f"resnet_cli.cli.{name}"), name)
    return function


class Command(TyperCommand):
    """A command with panels on its plain help page, and hints for former options that are recipe keys now."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as Typer does; the error for an option that became a recipe key says what to type instead."""
        words = list(args)
        try:
            return list(super().parse_args(ctx, args))
        except Exception as error:
            # Newer versions of Typer contain their own click, whose errors have no public name.
            if type(error).__name__ == "NoSuchOption":
                _tell_key(self.name or "", words, error)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command; with --verbose, the versions of what it runs on are shown first."""
        if VERBOSE.get():
            if ctx.params.get("quiet"):
                raise typer.BadParameter("--quiet and --verbose exclude each other", ctx=ctx)
            from resnet_cli.runs.folder import versions

            shown = ", ".join(f"{name} {version}" for name, version in versions().items())
            console.err.print(console.escape(f"{shown}; {how_many(os.cpu_count() or 1, 'CPU')}"))
        return super().invoke(ctx)

    def get_help_option(self, ctx: Any) -> Any:
        """--help, in the panel of the last option."""
        option = super().get_help_option(ctx)
        if option is not None and self.params:
            option.rich_help_panel = getattr(self.params[-1], "rich_help_panel", None)
        return option

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel, in the order of the options."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if record := parameter.get_help_record(ctx):
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)


def _tell_key(command: str, words: list[str], error: Any) -> None:
    """Name the recipe key that replaced an option, instead of "no such option"."""
    from resnet_cli.cli.recipe_options import instead_of_option

    for place, word in enumerate(words):
        option, _, value = word.partition("=")
        if option == error.option_name:
            following = "".join(words[place + 1 : place + 2])
            value = value or ("" if following.startswith("--") else following)
            if instead := instead_of_option(command, option, value):
                error.message, error.possibilities = instead, None
            return


class LateCommands(TyperGroup):
    """A group that lists its commands by their summaries and only imports the one that is called."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the list of commands; Typer's own page would take as long to import as all commands."""
        out.print("\n[bold yellow]Usage:[/] resnet COMMAND [OPTIONS]\n")
        prose(out, f"{self.help}\n")
        table = Table.grid(padding=(0, 2))
        for name, summary in SUMMARIES.items():
            table.add_row(f"[bold cyan]{name}[/]", summary)
        out.print(Padding(table, (0, 2)), soft_wrap=False)
        prose(out, "\nOptions of a command: resnet COMMAND --help. The version: resnet --version.")
        prose(out, "Completion in your shell: resnet --install-completion, or --show-completion to look at it first.")

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The called command, built from its function; unknown names are reported by Typer."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, _build(name) if name else listed, rest


def _be_verbose(value: bool) -> None:
    if value:
        VERBOSE.set(True)
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"  # all of TensorFlow's own log


def _verbose_option(panel: str | None) -> Any:
    """--verbose, which every command has beside those of its function: no function needs its value."""
    option = typer.Option(
        False,
        "--verbose",
        "-v",
        callback=_be_verbose,
        expose_value=False,
        help=_VERBOSE,
        rich_help_panel=panel,
        show_default=False,
    )

    def alone(verbose: bool = option) -> None:
        """Only for its option, which Typer makes."""

    holder = typer.Typer(add_completion=False)
    holder.command()(alone)
    command: Any = typer.main.get_command(holder)
    return command.params[0]


def _build(name: str) -> Any:
    # On narrow terminals, Typer's tables truncate the names of options; its plain page wraps lines instead.
    wide = out.width >= _WIDE
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich" if wide else None)
    # Empty lines between examples, as Typer joins the lines of a paragraph.
    examples = "\n\n".join(("Examples:", *EXAMPLES[name]))
    alone.command(name, cls=Command, context_settings=_HELP, epilog=examples)(command_function(name))
    command: Any = typer.main.get_command(alone)
    panel = getattr(command.params[-1], "rich_help_panel", None) if command.params else None
    command.params.append(_verbose_option(panel))
    if not wide:
        for option in command.params:
            option.help = (option.help or "").replace("\\[", "[")
    return command


app = typer.Typer(
    name="resnet",
    cls=LateCommands,
    help="A folder of photos in, a trained, measured, portable residual-network classifier out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=_HELP,
    rich_markup_mode=None,  # usage errors are lines, not boxes, which would break paths
)
for _name, _summary in SUMMARIES.items():
    app.command(_name, help=_summary)(lambda: None)


def _version(value: bool) -> None:
    if value:
        console.out.print(f"resnet {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help=_VERBOSE),
) -> None:
    """A folder of photos in, a trained, measured, portable residual-network classifier out."""
    _be_verbose(verbose)


def _print_causes(error: BaseException) -> None:
    """With --verbose, what an error was caused by, one line each."""
    while VERBOSE.get() and (cause := error.__cause__ or error.__context__) is not None:
        console.err.print(f"caused by {type(cause).__name__}: {console.escape(str(cause))}")
        error = cause


def _print_unexpected(error: Exception) -> None:
    """An error that should have been a sentence; only --verbose shows where it happened."""
    if VERBOSE.get():
        console.err.print(console.escape("".join(traceback.format_exception(error)).rstrip()))
    first = (str(error).strip().splitlines() or [""])[0]
    hint = "" if VERBOSE.get() else "this is a bug: please report it with the output of the same command with --verbose"
    console.print_error(f"unexpected {type(error).__name__}{f': {first}' if first else ''}", hint)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python, TensorFlow or jax means that the machine or its GPU is out of memory."""
    told = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    return told or type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error)


def _has_no_repeatable_operation(error: Exception) -> bool:
    """Whether an error is TensorFlow's refusal of an operation without a deterministic GPU kernel."""
    return type(error).__name__ == "UnimplementedError" and "determinis" in str(error).lower()


def main() -> None:
    """Entry point: run a command; errors become one sentence and an exit code; only --verbose shows a traceback."""
    try:
        with results_to_stdout():
            app()
    except ResnetError as error:
        console.print_error(error.message, error.hint)
        _print_causes(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except ReaderGone:
        sys.exit(141)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            # There are many reasons: a name that is too long, a parent folder without permission, a missing disk.
            console.print_error(f"{error.filename}: {error.strerror}", "")
        elif _is_out_of_memory(error):
            console.print_error("there is not enough memory for this", "a smaller --batch-size or --image-size needs less")
        elif _has_no_repeatable_operation(error):
            console.print_error(
                "TensorFlow has no deterministic operation for this network on this GPU",
                "KERAS_BACKEND=jax trains on the GPU, CUDA_VISIBLE_DEVICES=-1 on the CPU",
            )
        else:
            _print_unexpected(error)
        sys.exit(1)
    finally:
        VERBOSE.set(False)
        let_go_of_stdout()
        # The process ends: collecting TensorFlow's garbage would take one to two seconds more.
        gc.freeze()
