"""More memory asked for than there is: one sentence, in the words of none of the libraries."""

import errno
from collections.abc import Callable

import numpy as np
import pytest
from conftest import RunCli


def _numpy() -> None:
    np.zeros(1 << 60, np.uint8)


def _tensorflow() -> None:
    import tensorflow as tf

    tf.zeros((1 << 29, 1 << 29))


def _jax() -> None:
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9223372036854775807 bytes.")


def _system() -> None:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


# TensorFlow waits ten seconds for memory to come free.
@pytest.mark.parametrize("ask", [_numpy, pytest.param(_tensorflow, marks=pytest.mark.slow), _jax, _system])
def test_too_little_memory_is_told(ask: Callable[[], None], run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_cli.cli.app.command_function", lambda _: ask)
    result = run_cli("models")
    assert result.exit_code == 1
    assert (
        "error: there is not enough memory for this\nhint: a smaller --batch-size or --image-size needs less\n" in result.stderr
    )
    assert not result.stdout
