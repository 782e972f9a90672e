"""The loss of distillation: a student learns labels, and the probabilities of a teacher (Hinton et al. 2015).

In: targets that hold both, see `taught.py`. Out: the loss that the recipe asks for, and metrics.
"""

from collections.abc import Sequence

import keras
from keras import ops

from resnet_cli.learning.config import TrainConfig


class Distillation(keras.losses.Loss):  # type: ignore[misc]
    """(1 - w) * cross-entropy of the labels + w * T^2 * KL divergence of the student from the teacher, both at temperature T.

    Hinton et al. 2015, section 2: the factor T^2 keeps the size of the gradients as T changes.

    Args:
        weight: w, 0..1.
        temperature: T, above 0; logits are divided by it, so 1 leaves probabilities as they are and more evens them out.
        label_smoothing: share of a label spread over all classes.
    """

    def __init__(self, weight: float, temperature: float, label_smoothing: float) -> None:
        super().__init__(name="distillation", reduction="sum_over_batch_size")
        self._weight, self._temperature, self._smoothing = weight, temperature, label_smoothing

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """(N,) of targets (N, 2 * classes) and logits (N, classes)."""
        labels, teacher = ops.split(y_true, 2, axis=-1)
        temperature = self._temperature
        logs = ops.log(ops.maximum(teacher, 1e-7)) / temperature
        softened = ops.softmax(logs)
        # Cross-entropy as one operation, which TensorFlow computes in float32 where it rewrites others to bf16.
        divergence = _cross_entropy(softened, y_pred / temperature) + ops.sum(softened * ops.log_softmax(logs), axis=-1)
        loss = self._weight * temperature**2 * divergence
        if self._weight == 1:
            return loss
        smooth = labels * (1 - self._smoothing) + self._smoothing / labels.shape[-1]
        return loss + (1 - self._weight) * _cross_entropy(smooth, y_pred)


def _cross_entropy(target: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    return ops.categorical_crossentropy(target, logits, from_logits=True)


def metrics_of_labels(metrics: Sequence[keras.metrics.Metric]) -> list[keras.metrics.Metric]:
    """The same metrics of the first half of the targets, which holds labels."""
    return [_OfLabels(metric) for metric in metrics]


class _OfLabels(keras.metrics.MeanMetricWrapper):  # type: ignore[misc]
    def __init__(self, metric: keras.metrics.MeanMetricWrapper) -> None:
        self._metric = metric
        super().__init__(self._of_labels, name=metric.name)

    def _of_labels(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        return self._metric._fn(ops.split(y_true, 2, axis=-1)[0], y_pred, **self._metric._fn_kwargs)


def loss_of(config: TrainConfig) -> keras.losses.Loss:
    """Cross-entropy of logits against one-hot or mixed targets; where there is a teacher, `Distillation`."""
    if config.teacher_weight:
        return Distillation(config.teacher_weight, config.temperature, config.label_smoothing)
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.label_smoothing)
