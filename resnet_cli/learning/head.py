"""The first stage of transfer: a new head on features that the frozen network gave once.

In: stored features. Out: the head's weights, put into the whole network.
"""

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.learning.config import FinetuneConfig, TrainConfig
from resnet_cli.learning.material import Material
from resnet_cli.learning.stage import Stage
from resnet_cli.learning.stored import Stored, StoredBatches, StoredStream
from resnet_cli.learning.training import TrainResult, train
from resnet_cli.networks.classifier import add_head
from resnet_cli.networks.weights import named_variables
from resnet_cli.progress import Progress

_SHOWN = 96_000  # views, again and again, that are enough for a head to settle at any size of data set
_FEWEST, _MOST = 6, 40  # epochs
# Of the median variance. A feature that hardly varies on the training images would otherwise get a weight as large as it is
# constant, and an image unlike them a logit as large as that. On photos no accuracy is lost, whatever the share up to 0.3.
_FLOOR = 0.1
_CONSTANT = 1e-6  # of the largest variance: below it a feature is constant but for fp16's rounding


def feature_scale(variance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Factors (D,) that bring features of these variances (D,) to a standard deviation of at most one.

    That is one over the standard deviation, for which the root of a tenth of the median variance is the least that is taken; 0
    for constant features, which say nothing about a class.
    """
    varies = variance > _CONSTANT * variance.max()
    if not varies.any():
        return np.zeros_like(variance)
    floor = _FLOOR * np.median(variance[varies])
    return np.where(varies, 1 / np.sqrt(np.maximum(variance, floor)), 0).astype(np.float32)


def train_head(
    model: keras.Model,
    features: Stored,
    held_out: Stored,
    material: Material,
    config: FinetuneConfig,
    stage: Stage,
    progress: Progress,
) -> TrainResult:
    """Train on features of zero mean and of the scale of `feature_scale`, both folded into the first layer afterwards."""
    mean, variance = features.moments()
    scale = feature_scale(variance)
    # Every view counts as a picture of its own here: an epoch of the head shows them all.
    labels = np.repeat(material.training.labels, features.count // len(material.training))
    settling = int(np.clip(round(_SHOWN / len(labels)), _FEWEST, _MOST))
    # A step costs a hidden layer as much as a hundred pictures do: fewer and larger ones, where there are enough of them.
    batch_size = 128 if material.spec.hidden and settling < _MOST else 64
    stream = StoredStream(features, labels, material.spec.classes, batch_size, config.seed)
    inputs = keras.Input(features.shape)
    head = keras.Model(inputs, add_head(material.spec, (inputs - mean) * scale))
    asked = config.epochs if config.unfreeze == "none" else 0
    recipe = TrainConfig(
        epochs=asked or settling,
        optimizer="adamw",
        learning_rate=3e-3,
        schedule="one-cycle",
        warmup=0.1,
        weight_decay=0.1,
        class_weights=config.class_weights,
        seed=config.seed,
    )
    batches = StoredBatches(held_out, material.held_out.labels, material.spec.classes)
    result = train(head, stream, batches, recipe, stage, progress)
    layers = ("hidden", "logits") if material.spec.hidden else ("logits",)
    values = {
        f"{layer}/{name}": value
        for layer in layers
        for name, value in zip(("kernel", "bias"), head.get_layer(layer).get_weights(), strict=True)
    }
    first = layers[0]
    kernel = values[f"{first}/kernel"] * scale[:, None]
    values[f"{first}/bias"] = values[f"{first}/bias"] - mean @ kernel
    values[f"{first}/kernel"] = kernel
    whole = named_variables(model)
    for name, value in values.items():
        whole[name].assign(value)
    return result
