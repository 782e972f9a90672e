"""One of a thing is in the singular, wherever the program counts."""

import ast
import re
from importlib import resources
from pathlib import Path

import pytest

from resnet_cli.progress import how_many

PACKAGE = Path(str(resources.files("resnet_cli")))


@pytest.mark.parametrize(
    ("count", "word", "told"),
    [
        (1, "epoch", "1 epoch"),
        (0, "epoch", "0 epochs"),
        (12, "epoch", "12 epochs"),
        (1, "class", "1 class"),
        (2, "more class", "2 more classes"),
        (2, "process", "2 processes"),
        (1, "hidden entry", "1 hidden entry"),
        (1_200, "hidden entry", "1,200 hidden entries"),
    ],
)
def test_a_count_in_words(count: int, word: str, told: str) -> None:
    assert how_many(count, word) == told


_COUNTED = "images|classes|epochs|files|rows|steps|warnings|errors|processes|labels|actors|blocks|devices|tensors|trials"
_KINDS = {
    "chosen",
    "kind",
    "split",
    "parts[0].split()[1]",
    "kind_of(split)",
    "kind_of(chosen)",
    "quantized.split",
    "comparison.held_out",
    "views.title",
    "suffix[1:].upper()",
}
# The sentence has another form for one, or there is never one.
_SEVERAL = {
    "self._count",
    "len(kept)",
    "len(groups)",
    "cluster.count",
    "len(run.classes)",
    "source.head",
    "record['trials']",
    "most",
}


def test_counts_are_written_by_the_one_function_that_knows_the_singular() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            for value, text in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                    counted = re.match(rf"(?: [a-z-]*[a-rt-z])? (?:{_COUNTED})\b(?!/)", str(text.value))
                    if counted and (count := ast.unparse(value.value)) not in _KINDS | _SEVERAL:
                        found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {count}{counted[0]}")
    assert not found, "\n".join(found)
