"""Fine-tuning in order: frozen layers (`run_frozen`), then head phase and fine-tuning phase (`transfer`).

In: a pretrained network with an untrained head, and images. Out: the same network, trained, and the result of each phase. The
weights of the fine-tuning phase are kept only if they are better on held-out images.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import keras
import numpy as np

from resnet_cli.data.augment import Augmentation
from resnet_cli.data.dataset import LeftOut, spread
from resnet_cli.data.images import ImageSet, reader_for_prediction
from resnet_cli.engines.base import Engine
from resnet_cli.engines.frozen import converted, engine_for
from resnet_cli.networks.classifier import boundary_model, feature_model, freeze_batch_norm, prefix_model
from resnet_cli.networks.weights import named_variables
from resnet_cli.progress import GO_ON, Progress, how_many
from resnet_cli.runs.folder import versions
from resnet_cli.training.callbacks import SURE, is_perfect
from resnet_cli.training.checkpoints import Stage
from resnet_cli.training.config import FinetuneConfig
from resnet_cli.training.loop import TrainResult, train
from resnet_cli.training.pace import measure_pace
from resnet_cli.training.rate_finder import RateSearch, find_rate
from resnet_cli.transfer.features import (
    AS_IT_IS,
    Material,
    frozen_rows,
    room_on_disk,
    views_of,
    views_that_fit,
)
from resnet_cli.transfer.folds import Pool, pool_of
from resnet_cli.transfer.head import train_head
from resnet_cli.transfer.store import Cache, ResumeRecord, Store, Stored, room_for_features, stores_of
from resnet_cli.transfer.tail import Tail, tail_on_engine, tail_on_pixels, tail_on_stored
from resnet_cli.transfer.time_limit import Limit, choose_epochs, choose_views

# Views are chosen so that about this many images go through the frozen part; fewer where it is fine-tuned afterwards.
_PASSES, _PASSES_TO_BEGIN = 12_000, 4_000

ChooseRate = Callable[[Callable[[], RateSearch]], float | None]  # its argument runs a range test


@dataclass(frozen=True)
class Frozen:
    """The stored outputs of the frozen part of a network.

    Attributes:
        material: as given to `run_frozen`, without the unreadable images.
        engine: what ran the frozen part: "openvino" or "keras". It is closed by now, and its memory free.
        precision: number format of its multiplications, such as "bf16".
        views: augmented views of each training image.
        features: pooled features of the training and of the held-out images.
        boundary: activations at the freeze boundary, of the same images; None where they are not stored.
        left_out: the unreadable images, with the reasons.
        backbone: an OpenVINO model from images to pooled features, if the engine was made from one and all layers stay frozen.
        limit: time limit of both phases, counted from the start of the frozen part; None for none.
        pool: the images of a cross-validation with their features; None without one.
        squares: features of some training images as `predict` sees them; None where `material` asks for none.
    """

    material: Material
    engine: str
    precision: str
    views: int
    features: tuple[Stored, Stored]
    boundary: tuple[Stored, Stored] | None
    left_out: tuple[LeftOut, ...]
    backbone: Any
    limit: Limit | None = None
    pool: Pool | None = None
    squares: Stored | None = None


def run_frozen(model: keras.Model, material: Material, config: FinetuneConfig, progress: Progress) -> Frozen:
    """Run every view through the frozen part once; activations at the freeze boundary are stored if there is room for them.

    Args:
        model: made by `build_logits`, its backbone pretrained, its head new.
        material: images, which may include unreadable ones, and the folders to write to.
        config: which layers are frozen.
        progress: where to report.
    """
    progress.saved(GO_ON)
    limit = Limit(config.time_limit) if config.time_limit else None
    record = ResumeRecord(material.folder)
    part, usual = _choose_part(model, material, config, record, progress)
    engine = engine_for(part, config.engine)
    progress.line(f"frozen layers, engine: {engine.name} {engine.precision}")
    views = usual
    if limit is not None:
        views = record.once("views", lambda: choose_views(limit, engine, material, config, usual, progress))
    shapes = [output.shape[1:] for output in part.outputs]
    stores = stores_of(material.folder, shapes)
    cache = _open_cache(material, model, engine, shapes[0])
    left_out: list[LeftOut] = []

    def through(
        title: str, images: ImageSet, how: Augmentation, per_image: int, into: Sequence[Store] = stores
    ) -> tuple[ImageSet, Stored, Stored | None]:
        every = views_of(title, images, material.geometry, how, per_image, config.seed, progress)
        (features, *boundary), unreadable = frozen_rows(engine, every, into, cache, record, progress)
        left_out.extend(LeftOut(images.samples[index].path, reason) for index, reason in unreadable.items())
        return images.without(unreadable), features, boundary[0] if boundary else None

    training, training_features, training_boundary = through("training", material.training, material.augmentation, views)
    held_out, held_out_features, held_out_boundary = through("held-out", material.held_out, AS_IT_IS, 1)
    boundary = (training_boundary, held_out_boundary) if training_boundary and held_out_boundary else None
    readable = replace(material, training=training, held_out=held_out)
    features = (training_features, held_out_features)
    pool = None
    if material.folds is not None:

        def features_of(title: str, images: ImageSet, how: Augmentation, per_image: int) -> tuple[ImageSet, Stored]:
            return through(title, images, how, per_image, stores[:1])[:2]

        pool = pool_of(readable, material.folds, features, views, features_of)
    squares = None
    if material.squares:
        some = ImageSet(spread(training.samples, material.squares), reader_for_prediction(material.geometry), None, ())
        squares = through("uncropped training", some, AS_IT_IS, 1, stores[:1])[1]
    backbone = converted(engine) if config.unfreeze == "none" else None
    outcome = (readable, engine.name, engine.precision, views, features, boundary, tuple(left_out), backbone, limit)
    return Frozen(*outcome, pool, squares)


def _choose_part(
    model: keras.Model, material: Material, config: FinetuneConfig, record: ResumeRecord, progress: Progress
) -> tuple[keras.Model, int]:
    """The frozen part, with the activations at the boundary as an output if they are stored; and the number of views."""
    passes = _PASSES_TO_BEGIN if config.unfreeze == "all" else _PASSES
    views = 1 if material.augmentation == AS_IT_IS else config.views
    views = views or int(np.clip(round(passes / len(material.training)), 2, 12))
    if config.unfreeze != "last":
        return feature_model(model), views
    prefix = prefix_model(model, material.spec.network)
    numbers = sum(math.prod(output.shape[1:]) for output in prefix.outputs)
    room = room_on_disk(material.folder, material.cache_limit)
    images = len(material.training), len(material.held_out)
    fitting = record.once("views_that_fit", lambda: views_that_fit(room, numbers, *images))
    if fitting >= min(2, views):
        return prefix, min(views, fitting)
    progress.line(f"{room / 1e9:.1f} GB may be used, too little for the activations: each epoch computes them again")
    return feature_model(model), views


def _open_cache(material: Material, model: keras.Model, engine: Engine, shape: tuple[int, ...]) -> Cache | None:
    """The user's cache of features of this network; None where there is no cache."""
    if material.features is None:
        return None
    limit = room_for_features(material.features)
    return Cache(material.features / network_hash(material, model, engine), shape, limit)


def network_hash(material: Material, model: keras.Model, engine: Engine) -> str:
    """A hash of all that features depend on, except the views: the backbone's weights, geometry, engine and versions."""
    network = material.spec.network
    what = hashlib.sha256(f"{material.geometry} {engine.name} {engine.precision} {versions()}".encode())
    what.update(str(network).encode())
    for name, variable in sorted(named_variables(model.get_layer(network.name)).items()):
        what.update(name.encode() + keras.ops.convert_to_numpy(variable).tobytes())
    return what.hexdigest()[:16]


@dataclass(frozen=True)
class TransferResult:
    """The result of `transfer`.

    Attributes:
        head: the head phase.
        tail: the fine-tuning phase; None if there was none.
        kept: "head" or "tail": the phase whose weights the network holds.
        fine_tuning: how the fine-tuning phase ended: "none" (not requested), "skipped" (the head left nothing to gain),
            "no time" (the time limit), "stopped early" or "finished" (all epochs).
    """

    head: TrainResult
    tail: TrainResult | None
    kept: str
    fine_tuning: Literal["none", "skipped", "no time", "stopped early", "finished"]

    @property
    def best(self) -> TrainResult:
        """The phase whose weights were kept."""
        return self.tail if self.tail is not None and self.kept == "tail" else self.head

    def to_json(self) -> dict[str, Any]:
        """The fields that `finetune` adds to the JSON of a training."""
        return {
            "kept": self.kept,
            "head_top1": self.head.best.val_accuracy,
            "fine_tuning": self.fine_tuning,
            "fine_tuning_epochs": len(self.tail.history) if self.tail is not None else 0,
        }


def transfer(
    model: keras.Model,
    frozen: Frozen,
    config: FinetuneConfig,
    progress: Progress,
    resume: bool = False,
    choose_rate: ChooseRate | None = None,
) -> TransferResult:
    """Train a head on the stored features, then unfreeze and fine-tune the layers named by the configuration.

    The fine-tuning phase's weights are kept only if their validation accuracy is higher than the head phase's, or equal at a
    lower validation loss. The phase is skipped if the head leaves nothing to gain (`callbacks.is_perfect`), unless
    `config.patience` is 0 or a range test is requested.

    Args:
        model: the one given to `run_frozen`.
        frozen: the result of `run_frozen`.
        config: which layers to unfreeze, and the recipe of the phase.
        progress: where to report.
        resume: continue an interrupted fine-tuning phase.
        choose_rate: returns the phase's learning rate, from a range test or an earlier one, or None to skip the phase.
    """
    material = frozen.material
    stage = Stage("head", material.folder, resume, announce=False, tensorboard=material.tensorboard)
    head = train_head(model, *frozen.features, material, config, stage, progress)
    progress.line(f"head{_epoch(head)}  held-out {_figures(head)}  training {head.best.accuracy:.1%}")
    if config.unfreeze == "none":
        return TransferResult(head, None, "head", "none")
    if config.patience and choose_rate is None and is_perfect(head.best):
        progress.line(
            f"fine-tuning skipped: the head is right on all {how_many(len(material.held_out), 'validation image')}, at a"
            f" validation loss of {head.best.val_loss:.3f}, below {SURE}; --set patience=0 fine-tunes anyway"
        )
        return TransferResult(head, None, "head", "skipped")
    before = {name: keras.ops.convert_to_numpy(value) for name, value in named_variables(model).items()}
    freeze_batch_norm(model)
    second = _second_phase(model, frozen, config)
    recipe = second.recipe
    if choose_rate is not None:
        rate = choose_rate(lambda: find_rate(second.model, second.stream, recipe, progress, GO_ON))
        if rate is None:
            return TransferResult(head, None, "head", "none")
        recipe = replace(recipe, learning_rate=rate)
    if (limit := frozen.limit) is not None:
        epochs = ResumeRecord(material.folder).once("epochs", lambda: choose_epochs(limit, second, frozen.views, progress))
        if not epochs:
            return TransferResult(head, None, "head", "no time")
        recipe = replace(recipe, epochs=epochs)
    stage = Stage("tail", material.folder, resume, tensorboard=material.tensorboard)
    tail = train(second.model, second.stream, second.held_out, recipe, stage, progress, reference=head.best)
    ended: Literal["stopped early", "finished"] = "stopped early" if len(tail.history) < recipe.epochs else "finished"
    if tail.best.rank < head.best.rank:
        return TransferResult(head, tail, "tail", ended)
    for name, variable in named_variables(model).items():
        variable.assign(before[name])
    progress.warn(
        f"{how_many(len(tail.history), 'epoch')} of fine-tuning gained nothing in validation ({_figures(tail)}; the head:"
        f" {_figures(head)}): the head alone was kept"
    )
    return TransferResult(head, tail, "head", ended)


def seconds_to_fine_tune(model: keras.Model, frozen: Frozen, config: FinetuneConfig, limit: float, progress: Progress) -> float:
    """Seconds of the fine-tuning phase on this machine, all epochs; the network is left as it was, its batch-norm frozen.

    Args:
        model, frozen, config, progress: as of `transfer`.
        limit: seconds that are worth being measured for; a tenth of them at most, but two steps.
    """
    freeze_batch_norm(model)
    second = _second_phase(model, frozen, config)
    pace = measure_pace(second.model, second.stream, second.held_out, second.recipe, limit, progress, hint=GO_ON)
    return pace.seconds_of(second.recipe.epochs, second.stream.steps_per_epoch)


def _epoch(phase: TrainResult) -> str:
    return f" {phase.best_epoch}/{len(phase.history)}" if len(phase.history) > 1 else ""


def _figures(phase: TrainResult) -> str:
    return f"accuracy {phase.best.val_accuracy:.1%}, loss {phase.best.val_loss:.3f}"


def _second_phase(model: keras.Model, frozen: Frozen, config: FinetuneConfig) -> Tail:
    material = frozen.material
    if config.unfreeze == "all":
        return tail_on_pixels(model, material, config)
    if frozen.boundary:
        return tail_on_stored(model, *frozen.boundary, material, config)
    return tail_on_engine(model, engine_for(boundary_model(model, material.spec.network), config.engine), material, config)
