"""The second stage of transfer: the last stage and the head on activations at the boundary, or every layer on pixels.

In: a network whose head is trained, its batch-norm frozen. Out: what is trained, on which batches, by which recipe.
"""

from dataclasses import dataclass, replace

import keras
import numpy as np

from resnet_cli.data.batches import EvaluationBatches, TrainStream
from resnet_cli.engines.base import Engine
from resnet_cli.learning.config import FinetuneConfig, TrainConfig
from resnet_cli.learning.live import EngineBatches, EngineStream
from resnet_cli.learning.material import Material
from resnet_cli.learning.stage import Stream
from resnet_cli.learning.stored import Stored, StoredBatches, StoredStream
from resnet_cli.networks.catalogue import Network
from resnet_cli.networks.split import tail_model

LABEL_SMOOTHING = 0.1
_PICTURES = 30_000  # as many epochs as make about this many pictures


@dataclass(frozen=True)
class Tail:
    """A training that is ready to begin: the layers are shared with the whole network; `small` is for progressive training."""

    model: keras.Model
    stream: Stream
    held_out: keras.utils.PyDataset
    recipe: TrainConfig
    small: Stream | None = None


def tail_on_stored(model: keras.Model, boundary: Stored, held_out: Stored, material: Material, config: FinetuneConfig) -> Tail:
    """The last stage and the head on stored activations."""
    labels = material.training.labels
    stream = StoredStream(boundary, labels, material.spec.classes, config.batch_size, config.seed)
    batches = StoredBatches(held_out, material.held_out.labels, material.spec.classes)
    return Tail(tail_model(model, material.spec.network), stream, batches, _recipe(config, material))


def tail_on_engine(model: keras.Model, engine: Engine, material: Material, config: FinetuneConfig) -> Tail:
    """The last stage and the head on activations that the engine computes as batches need them."""
    stream = EngineStream(_pixels(config, material), engine)
    batches = EngineBatches(EvaluationBatches(material.held_out, material.spec.classes, 64), engine)
    return Tail(tail_model(model, material.spec.network), stream, batches, _recipe(config, material))


def is_progressive(config: FinetuneConfig, network: Network) -> bool:
    """Whether the first epochs see smaller images: where all layers of a network for photos are trained, of any size."""
    return config.unfreeze == "all" and network.stem == "imagenet" and network.preprocessing != "pixel-mean"


def tail_on_pixels(model: keras.Model, material: Material, config: FinetuneConfig) -> Tail:
    """Every layer, by Muon: the kernels of all of them move in earnest from the first step on.

    Args:
        model: built for any size where training `is_progressive`.
        material: the images.
        config: how to train.
    """
    batches = EvaluationBatches(material.held_out, material.spec.classes, 64)
    recipe = replace(_recipe(config, material), optimizer="muon", weight_decay=5e-4)
    stream, network = _pixels(config, material), material.spec.network
    if not is_progressive(config, network):
        return Tail(model, stream, batches, recipe)
    smaller = replace(material.geometry, size=network.half(material.geometry.size))
    return Tail(model, stream, batches, replace(recipe, progressive=True), replace(stream, geometry=smaller))


def _pixels(config: FinetuneConfig, material: Material) -> TrainStream:
    source, classes = material.training, material.spec.classes
    return TrainStream(source, classes, config.batch_size, material.geometry, material.augmentation, config.seed)


def _recipe(config: FinetuneConfig, material: Material) -> TrainConfig:
    return TrainConfig(
        epochs=config.epochs or int(np.clip(round(_PICTURES / len(material.training)), 6, 20)),
        optimizer="adamw",
        learning_rate=config.rate,
        schedule="one-cycle",
        warmup=0.2,
        weight_decay=0.05,
        label_smoothing=LABEL_SMOOTHING,
        patience=config.patience,
        class_weights=config.class_weights,
        seed=config.seed,
    )
