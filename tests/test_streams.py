"""Stdout and stdin as a shell gives them: full, closed, read by nobody any more, in another encoding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MakeDataset, MakeImage, MakeRun

PROGRAM = (sys.executable, "-c", "from resnet_cli.cli.app import main; main()")
Done = subprocess.CompletedProcess[bytes]


@pytest.fixture(scope="module")
def run_folder(make_run: MakeRun, make_dataset: MakeDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streams")
    return make_run(root / "run", make_dataset(root / "fruit", count=4), arch="resnet8")


def in_shell(line: str, *words: object, stdin: bytes = b"", encoding: str = "utf-8") -> Done:
    """What the program does in a line of bash, where `"$@"` stands for it and its words."""
    command = ["bash", "-c", f"set -o pipefail; {line}", "bash", *PROGRAM, *map(str, words)]
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
    return subprocess.run(command, capture_output=True, input=stdin, env=environment, check=False)


@pytest.mark.parametrize("words", [("models",), ("models", "--json"), ("--help",), ("models", "--help")])
def test_a_result_that_cannot_be_written_is_one_sentence(words: tuple[str, ...]) -> None:
    for line, why in (('"$@" > /dev/full', "No space left on device"), ('"$@" >&-', "stdout is closed")):
        done = in_shell(line, *words)
        assert (done.returncode, done.stderr.decode()) == (1, f"error: cannot write the result: {why}\n")


@pytest.mark.parametrize("form", ["--json", "--csv", "--quiet"])
def test_an_answer_that_cannot_be_written_is_one_sentence(
    form: str, run_folder: Path, make_image: MakeImage, tmp_path: Path
) -> None:
    image = make_image(tmp_path / "cat.png")
    done = in_shell('"$@" > /dev/full', "predict", *[image] * 300, "--run", run_folder, form)
    assert (done.returncode, done.stderr) == (1, b"error: cannot write the result: No space left on device\n")


@pytest.mark.parametrize("line", ['"$@" 2> /dev/full', '"$@" 2> >(exec true)', '"$@" 2>&-'])
def test_notices_that_cannot_be_written_cost_no_answer(
    line: str, run_folder: Path, make_image: MakeImage, tmp_path: Path
) -> None:
    image, broken = make_image(tmp_path / "cat.png"), tmp_path / "broken.png"
    broken.touch()
    done = in_shell(line, "predict", *[broken] * 30, *[image] * 3, "--run", run_folder, "--csv", "--top", "1")
    assert (done.returncode, done.stderr) == (1, b"")
    assert done.stdout.count(b"cat.png,1,") == 3


@pytest.mark.slow
@pytest.mark.parametrize("words", [("models",), ("models", "--json"), ("--help",)])
def test_a_reader_that_went_away_is_no_error(words: tuple[str, ...]) -> None:
    done = in_shell('"$@" | (exec 0<&-; sleep 4)', *words)
    assert (done.returncode, done.stderr) == (141, b"")


def test_names_on_stdin_need_not_be_utf_8(run_folder: Path, make_image: MakeImage, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    make_image(tmp_path / "cafe.png").rename(os.fsdecode(name))
    for encoding in ("utf-8", "ascii", "latin-1"):
        done = in_shell('"$@"', "predict", "-", "--run", run_folder, "--csv", "--top", 1, stdin=name + b"\n", encoding=encoding)
        assert (done.returncode, done.stderr) == (0, b"")
        assert rb"/caf\udce9.png,1," in done.stdout.splitlines()[1]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "utf-16"])
def test_json_is_json_in_every_encoding(encoding: str, run_folder: Path, make_image: MakeImage, tmp_path: Path) -> None:
    name = make_image(tmp_path / "emoji.png").rename(tmp_path / "émoji😀\udce9.png")
    done = in_shell('"$@"', "predict", name, "--run", run_folder, "--json", encoding=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    (row,) = json.loads(done.stdout.decode(encoding))
    assert row["path"] == str(name)
    # Names stay legible where they can be.
    assert ("émoji😀" in done.stdout.decode(encoding)) == (encoding == "utf-8")


def test_paths_from_a_closed_stdin_are_a_usage_error(run_folder: Path, make_image: MakeImage, tmp_path: Path) -> None:
    done = in_shell('"$@" <&-', "predict", "-", "--run", run_folder)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"- stands for paths on stdin, which is closed" in done.stderr
    assert in_shell('"$@" <&-', "predict", make_image(tmp_path / "cat.png"), "--run", run_folder).returncode == 0
