"""The second stage of transfer: the last stage and the head on stored activations, or more layers from pixels.

In: a network whose head is trained, its batch-norm frozen. Out: what is trained, on which batches, by which recipe.
"""

import math
import shutil
from dataclasses import dataclass

import keras
import numpy as np

from resnet_cli.data.batches import EvaluationBatches, TrainStream
from resnet_cli.learning.config import FinetuneConfig, TrainConfig
from resnet_cli.learning.material import AUGMENTATION, Material
from resnet_cli.learning.stored import Stored, StoredBatches, StoredStream
from resnet_cli.learning.training import Stream
from resnet_cli.networks.split import boundary_layer, freeze_below_last_stage, tail_model

_PICTURES = 30_000  # as many epochs as make about this many pictures


@dataclass(frozen=True)
class Tail:
    """A training that is ready to begin: the layers are shared with the whole network."""

    model: keras.Model
    stream: Stream
    held_out: keras.utils.PyDataset
    recipe: TrainConfig


def tail_on_stored(model: keras.Model, boundary: Stored, held_out: Stored, material: Material, config: FinetuneConfig) -> Tail:
    """The last stage and the head on stored activations."""
    labels = material.training.labels
    stream = StoredStream(boundary, labels, material.spec.classes, _batch_size(config, material), config.seed)
    batches = StoredBatches(held_out, material.held_out.labels, material.spec.classes)
    return Tail(tail_model(model, material.spec.network), stream, batches, _recipe(config, material, 1.0))


def tail_on_pixels(model: keras.Model, material: Material, config: FinetuneConfig) -> Tail:
    """Every layer, the rate falling a hundredfold from the head to the input; or the last stage where disk is short."""
    if config.unfreeze == "last":
        freeze_below_last_stage(model, material.spec.network)
    depth_decay = 0.01 if config.unfreeze == "all" else 1.0
    stream = TrainStream(
        material.training,
        material.spec.classes,
        _batch_size(config, material),
        material.geometry,
        AUGMENTATION,
        config.seed,
    )
    batches = EvaluationBatches(material.held_out, material.spec.classes, 64)
    return Tail(model, stream, batches, _recipe(config, material, depth_decay))


def views_that_fit(model: keras.Model, material: Material) -> int:
    """Views whose boundary activations, with the held-out ones, take at most half of the free disk."""
    boundary = model.get_layer(material.spec.network.name).get_layer(boundary_layer(material.spec.network)).output
    row: int = 2 * math.prod(boundary.shape[1:])
    room = shutil.disk_usage(material.folder).free // 2 - row * len(material.held_out)
    return max(0, room // (row * len(material.training)))


def _recipe(config: FinetuneConfig, material: Material, depth_decay: float) -> TrainConfig:
    return TrainConfig(
        epochs=config.epochs or int(np.clip(round(_PICTURES / len(material.training)), 6, 20)),
        optimizer="adamw",
        learning_rate=config.learning_rate,
        schedule="one-cycle",
        warmup=0.2,
        weight_decay=0.05,
        label_smoothing=0.1,
        class_weights=config.class_weights,
        seed=config.seed,
        depth_decay=depth_decay,
    )


def _batch_size(config: FinetuneConfig, material: Material) -> int:
    return min(config.batch_size, len(material.training))
