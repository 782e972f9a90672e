"""What is known from paths and options alone is said before TensorFlow is imported."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MakeRun

from resnet_cli.runs.folder import EpochRecord

_WATCH = """
import sys
from resnet_cli.jobs import environment as quiet

class Imported(BaseException):
    pass

def refuse():
    raise Imported

quiet._import_keras = refuse
sys.argv = ["resnet", *sys.argv[1:]]
from resnet_cli.cli.app import main
try:
    main()
except Imported:
    print("keras would be imported now", file=sys.stderr)
finally:
    heavy = [name for name in ("tensorflow", "keras", "jax") if name in sys.modules]
    print(heavy, file=sys.stderr)
"""


def before_keras(*args: object, cwd: Path) -> list[str]:
    """Lines on stderr of a command up to where it would import Keras; the last one lists heavy modules that are loaded."""
    command = [sys.executable, "-c", _WATCH, *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False).stderr.splitlines()


@pytest.mark.parametrize("command", [("finetune", "--weights", "bundled"), ("train", "--arch", "resnet8")])
def test_the_summary_of_the_data_set_comes_before_tensorflow(
    command: tuple[str, ...], tiny_dataset: Path, tmp_path: Path
) -> None:
    (tiny_dataset / "apple" / "notes.txt").write_text("no image")
    told = before_keras(command[0], tiny_dataset, *command[1:], cwd=tmp_path)
    assert told[0] == f"scanning {tiny_dataset}"
    counts = re.fullmatch(r"fruit: 3 classes; (\d+) train, (\d+) val", told[1])
    assert counts and sum(map(int, counts.groups())) == 36
    assert told[2].startswith("training images: apple ")
    assert any(line.startswith("warning: ") and "notes.txt" in line for line in told)
    assert told[-2:] == ["keras would be imported now", "[]"]


_WATCH_STREAMS = """
import json, os, sys
SLOW = ("tensorflow", "keras", "sklearn", "scipy", "matplotlib")
loaded = None

def watch(stream):
    write = stream.write
    def written(text):
        global loaded
        if loaded is None and text.strip():
            loaded = [name for name in SLOW if name in sys.modules]
            write(json.dumps([text, loaded]))
            stream.flush()
            os._exit(0)
        return write(text)
    stream.write = written

watch(sys.stdout)
watch(sys.stderr)
sys.argv = ["resnet", *sys.argv[1:]]
from resnet_cli.cli.app import main
main()
"""


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("finetune {data}", "scanning {data}"),
        ("train {data}", "scanning {data}"),
        ("check {data}", "scanning {data}"),
        ("evaluate --run {run}", "evaluating {run}"),
        ("evaluate {data} --run {run}", "evaluating {run}"),
        ("export --format onnx --run {run}", "exporting {run} as onnx, then checking what was written"),
        ("predict {image}", "no run here: "),
        ("compare {run}", "fruit: training and validation error"),
        ("runs {data}", "there are no runs in {data}"),
    ],
)
def test_the_first_line_of_every_command_comes_before_any_slow_library(
    words: str, first: str, tiny_dataset: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", tiny_dataset, "resnet8")
    (run / "metrics.jsonl").write_text(EpochRecord("train", 1, 1.0, 0.5, 1.0, 0.5, 0.1, 50.0, 10.0).to_line())
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "results": {"seconds": 10.0}}))
    names = {"data": tiny_dataset, "run": run, "image": tiny_dataset / "apple" / "000.png"}
    command = [sys.executable, "-c", _WATCH_STREAMS, *(word.format(**names) for word in words.split())]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    told, loaded = json.loads(done.stdout or done.stderr)
    assert told.startswith(first.format(**names)) and loaded == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("finetune", "nosuch"), "error: there is no folder nosuch"),
        (("train", "nosuch"), "error: there is no folder nosuch"),
        (("finetune", "{data}", "--image-size", "big"), "error: --image-size big is neither auto nor a number of pixels"),
        (("finetune", "{data}", "--weights", "gone.h5"), "error: --weights gone.h5: there is no such file or run folder"),
        (("finetune", "{data}", "--weights", "bundled", "--output", "{data}"), "error: {data} exists already"),
        (("train", "{data}", "--resume"), "error: there is no interrupted run at runs/fruit-resnet20"),
        (("train", "{data}", "--arch", "resnet50", "--image-size", "8"), "error: --image-size 8 is too small for resnet50"),
    ],
)
def test_what_is_wrong_with_paths_and_options_is_told_before_tensorflow(
    args: tuple[str, ...], message: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    told = before_keras(*(arg.format(data=tiny_dataset) for arg in args), cwd=tmp_path)
    assert any(line.startswith(message.format(data=tiny_dataset)) for line in told), told
    assert told[-1] == "[]"


@pytest.mark.slow
def test_every_warning_is_in_the_json_in_the_run_and_on_stderr(tiny_dataset: Path, tmp_path: Path) -> None:
    (tiny_dataset / "apple" / "page.jpg").write_text("<html>")
    (tiny_dataset / "berry" / "notes.txt").write_text("no image")
    command = [sys.executable, "-c", "from resnet_cli.cli.app import main; main()", "finetune", str(tiny_dataset), "--json"]
    options = ["--weights", "none", "--arch", "resnet8", "--unfreeze", "none", "--epochs", "1", "--output", "run"]
    done = subprocess.run([*command, *options, "--image-size", "16"], cwd=tmp_path, capture_output=True, text=True, check=True)
    warnings = json.loads(done.stdout)["warnings"]
    assert sum("page.jpg" in words for words in warnings) == sum("notes.txt" in words for words in warnings) == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["results"]["warnings"] == warnings
    assert [line.removeprefix("warning: ") for line in done.stderr.splitlines() if line.startswith("warning: ")] == warnings
    assert (tmp_path / "run" / "report.html").read_text().count('class="note"') == len(warnings)
