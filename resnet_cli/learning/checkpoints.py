"""Checkpoints: everything that training needs to go on as if it had never stopped.

In: a compiled model and the step that it has reached. Out: numbered files, each written whole or not at all, the two newest
kept. A file that is damaged is passed over for the one before it.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_cli.errors import ResnetError
from resnet_cli.runs import write_bytes

_KEPT = 2


def save_checkpoint(folder: Path, model: keras.Model, step: int) -> None:
    """Write all model and optimizer variables (seeds and step counter among them) after `step` steps."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {f"v{i}": keras.ops.convert_to_numpy(variable) for i, variable in enumerate(_variables(model))}
    write_whole(folder / f"step-{step:09d}.npz", values)
    for old in _generations(folder)[:-_KEPT]:
        old.unlink()


def load_checkpoint(folder: Path, model: keras.Model) -> int:
    """Put the newest readable checkpoint back into a compiled model of the same kind.

    Returns:
        The number of steps done.

    Raises:
        ResnetError: no checkpoint is readable, or it belongs to another network.
    """
    variables = _variables(model)
    for path in reversed(_generations(folder)):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                values = [archive[f"v{i}"] for i in range(len(variables))]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            continue
        if any(value.shape != tuple(variable.shape) for value, variable in zip(values, variables, strict=True)):
            raise ResnetError(f"the checkpoint {path} belongs to another network", "resume with the options it began with")
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return int(path.stem.split("-")[1])
    raise ResnetError(f"there is no readable checkpoint in {folder}", "start anew without --resume")


def has_checkpoint(folder: Path) -> bool:
    """Whether there is anything to go on from."""
    return bool(_generations(folder))


def write_whole(path: Path, values: dict[str, Any]) -> None:
    """Write arrays as one .npz, on the disk before it gets its name."""
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    write_bytes(path, buffer.getbuffer())


def _generations(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.npz"))


def _variables(model: keras.Model) -> list[Any]:
    return [*model.variables, *model.optimizer.variables]
