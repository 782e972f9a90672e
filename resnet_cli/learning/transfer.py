"""Transfer: a new head on frozen features, then the last layers with it, kept only if held-out pictures agree.

In: a pretrained network with an untrained head, and pictures. Out: the same network, trained, and what each stage came to.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from resnet_cli.data.augment import Augmentation
from resnet_cli.data.batches import EvaluationBatches, TrainStream
from resnet_cli.data.decode import Geometry
from resnet_cli.data.pictures import Pictures
from resnet_cli.engines.base import Engine
from resnet_cli.engines.choose import engine_for
from resnet_cli.learning.config import FinetuneConfig, TrainConfig
from resnet_cli.learning.stored import Stored, StoredBatches, StoredStream, compute, squares_of, views_of
from resnet_cli.learning.training import Stage, TrainResult, train
from resnet_cli.networks.classifier import add_head
from resnet_cli.networks.spec import ClassifierSpec
from resnet_cli.networks.split import (
    boundary_layer,
    feature_model,
    freeze_batch_norm,
    freeze_below_last_stage,
    prefix_model,
    tail_model,
)
from resnet_cli.networks.weights import named_variables
from resnet_cli.progress import Progress

AUGMENTATION = Augmentation("resized", scale=0.5)
_HEAD_STEPS = 1500  # enough for a linear head to settle at any size of data set
_TAIL_PICTURES = 30_000  # the second stage takes as many epochs as make about this many pictures
_FORWARD_PASSES = 12_000  # views are chosen so that about this many pictures go through the frozen part


@dataclass(frozen=True)
class Material:
    """What both stages learn from.

    Attributes:
        spec: the classifier.
        geometry: how pictures reach the input size.
        training: pictures of any shape.
        held_out: squares that select what to keep.
        folder: the run.
        tensorboard: write TensorBoard's event files.
    """

    spec: ClassifierSpec
    geometry: Geometry
    training: Pictures
    held_out: Pictures
    folder: Path
    tensorboard: bool = False


@dataclass(frozen=True)
class TransferResult:
    """What transfer came to.

    Attributes:
        head: the first stage.
        tail: the second stage, None where nothing was unfrozen.
        kept: "head" or "tail": whose weights the network holds.
        engine: which engine ran the frozen part, and in what precision.
        views: augmented views of each training picture.
    """

    head: TrainResult
    tail: TrainResult | None
    kept: str
    engine: str
    views: int

    @property
    def best(self) -> TrainResult:
        return self.tail if self.tail is not None and self.kept == "tail" else self.head


def transfer(
    model: keras.Model, material: Material, config: FinetuneConfig, progress: Progress, resume: bool = False
) -> TransferResult:
    """Train a head on features that are computed once, then unfreeze as much as the configuration says.

    The second stage's weights are kept only if their held-out accuracy is at least the first stage's.

    Args:
        model: made by `build_logits`, its backbone pretrained, its head new.
        material: pictures and where to put things.
        config: what to unfreeze and how.
        progress: where to report.
        resume: go on with an interrupted second stage.
    """
    network = material.spec.network
    views = config.views or int(np.clip(round(_FORWARD_PASSES / len(material.training)), 2, 12))
    fitting = _views_that_fit(model, material)
    with_boundary = config.unfreeze == "last" and fitting >= min(2, views)
    views = min(views, fitting) if with_boundary else views
    engine = engine_for(prefix_model(model, network) if with_boundary else feature_model(model))
    training = _through(engine, material, views, config.seed, with_boundary, progress)
    held_out = _through(engine, material, 0, config.seed, with_boundary, progress)
    stage = Stage("head", material.folder, resume, announce=False, tensorboard=material.tensorboard)
    head = _train_head(model, training[0], held_out[0], material, config, stage, progress)
    progress.line(f"head  held-out accuracy {head.best.val_accuracy:.1%}  training accuracy {head.best.accuracy:.1%}")
    tail = None
    kept = "head"
    if config.unfreeze != "none":
        before = {name: keras.ops.convert_to_numpy(value) for name, value in named_variables(model).items()}
        freeze_batch_norm(model)
        stage = Stage("tail", material.folder, resume, tensorboard=material.tensorboard)
        if with_boundary:
            tail = _train_tail(model, training[1], held_out[1], material, config, stage, progress)
        else:
            tail = _train_from_pixels(model, material, config, stage, progress)
        kept = "tail" if tail.best.val_accuracy >= head.best.val_accuracy else "head"
        if kept == "head":
            for name, variable in named_variables(model).items():
                variable.assign(before[name])
    return TransferResult(head, tail, kept, f"{engine.name} {engine.precision}", views)


def _through(
    engine: Engine, material: Material, views: int, seed: int, with_boundary: bool, progress: Progress
) -> tuple[Stored, ...]:
    """Pooled features, and activations at the boundary, of training views or (views = 0) of the held-out pictures."""
    cache = material.folder / "checkpoint" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    kind = "training" if views else "held-out"
    pictures = material.training if views else material.held_out
    source = views_of(pictures, material.geometry, AUGMENTATION, views, seed) if views else squares_of(pictures)
    names = ("features", "boundary") if with_boundary else ("features",)
    files = tuple(cache / f"{kind}-{name}.f16" for name in names)
    return compute(engine, source, max(views, 1) * len(pictures), files, progress, f"features of {kind} pictures")


def _train_head(
    model: keras.Model,
    features: Stored,
    held_out: Stored,
    material: Material,
    config: FinetuneConfig,
    stage: Stage,
    progress: Progress,
) -> TrainResult:
    """The first stage: on features of zero mean and unit variance, which are folded into the first layer afterwards."""
    mean, variance = features.moments()
    spread = np.sqrt(np.maximum(variance, 1e-6))
    # Every view counts as a picture of its own here: an epoch of the head shows them all.
    labels = np.tile(material.training.labels, features.count // len(material.training))
    stream = StoredStream(features, labels, material.spec.classes, min(64, len(labels)), config.seed)
    inputs = keras.Input(features.shape)
    scaled = keras.layers.Normalization(mean=mean, variance=spread**2)(inputs)
    head = keras.Model(inputs, add_head(material.spec, scaled))
    recipe = TrainConfig(
        epochs=int(np.clip(round(_HEAD_STEPS / stream.steps_per_epoch), 6, 40)),
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


def _train_tail(
    model: keras.Model,
    boundary: Stored,
    held_out: Stored,
    material: Material,
    config: FinetuneConfig,
    stage: Stage,
    progress: Progress,
) -> TrainResult:
    """The last stage and the head on stored activations: the layers are shared with the whole network."""
    tail = tail_model(model, material.spec.network)
    labels = material.training.labels
    stream = StoredStream(boundary, labels, material.spec.classes, _batch_size(config, material), config.seed)
    batches = StoredBatches(held_out, material.held_out.labels, material.spec.classes)
    return train(tail, stream, batches, _recipe(config, material, 1.0), stage, progress)


def _train_from_pixels(
    model: keras.Model, material: Material, config: FinetuneConfig, stage: Stage, progress: Progress
) -> TrainResult:
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
    return train(model, stream, batches, _recipe(config, material, depth_decay), stage, progress)


def _views_that_fit(model: keras.Model, material: Material) -> int:
    """Views whose boundary activations, with the held-out ones, take at most half of the free disk."""
    boundary = model.get_layer(material.spec.network.name).get_layer(boundary_layer(material.spec.network)).output
    row: int = 2 * math.prod(boundary.shape[1:])
    room = shutil.disk_usage(material.folder).free // 2 - row * len(material.held_out)
    return max(0, room // (row * len(material.training)))


def _recipe(config: FinetuneConfig, material: Material, depth_decay: float) -> TrainConfig:
    return TrainConfig(
        epochs=config.epochs or int(np.clip(round(_TAIL_PICTURES / len(material.training)), 6, 20)),
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
