"""Classes to which a mirrored image does not belong, as far as their names tell (light: the standard library only).

In: names of classes. Out: a sentence for the user, or none.
"""

import re
from collections.abc import Sequence

_OPPOSITES = (("left", "right"), ("clockwise", "counterclockwise"), ("clockwise", "anticlockwise"))
_DIGITS = frozenset("0123456789") | {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}
_FEWEST = 3  # classes: 0 and 1, or a and b, may stand for anything


def changed_by_mirroring(classes: Sequence[str]) -> str | None:
    """Why images of some classes should not be mirrored for training; None where the names say nothing of the kind.

    Two classes that differ in the word left or right alone, or classes that all are digits, or all single letters.
    """
    words = {name: _words(name) for name in classes}
    known = {spelled: name for name, spelled in words.items()}
    for one, other in _OPPOSITES:
        for name, spelled in words.items():
            opposite = known.get(tuple(other if word == one else word for word in spelled))
            if one in spelled and opposite is not None:
                return f"a mirrored image of the class {name} shows {opposite}"
    plain = [name.casefold() for name in classes]
    if len(plain) >= _FEWEST and all(name in _DIGITS for name in plain):
        return f"the classes {_some(classes)} are called as digits are, which are no digits when mirrored"
    if len(plain) >= _FEWEST and all(name in _DIGITS or (len(name) == 1 and name.isalpha()) for name in plain):
        return f"the classes {_some(classes)} are called as letters are, many of which are no letters, or others, when mirrored"
    return None


def _words(name: str) -> tuple[str, ...]:
    """The words of a name in lower case: of turnLeft, turn_left and "Turn left" the same."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return tuple(re.findall(r"[^\W_]+", apart.casefold()))


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
