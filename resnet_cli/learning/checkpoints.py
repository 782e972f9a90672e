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
from resnet_cli.files import write_bytes
from resnet_cli.learning.optimizers import inner_optimizer

_KEPT = 2


def save_checkpoint(folder: Path, model: keras.Model, step: int) -> None:
    """Write all model and optimizer variables (seeds and step counter among them) after `step` steps, and what metrics hold."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"v": _variables(model), "s": _loss_scale(model), "m": model.metrics_variables}
    values = {
        f"{kind}{i}": keras.ops.convert_to_numpy(variable)
        for kind, variables in kinds.items()
        for i, variable in enumerate(variables)
    }
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
    variables, scale = _variables(model), _loss_scale(model)
    for path in reversed(_generations(folder)):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                values = [archive[f"v{i}"] for i in range(len(variables))]
                scaled = [archive[f"s{i}"] for i in range(len(scale)) if f"s{i}" in archive]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            continue
        if any(value.shape != tuple(variable.shape) for value, variable in zip(values, variables, strict=True)):
            raise ResnetError(f"the checkpoint {path} belongs to another network", "resume with the options it began with")
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        for variable, value in zip(scale, scaled, strict=False):  # none where the run began in another precision
            variable.assign(value)
        return int(path.stem.split("-")[1])
    raise ResnetError(f"there is no readable checkpoint in {folder}", "start anew without --resume")


def add_metrics(folder: Path, model: keras.Model, step: int) -> None:
    """Add what metrics held after `step` steps, in the middle of an epoch, so that its figures are of all its steps.

    Args:
        folder: of the checkpoints; one of an older version holds no metrics, and they stay as they are.
        model: fitted for a step at least, which is when Keras makes its metrics; all of them sums and counts.
        step: that `load_checkpoint` gave.
    """
    variables = model.metrics_variables
    with np.load(folder / f"step-{step:09d}.npz", allow_pickle=False) as archive:
        if f"m{len(variables) - 1}" in archive:
            for i, variable in enumerate(variables):
                variable.assign_add(archive[f"m{i}"])


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
    return [*model.variables, *inner_optimizer(model).variables]


def _loss_scale(model: keras.Model) -> list[Any]:
    """What Keras scales the loss by in fp16, and since when; none in other precisions."""
    inner = {id(variable) for variable in inner_optimizer(model).variables}
    return [variable for variable in model.optimizer.variables if id(variable) not in inner]
