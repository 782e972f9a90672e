"""Recipe keys with types and ranges, read from TOML files, from `--set` and from Python (light).

In: a frozen dataclass whose fields are `Annotated[type, Key(...)]`, and values by name. Out: checked values, or an error that
names the key and its source; and the text of a recipe file (`as_toml`).
"""

import math
import numbers
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from resnet_cli.errors import ResnetError
from resnet_cli.files import at_home

Drops = tuple[tuple[float, float], ...]
BASE = "recipe"  # the key of a file that names the recipe it changes
_ABSENT = "auto"  # stands for None, which TOML does not have


@dataclass(frozen=True)
class Key:
    """The meaning and the allowed values of a field of a configuration.

    Attributes:
        text: one line for help pages, `--show` and documents.
        least: smallest number; None for no bound.
        most: largest number; None for no bound.
        auto: the default if no value is given, in words; "" if there always is a value.
        name: name of the field; `keys_of` fills in this and the following attributes.
        kind: bool, int, float, `Drops` or a Literal of words.
        default: default of the dataclass.
    """

    text: str
    least: float | None = None
    most: float | None = None
    auto: str = ""
    name: str = ""
    kind: Any = None
    default: Any = None

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed words; empty for numbers and switches."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def values(self) -> str:
        """The allowed values, in words."""
        if self.choices:
            words = ", ".join(self.choices)
        elif self.kind is bool:
            words = "true or false"
        elif self.kind == Drops:
            words = "[share, factor] pairs"
        else:
            words = {int: "whole number", float: "number"}[self.kind] + _range(self.least, self.most)
        return f"{words}, or auto: {self.auto}" if self.auto else words


def _range(least: float | None, most: float | None) -> str:
    if least is None:
        return ""
    return f", {least:g} or more" if most is None else f", {least:.10g} to {most:.10g}"


def keys_of(config: type[Any]) -> dict[str, Key]:
    """The keys of a configuration by name, in the order of its fields."""
    hints, found = get_type_hints(config, include_extras=True), {}
    for field in fields(config):
        kind, key = get_args(hints[field.name])
        if get_origin(kind) in (Union, UnionType):
            (kind,) = [each for each in get_args(kind) if each is not type(None)]
        found[field.name] = replace(key, name=field.name, kind=kind, default=field.default)
    return found


def checked(config: type, values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Values of keys, of the right type and within their ranges.

    Args:
        config: the dataclass whose fields are the keys.
        values: by name, as TOML or Python has them.
        where: prefix of error messages: "" or the source, such as "my.toml: ".

    Raises:
        ResnetError: a name is unknown, or a value is not allowed.
    """
    return {name: _checked(_key(config, name, where), value, where) for name, value in values.items()}


def parse_setting(config: type, text: str) -> tuple[str, Any]:
    """Read one `--set`, "dropout=0.3": the key and its value.

    Raises:
        ResnetError: it has another form, or see `checked`.
    """
    name, equals, value = text.partition("=")
    where = f"--set {text}: "
    if not equals:
        raise ResnetError(f"--set {text} is not written as KEY=VALUE", "such as --set dropout=0.3")
    key = _key(config, name.strip(), where)
    return key.name, _checked(key, _from_text(key, value.strip(), where), where)


def read_recipe(recipe: str | Path, names: Collection[str], config: type) -> tuple[str | None, dict[str, Any]]:
    """The named recipe that a recipe is based on, and the keys that it changes.

    Args:
        recipe: the name of a recipe, which changes nothing, or a TOML file.
        names: names of the named recipes.
        config: configuration whose keys the file may set.

    Returns:
        A name, None if the file gives none; values by key.

    Raises:
        ResnetError: there is no such recipe, or the file cannot be read; or see `checked`.
    """
    if recipe in names:
        return str(recipe), {}
    path = at_home(str(recipe))
    if path.suffix != ".toml" and not path.exists():
        hint = f"recipes are {', '.join(names)}, and TOML files, whose names end in .toml"
        raise ResnetError(f"there is no recipe {recipe}{_meant(str(recipe), names)}", hint)
    values = _toml(path)
    where = f"{path}: "
    base = values.pop(BASE, None)
    if base is not None and base not in names:
        raise ResnetError(f"{where}there is no recipe {base}{_meant(str(base), names)}", f"recipes are {', '.join(names)}")
    return base, checked(config, values, where)


def _toml(path: Path) -> dict[str, Any]:
    import tomllib  # takes milliseconds, and most commands do not need it

    try:
        content = path.read_bytes()
        # As Windows' shells write files: UTF-16, or UTF-8 with a byte-order mark.
        encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
        return tomllib.loads(content.decode(encoding).replace("\r\n", "\n"))
    except FileNotFoundError:
        raise ResnetError(f"there is no recipe file {path}", "name a TOML file of keys; --show prints one") from None
    except OSError as error:
        raise ResnetError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ResnetError(f"{path} is not TOML: {error}", 'lines are such as dropout = 0.3 or crop = "pad"') from None


def _key(config: type, name: str, where: str) -> Key:
    keys = keys_of(config)
    if name not in keys:
        meant = _meant(name.replace("-", "_"), keys)
        raise ResnetError(f"{where}there is no key {name}{meant}", "--show lists all keys")
    return keys[name]


def _meant(name: str, names: Collection[str]) -> str:
    close = get_close_matches(name, names, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _checked(key: Key, value: Any, where: str) -> Any:
    if key.auto and value in (None, _ABSENT):
        return None
    if key.kind == Drops:
        return _drops(key, value, where)
    fits = {bool: isinstance(value, bool), int: _is_number(value, int), float: _is_number(value, int, float)}
    if not (value in key.choices if key.choices else fits[key.kind]):
        raise _refusal(key, value_text(value), where)
    if key.choices or key.kind is bool:
        return value
    if not math.isfinite(value):
        raise ResnetError(f"{where}{key.name} = {value} is not a finite number", _values(key))
    if (key.least is not None and value < key.least) or (key.most is not None and value > key.most):
        raise ResnetError(f"{where}{key.name} = {value} is out of range", _values(key))
    return key.kind(value)


_NUMBERS: dict[type, type] = {int: numbers.Integral, float: numbers.Real}


def _is_number(value: Any, *kinds: type) -> bool:
    """NumPy's numbers too."""
    return isinstance(value, tuple(_NUMBERS[kind] for kind in kinds)) and not isinstance(value, bool)


def _refusal(key: Key, value: str, where: str) -> ResnetError:
    return ResnetError(f"{where}{key.name} = {value} is not a valid value", _values(key))


def _values(key: Key) -> str:
    return f"{key.name} takes: {key.values}"


def _from_text(key: Key, text: str, where: str) -> Any:
    """Convert a value typed on the command line."""
    if key.auto and text == _ABSENT:
        return None
    if key.kind == Drops:
        return parse_drops(text)
    truth = {"true": True, "false": False}
    try:
        if key.kind is bool:
            return truth[text.lower()]
        if key.choices:
            return key.choices[key.choices.index(text)]
        return key.kind(text)
    except (KeyError, ValueError):
        raise _refusal(key, text, where) from None


_SUCH_DROPS = "such as --set drops=0.5:0.1,0.75:0.01, or drops = [[0.5, 0.1], [0.75, 0.01]] in a file"


def parse_drops(text: str) -> Drops:
    """Read "0.5:0.1,0.75:0.01": after half of all steps a tenth of the rate, after three quarters a hundredth.

    Raises:
        ResnetError: it has another form, or is out of order.
    """
    try:
        pairs = [[float(number) for number in part.split(":")] for part in text.split(",")]
    except ValueError:
        raise ResnetError(f"drops {text} is not written as share:factor,...", _SUCH_DROPS) from None
    return _drops(Key("", name="drops"), pairs, "")


def _drops(key: Key, value: Any, where: str) -> Drops:
    pairs = value if isinstance(value, list | tuple) else [value]
    is_pair = [
        isinstance(each, list | tuple) and len(each) == 2 and all(_is_number(n, int, float) for n in each) for each in pairs
    ]
    if not all(is_pair):
        raise ResnetError(f"{where}{key.name} = {value} is not written as share:factor,...", _SUCH_DROPS)
    drops = tuple((float(share), float(factor)) for share, factor in pairs)
    shares = [share for share, _ in drops]
    in_order = shares == sorted(set(shares)) and all(0 <= share < 1 and 0 < factor < math.inf for share, factor in drops)
    if not in_order:
        raise ResnetError(f"{where}{key.name} {_spelled(drops)}: shares rise from 0 to 1, and factors are above 0", _SUCH_DROPS)
    return drops


def _spelled(drops: Drops) -> str:
    return ",".join(f"{share:g}:{factor:g}" for share, factor in drops)


def as_toml(config: Any, usual: Any, idle: Mapping[str, str]) -> list[str]:
    """All keys of a configuration as the lines of a recipe file, each below a comment that describes it.

    Args:
        config: an instance of a dataclass of keys.
        usual: the configuration that it is based on; changed keys are marked.
        idle: keys that have no effect with the rest, with reasons: they are commented out.
    """
    lines = []
    for name, key in keys_of(type(config)).items():
        value, before = getattr(config, name), getattr(usual, name)
        notes = [f"changed from {value_text(before)}"] if value != before else []
        notes += [f"no effect: {idle[name]}"] if name in idle else []
        line = "  # ".join([f"{name} = {value_text(value)}", *notes])
        lines += [f"# {key.text} ({key.values})", f"# {line}" if name in idle else line]
    return lines


def value_text(value: Any) -> str:
    """A value as written in a recipe file, such as `0.5`, `true`, `"auto"` or `[[0.5, 0.1]]`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return str([list(pair) for pair in value])
    return f'"{value or _ABSENT}"' if value is None or isinstance(value, str) else repr(value)
