"""The first stage of transfer: a new head on features that the frozen network gave once.

In: stored features. Out: the head's weights, put into the whole network.
"""

import keras
import numpy as np

from resnet_cli.learning.config import FinetuneConfig, TrainConfig
from resnet_cli.learning.material import Material
from resnet_cli.learning.stage import Stage
from resnet_cli.learning.stored import Stored, StoredBatches, StoredStream
from resnet_cli.learning.training import TrainResult, train
from resnet_cli.networks.classifier import add_head
from resnet_cli.networks.weights import named_variables
from resnet_cli.progress import Progress

_STEPS = 1500  # enough for a linear head to settle at any size of data set


def train_head(
    model: keras.Model,
    features: Stored,
    held_out: Stored,
    material: Material,
    config: FinetuneConfig,
    stage: Stage,
    progress: Progress,
) -> TrainResult:
    """Train on features of zero mean and unit variance, both folded into the first layer afterwards."""
    mean, variance = features.moments()
    spread = np.sqrt(np.maximum(variance, 1e-6))
    # Every view counts as a picture of its own here: an epoch of the head shows them all.
    labels = np.repeat(material.training.labels, features.count // len(material.training))
    stream = StoredStream(features, labels, material.spec.classes, min(64, len(labels)), config.seed)
    inputs = keras.Input(features.shape)
    scaled = keras.layers.Normalization(mean=mean, variance=spread**2)(inputs)
    head = keras.Model(inputs, add_head(material.spec, scaled))
    asked = config.epochs if config.unfreeze == "none" else 0
    recipe = TrainConfig(
        epochs=asked or int(np.clip(round(_STEPS / stream.steps_per_epoch), 6, 40)),
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
    kernel = values[f"{first}/kernel"] / spread[:, None]
    values[f"{first}/bias"] = values[f"{first}/bias"] - mean @ kernel
    values[f"{first}/kernel"] = kernel
    whole = named_variables(model)
    for name, value in values.items():
        whole[name].assign(value)
    return result
