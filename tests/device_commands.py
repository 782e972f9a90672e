"""Run by tests/test_devices.py: commands in one process that sees two virtual CPU devices, on the backend of KERAS_BACKEND.

In: a JSON list of commands on stdin: words, how many of the devices are used, and after how many training steps SIGINT comes
(0: never). Out: for each, on a line of stdout, its exit code, stdout and stderr.
"""

import contextlib
import os
import sys
from typing import Any
from unittest.mock import patch

backend = os.environ["KERAS_BACKEND"]
if backend == "jax":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

from commands_inside import answer, run_inside  # noqa: E402

from resnet_cli.jobs.environment import tensorflow_import, without_chatter  # noqa: E402

if backend == "tensorflow":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    with without_chatter():
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

with tensorflow_import():
    import keras  # noqa: F401


def run(words: list[str], devices: int, interrupt: int) -> dict[str, Any]:
    """One command."""
    alone = patch("resnet_cli.training.devices.device_count", lambda: 1) if devices == 1 else contextlib.nullcontext()
    no_openvino = patch.dict(sys.modules, {"openvino": None})  # JAX would import TensorFlow to convert the network for it
    return run_inside(words, interrupt, alone, no_openvino)


answer(run)
