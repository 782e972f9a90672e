"""The heavy half of `resnet train`: composes scan, split, network, training and the run directory."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from resnet_cli.cli.beginning import begin_run, place_of_run
from resnet_cli.cli.measuring import write_measured
from resnet_cli.cli.records import fingerprint, result_record, run_record
from resnet_cli.cli.run_ends import read_splits_for_training, write_trained
from resnet_cli.data.augment import Augmentation
from resnet_cli.data.batches import EvaluationBatches, TrainStream
from resnet_cli.data.decode import Geometry
from resnet_cli.data.scan import scan_dataset
from resnet_cli.data.split import hold_out
from resnet_cli.learning.config import TrainConfig
from resnet_cli.learning.precision import prepare
from resnet_cli.learning.training import Stage, train
from resnet_cli.networks.catalogue import Shortcut, find_network
from resnet_cli.networks.classifier import build_logits
from resnet_cli.networks.loading import load_backbone
from resnet_cli.networks.pretrained import WeightsSource, choose_backbone
from resnet_cli.networks.spec import ClassifierSpec
from resnet_cli.progress import Progress
from resnet_cli.runs import finish_run

_STEP = 8  # pixels: smaller pictures of progressive training stay divisible by what the stages halve


@dataclass(frozen=True)
class TrainRequest:
    """What the command line asks for beside the recipe."""

    dataset: Path
    arch: str
    shortcut: Shortcut | None
    image_size: int | None
    weights: str
    output: Path | None
    force: bool
    resume: bool
    strict: bool
    command: str
    tensorboard: bool = False


def run_training(request: TrainRequest, config: TrainConfig, progress: Progress) -> dict[str, Any]:
    """Train and write a run; returns the JSON contract of `train`."""
    began = time.perf_counter()
    network = find_network(request.arch, request.shortcut)
    source = WeightsSource("none", None, "")
    if request.weights != "none":
        network, source = choose_backbone(request.arch, request.weights, progress, request.shortcut)
    dataset = hold_out(scan_dataset(request.dataset), config.val_split, config.seed)
    size = request.image_size or network.image_size
    geometry = Geometry(size, fraction=network.crop_fraction)
    spec = ClassifierSpec(network, len(dataset.classes), size, dropout=config.dropout)
    prepare(config.seed)
    # Built for any size: the batches of progressive training change theirs.
    model = build_logits(replace(spec, image_size=None))
    load_backbone(model, network, source)
    name = f"{dataset.name}-{network.name}"
    options = {"arch": network.name, "shortcut": network.shortcut, "image_size": size, "weights": source.sha256}
    chosen = {**asdict(config), **options, "data": fingerprint(dataset)}
    folder = place_of_run(name, request.output, request.force, request.resume, chosen)
    progress.line(f"{dataset.name}: {len(dataset.classes)} classes, {len(dataset.splits['train'])} pictures to train on")
    training, held_out = read_splits_for_training(dataset, geometry, progress, request.strict)
    begin_run(folder, request.resume, chosen)
    stream = TrainStream(
        training, spec.classes, min(config.batch_size, len(training)), geometry, _augmentation(config), config.seed
    )
    small_geometry = replace(geometry, size=max(_STEP, size * 3 // 4 // _STEP * _STEP))
    small = replace(stream, geometry=small_geometry) if config.progressive else None
    batches = EvaluationBatches(held_out, spec.classes, 128)
    result = train(
        model, stream, batches, config, Stage("train", folder, request.resume, tensorboard=request.tensorboard), progress, small
    )
    readable = replace(dataset, splits={**dataset.splits, "train": training.samples, "val": held_out.samples})
    measured = write_trained(folder, model, spec, readable, geometry, progress)
    summary = result_record(folder, network.name, source.kind, time.perf_counter() - began, result, measured)
    record = run_record(request.command, asdict(config), dataset, spec, geometry, source)
    write_measured(folder, list(measured.values())[-1], record, folder / "curves.png", [])
    finish_run(folder, {**record, "results": summary})
    return summary


def _augmentation(config: TrainConfig) -> Augmentation:
    return Augmentation(config.crop, config.scale, config.flip, config.rotate, config.shift, config.cutout, config.mixup)
