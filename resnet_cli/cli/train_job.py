"""The heavy half of `resnet train`: composes scan, split, network, training and the run directory."""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import keras

from resnet_cli.cli.beginning import (
    PRECISION,
    begin_run,
    begun_by,
    begun_with,
    make_run_folder,
    place_of_run,
    require_same,
    tell_interrupted,
    tell_other_precision,
)
from resnet_cli.cli.measuring import write_measured
from resnet_cli.cli.rate_search import search_record, usable_rate, write_search
from resnet_cli.cli.records import fingerprint, passed_over_lines, remarks, result_record, run_record
from resnet_cli.cli.requests import TrainRequest
from resnet_cli.cli.run_ends import as_read, read_splits_for_training, write_trained
from resnet_cli.data.augment import Augmentation
from resnet_cli.data.batches import EvaluationBatches, TrainStream
from resnet_cli.data.decode import Geometry
from resnet_cli.data.pictures import MEMORY_LIMIT, Pictures, mean_picture
from resnet_cli.data.scan import Dataset, scan_dataset
from resnet_cli.data.split import hold_out
from resnet_cli.engines.choice import settled
from resnet_cli.errors import ResnetError
from resnet_cli.learning.config import TrainConfig
from resnet_cli.learning.diagnose import few_steps
from resnet_cli.learning.pace import fit_to_limit, measure_pace
from resnet_cli.learning.precision import prepare
from resnet_cli.learning.rate_finder import find_rate
from resnet_cli.learning.stage import Stage
from resnet_cli.learning.time_limit import Limit
from resnet_cli.learning.training import train
from resnet_cli.networks.catalogue import Network, find_network
from resnet_cli.networks.classifier import build_logits, set_pixel_mean
from resnet_cli.networks.loading import load_backbone
from resnet_cli.networks.pretrained import WeightsSource, choose_backbone, require_size
from resnet_cli.networks.spec import ClassifierSpec
from resnet_cli.progress import Progress
from resnet_cli.runs import Run, finish_run


@dataclass(frozen=True)
class _Backbone:
    """What is trained: a network, where its first weights come from, and its input's side in pixels."""

    network: Network
    source: WeightsSource
    size: int


@dataclass(frozen=True)
class _Setup:
    """All that training needs, made of a request; nothing is written yet.

    Attributes:
        model: pictures to logits.
        spec: what it is.
        precision: of training, as `prepare` found it.
        geometry: how pictures reach the input size.
        dataset: with its splits.
        pictures: training pictures and validation squares.
        stream: training batches.
        small: the same at half the size, for progressive training.
    """

    model: keras.Model
    spec: ClassifierSpec
    precision: str
    geometry: Geometry
    dataset: Dataset
    pictures: tuple[Pictures, Pictures]
    stream: TrainStream
    small: TrainStream | None

    @property
    def held_out(self) -> EvaluationBatches:
        return EvaluationBatches(self.pictures[1], self.spec.classes, 128)


def run_training(request: TrainRequest, config: TrainConfig, progress: Progress) -> dict[str, Any]:
    """Train and write a run; returns the JSON contract of `train`."""
    began = time.perf_counter()
    dataset, backbone = _dataset(request, config), _backbone(request, config, progress)
    chosen = _chosen(request, config, dataset, backbone)
    typed = {key: value for key, value in chosen.items() if key not in _decided(request)}
    place = place_of_run(
        _name(request, dataset), request.output, request.force, typed if request.resume else None, request.weights
    )
    folder = place.folder
    tell_interrupted(place, progress)
    if request.resume:
        require_same(folder, typed)
        config = replace(config, **{key: begun_with(folder)[key] for key in _decided(request)})
    engine = settled("auto", progress)
    setup = _set_up(request, config, dataset, backbone, progress)
    limit = Limit(request.limit) if request.limit and not request.resume else None
    if request.resume:
        tell_other_precision(folder, setup.precision, progress)
    else:
        search = find_rate(setup.model, setup.stream, config, progress) if request.lr_find else None
        if search is not None:
            config = replace(config, learning_rate=usable_rate(search, config.learning_rate, progress))
        if limit is not None:
            steps = setup.stream.steps_per_epoch
            pace = measure_pace(setup.model, setup.stream, setup.held_out, config, limit.seconds, progress, setup.small)
            config = fit_to_limit(config, limit.seconds, pace, steps, limit.spent())
            limit.plan(f"{config.epochs} epochs", pace.seconds_of(config.epochs, steps))
            progress.line(f"{config.epochs} epochs fit into the time limit")
        folder = begin_run(place, {**chosen, **asdict(config), PRECISION: setup.precision}, request.command)
        if search is not None:
            write_search(folder, search)
    command, earlier = begun_by(folder)
    stage = Stage("train", folder, request.resume, tensorboard=request.tensorboard)
    result = train(setup.model, setup.stream, setup.held_out, config, stage, progress, setup.small)
    if limit is not None:
        progress.line(limit.outcome())
    readable = as_read(dataset, *setup.pictures)
    measured = write_trained(folder, setup.model, setup.spec, readable, setup.geometry, progress, engine)
    seconds = earlier + time.perf_counter() - began
    configuration = {"recipe": request.recipe, **asdict(config)}
    record = run_record(command, configuration, dataset, setup.spec, setup.geometry, backbone.source, setup.precision)
    warnings = remarks(Run(folder, record), readable, result.best, measured)
    if backbone.source.kind == "none":
        warnings = [*few_steps(len(result.history) * setup.stream.steps_per_epoch), *warnings]
    summary = result_record(folder, setup.spec.network.name, backbone.source.kind, seconds, result, measured, warnings)
    headline = list(measured.values())[-1]
    write_measured(folder, headline, record, folder / "curves.png", warnings)
    finish_run(folder, {**record, "engine": headline.engine, "results": summary})
    return summary


def search_rate(request: TrainRequest, config: TrainConfig, progress: Progress) -> dict[str, Any]:
    """The range test alone: draw it into a folder of its own; returns its place and the suggested rate."""
    dataset = _dataset(request, config)
    place = place_of_run(f"{_name(request, dataset)}-lr-find", request.output, request.force)
    setup = _set_up(request, config, dataset, _backbone(request, config, progress), progress)
    search = find_rate(setup.model, setup.stream, config, progress)
    folder = make_run_folder(place)
    write_search(folder, search)
    return search_record(folder, search.suggested)


def _dataset(request: TrainRequest, config: TrainConfig) -> Dataset:
    return hold_out(scan_dataset(request.dataset), config.val_split, config.seed)


def _name(request: TrainRequest, dataset: Dataset) -> str:
    return f"{dataset.name}-{find_network(request.arch).name}"


def _backbone(request: TrainRequest, config: TrainConfig, progress: Progress) -> _Backbone:
    network, source = find_network(request.arch, request.shortcut), WeightsSource("none", None, "")
    if request.weights != "none":
        network, source = choose_backbone(request.arch, request.weights, progress, request.shortcut)
    size = request.image_size or network.image_size
    _require_scaling(request, config, network, source, size)
    if config.pixel_mean:
        network = replace(network, preprocessing="pixel-mean")
    return _Backbone(network, source, size)


def _set_up(request: TrainRequest, config: TrainConfig, dataset: Dataset, backbone: _Backbone, progress: Progress) -> _Setup:
    network, size = backbone.network, backbone.size
    geometry = Geometry(size, fraction=network.crop_fraction)
    spec = ClassifierSpec(network, len(dataset.classes), size, dropout=config.dropout)
    precision = prepare(config.seed)
    # Built for any size where the batches of progressive training change theirs.
    model = build_logits(
        replace(spec, image_size=None if config.progressive else size), stochastic_depth=config.stochastic_depth
    )
    load_backbone(model, network, backbone.source)
    for line in _describe(request, dataset, backbone):
        progress.line(line)
    for line in passed_over_lines(dataset):
        progress.line(line)
    training, held_out = read_splits_for_training(dataset, geometry, progress, request.strict, MEMORY_LIMIT)
    if config.pixel_mean:
        set_pixel_mean(model, mean_picture(training, geometry))
    batch_size = min(config.batch_size, len(training))
    stream = TrainStream(training, spec.classes, batch_size, geometry, _augmentation(config), config.seed)
    half = max(network.reduction, size // 2)
    small = replace(stream, geometry=replace(geometry, size=half)) if config.progressive else None
    return _Setup(model, spec, precision, geometry, dataset, (training, held_out), stream, small)


def _require_scaling(request: TrainRequest, config: TrainConfig, network: Network, source: WeightsSource, size: int) -> None:
    """Weights want their pixels scaled as they were when these were trained."""
    if source.path is None:
        return
    has_mean = network.preprocessing == "pixel-mean"
    if config.pixel_mean and not has_mean:
        raise ResnetError(
            f"--weights {request.weights} scale pixels in their own way, which recipe {request.recipe} would replace by a mean"
            " picture",
            "add --no-pixel-mean",
        )
    require_size(network, source, size)
    if has_mean and config.progressive:
        raise ResnetError(f"--weights {request.weights} subtract a mean picture of one size", "leave --progressive out")


def _describe(request: TrainRequest, dataset: Dataset, backbone: _Backbone) -> list[str]:
    counts = ", ".join(f"{len(samples)} {split}" for split, samples in dataset.splits.items())
    weights = "random weights" if backbone.source.path is None else f"weights of {request.weights}, with a new head"
    return [
        f"{dataset.name}: {len(dataset.classes)} classes, pictures: {counts}",
        f"network: {backbone.network.name}, {backbone.size} pixels, {weights}; recipe {request.recipe}",
    ]


def _chosen(request: TrainRequest, config: TrainConfig, dataset: Dataset, backbone: _Backbone) -> dict[str, Any]:
    """What a run that goes on must have begun with."""
    network, weights = backbone.network, backbone.source.sha256
    options = {"arch": network.name, "shortcut": network.shortcut, "image_size": backbone.size, "weights": weights}
    limit = None if request.limit is None else f"{request.limit:g}s"
    return {**asdict(config), **options, "time_limit": limit, "lr_find": request.lr_find, "data": fingerprint(dataset)}


def _decided(request: TrainRequest) -> list[str]:
    """What the clock and the range test choose when a run begins, and not again when it goes on."""
    return [*(["epochs"] if request.limit else []), *(["learning_rate"] if request.lr_find else [])]


def _augmentation(config: TrainConfig) -> Augmentation:
    return Augmentation(
        config.crop, config.scale, config.flip, config.rotate, config.shift, config.sharpness, config.cutout, config.mixup
    )
