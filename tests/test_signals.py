"""Signals take effect in a call that blocks the main thread, as TensorFlow's do while a graph is compiled."""

import signal
import subprocess
import sys
import time

import pytest

BLOCKED = """
import hashlib, sys
from resnet_cli.cli.reporter import Reporter
reporter = Reporter()
reporter.listen()
{before}
print("blocked", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes, without a look at signals
"""
TOLD = "stopping, all so far is saved; press Ctrl-C again to stop at once\n"


def blocked(before: str = "") -> subprocess.Popen[str]:
    program = [sys.executable, "-c", BLOCKED.format(before=before)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "blocked\n"
    return process


@pytest.mark.slow
def test_a_process_with_nothing_to_save_ends_out_of_a_blocking_call_and_says_how_to_go_on() -> None:
    with blocked() as process:
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    hint = "nothing was trained yet: type the same command again"
    assert stderr == f"{TOLD}error: stopped before the end\nhint: {hint}\n"


@pytest.mark.slow
def test_a_process_with_something_to_save_waits_for_its_step_and_a_second_signal_ends_it() -> None:
    with blocked("reporter.unsaved()") as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(4)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    told = "stopping after the current step or batch, and saving; press Ctrl-C again to stop at once\n"
    assert stderr == f"{told}error: stopped before the end\n"


@pytest.mark.slow
def test_a_signal_that_the_main_thread_hears_is_left_to_it() -> None:
    before = """
import signal, time
from resnet_cli.progress import stop_if_asked
signal.raise_signal(signal.SIGTERM)
try:
    stop_if_asked(reporter, "hint")
except Exception:
    time.sleep(4)  # saving, beyond the patience with calls that block
    sys.exit("saved")
"""
    program = [sys.executable, "-c", BLOCKED.format(before=before)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, f"{TOLD}saved\n")


def test_a_signal_that_is_ignored_stays_so() -> None:
    program = """
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as behind nohup
from resnet_cli.cli.reporter import Reporter
reporter = Reporter()
reporter.listen()
os.kill(os.getpid(), signal.SIGINT)
time.sleep(1)
print(reporter.stop_signal())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
