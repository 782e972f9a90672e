"""Versions of what the figures depend on (light)."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from resnet_cli import __version__


def versions() -> dict[str, str]:
    """By package; "absent" where one is not installed."""
    found = {"resnet-cli": __version__, "python": platform.python_version()}
    keras = sys.modules.get("keras")
    with_jax = ["jax"] if keras is not None and keras.backend.backend() == "jax" else []
    for name in ["keras", "tensorflow", *with_jax, "numpy", "pillow", "openvino"]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
