"""The fine-tuning phase: the last stage and the head on activations at the boundary, or every layer on pixels.

In: a network whose head is trained, its batch-norm frozen. Out: what is trained, on which batches, by which recipe.
Activations that do not fit on the disk are computed when a batch needs them (batches.py).
"""

from dataclasses import dataclass

import keras
import numpy as np

from resnet_cli.data.batches import EvaluationBatches, TrainStream
from resnet_cli.engines.base import Engine
from resnet_cli.networks.classifier import tail_model
from resnet_cli.training.checkpoints import Stream
from resnet_cli.training.config import FinetuneConfig, TrainConfig
from resnet_cli.transfer.batches import EngineBatches, EngineStream, StoredBatches, StoredStream
from resnet_cli.transfer.features import Material
from resnet_cli.transfer.store import Stored

# As many epochs as make about this many images; fewer of all layers, which cost more and settle sooner.
_IMAGES, _OF_ALL_LAYERS = 30_000, 15_000


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
    stream = StoredStream(boundary, labels, material.spec.classes, config.batch_size, config.seed)
    batches = StoredBatches(held_out, material.held_out.labels, material.spec.classes)
    return Tail(tail_model(model, material.spec.network), stream, batches, _recipe(config, material))


def tail_on_engine(model: keras.Model, engine: Engine, material: Material, config: FinetuneConfig) -> Tail:
    """The last stage and the head on activations that the engine computes as batches need them."""
    stream = EngineStream(_pixels(config, material), engine)
    batches = EngineBatches(EvaluationBatches(material.held_out, material.spec.classes, 64), engine)
    return Tail(tail_model(model, material.spec.network), stream, batches, _recipe(config, material))


def tail_on_pixels(model: keras.Model, material: Material, config: FinetuneConfig) -> Tail:
    """Every layer, on images that are augmented anew in every epoch."""
    batches = EvaluationBatches(material.held_out, material.spec.classes, 64)
    return Tail(model, _pixels(config, material), batches, _recipe(config, material))


def _pixels(config: FinetuneConfig, material: Material) -> TrainStream:
    source, classes = material.training, material.spec.classes
    return TrainStream(source, classes, config.batch_size, material.geometry, material.augmentation, config.seed)


def _recipe(config: FinetuneConfig, material: Material) -> TrainConfig:
    shown = _OF_ALL_LAYERS if config.unfreeze == "all" else _IMAGES
    return TrainConfig(
        epochs=config.epochs or int(np.clip(round(shown / len(material.training)), 6, 20)),
        optimizer=config.optimizer,
        learning_rate=config.rate,
        schedule="one-cycle",
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        label_smoothing=config.label_smoothing,
        patience=config.patience,
        class_weights=config.class_weights,
        seed=config.seed,
    )
