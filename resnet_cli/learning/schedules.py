"""Learning rates as tables: one number a step, made by plain functions, read by one Keras schedule.

In: a `TrainConfig` and the number of steps. Out: float32 rates (steps,) and the optimizer that follows them.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.learning.config import TrainConfig

_PATIENCE, _LOWEST_SCALE = 5, 5e-4  # of a rate that follows the validation loss


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
    """Scale on the rate after these epochs: times `factor` whenever the loss has not fallen for five epochs.

    Source: Keras' CIFAR-10 ResNet example (ReduceLROnPlateau, patience 5, rate of 1e-3 never below 0.5e-6).
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
    """Looks the rate of a step up in a table; after its end the last rate holds."""

    def __init__(self, table: NDArray[np.float32]) -> None:
        self._table = table

    def __call__(self, step: Any) -> Any:
        index = keras.ops.minimum(keras.ops.cast(step, "int32"), len(self._table) - 1)
        return keras.ops.take(keras.ops.convert_to_tensor(self._table), index)

    def get_config(self) -> dict[str, Any]:
        return {"table": self._table.tolist()}


def make_optimizer(config: TrainConfig, table: NDArray[np.float32], variables: list[Any]) -> keras.optimizers.Optimizer:
    """The optimizer of a configuration, with weight decay on kernels only.

    Args:
        config: recipe. Its weight decay is part of the gradient (He et al. 2015); of adamw's step, times the rate.
        table: rate of every step.
        variables: the trainable variables from the input to the output of the network.
    """
    kind = keras.optimizers.SGD if config.optimizer == "sgd" else keras.optimizers.Adam
    options: dict[str, Any] = {}
    if config.optimizer == "sgd":
        options = {"momentum": config.momentum, "nesterov": config.nesterov}
    if config.ema:
        options |= {"use_ema": True, "ema_momentum": max(0.0, 1 - 1 / max(1.0, config.ema * len(table)))}
    shares = depth_factors(variables, config.depth_decay)
    rates_of = [shares[variable.path] for variable in variables]
    decays = [config.weight_decay if variable.name == "kernel" else 0.0 for variable in variables]
    return _by_variable(kind)(
        TableSchedule(table), rates=rates_of, decays=decays, decoupled=config.optimizer == "adamw", **options
    )


def depth_factors(variables: list[Any], share: float) -> dict[str, float]:
    """Factor on the rate of every variable, by path: `share` at the input, 1 at the head, geometric over the layers between.

    Source: discriminative fine-tuning (Howard and Ruder 2018, section 3.2).
    """
    layers = list(dict.fromkeys(variable.path.rsplit("/", 1)[0] for variable in variables))
    steps = max(1, len(layers) - 1)
    by_layer = {layer: share ** (1 - place / steps) for place, layer in enumerate(layers)}
    return {variable.path: by_layer[variable.path.rsplit("/", 1)[0]] for variable in variables}


def _by_variable(kind: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """An optimizer whose rate and weight decay differ by variable; Keras has no such rates, and decouples every decay.

    `scale` multiplies all rates.
    """

    class ByVariable(kind):  # type: ignore[misc]
        def __init__(self, *args: Any, rates: list[float], decays: list[float], decoupled: bool, **options: Any) -> None:
            super().__init__(*args, **options)
            self._rates, self._decays, self._decoupled = rates, decays, decoupled

        def build(self, variables: list[Any]) -> None:
            if self.built:
                return
            super().build(variables)
            # A variable of the optimizer, so that checkpoints hold it and every backend sees it change.
            self.scale = self.add_variable((), name="scale", initializer="ones")

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            # What arrives here is the backend's own variable, which knows no path.
            place = self._get_variable_index(variable)
            rate, decay = learning_rate * self.scale * self._rates[place], self._decays[place]
            if decay and self._decoupled:
                self.assign_sub(variable, variable * (rate * decay))
            elif decay:
                gradient = gradient + decay * variable
            super().update_step(gradient, variable, rate)

    return ByVariable
