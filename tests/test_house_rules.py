"""The house rules that a machine can see, over every file of the package."""

import ast
import doctest
import importlib
from collections.abc import Iterator, Sequence
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


def test_there_are_at_most_120_modules() -> None:
    assert len([name for name in SOURCES if Path(name).name != "__init__.py"]) <= 120


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


def test_every_module_and_room_begins_with_a_docstring() -> None:
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []


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


def _public(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    for each in node.body:
        if isinstance(each, ast.FunctionDef | ast.ClassDef) and not each.name.startswith("_"):
            yield f"{prefix}{each.name}", each
            if isinstance(each, ast.ClassDef):
                yield from _public(each, f"{prefix}{each.name}.")


PUBLIC = {name: node for file, tree in TREES.items() for name, node in _public(tree, f"{file}:")}


def test_everything_public_has_a_docstring() -> None:
    assert [name for name, node in PUBLIC.items() if not ast.get_docstring(node)] == []


# What is called from notebooks and by those who build something of their own.
SHOWN = (
    *("api/training.py:finetune", "api/training.py:train", "api/training.py:check", "api/run.py:load", "api/run.py:Run"),
    *(f"api/run.py:Run.{name}" for name in ("evaluate", "predict", "export")),
    "networks/residual.py:build_backbone",
    *(f"networks/classifier.py:build_{name}" for name in ("logits", "head", "classifier")),
    *(f"data/decode.py:{name}" for name in ("decode", "decode_square", "in_memory")),
    *(f"data/augment.py:{name}" for name in ("augment", "mix")),
    *(f"inference/classify.py:{name}" for name in ("classify", "predict")),
)


@pytest.mark.parametrize("name", SHOWN)
def test_what_others_build_on_shows_an_example(name: str) -> None:
    assert "Example:\n    >>> " in (ast.get_docstring(PUBLIC[name]) or "")


@pytest.mark.parametrize("file", sorted({name.partition(":")[0] for name in SHOWN}))
def test_the_examples_in_docstrings_give_what_they_say(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])  # where sample_data is
    module = importlib.import_module(f"resnet_cli.{file.removesuffix('.py').replace('/', '.')}")
    assert doctest.testmod(module).failed == 0
