"""The heavy half of `resnet train`: composes scan, split, network, training and the run directory."""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras

from resnet_cli.cli.records import data_record, saved_config, versions, wilson_interval
from resnet_cli.data.augment import Augmentation
from resnet_cli.data.batches import TrainStream
from resnet_cli.data.decode import Geometry
from resnet_cli.data.pictures import read_pictures, reader_for_prediction, reader_for_training
from resnet_cli.data.scan import Dataset, scan_dataset
from resnet_cli.data.split import hold_out
from resnet_cli.errors import ResnetError
from resnet_cli.learning.config import TrainConfig
from resnet_cli.learning.precision import use_fast_precision
from resnet_cli.learning.training import TrainResult, train
from resnet_cli.networks.catalogue import Shortcut, find_network
from resnet_cli.networks.classifier import ClassifierSpec, build_logits
from resnet_cli.networks.weights import file_hash, load_weights, save_weights
from resnet_cli.progress import Progress
from resnet_cli.runs import SplitRow, finish_run, new_run_folder, unfinished_run, write_splits, write_text


@dataclass(frozen=True)
class TrainRequest:
    """What the command line asks for beside the recipe."""

    dataset: Path
    arch: str
    shortcut: Shortcut | None
    image_size: int | None
    weights: Path | None
    output: Path | None
    force: bool
    resume: bool
    command: str


def run_training(request: TrainRequest, config: TrainConfig, progress: Progress) -> dict[str, Any]:
    """Train and write a run; returns the JSON contract of `train`."""
    began = time.perf_counter()
    network = find_network(request.arch, request.shortcut)
    dataset = hold_out(scan_dataset(request.dataset), config.val_split, config.seed)
    size = request.image_size or network.image_size
    geometry = Geometry(size, fraction=network.crop_fraction)
    spec = ClassifierSpec(network, len(dataset.classes), size, dropout=config.dropout)
    name = f"{dataset.name}-{network.name}"
    folder = unfinished_run(name, request.output) if request.resume else new_run_folder(name, request.output, request.force)
    saved_config(folder, {**asdict(config), "arch": network.name, "shortcut": network.shortcut, "image_size": size}, request.resume)
    progress.line(f"{dataset.name}: {len(dataset.classes)} classes, {len(dataset.splits['train'])} pictures to train on")
    pictures = read_pictures(dataset.splits["train"], reader_for_training(geometry), progress, "reading training pictures")
    held_out = read_pictures(dataset.splits["val"], reader_for_prediction(geometry), progress, "reading validation pictures")
    _require_pictures(dataset, len(pictures), len(held_out))
    precision = use_fast_precision()
    keras.utils.set_random_seed(config.seed)
    # Built for any size: the batches of progressive training change theirs.
    model = build_logits(replace(spec, image_size=None))
    if request.weights is not None:
        load_weights(model, request.weights, leave=("logits", "hidden"))
    augmentation = Augmentation(
        config.crop, config.scale, config.flip, config.rotate, config.shift, config.cutout, config.mixup
    )
    stream = TrainStream(
        pictures, spec.classes, min(config.batch_size, len(pictures)), geometry, augmentation, config.seed
    )
    result = train(model, stream, held_out, config, folder, progress, request.resume)
    return _finish(request, config, dataset, spec, model, result, folder, precision, time.perf_counter() - began, len(held_out))


def _require_pictures(dataset: Dataset, train_count: int, val_count: int) -> None:
    if not train_count or not val_count:
        raise ResnetError(f"{dataset.root} has no readable pictures to {'validate with' if train_count else 'train on'}")


def _finish(
    request: TrainRequest,
    config: TrainConfig,
    dataset: Dataset,
    spec: ClassifierSpec,
    model: keras.Model,
    result: TrainResult,
    folder: Path,
    precision: str,
    seconds: float,
    val_count: int,
) -> dict[str, Any]:
    save_weights(model, folder / "model.weights.h5")
    best = result.history[result.best_epoch - 1]
    summary = {
        "run": str(folder),
        "arch": spec.network.name,
        "weights": str(request.weights or "none"),
        "epochs": len(result.history),
        "seconds": round(seconds, 1),
        "val": {
            "count": val_count,
            "top1": best.val_accuracy,
            "top1_interval": wilson_interval(best.val_accuracy, val_count),
            "top5": best.val_top5,
        },
        "best_epoch": result.best_epoch,
    }
    write_splits(
        folder,
        [SplitRow(str(s.path), dataset.classes[s.label], split) for split, rows in dataset.splits.items() for s in rows],
    )
    finish_run(folder, {"command": request.command, "classes": list(dataset.classes), "results": summary, "config": asdict(config), "precision": precision, "versions": versions(), "data": data_record(dataset)})
    return summary
