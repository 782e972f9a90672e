"""Starting the program costs nothing heavy: help and usage errors answer from the standard library, typer and rich alone.

TensorFlow, where it is needed, starts with what makes it fast.
"""

import ast
import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import resnet_cli
from resnet_cli import __version__

PACKAGE = Path(str(resources.files("resnet_cli")))
HEAVY = ("numpy", "PIL", "keras", "tensorflow", "openvino", "matplotlib", "sklearn", "scipy", "h5py", "jinja2", "jax", "onnx")
# Other modules call themselves light in their first docstring; these have to be, whatever they say.
ALWAYS_LIGHT = {
    "resnet_cli.cli.app",
    "resnet_cli.cli.console",
    "resnet_cli.data.dataset",
    "resnet_cli.data.split",
    "resnet_cli.errors",
    "resnet_cli.training.config",
    "resnet_cli.networks.catalogue",
    "resnet_cli.progress",
    "resnet_cli.runs.folder",
}


def in_fresh_process(script: str) -> dict[str, list[object]]:
    """What a script prints as JSON, run in a process that has imported nothing yet."""
    loaded = f"import sys, json\nheavy = lambda: [name for name in {HEAVY!r} if name in sys.modules]\n"
    result = subprocess.run([sys.executable, "-c", loaded + script], capture_output=True, text=True, check=True)
    answer: dict[str, list[object]] = json.loads(result.stdout.splitlines()[-1])
    return answer


def light_modules() -> list[str]:
    found = set(ALWAYS_LIGHT)
    for path in PACKAGE.rglob("*.py"):
        if "(light" in (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""):
            found.add(".".join(("resnet_cli", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"))
    return sorted(found)


def test_every_module_that_calls_itself_light_is_imported_without_heavy_packages() -> None:
    # One process for all: whichever module is the first with an entry is the culprit.
    script = f"""
import importlib
found = {{}}
for name in {light_modules()!r}:
    before = heavy()
    importlib.import_module(name)
    found[name] = [package for package in heavy() if package not in before]
print(json.dumps(found))
"""
    found = in_fresh_process(script)
    assert {name: packages for name, packages in found.items() if packages} == {}


ANSWER = """
import contextlib, io
from resnet_cli.cli.app import main
from resnet_cli.cli.app import SUMMARIES

def answer(*arguments):
    sys.argv = ["resnet", *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit as stop:
            return stop.code or 0
    return 0

found = {}
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["--help"], 0, id="help"),
        pytest.param(["--no-such-option"], 2, id="an unknown option"),
    ],
)
def test_every_command_answers_without_heavy_packages(arguments: list[str], code: int) -> None:
    script = f"""{ANSWER}
for name in [None, *SUMMARIES]:
    given = ([name] if name else []) + {arguments!r}
    found[" ".join(given)] = [answer(*given), *heavy()]
print(json.dumps(found))
"""
    found = in_fresh_process(script)
    assert len(found) > 1
    assert found == {given: [code] for given in found}


def test_the_version_and_an_unknown_command_answer_without_heavy_packages() -> None:
    script = f"""{ANSWER}
found["version"] = [answer("--version"), *heavy()]
found["unknown"] = [answer("no-such-command"), *heavy()]
print(json.dumps(found))
"""
    assert in_fresh_process(script) == {"version": [0], "unknown": [2]}


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "expected"), [(None, True), ("0", False)], ids=["by itself", "unless it is told not to"])
def test_tensorflow_starts_with_onednn_on_every_cpu(asked: str | None, expected: bool) -> None:
    script = """
from resnet_cli.jobs.environment import tensorflow_import
with tensorflow_import():
    import tensorflow
from tensorflow.python.util import _pywrap_util_port
print(_pywrap_util_port.IsMklEnabled())
"""
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    if asked is not None:
        environment["TF_ENABLE_ONEDNN_OPTS"] = asked
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    # Its packages for macOS come without.
    assert done.stdout.strip() == str(expected and sys.platform != "darwin")


def test_the_first_figure_on_a_machine_says_nothing_of_its_own(tmp_path: Path) -> None:
    # Matplotlib remarks on its font cache where building that takes longer than a timer runs: here no time at all.
    script = """
import threading
waiting = threading.Timer.__init__
threading.Timer.__init__ = lambda self, interval, *others: waiting(self, 0, *others)
import resnet_cli.reports.curves
"""
    environment = os.environ | {"MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.glob("fontlist*.json"))


def test_the_package_is_imported_without_heavy_packages_and_without_what_shows_progress() -> None:
    script = """
import resnet_cli as resnet
first = [resnet.__version__, sorted(name for name in sys.modules if name.startswith("resnet_cli")), *heavy()]
used = [callable(getattr(resnet, name)) for name in resnet.__all__]
shows = [name for name in ("typer", "rich") if name in sys.modules]
unnamed = sorted(set(resnet.__all__) - set(dir(resnet)))
print(json.dumps({"import": first, "use": [all(used), *heavy(), *shows], "unnamed": unnamed}))
"""
    assert in_fresh_process(script) == {"import": [__version__, ["resnet_cli"]], "use": [True], "unnamed": []}


def test_a_name_that_the_package_does_not_have_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'resnet_cli' has no attribute 'fit'"):
        resnet_cli.fit  # noqa: B018
