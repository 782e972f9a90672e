"""What `train` and `finetune` are asked for beside how to train (light)."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_cli.networks.catalogue import Shortcut

if TYPE_CHECKING:
    from resnet_cli.data.decode import Resize


@dataclass(frozen=True)
class TrainRequest:
    """What the command line asks for beside the recipe; `limit` in seconds."""

    dataset: Path
    arch: str
    shortcut: Shortcut | None
    image_size: int | None
    weights: str
    teacher: Path | None
    recipe: str
    limit: float | None
    lr_find: str | None
    output: Path | None
    force: bool
    resume: bool
    strict: bool
    tensorboard: bool
    command: str


@dataclass(frozen=True)
class FinetuneRequest:
    """What the command line asks for beside how to train; `cache_limit` in GB.

    With `auto_unfreeze` the network's own `unfreeze` replaces the configuration's.
    """

    dataset: Path
    arch: str
    weights: str
    image_size: str
    resize: "Resize"
    output: Path | None
    force: bool
    resume: bool
    strict: bool
    lr_find: str | None
    tensorboard: bool
    cache: bool
    cache_limit: float | None
    command: str
    auto_unfreeze: bool = False
