"""Commands of one process after another, as tests/device_commands.py and tests/backend_commands.py run them."""

import contextlib
import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from resnet_cli.cli.app import main


def run_inside(words: list[str], interrupt: int, *around: AbstractContextManager[object]) -> dict[str, Any]:
    """Run one command in this process, with Keras imported before.

    Args:
        words: the words of the command after `resnet`.
        interrupt: after how many training steps SIGINT comes; 0: never.
        *around: what holds while it runs.

    Returns:
        Its exit code, stdout and stderr.
    """
    from resnet_cli.training.callbacks import Recorder

    trained, steps = Recorder.on_train_batch_end, 0

    def with_signal(self: Recorder, batch: int, logs: dict[str, float] | None = None) -> None:
        nonlocal steps
        steps += 1
        if steps == interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        trained(self, batch, logs)

    stdout, stderr, exit_code = io.StringIO(), io.StringIO(), 0
    with contextlib.ExitStack() as stack:
        for each in (
            *around,
            patch.object(Recorder, "on_train_batch_end", with_signal),
            patch.object(sys, "argv", ["resnet", *words]),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            stack.enter_context(each)
        try:
            main()
        except SystemExit as stop:
            exit_code = int(stop.code or 0)
    return {"exit_code": exit_code, "stdout": stdout.getvalue(), "stderr": stderr.getvalue()}


def answer(run: Callable[..., dict[str, Any]]) -> None:
    """Run each command of the JSON list on stdin, and write what it gave as a line of JSON on stdout."""
    # As in pyproject.toml: Keras turns its variables into arrays in a way that numpy 2 is going to change.
    warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy keyword", DeprecationWarning)
    for command in json.load(sys.stdin):
        sys.stdout.write(json.dumps(run(*command)) + "\n")
