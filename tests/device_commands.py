"""Run by tests/test_devices.py: commands in one process that sees two virtual CPU devices, on the backend of KERAS_BACKEND.

In: a JSON list of commands on stdin: words, how many of the devices are used, and after how many training steps SIGINT comes
(0: never). Out: for each, on a line of stdout, its exit code and stderr.
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

backend = os.environ["KERAS_BACKEND"]
if backend == "jax":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

from resnet_cli.cli.app import main  # noqa: E402
from resnet_cli.jobs.environment import tensorflow_import, without_chatter  # noqa: E402

if backend == "tensorflow":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    with without_chatter():
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

with tensorflow_import():
    import keras  # noqa: F401

from resnet_cli.training.callbacks import Recorder  # noqa: E402


def run(words: list[str], devices: int, interrupt: int) -> dict[str, Any]:
    """One command."""
    trained, steps = Recorder.on_train_batch_end, 0

    def with_signal(self: Recorder, batch: int, logs: dict[str, float] | None = None) -> None:
        nonlocal steps
        steps += 1
        if steps == interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        trained(self, batch, logs)

    stderr, exit_code = io.StringIO(), 0
    alone = patch("resnet_cli.training.devices.device_count", lambda: 1) if devices == 1 else contextlib.nullcontext()
    with (
        alone,
        patch.dict(sys.modules, {"openvino": None}),  # JAX would import TensorFlow to convert the network for it
        patch.object(Recorder, "on_train_batch_end", with_signal),
        patch.object(sys, "argv", ["resnet", *words]),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            main()
        except SystemExit as stop:
            exit_code = int(stop.code or 0)
    return {"exit_code": exit_code, "stderr": stderr.getvalue()}


# As in pyproject.toml: Keras turns its variables into arrays in a way that numpy 2 is going to change.
warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy keyword", DeprecationWarning)
for command in json.load(sys.stdin):
    sys.stdout.write(json.dumps(run(*command)) + "\n")
