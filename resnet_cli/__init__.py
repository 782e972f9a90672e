"""resnet: a folder of photos in, a trained, measured, portable residual-network classifier out.

The Python API, loaded on first use (docs/python.md):

    import resnet_cli as resnet

    run = resnet.finetune("photos")
    run.predict("a.jpg")[0].label
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_cli.api.run import Run, load
    from resnet_cli.api.training import check, finetune, train
    from resnet_cli.errors import ResnetError
    from resnet_cli.progress import Progress

__version__ = "0.1.0"
__all__ = ["Progress", "ResnetError", "Run", "check", "finetune", "load", "train"]

_HOMES = {
    **dict.fromkeys(("Run", "load"), "api.run"),
    **dict.fromkeys(("check", "finetune", "train"), "api.training"),
    "ResnetError": "errors",
    "Progress": "progress",
}


def __getattr__(name: str) -> Any:
    """Import a name of the API on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The names of the API, for tab completion."""
    return sorted([*__all__, "__version__"])
