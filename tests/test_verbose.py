"""--verbose shows what a command does and what an error was caused by; without it, even an unexpected error is a sentence."""

import os
import re
from pathlib import Path

import pytest
from conftest import MakeDataset, MakeRun, RunCli

from resnet_cli.cli.app import SUMMARIES
from resnet_cli.jobs.environment import without_chatter


@pytest.fixture(autouse=True)
def log_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """--verbose changes it for the process."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="module")
def run_folder(make_run: MakeRun, make_dataset: MakeDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verbose")
    return make_run(root / "run", make_dataset(root / "fruit", count=4), arch="resnet8")


@pytest.mark.parametrize("place", ["before", "after"])
def test_times_phases_engines_and_versions_are_told(place: str, run_folder: Path, run_cli: RunCli) -> None:
    words = ("evaluate", "--run", run_folder, "--no-report")
    quiet, verbose = run_cli(*words), run_cli(*(("-v", *words) if place == "before" else (*words, "--verbose")))
    assert verbose.stdout == quiet.stdout and "resnet-cli" not in quiet.stderr
    lines = verbose.stderr.splitlines()
    assert lines[0].startswith("resnet-cli ") and "openvino " in lines[0] and re.search(r"; \d+ CPUs?$", lines[0])
    assert re.fullmatch(rf" +\d+\.\d s  evaluating {re.escape(str(run_folder))}", lines[1])
    told = [line.partition(" s  ")[2] for line in lines]
    assert any(re.fullmatch(r"measuring val: 4 in \d+\.\d s", each) for each in told)
    assert any(re.fullmatch(rf"{re.escape(str(run_folder))}: openvino (bf16|f32), 32 pixels", each) for each in told)
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
    assert not any("in 0." in line for line in run_cli(*words).stderr.splitlines()), "it is of one command alone"


def test_with_json_the_progress_is_on_stderr_and_the_document_on_stdout(run_folder: Path, run_cli: RunCli) -> None:
    words = ("evaluate", "--run", run_folder, "--no-report", "--json")
    silent, verbose = run_cli(*words), run_cli(*words, "-v")
    assert "evaluating" not in silent.stderr and "evaluating" in verbose.stderr and silent.stdout == verbose.stdout


@pytest.mark.parametrize("words", [("check", "x", "--quiet", "--verbose"), ("-v", "predict", "x", "-q")])
def test_quiet_and_verbose_exclude_each_other(words: tuple[str, ...], run_cli: RunCli) -> None:
    result = run_cli(*words)
    assert (result.exit_code, result.stdout) == (2, "") and "--quiet and --verbose exclude each other" in result.stderr


def test_every_command_knows_it(run_cli: RunCli) -> None:
    assert [name for name in SUMMARIES if "--verbose" not in run_cli(name, "--help").stdout] == []


def test_an_unexpected_error_is_a_sentence_and_its_traceback_is_shown_on_demand(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def summaries(folder: Path) -> None:
        raise KeyError(f"a [bold] defect in {folder}")

    monkeypatch.setattr("resnet_cli.cli.runs.summaries", summaries)
    result, verbose = run_cli("runs"), run_cli("runs", "--verbose")
    sentence = "error: unexpected KeyError: 'a [bold] defect in runs'"
    hint = "hint: this is a bug: please report it with the output of the same command with --verbose"
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"{sentence}\n{hint}\n")
    lines = verbose.stderr.splitlines()
    assert verbose.exit_code == 1 and "Traceback (most recent call last):" in lines and lines[-1] == sentence
    assert any("in summaries" in line for line in lines)


def test_an_error_tells_what_it_was_caused_by(run_folder: Path, tmp_path: Path, run_cli: RunCli) -> None:
    damaged = tmp_path / "run"
    damaged.mkdir()
    (damaged / "run.json").write_text("{")
    words = ("export", "--format", "onnx", "--run", damaged)
    result, verbose = run_cli(*words), run_cli(*words, "-v")
    assert result.stderr.startswith(f"error: {damaged / 'run.json'} cannot be read") and "caused by" not in result.stderr
    assert verbose.stderr.splitlines()[-1].startswith("caused by JSONDecodeError: Expecting property name")
    assert "Traceback" not in verbose.stderr


@pytest.mark.parametrize(("level", "shown"), [("2", False), ("0", True)])
def test_tensorflows_own_log_is_shown(
    level: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    with without_chatter():
        os.write(2, b"I0000 00:00:1 1 port.cc:1] oneDNN custom operations are on.\n")
        os.write(2, b"E0000 00:00:1 1 util.cc:131] oneDNN supports DT_UINT8 only on platforms with AVX-512. Falling back\n")
    assert ("oneDNN" in capfd.readouterr().err) == shown
