"""The optimizers: Keras' own and Muon, with a rate and a weight decay for every variable.

In: a `TrainConfig`, rates (steps,) and the variables they train. Out: an optimizer that follows the rates.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.learning.config import TrainConfig
from resnet_cli.learning.muon import muon_step
from resnet_cli.learning.schedules import TableSchedule

_BESIDE_MUON = 3.0  # times its rate is that of what momentum alone moves: 0.1 beside 0.033, as by sgd


@dataclass(frozen=True)
class _Setting:
    """Of one variable: a factor on the rate, its weight decay, and whether Muon moves it."""

    rate: float
    decay: float
    orthogonal: bool


def make_optimizer(config: TrainConfig, table: NDArray[np.float32], variables: list[Any]) -> keras.optimizers.Optimizer:
    """The optimizer of a configuration, with weight decay on kernels only.

    Args:
        config: recipe. Its weight decay is part of the gradient (He et al. 2015); of adamw's step, times the rate. Muon moves
            the kernels of convolutions and decays none of them; all else moves as by sgd.
        table: rate of every step.
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
    """The optimizer that `make_optimizer` gave to a compiled model: in fp16 Keras wraps it in one that scales the loss."""
    optimizer = model.optimizer
    return optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer


def _by_variable(kind: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """An optimizer whose rate and weight decay differ by variable; Keras has no such rates, and decouples every decay.

    `scale` times the peak is the highest rate that is taken, whatever the schedule says.
    """
    fused = keras.backend.backend() == "tensorflow"

    class ByVariable(kind):  # type: ignore[misc]
        def __init__(self, *args: Any, peak: float, settings: list[_Setting], decoupled: bool, **options: Any) -> None:
            super().__init__(*args, **options)
            self._peak, self._settings, self._decoupled = peak, settings, decoupled

        def build(self, variables: list[Any]) -> None:
            if self.built:
                return
            super().build(variables)
            # A variable of the optimizer, so that checkpoints hold it and every backend sees it change.
            self.scale = self.add_variable((), name="scale", initializer="ones")

        def finalize_variable_values(self, variables: list[Any]) -> None:
            """Leave the weights as they are after `fit`, which training goes on with; Keras would put the averages there."""

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            # What arrives here is the backend's own variable, which knows no path.
            place = self._get_variable_index(variable)
            setting = self._settings[place]
            rate = keras.ops.minimum(learning_rate, self._peak * self.scale) * setting.rate
            if setting.decay and self._decoupled:
                self.assign_sub(variable, variable * (rate * setting.decay))
            elif setting.decay:
                gradient = gradient + setting.decay * variable
            if setting.orthogonal:
                muon_step(self, gradient, variable, place, rate)
            elif fused and isinstance(self, keras.optimizers.Adam):
                _adam_step(self, gradient, variable, place, rate)
            elif fused and self.momentum:
                _momentum_step(self, gradient, variable, place, rate)
            else:
                super().update_step(gradient, variable, rate)

    return ByVariable


# Keras' own steps, each as TensorFlow's one kernel for it in place of ten operations and more for every variable.


def _momentum_step(optimizer: Any, gradient: Any, variable: Any, place: int, rate: Any) -> None:
    import tensorflow as tf

    tf.raw_ops.ResourceApplyKerasMomentum(
        var=variable.handle,
        accum=optimizer.momentums[place].value.handle,
        lr=rate,
        grad=gradient,
        momentum=optimizer.momentum,
        use_nesterov=optimizer.nesterov,
    )


def _adam_step(optimizer: Any, gradient: Any, variable: Any, place: int, rate: Any) -> None:
    import tensorflow as tf

    step = tf.cast(optimizer.iterations.value + 1, tf.float32)
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=optimizer._momentums[place].value.handle,
        v=optimizer._velocities[place].value.handle,
        beta1_power=tf.pow(optimizer.beta_1, step),
        beta2_power=tf.pow(optimizer.beta_2, step),
        lr=rate,
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        epsilon=optimizer.epsilon,
        grad=gradient,
    )
