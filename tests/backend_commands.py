"""Run by tests/test_jax_backend.py: many commands in one process, on the backend that KERAS_BACKEND names.

In: a JSON list of commands on stdin: words, whether there is OpenVINO, after how many training steps SIGINT comes (0: never).
Out: for each, on a line of stdout, its exit code, stdout and stderr, and whether TensorFlow was imported by then.
"""

import contextlib
import io
import json
import os
import signal
import sys
import warnings
from typing import Any
from unittest.mock import patch

from resnet_cli.cli.app import main
from resnet_cli.jobs.environment import tensorflow_import

with tensorflow_import():
    import keras

from resnet_cli.training.callbacks import Recorder


def run(words: list[str], has_openvino: bool, interrupt: int) -> dict[str, Any]:
    """One command."""
    trained, steps = Recorder.on_train_batch_end, 0

    def with_signal(self: Recorder, batch: int, logs: dict[str, float] | None = None) -> None:
        nonlocal steps
        steps += 1
        if steps == interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        trained(self, batch, logs)

    stdout, stderr, exit_code = io.StringIO(), io.StringIO(), 0
    absent = {} if has_openvino else {"openvino": None}  # what Python itself does for a package that is not to be found
    with (
        patch.dict(sys.modules, absent),
        patch.object(Recorder, "on_train_batch_end", with_signal),
        patch.object(sys, "argv", ["resnet", *words]),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            main()
        except SystemExit as stop:
            exit_code = int(stop.code or 0)
    return {
        "exit_code": exit_code,
        "stdout": stdout.getvalue(),
        "stderr": stderr.getvalue(),
        "tensorflow": "tensorflow" in sys.modules,
    }


# As in pyproject.toml: Keras turns its variables into arrays in a way that numpy 2 is going to change.
warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy keyword", DeprecationWarning)
assert keras.backend.backend() == os.environ["KERAS_BACKEND"]
for command in json.load(sys.stdin):
    sys.stdout.write(json.dumps(run(*command)) + "\n")
