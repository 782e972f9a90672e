"""The documents say what the program does: the page of the command line, every example, every link."""

import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import RunCli

from resnet_cli.cli.app import EXAMPLES, SUMMARIES, command_function

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_cli_docs", ROOT / "scripts" / "make_cli_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generator = load_generator()


def options_by_command() -> dict[str, set[str]]:
    """Every spelling of every option, by command."""
    found = {}
    for name in SUMMARIES:
        spellings = " ".join(each.spelling for each in generator.parameters(command_function(name)) if not each.is_argument)
        found[name] = {*re.findall(r"-[-\w]+", spellings), "--help", "-h", "--verbose", "-v"}
    return found


def examples() -> list[tuple[str, list[str]]]:
    """Every command line in a code block that begins with `resnet`, by page."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            for line in block.splitlines():
                for part in re.split(r"&&|\|", line.partition(" #")[0]):
                    if re.match(r"\s*(\.venv/bin/)?resnet ", part):
                        found.append((page.name, shlex.split(part)[1:]))
    return found


def test_the_pages_of_the_command_line_and_of_the_recipes_are_what_the_program_says() -> None:
    for path, text in ((generator.PAGE, generator.page()), (generator.RECIPES_PAGE, generator.recipes_page())):
        written = path.read_text(encoding="utf-8")
        assert written == text, f"docs/{path.name} is out of date: run `python scripts/make_cli_docs.py`"


@pytest.mark.parametrize("name", SUMMARIES)
def test_the_list_of_commands_shows_the_first_paragraph_of_each_ones_help(name: str) -> None:
    assert inspect.cleandoc(command_function(name).__doc__ or "").split("\n\n")[0] == SUMMARIES[name]


def test_the_page_says_what_decides_where_an_option_of_train_is_left_out() -> None:
    options = {each.spelling: each for each in generator.parameters(command_function("train"))}
    assert (options["--shortcut"].values, options["--shortcut"].default) == ("`A`, `B`, `C`", "the network's")
    assert {options[name].default for name in ("--epochs", "--optimizer", "--flip / --no-flip", "--seed")} == {"the recipe's"}
    assert (options["--time-limit"].default, options["--recipe"].default) == ("none", "`fast`")


@pytest.mark.parametrize(
    ("command", "default"),
    [("finetune", "0.2, or 0.1 beside a test folder"), ("evaluate", "the run's held-out images"), ("export", "the newest")],
)
def test_the_help_names_defaults_that_no_constant_holds(command: str, default: str, run_cli: RunCli) -> None:
    assert f"[default: {default}]" in " ".join(run_cli(command, "--help").stdout.replace("│", " ").split())


def test_the_help_names_a_default_that_the_network_decides(run_cli: RunCli) -> None:
    # As bare markup it would be swallowed.
    help_text = " ".join(run_cli("train", "--help").stdout.replace("│", " ").split())
    assert help_text.count("[default: the network's]") == 2


def test_every_option_has_a_help_text() -> None:
    silent = [
        f"{name} {each.spelling}"
        for name in SUMMARIES
        for each in generator.parameters(command_function(name))
        if not each.help
    ]
    assert silent == []


def test_every_command_of_the_examples_exists_with_its_options() -> None:
    known = options_by_command()
    wrong = []
    for page, words in examples():
        command = next((word for word in words if not word.startswith("-")), None)
        if command is None:
            continue
        if command not in known:
            wrong.append(f"{page}: resnet {command}")
            continue
        wrong += [
            f"{page}: resnet {command} {word}"
            for word in words
            if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known[command]
        ]
    assert not wrong, "\n".join(wrong)


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in options_by_command() if f"resnet {name}" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


def test_the_readme_marks_the_two_commands_that_set_everything_up() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    endings = {"first": "resnet finetune sample_data/cars_vs_trucks", "test": "scripts/check"}
    for name, ending in endings.items():
        block = re.search(rf"^<!-- {name} command -->\n+```\w*\n([^\n]+)\n```$", readme, re.MULTILINE)
        assert block is not None, f"the {name} command stands alone in its code block"
        assert block.group(1).startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt ")
        assert block.group(1).endswith(ending)


PAGES_OF_HELP = """
import contextlib, io, json, sys
from resnet_cli.cli.app import SUMMARIES, main
pages = {}
for name in SUMMARIES:
    sys.argv = ["resnet", name, sys.argv[-1]]
    with contextlib.redirect_stdout(io.StringIO()) as page, contextlib.suppress(SystemExit):
        main()
    pages[name] = page.getvalue()
print(json.dumps(pages))
"""


def help_pages(columns: int, option: str) -> dict[str, str]:
    """The help page of every command in a terminal of that width, by a process of its own: rich measures it once."""
    environment = {**os.environ, "COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", PAGES_OF_HELP, option]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=True)
    pages: dict[str, str] = json.loads(done.stdout)
    return pages


@pytest.mark.parametrize(("columns", "option"), [(60, "-h"), (80, "--help"), (99, "-h"), (100, "--help")])
def test_help_is_whole_however_narrow_the_terminal(columns: int, option: str) -> None:
    for name, page in help_pages(columns, option).items():
        assert "…" not in page and "\\" not in page and max(map(len, page.splitlines())) <= columns
        words = {word.strip("[];,") for word in page.replace("│", " ").replace(",--", " --").split()}
        for each in generator.parameters(command_function(name)):
            spoken = " ".join([each.spelling.replace("/", " "), each.help]) if not each.is_argument else each.help
            missing = {word.strip("[];,") for word in spoken.replace("&lt;", "<").split()} - words
            assert not missing, f"{name} {each.spelling} at {columns} columns: {missing}"
        examples = EXAMPLES[name]
        assert page.split("Examples:")[1].split() == " ".join(examples).split()


@pytest.mark.parametrize("columns", [60, 100])
def test_the_options_of_train_and_finetune_are_few_and_in_panels(columns: int) -> None:
    pages = help_pages(columns, "--help")
    for name in ("train", "finetune"):
        places = [pages[name].index(panel) for panel in ("Data", "Network", "Training", "Augmentation", "Output")]
        assert places == sorted(places)
        assert 20 <= len([each for each in generator.parameters(command_function(name)) if not each.is_argument]) <= 34


def test_the_program_is_a_module_too_and_answers_to_both_words_for_help() -> None:
    pages = [
        subprocess.run([sys.executable, "-m", "resnet_cli", word], capture_output=True, text=True, check=True).stdout
        for word in ("-h", "--help")
    ]
    assert pages[0] == pages[1] and all(name in pages[0] for name in SUMMARIES) and "--install-completion" in pages[0]
