"""Versions of what the figures depend on (light)."""

import platform
from importlib.metadata import PackageNotFoundError, version

from resnet_cli import __version__


def versions() -> dict[str, str]:
    """By package; "absent" where one is not installed."""
    found = {"resnet-cli": __version__, "python": platform.python_version()}
    for name in ("keras", "tensorflow", "numpy", "pillow", "openvino"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
