"""Weights files: a flat HDF5 layout, one dataset per variable ("conv1_conv/kernel"), checked against the network; and the
.safetensors files of timm.

In: a Keras model and a path. Out: a model with loaded weights, or a file, written atomically.
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from resnet_cli.errors import ResnetError
from resnet_cli.files import write_bytes
from resnet_cli.networks.catalogue import Network
from resnet_cli.networks.published import require_fitting, tensors_of

PIXEL_MEAN = "pixel_mean"  # the layer that subtracts the mean training image, if a network has one
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_ANOTHER_COPY = "copy or download it again; a training that diverged writes such files too"


def named_variables(model: keras.Model) -> dict[str, Any]:
    """Variables of a model by "layer/variable", nested models flattened; random states left out."""
    found: dict[str, Any] = {}
    for variable in model.variables:
        layer, name = variable.path.split("/")[-2:]
        if not layer.startswith("seed_generator"):
            found[f"{layer}/{name}"] = variable
    return found


def save_weights(model: keras.Model, path: Path, dtype: str = "float32") -> None:
    """Write every variable of the model, atomically.

    Args:
        model: any model of `networks/`.
        path: file to write.
        dtype: "float32", or "float16" for half the size.
    """
    # Written in memory first: HDF5 crashes the process when the disk is full.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, variable in named_variables(model).items():
            file.create_dataset(name, data=keras.ops.convert_to_numpy(variable).astype(dtype))
    write_bytes(path, buffer.getbuffer())


def load_weights(model: keras.Model, path: Path, leave: Iterable[str] = ()) -> None:
    """Load a weights file into a model.

    Args:
        model: the model; its backbone may be nested.
        path: a file that `save_weights` wrote.
        leave: layers of the model that are not loaded, such as a new head.

    Raises:
        ResnetError: the file is missing or damaged, lacks a variable, or has another shape or variables of another network.
    """
    left = set(leave)
    wanted = {name: variable for name, variable in named_variables(model).items() if _layer(name) not in left}
    try:
        with h5py.File(path, "r") as file:
            for name, variable in wanted.items():
                if name not in file:
                    raise ResnetError(f"the weights {path} lack {name}: they belong to another network")
                value = np.asarray(file[name], dtype="float32")
                if value.shape != tuple(variable.shape):
                    raise ResnetError(
                        f"the weights {path} have {name} as {value.shape}, the network needs {tuple(variable.shape)}",
                        "they belong to another network, shortcut option, head or number of classes",
                    )
                variable.assign(value)
            _require_no_more(path, [name for name in datasets(file) if name not in wanted and _layer(name) not in left])
        settle(model)
    except FileNotFoundError:
        raise ResnetError(f"there are no weights at {path}") from None
    except OSError as error:
        raise ResnetError(f"the weights {path} cannot be read: {error}", "the file is damaged: copy it again") from error


def load_safetensors(model: keras.Model, network: Network, path: Path, head: int, with_head: bool) -> None:
    """Load a .safetensors file of timm into a model.

    Args:
        model: from `build_logits` or `build_classifier`.
        network: its backbone.
        path: the file.
        head: number of classes of the file's head; 0 if it has none.
        with_head: load the head too, which has the same classes as the model.

    Raises:
        ResnetError: the file is damaged, or belongs to another network; or a tensor is quantised, not finite, or a negative
            variance.
    """
    from safetensors import safe_open

    require_fitting(path, network, head)
    variables = named_variables(model)
    with safe_open(path, framework="numpy") as file:
        for tensor in tensors_of(network, head if with_head else 0):
            try:
                value = file.get_tensor(tensor.name)
            except (TypeError, KeyError, AttributeError) as error:
                raise ResnetError(
                    f"{path} has {tensor.name} in a type that is not read: {error}", "save it as float32"
                ) from error
            value = _checked(value, tensor.name, path)
            # Convolutions are (outputs, inputs, height, width) there and (height, width, inputs, outputs) here.
            order = (2, 3, 1, 0) if value.ndim == 4 else (1, 0) if value.ndim == 2 else (0,)
            variables[tensor.variable].assign(value.transpose(order))


def _checked(value: np.ndarray, name: str, path: Path) -> np.ndarray:
    """A tensor as float32, if it is one of a network that computes something."""
    if value.dtype.name not in _FLOATS:  # integers are quantised: their scales are not read
        raise ResnetError(f"{path} has {name} as {value.dtype.name}, which is not read", "save it as float32")
    with np.errstate(over="ignore"):
        value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise ResnetError(f"{path} is damaged: {name} has values that are not finite in float32", _ANOTHER_COPY)
    if name.endswith("running_var") and (value < 0).any():
        raise ResnetError(f"{path} is damaged: {name} has a negative variance", _ANOTHER_COPY)
    return value


def divide_stored_logits(path: Path, temperature: float) -> None:
    """Divide the logits of a stored classifier by a temperature: weights and bias of its last layer.

    Args:
        path: a file that `save_weights` wrote; it is replaced, whole.
        temperature: above 0.
    """
    buffer = io.BytesIO()
    with h5py.File(path, "r") as source, h5py.File(buffer, "w") as file:
        for name, item in datasets(source).items():
            values = np.asarray(item)
            file.create_dataset(name, data=(values / temperature).astype(values.dtype) if _layer(name) == "logits" else values)
    write_bytes(path, buffer.getbuffer())


def _require_no_more(path: Path, surplus: list[str]) -> None:
    """Refuse a file with more variables than the model: it belongs to another network."""
    if any(_layer(name) == PIXEL_MEAN for name in surplus):
        raise ResnetError(
            f"the weights {path} subtract a mean image, which the file alone does not say", "name the run's folder instead"
        )
    if surplus:
        raise ResnetError(f"the weights {path} also have {surplus[0]}: they belong to another network")


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """The datasets of a file by name ("layer/variable"), sorted by name."""
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    file.visititems(visit)
    return found


def _layer(name: str) -> str:
    return name.split("/")[0]


def copy_weights(source: keras.Model, target: keras.Model, leave: Iterable[str] = ()) -> None:
    """Copy variables by name, for example from keras.applications to the builder."""
    values = named_variables(source)
    left = set(leave)
    for name, variable in named_variables(target).items():
        if _layer(name) not in left:
            variable.assign(values[name])
    settle(target)


def settle(model: keras.Model) -> None:
    """Make the layer of the mean image use its newly loaded variables: it computes with copies of them."""
    for layer in model.layers:
        if layer.name == PIXEL_MEAN:
            layer.finalize_state()
