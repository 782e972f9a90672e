"""Checkpoints: everything that training needs to resume exactly.

In: a compiled model and its position in the training. Out: numbered files, written atomically, of which the two newest are
kept. If a file is damaged, the one before it is used. `untouched` restores a model in memory after a trial.
"""

import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.batches import Order, Shuffled, TrainStream
from resnet_cli.errors import ResnetError
from resnet_cli.files import write_bytes
from resnet_cli.training.optimizers import inner_optimizer
from resnet_cli.training.processes import group


class Stream(Protocol):
    """Training batches that depend only on the step."""

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def images_per_step(self) -> int:
        """Images in a batch."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class indices of all images (N,)."""
        ...

    def batches(self, first_step: int = 0) -> Iterator[tuple[Any, NDArray[np.float32]]]:
        """(images, one-hot or soft labels) from a step on, without end."""
        ...


@dataclass(frozen=True)
class Derived(Shuffled):
    """A stream derived from another one, with the same classes, steps and labels.

    Attributes:
        stream: the other stream.
    """

    stream: TrainStream

    @property
    def classes(self) -> int:
        """See `Stream`."""
        return self.stream.classes

    @property
    def order(self) -> Order:
        """See `Shuffled`."""
        return self.stream.order

    @property
    def labels(self) -> NDArray[np.int64]:
        """See `Stream`."""
        return self.stream.labels


@dataclass(frozen=True)
class Stage:
    """One training of a run, and where it writes.

    Attributes:
        name: "train", "head" or "tail", used in its records and checkpoints.
        folder: the run folder, with metrics.jsonl and checkpoint/<name>/.
        resume: continue from the newest checkpoint, if there is one.
        announce: report one line per epoch.
        tensorboard: write TensorBoard's event files into tensorboard/<name>/.
    """

    name: str
    folder: Path
    resume: bool = False
    announce: bool = True
    tensorboard: bool = False

    @property
    def step(self) -> str:
        """The word for one epoch in the terminal."""
        return "head" if self.name == "head" else "epoch"

    @property
    def checkpoints(self) -> Path:
        """Folder of its checkpoints."""
        return self.folder / "checkpoint" / self.name


_KEPT = 2


@dataclass(frozen=True)
class Point:
    """A position in a training.

    Attributes:
        step: number of finished steps.
        validated: False between the last step of an epoch and its validation record; otherwise True, also in checkpoints of
            older versions.
        seconds: seconds that the steps of the current epoch took.
        images: images in every step; 0 at the start, and in checkpoints of older versions.
    """

    step: int
    validated: bool = True
    seconds: float = 0.0
    images: int = 0


_POINT = ("validated", "seconds", "images")  # beside the step, which is in the name of the file


def save_checkpoint(folder: Path, model: keras.Model, point: Point, metrics: Sequence[Any] | None = None) -> None:
    """Write all model and optimizer variables (including seeds and step counter), the position, and the metrics' values.

    Args:
        folder: folder of the checkpoints.
        model: compiled, its optimizer built.
        point: position in the training.
        metrics: values of the metrics' variables; None for the model's current ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = model.metrics_variables if metrics is None else metrics
    kinds = {"v": _variables(model), "s": _loss_scale(model), "m": held}
    values = {
        f"{kind}{i}": keras.ops.convert_to_numpy(variable)
        for kind, variables in kinds.items()
        for i, variable in enumerate(variables)
    }
    values |= {name: np.array(getattr(point, name)) for name in _POINT}
    write_whole(_file(folder, point.step), values)
    for old in _generations(folder)[:-_KEPT]:
        old.unlink()


def load_checkpoint(folder: Path, model: keras.Model) -> Point:
    """Load the newest readable checkpoint into a compiled model of the same kind; of several processes, the first reads it.

    Raises:
        ResnetError: no checkpoint is readable, or it belongs to another network.
    """
    variables, scale = _variables(model), _loss_scale(model)
    values: list[Any] | None = None

    def read() -> tuple[dict[str, Any], int]:
        nonlocal values
        point, values = _read(folder, variables, scale)
        return asdict(point), len(values)

    point, count = group().from_first(read)
    stored = [*variables, *scale][:count]
    for variable, value in zip(stored, group().arrays_from_first(values, stored), strict=True):
        variable.assign(value)
    return Point(**point)


def _read(folder: Path, variables: list[Any], scale: list[Any]) -> tuple[Point, list[Any]]:
    """The position of the newest readable checkpoint, and its values of the variables and of the loss scale."""
    for path in reversed(_generations(folder)):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                values = [archive[f"v{i}"] for i in range(len(variables))]
                known = {name: archive[name].item() for name in _POINT if name in archive}
                scaled = [archive[f"s{i}"] for i in range(len(scale)) if f"s{i}" in archive]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            continue
        if any(value.shape != tuple(variable.shape) for value, variable in zip(values, variables, strict=True)):
            raise ResnetError(f"the checkpoint {path} belongs to another network", "resume with the options it began with")
        # There is no scale if the run began in another precision.
        return Point(int(path.stem.split("-")[1]), **known), [*values, *scaled]
    raise ResnetError(f"there is no readable checkpoint in {folder}", "start again without --resume")


def stored_metrics(folder: Path, model: keras.Model, step: int) -> list[tuple[Any, NDArray[np.float32]]]:
    """The variables of a model's metrics with their stored values, so that a resumed epoch's metrics cover all of its steps.

    Args:
        folder: folder of the checkpoints; nothing is returned for checkpoints of older versions, which have no metrics.
        model: fitted or evaluated for at least one step, when Keras creates the metrics; all of them are sums and counts.
        step: the step that `load_checkpoint` returned.
    """
    variables = model.metrics_variables
    with np.load(_file(folder, step), allow_pickle=False) as archive:
        if f"m{len(variables) - 1}" not in archive:
            return []
        return [(variable, archive[f"m{i}"]) for i, variable in enumerate(variables)]


def metrics_from_first(folder: Path, model: keras.Model, step: int) -> list[tuple[Any, NDArray[np.float32]]]:
    """`stored_metrics`, which the first of several processes reads."""
    stored = group().from_first(lambda: [np.asarray(value).tolist() for _, value in stored_metrics(folder, model, step)])
    return [(variable, np.asarray(value, np.float32)) for variable, value in zip(model.metrics_variables, stored, strict=False)]


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint to resume from."""
    return bool(_generations(folder))


def write_whole(path: Path, values: dict[str, Any]) -> None:
    """Write arrays as one .npz, atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    write_bytes(path, buffer.getbuffer())


def _file(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}.npz"


def _generations(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.npz"))


def _variables(model: keras.Model) -> list[Any]:
    return [*model.variables, *inner_optimizer(model).variables]


def _loss_scale(model: keras.Model) -> list[Any]:
    """The variables of Keras' loss scaling in fp16; none in other precisions."""
    inner = {id(variable) for variable in inner_optimizer(model).variables}
    return [variable for variable in model.optimizer.variables if id(variable) not in inner]


@contextmanager
def untouched(model: keras.Model) -> Iterator[None]:
    """Restore every variable of the model on exit, also after an error."""
    before = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    try:
        yield
    finally:
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)
