"""Transfer: a new head on frozen features, then the last layers with it, kept only if held-out pictures agree.

In: a pretrained network with an untrained head, and pictures. Out: the same network, trained, and what each stage came to.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np

from resnet_cli.engines.base import Engine
from resnet_cli.engines.choose import engine_for
from resnet_cli.learning.config import FinetuneConfig
from resnet_cli.learning.head import train_head
from resnet_cli.learning.material import AUGMENTATION, Material
from resnet_cli.learning.rate_finder import RateSearch, find_rate
from resnet_cli.learning.stored import Stored, compute, squares_of, views_of
from resnet_cli.learning.tail import tail_on_pixels, tail_on_stored, views_that_fit
from resnet_cli.learning.training import Stage, TrainResult, train
from resnet_cli.networks.split import feature_model, freeze_batch_norm, prefix_model
from resnet_cli.networks.weights import named_variables
from resnet_cli.progress import Progress

_FORWARD_PASSES = 12_000  # views are chosen so that about this many pictures go through the frozen part

ChooseRate = Callable[[RateSearch], float | None]


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
    model: keras.Model,
    material: Material,
    config: FinetuneConfig,
    progress: Progress,
    resume: bool = False,
    choose_rate: ChooseRate | None = None,
) -> TransferResult:
    """Train a head on features that are computed once, then unfreeze as much as the configuration says.

    The second stage's weights are kept only if their held-out accuracy is at least the first stage's.

    Args:
        model: made by `build_logits`, its backbone pretrained, its head new.
        material: pictures and where to put things.
        config: what to unfreeze and how.
        progress: where to report.
        resume: go on with an interrupted second stage.
        choose_rate: gets a range test's result and gives the second stage's rate, or None to leave that stage out.
    """
    network = material.spec.network
    views = config.views or int(np.clip(round(_FORWARD_PASSES / len(material.training)), 2, 12))
    fitting = views_that_fit(model, material)
    with_boundary = config.unfreeze == "last" and fitting >= min(2, views)
    views = min(views, fitting) if with_boundary else views
    engine = engine_for(prefix_model(model, network) if with_boundary else feature_model(model), config.engine)
    words = (f"{engine.name} {engine.precision}", views)
    progress.line(f"frozen layers, engine: {words[0]}")
    training = _through(engine, material, views, config.seed, with_boundary, progress)
    held_out = _through(engine, material, 0, config.seed, with_boundary, progress)
    stage = Stage("head", material.folder, resume, announce=False, tensorboard=material.tensorboard)
    head = train_head(model, training[0], held_out[0], material, config, stage, progress)
    progress.line(f"head  held-out accuracy {head.best.val_accuracy:.1%}  training accuracy {head.best.accuracy:.1%}")
    if config.unfreeze == "none":
        return TransferResult(head, None, "head", *words)
    before = {name: keras.ops.convert_to_numpy(value) for name, value in named_variables(model).items()}
    freeze_batch_norm(model)
    stored = (training[1], held_out[1]) if with_boundary else None
    second = tail_on_stored(model, *stored, material, config) if stored else tail_on_pixels(model, material, config)
    recipe = second.recipe
    if choose_rate is not None:
        rate = choose_rate(find_rate(second.model, second.stream, recipe, progress))
        if rate is None:
            return TransferResult(head, None, "head", *words)
        recipe = replace(recipe, learning_rate=rate)
    stage = Stage("tail", material.folder, resume, tensorboard=material.tensorboard)
    tail = train(second.model, second.stream, second.held_out, recipe, stage, progress)
    if tail.best.val_accuracy >= head.best.val_accuracy:
        return TransferResult(head, tail, "tail", *words)
    for name, variable in named_variables(model).items():
        variable.assign(before[name])
    return TransferResult(head, tail, "head", *words)


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
