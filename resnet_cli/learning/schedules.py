"""Learning rates as tables: one number a step, made by plain functions, read by one Keras schedule.

In: a `TrainConfig` and the number of steps. Out: float32 rates (steps,).
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
    """Highest rate after these epochs, as a share of the peak: times `factor` whenever the loss has not fallen for five epochs.

    Source: Keras' CIFAR-10 ResNet example (ReduceLROnPlateau, patience 5, rate of 1e-3 never below 0.5e-6). It limits what the
    schedule says and does not multiply it: the two would take the rate to nothing long before the end. (In the example the
    schedule sets the rate anew in every epoch, and a cut is gone by the next one.)
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
