"""The house rules that a machine can see, over every file of the package."""

import ast
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import pytest

PACKAGE = Path(str(resources.files("resnet_cli")))
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}
ROOT = Path(__file__).parents[1]


def places(found: Sequence[tuple[str, ast.stmt | ast.expr]]) -> list[str]:
    return [f"{name}:{node.lineno}" for name, node in found]


def test_sample_data_holds_images_alone() -> None:
    files = [path for path in (ROOT / "sample_data").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".jpg"} and len(files) == 80


def test_the_readme_has_at_most_130_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_there_are_at_most_85_modules() -> None:
    assert len([name for name in SOURCES if Path(name).name != "__init__.py"]) <= 85


def test_no_file_is_longer_than_400_lines() -> None:
    assert {name: lines for name, source in SOURCES.items() if (lines := source.count("\n")) > 400} == {}


def test_no_function_is_longer_than_60_lines() -> None:
    long = {
        f"{name}:{node.name}": node.end_lineno - node.lineno + 1
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > 60
    }
    assert long == {}


def test_every_module_begins_with_a_docstring() -> None:
    assert [name for name, tree in TREES.items() if tree.body and not ast.get_docstring(tree)] == []


@pytest.mark.parametrize("call", ["print", "input", "exit", "quit"])
def test_only_the_command_line_prints_and_exits(call: str) -> None:
    found = [
        (name, node)
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == call
        and not name.startswith("cli")
    ]
    assert places(found) == []


@pytest.mark.parametrize("member", ["exit", "stdout", "stderr"])
def test_only_the_command_line_touches_the_streams_and_the_exit_code(member: str) -> None:
    found = [
        (name, node)
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == member
        and isinstance(node.value, ast.Name)
        and node.value.id == "sys"
        and not name.startswith("cli")
        and name != "jobs/environment.py"  # holds back what libraries write while they are imported
    ]
    assert places(found) == []


def test_dataclasses_are_frozen() -> None:
    found = [
        (name, node)
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
        if ast.unparse(decorator).startswith("dataclass") and "frozen=True" not in ast.unparse(decorator)
    ]
    assert places(found) == []


def test_nothing_is_deserialised_that_could_name_code() -> None:
    # Weights are arrays and runs are JSON; a pickle runs what it names, and so does a model's configuration without safe mode.
    words = ("import pickle", "allow_pickle=True", "safe_mode=False", "yaml.load(")
    found = [f"{name}: {word}" for name, source in SOURCES.items() for word in words if word in source]
    assert found == []
