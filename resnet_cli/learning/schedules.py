"""Learning rates as tables: one number a step, made by plain functions, read by one Keras schedule.

In: a `TrainConfig` and the number of steps. Out: float32 rates (steps,) and the optimizer that follows them.
"""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.learning.config import TrainConfig


def rates(config: TrainConfig, steps: int) -> NDArray[np.float32]:
    """Learning rate of every step.

    cosine: linear warm-up, then half a cosine to zero (Loshchilov and Hutter 2017). one-cycle: linear to the peak and linear
    to zero (Smith 2018). steps: warm-up, then divided by ten at each milestone (He et al. 2015, section 4.2).
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
        passed = sum((step - 1 >= milestone * steps).astype(int) for milestone in config.milestones)
        falling = 0.1**passed
    else:
        falling = np.ones(steps)
    return np.asarray(config.learning_rate * rising * falling, np.float32)


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

    Keras decays weights outside the gradient. With momentum m, the papers' L2 penalty of strength lambda shrinks weights by
    rate * lambda / (1 - m) a step; for sgd that is what is set, so that lambda means what it means in the papers.

    Args:
        config: recipe.
        table: rate of every step.
        variables: the trainable variables from the input to the output of the network.
    """
    kinds = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}
    options: dict[str, Any] = {"momentum": config.momentum, "nesterov": True} if config.optimizer == "sgd" else {}
    decay = config.weight_decay / (1 - config.momentum) if config.optimizer == "sgd" else config.weight_decay
    if config.ema:
        options |= {"use_ema": True, "ema_momentum": config.ema}
    kind = kinds[config.optimizer]
    if config.depth_decay != 1:
        factors = depth_factors(variables, config.depth_decay)
        kind, options["factors"] = _discriminative(kind), [factors[variable.path] for variable in variables]
    optimizer = kind(TableSchedule(table), weight_decay=decay, **options)
    if decay:
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


def depth_factors(variables: list[Any], share: float) -> dict[str, float]:
    """Factor on the rate of every variable, by path: `share` at the input, 1 at the head, geometric over the layers between.

    Source: discriminative fine-tuning (Howard and Ruder 2018, section 3.2).
    """
    layers = list(dict.fromkeys(variable.path.rsplit("/", 1)[0] for variable in variables))
    steps = max(1, len(layers) - 1)
    by_layer = {layer: share ** (1 - place / steps) for place, layer in enumerate(layers)}
    return {variable.path: by_layer[variable.path.rsplit("/", 1)[0]] for variable in variables}


def _discriminative(kind: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """An optimizer whose rate differs by variable; Keras has no such option of its own."""

    class Discriminative(kind):  # type: ignore[misc]
        def __init__(self, *args: Any, factors: list[float], **options: Any) -> None:
            super().__init__(*args, **options)
            self._factors = factors

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            # What arrives here is the backend's own variable, which knows no path.
            factor = self._factors[self._get_variable_index(variable)]
            super().update_step(gradient, variable, learning_rate * factor)

    return Discriminative
