"""The optimizers: Keras' own and Muon, with a learning rate and weight decay per variable, and the table of learning rates.

In: a `TrainConfig` and the variables to train. Out: learning rates (steps,), and an optimizer that follows them.

Source of Muon: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks": steps of the same size in every
direction of a kernel. Keeping the norm of kernels constant is from their training of CIFAR-10 (airbench). Keras' own Muon only
handles matrices, and gives the kernels of convolutions to AdamW.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from resnet_cli.training.config import TrainConfig

_PATIENCE, _LOWEST_SCALE = 5, 5e-4  # for cuts of the rate on a plateau of the validation loss


def rates(config: TrainConfig, steps: int) -> NDArray[np.float32]:
    """Learning rate of every step.

    cosine: linear warm-up, then half a cosine to zero (Loshchilov and Hutter 2017). one-cycle: linear to the peak and linear
    to zero (Smith 2018). steps: warm-up, then times the factor of the last of `drops` that was passed (He et al. 2015, 4.2).
    """
    step = np.arange(steps) + 1.0
    climb = max(1.0, config.warmup * steps)
    rising = np.minimum(1.0, step / climb) if config.warmup else np.ones(steps)
    done = np.clip((step - climb) / max(1.0, steps - climb + 1), 0, 1)
    if config.schedule == "cosine":
        falling = 0.5 * (1 + np.cos(np.pi * done))
    elif config.schedule == "one-cycle":
        falling = 1 - done
    elif config.schedule == "steps":
        falling = np.ones(steps)
        for share, factor in config.drops:
            falling[step - 1 >= share * steps] = factor
    else:
        falling = np.ones(steps)
    return np.asarray(config.learning_rate * rising * falling, np.float32)


def plateau_scale(val_losses: Sequence[float], factor: float) -> float:
    """Highest rate after these epochs, as a share of the peak: times `factor` whenever the loss has not fallen for five epochs.

    Source: Keras' CIFAR-10 ResNet example (ReduceLROnPlateau, patience 5, rate of 1e-3 never below 0.5e-6). It is an upper
    limit of the schedule's rate, not a factor on it: both together would reduce the rate to almost 0 long before the end. (In
    the example the schedule sets the rate in every epoch, which undoes a cut.)
    """
    best, waited, scale = math.inf, 0, 1.0
    for loss in val_losses:
        waited += 1
        if loss < best - 1e-4:
            best, waited = loss, 0
        if waited >= _PATIENCE:
            scale, waited = scale * factor, 0
    return max(scale, _LOWEST_SCALE)


class TableSchedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Looks up the rate of a step in a table; after its end, the last rate is used."""

    def __init__(self, table: NDArray[np.float32]) -> None:
        self._table = table

    def __call__(self, step: Any) -> Any:
        index = keras.ops.minimum(keras.ops.cast(step, "int32"), len(self._table) - 1)
        return keras.ops.take(keras.ops.convert_to_tensor(self._table), index)

    def get_config(self) -> dict[str, Any]:
        """See `keras.optimizers.schedules.LearningRateSchedule`."""
        return {"table": self._table.tolist()}


# Coefficients of their quintic, which brings singular values to 0.7 to 1.2 in few iterations, rather than to 1 in many.
_LINEAR, _CUBIC, _QUINTIC = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_EPSILON = 1e-7


def muon_step(optimizer: Any, gradient: Any, variable: Any, place: int, rate: Any) -> None:
    """Move a kernel along its orthogonalised momentum by `rate` times its norm, and keep that norm.

    Args:
        optimizer: Keras' SGD, whose momentum (0..1) and Nesterov look-ahead average the gradients.
        gradient: gradient of the kernel, (..., inputs, outputs) like the kernel.
        variable: the kernel. With batch-norm after it, its norm has no effect, so it needs no weight decay. Without, as after
            the last convolutions of pre-activation blocks, the norm keeps its initial value.
        place: index of the kernel among the optimizer's variables.
        rate: step divided by norm, 0..1.
    """
    direction = gradient
    if share := optimizer.momentum:
        momentum = optimizer.momentums[place]
        optimizer.assign(momentum, share * momentum + gradient)
        direction = gradient + share * momentum if optimizer.nesterov else ops.convert_to_tensor(momentum)
    step = ops.reshape(orthogonal(ops.reshape(direction, (-1, variable.shape[-1]))), variable.shape)
    kernel = ops.convert_to_tensor(variable)
    norm = _norm(kernel)
    moved = kernel - step * (rate * norm / (_norm(step) + _EPSILON))
    optimizer.assign(variable, moved * (norm / (_norm(moved) + _EPSILON)))


def orthogonal(matrix: Any) -> Any:
    """Approximately the closest matrix (M, N) with orthonormal columns (or rows, if there are fewer): singular values about 1.

    Directions without a gradient stay 0.
    """
    wide = matrix.shape[0] < matrix.shape[1]
    matrix = ops.transpose(matrix) if wide else matrix
    matrix = matrix / (_norm(matrix) + _EPSILON)
    for _ in range(_ITERATIONS):
        gram = ops.matmul(ops.transpose(matrix), matrix)
        matrix = _LINEAR * matrix + ops.matmul(matrix, _CUBIC * gram + _QUINTIC * ops.matmul(gram, gram))
    return ops.transpose(matrix) if wide else matrix


def _norm(values: Any) -> Any:
    return ops.sqrt(ops.sum(ops.square(values)))


_BESIDE_MUON = 3.0  # learning rate of all other variables, as a multiple of Muon's: 0.1 with 0.033, like sgd's


@dataclass(frozen=True)
class _Setting:
    """The settings of one variable: a factor on the rate, its weight decay, and whether Muon updates it."""

    rate: float
    decay: float
    orthogonal: bool


def make_optimizer(config: TrainConfig, table: NDArray[np.float32], variables: list[Any]) -> keras.optimizers.Optimizer:
    """The optimizer of a configuration, with weight decay on kernels only.

    Args:
        config: recipe. Weight decay is added to the gradient (He et al. 2015); with adamw to the step, times the rate. Muon
            updates the kernels of convolutions, without decay; all other variables are updated as with sgd.
        table: learning rate of every step.
        variables: the trainable variables of the network.
    """
    has_momentum = config.optimizer in ("sgd", "muon")
    kind = keras.optimizers.SGD if has_momentum else keras.optimizers.Adam
    options: dict[str, Any] = {"momentum": config.momentum, "nesterov": config.nesterov} if has_momentum else {}
    if config.ema:
        options |= {"use_ema": True, "ema_momentum": max(0.0, 1 - 1 / max(1.0, config.ema * len(table)))}
    muon = config.optimizer == "muon"
    by_muon = [muon and variable.name == "kernel" and len(variable.shape) == 4 for variable in variables]
    beside = _BESIDE_MUON if muon else 1.0
    settings = [
        _Setting(
            rate=1.0 if orthogonal else beside,
            decay=config.weight_decay if variable.name == "kernel" and not orthogonal else 0.0,
            orthogonal=orthogonal,
        )
        for variable, orthogonal in zip(variables, by_muon, strict=True)
    ]
    by_variable, decoupled = _by_variable(kind), config.optimizer == "adamw"
    return by_variable(TableSchedule(table), peak=float(table.max()), settings=settings, decoupled=decoupled, **options)


def inner_optimizer(model: keras.Model) -> Any:
    """The optimizer of `make_optimizer` in a compiled model: in fp16 Keras wraps it in one that scales the loss."""
    optimizer = model.optimizer
    return optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer


def _by_variable(kind: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """An optimizer with a rate and weight decay per variable; Keras has no such rates, and always decouples weight decay.

    `scale` times the peak is an upper limit of the schedule's rate.
    """

    class ByVariable(kind):  # type: ignore[misc]
        def __init__(self, *args: Any, peak: float, settings: list[_Setting], decoupled: bool, **options: Any) -> None:
            super().__init__(*args, **options)
            self._peak, self._settings, self._decoupled = peak, settings, decoupled

        def build(self, variables: list[Any]) -> None:
            if self.built:
                return
            super().build(variables)
            # A variable of the optimizer, so that it is part of checkpoints and every backend sees changes.
            self.scale = self.add_variable((), name="scale", initializer="ones")

        def finalize_variable_values(self, variables: list[Any]) -> None:
            """Keep the weights after `fit`, as training continues with them; Keras would replace them by their averages."""

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            # The argument is the backend's own variable, which has no path.
            place = self._get_variable_index(variable)
            setting = self._settings[place]
            rate = keras.ops.minimum(learning_rate, self._peak * self.scale) * setting.rate
            if setting.decay and self._decoupled:
                self.assign_sub(variable, variable * (rate * setting.decay))
            elif setting.decay:
                gradient = gradient + setting.decay * variable
            if setting.orthogonal:
                muon_step(self, gradient, variable, place, rate)
            else:
                super().update_step(gradient, variable, rate)

    return ByVariable
