"""Write docs/cli.md and docs/recipes.md from the program itself: commands, options and keys, with defaults and help.

In: the commands, the keys of recipes, and two templates in scripts/, which hold what no signature says. Out: the two pages.
It reads the commands' signatures and not Typer's help text, so that the page does not change with Typer's version.
"""

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

from resnet_cli.cli.app import EXAMPLES, SUMMARIES, command_function
from resnet_cli.training.config import FINETUNE_RECIPES, RECIPES
from resnet_cli.training.recipes import keys_of, value_text

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "scripts" / "cli.template.md"
PAGE = ROOT / "docs" / "cli.md"
PLACE = "<!-- commands -->"
RECIPES_TEMPLATE = ROOT / "scripts" / "recipes.template.md"
RECIPES_PAGE = ROOT / "docs" / "recipes.md"
# Help texts name a default that no constant holds as "[default: ...]".
_SPOKEN_DEFAULT = re.compile(r"\s*\\?\[default: (.*)\\?\]$")


@dataclass(frozen=True)
class Parameter:
    """One argument or option as the page shows it."""

    spelling: str
    values: str
    default: str
    help: str
    panel: str
    is_argument: bool
    required: bool
    many: bool


def page() -> str:
    """The whole of docs/cli.md."""
    commands = "\n\n".join(map(_section, SUMMARIES))
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACE, commands)


def recipes_page() -> str:
    """The whole of docs/recipes.md."""
    text = RECIPES_TEMPLATE.read_text(encoding="utf-8")
    for command, recipes in {"train": RECIPES, "finetune": FINETUNE_RECIPES}.items():
        text = text.replace(f"<!-- {command} keys -->", _keys(recipes))
    return text


def _keys(recipes: Mapping[str, Any]) -> str:
    """A table of all keys and their values in some recipes of one kind."""
    first, *_ = recipes.values()
    rows = [f"| key | values | {' | '.join(recipes)} | meaning |", "|---|---|" + "---|" * len(recipes) + "---|"]
    for name, key in keys_of(type(first)).items():
        values = " | ".join(f"`{value_text(getattr(recipe, name))}`" for recipe in recipes.values())
        rows.append(f"| `{name}` | {key.values} | {values} | {key.text} |")
    return "\n".join(rows)


def parameters(function: Callable[..., Any]) -> Iterator[Parameter]:
    """The arguments and options of a command, in the order of its signature."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        hint, default = hints[name], parameter.default
        annotation, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        info = next((extra for extra in extras if isinstance(extra, ArgumentInfo | OptionInfo)), None)
        if info is None and isinstance(default, ArgumentInfo | OptionInfo):
            info, default = default, default.default
        if info is None or info.hidden:
            continue
        yield _parameter(name, annotation, info, default)


def _section(command: str) -> str:
    function = command_function(command)
    found = list(parameters(function))
    usage = ["resnet", command]
    for argument in (each for each in found if each.is_argument):
        word = argument.spelling + ("..." if argument.many and not argument.spelling.endswith("...") else "")
        usage.append(word if argument.required else f"[{word}]")
    usage.append("[OPTIONS]")
    lines = [f"### resnet {command}", "", inspect.cleandoc(function.__doc__ or ""), ""]
    lines += ["```", " ".join(usage), "```", ""]
    lines += _table("argument", [each for each in found if each.is_argument])
    options = [each for each in found if not each.is_argument]
    for panel in dict.fromkeys(each.panel for each in options):
        lines += _table(panel or "option", [each for each in options if each.panel == panel])
    lines += ["```", *EXAMPLES[command], "```"]
    return "\n".join(lines).rstrip()


def _table(kind: str, found: list[Parameter]) -> list[str]:
    if not found:
        return []
    rows = [f"| {kind} | value | default | meaning |", "|---|---|---|---|"]
    rows += [f"| `{each.spelling}` | {each.values} | {each.default} | {each.help} |" for each in found]
    return [*rows, ""]


def _parameter(name: str, annotation: Any, info: ArgumentInfo | OptionInfo, default: Any) -> Parameter:
    text = _plain(info.help or "")
    spoken = _SPOKEN_DEFAULT.search(text)
    is_argument = isinstance(info, ArgumentInfo)
    required = default is inspect.Parameter.empty or default is ...
    if spoken:
        shown = f"`{spoken.group(1)}`" if "<" in spoken.group(1) else spoken.group(1)
    elif required:
        shown = "required"
    else:
        shown = "" if is_argument and default is None else _value(default)
    inner, many = _unwrap(annotation)
    values = _values(inner, info) + (", may be repeated" if many and not is_argument else "")
    spelling = (info.metavar or name).upper() if is_argument else _spelling(name, inner, info)
    meaning = " ".join(_SPOKEN_DEFAULT.sub("", text).split()).replace("|", "\\|").replace("<", "&lt;")
    return Parameter(spelling, values, shown, meaning, info.rich_help_panel or "", is_argument, required, many)


def _spelling(name: str, annotation: Any, info: ArgumentInfo | OptionInfo) -> str:
    # Inside Annotated, Typer takes the first spelling for `default`.
    words = [word for word in (info.default, *(info.param_decls or ())) if isinstance(word, str) and word.startswith("-")]
    if words:
        return ", ".join(sorted(words, key=lambda word: not word.startswith("--")))
    long = name.replace("_", "-")
    return f"--{long} / --no-{long}" if annotation is bool else f"--{long}"


def _unwrap(annotation: Any) -> tuple[Any, bool]:
    """The type without `| None` and `list[...]`, and whether several values may be given."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = [each for each in get_args(annotation) if each is not type(None)]
    if get_origin(annotation) in (list, tuple):
        return get_args(annotation)[0], True
    return annotation, False


def _values(annotation: Any, info: ArgumentInfo | OptionInfo) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{each}`" for each in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{each.value}`" for each in annotation)
    word = {int: "whole number", float: "number", Path: "path", str: "text", bool: "switch"}.get(
        annotation, annotation.__name__
    )
    if info.min is not None and info.max is not None:
        return f"{word}, {info.min:.10g} to {info.max:.10g}"
    if info.min is not None:
        return f"{word}, {info.min:g} or more"
    return word if info.max is None else f"{word}, {info.max:g} or less"


def _value(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if default is None or default in ("", [], ()):
        return "none"
    if isinstance(default, list | tuple):
        return ", ".join(f"`{each}`" for each in default)
    if isinstance(default, Enum):
        return f"`{default.value}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _plain(text: str) -> str:
    """Help without rich's markup."""
    return re.sub(r"\[/?(bold|dim|italic|red|green|yellow|cyan|/)?\]", "", text)


if __name__ == "__main__":
    for path, text in ((PAGE, page()), (RECIPES_PAGE, recipes_page())):
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
