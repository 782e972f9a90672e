"""The first moments of the program, before it has commands."""

import os
import signal
import subprocess
import sys
from pathlib import Path

# Stands for typer, the slowest part of the start, and has somebody press Ctrl-C while it is imported.
PRESSED = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit('still there')\n"
START = "import signal; signal.signal(signal.SIGINT, signal.{before}); from resnet_cli.__main__ import main; main()"


def start(tmp_path: Path, before: str) -> subprocess.CompletedProcess[str]:
    """The program in a process whose SIGINT was handled in a way before, interrupted while it loads."""
    (tmp_path / "typer.py").write_text(PRESSED)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", START.format(before=before), "models"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_an_interrupt_while_commands_load_ends_the_program_without_a_word(tmp_path: Path) -> None:
    done = start(tmp_path, "default_int_handler")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_interrupt_that_is_ignored_stays_so(tmp_path: Path) -> None:
    done = start(tmp_path, "SIG_IGN")
    assert (done.returncode, done.stderr) == (1, "still there\n")
