"""Run by tests/test_jax_backend.py: many commands in one process, on the backend that KERAS_BACKEND names.

In: a JSON list of commands on stdin: words, whether there is OpenVINO, after how many training steps SIGINT comes (0: never).
Out: for each, on a line of stdout, its exit code, stdout and stderr, and whether TensorFlow was imported by then.
"""

import os
import sys
from typing import Any
from unittest.mock import patch

from commands_inside import answer, run_inside

from resnet_cli.jobs.environment import tensorflow_import

with tensorflow_import():
    import keras


def run(words: list[str], has_openvino: bool, interrupt: int) -> dict[str, Any]:
    """One command."""
    absent = {} if has_openvino else {"openvino": None}  # what Python itself does for a package that is not to be found
    found = run_inside(words, interrupt, patch.dict(sys.modules, absent))
    return {**found, "tensorflow": "tensorflow" in sys.modules}


assert keras.backend.backend() == os.environ["KERAS_BACKEND"]
answer(run)
