"""The heavy half of `resnet finetune`: composes scan, split, backbone, transfer, measuring and the run directory."""

import time
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from resnet_cli.cli.beginning import (
    PRECISION,
    begin_run,
    begun_by,
    begun_with,
    place_of_run,
    require_same,
    tell_interrupted,
    tell_other_precision,
)
from resnet_cli.cli.cache import kept_in_cache
from resnet_cli.cli.measuring import Measured, write_measured
from resnet_cli.cli.rate_search import found_rate, search_once, search_record
from resnet_cli.cli.records import fingerprint, left_out_lines, passed_over_lines, remarks, result_record, run_record
from resnet_cli.cli.requests import FinetuneRequest
from resnet_cli.cli.run_ends import Untrained, as_read, read_splits_for_training, splits_to_read_later, write_trained
from resnet_cli.data.decode import Geometry
from resnet_cli.data.pictures import MEMORY_LIMIT, Pictures
from resnet_cli.data.scan import Dataset, scan_dataset
from resnet_cli.data.sizes import suitable_size
from resnet_cli.data.split import hold_out
from resnet_cli.engines.choose import settled_for_keras
from resnet_cli.errors import ResnetError
from resnet_cli.learning.config import FinetuneConfig
from resnet_cli.learning.material import Material
from resnet_cli.learning.precision import prepare
from resnet_cli.learning.transfer import Frozen, TransferResult, run_frozen, transfer
from resnet_cli.networks.catalogue import Network
from resnet_cli.networks.classifier import build_logits
from resnet_cli.networks.loading import load_backbone
from resnet_cli.networks.pretrained import BUNDLED, PREFERRED, WeightsSource, choose_backbone, require_size
from resnet_cli.networks.spec import ClassifierSpec
from resnet_cli.progress import Progress
from resnet_cli.runs import Run, drop_checkpoint, finish_run, unfinished_runs


def run_finetune(request: FinetuneRequest, config: FinetuneConfig, progress: Progress) -> dict[str, Any]:
    """Fine-tune and write a run; returns the JSON contract of `finetune`, or that of `--lr-find plot`."""
    began = time.perf_counter()
    config = replace(config, engine=settled_for_keras(config.engine, progress), learning_rate=config.rate)
    asked = _asked_size(request.image_size)
    scanned = scan_dataset(request.dataset)
    share = config.val_split if config.val_split is not None else (0.1 if "test" in scanned.splits else 0.2)
    dataset = hold_out(scanned, share, config.seed)
    network, source = choose_backbone(request.arch, _weights(request, dataset), progress)
    size = asked or _natural_size(network, dataset)
    require_size(network, source, size)
    geometry = Geometry(size, request.resize, network.crop_fraction)
    spec = ClassifierSpec(network, len(dataset.classes), size, config.hidden, config.dropout)
    only_search = request.lr_find == "plot"
    name = f"{dataset.name}-{network.name}{'-lr-find' if only_search else ''}"
    options = {"arch": network.name, "image_size": size, "weights": source.sha256, "resize": request.resize}
    chosen = {**asdict(config), **options, "lr_find": request.lr_find, "data": fingerprint(dataset)}
    place = place_of_run(name, request.output, request.force, chosen if request.resume else None, request.weights)
    folder = place.folder
    tell_interrupted(place, progress)
    if request.resume:
        require_same(folder, chosen)
    for line in _describe(dataset, network, source, size):
        progress.line(line)
    training, held_out = _read(request, config, dataset, geometry, progress)
    precision = prepare(config.seed)
    model = build_logits(spec)
    load_backbone(model, network, source)
    if request.resume:
        tell_other_precision(folder, precision, progress)
    else:
        folder = begin_run(place, {**chosen, PRECISION: precision}, request.command)
    command, earlier = begun_by(folder)
    kept = kept_in_cache("features") if request.cache else None
    room = None if request.cache_limit is None else int(request.cache_limit * 1e9)
    material = Material(spec, geometry, training, held_out, folder, kept, room, request.tensorboard)
    frozen = run_frozen(model, material, config, progress)
    for line in left_out_lines(frozen.left_out):
        progress.line(line)
    choose_rate = search_once(folder, config.learning_rate, only_search, progress) if request.lr_find else None
    result = transfer(model, frozen, config, progress, request.resume, choose_rate)
    if frozen.limit is not None and (outcome := frozen.limit.outcome()):
        progress.line(outcome)
    found = found_rate(folder)
    if only_search:
        drop_checkpoint(folder)
        return search_record(folder, found)
    config = replace(config, learning_rate=found or config.learning_rate)
    seen = frozen.material
    readable = as_read(dataset, seen.training, seen.held_out)
    # The features of a network whose last layers were not trained, by the engine that will measure it.
    pooled = frozen.features[1].pieces() if result.kept == "head" and frozen.engine == "openvino" else None
    untrained = Untrained(pooled, frozen.backbone)
    measured = write_trained(folder, model, spec, readable, geometry, progress, config.engine, untrained)
    seconds = earlier + time.perf_counter() - began
    record = run_record(command, {**asdict(config), "val_split": share}, dataset, spec, geometry, source, precision)
    summary = _summary(Run(folder, record), network, source, seconds, readable, frozen, result, measured)
    write_measured(folder, list(measured.values())[-1], record, folder / "curves.png", summary["warnings"])
    finish_run(folder, {**record, "engine": f"{frozen.engine} {frozen.precision}", "results": summary})
    return summary


def _weights(request: FinetuneRequest, dataset: Dataset) -> str:
    """What was asked for; but a run that began with the bundled network, for want of a better one, goes on with it."""
    if request.resume and (request.arch, request.weights) == ("auto", "auto"):
        for arch, weights in ((PREFERRED, "auto"), (BUNDLED, "bundled")):
            with suppress(ResnetError):
                newest = unfinished_runs(f"{dataset.name}-{arch}", request.output)[0]
                if begun_with(newest)["arch"] == arch:
                    return weights
    return request.weights


def _read(
    request: FinetuneRequest, config: FinetuneConfig, dataset: Dataset, geometry: Geometry, progress: Progress
) -> tuple[Pictures, Pictures]:
    """Frozen layers see every picture once, and that is when it is read; training all layers comes back to them."""
    if config.unfreeze == "all":
        return read_splits_for_training(dataset, geometry, progress, request.strict, MEMORY_LIMIT)
    if request.strict:
        return read_splits_for_training(dataset, geometry, progress, request.strict, 0)
    return splits_to_read_later(dataset, geometry)


def _asked_size(asked: str) -> int | None:
    """What --image-size says, None of auto."""
    if asked == "auto":
        return None
    if not asked.isdecimal() or int(asked) < 8:
        raise ResnetError(f"--image-size {asked} is neither auto nor a number of pixels", "such as --image-size 224")
    return int(asked)


def _natural_size(network: Network, dataset: Dataset) -> int:
    one_size = network.stem == "imagenet" or network.preprocessing == "pixel-mean"
    return network.image_size if one_size else suitable_size(dataset.splits["train"])


def _describe(dataset: Dataset, network: Network, source: WeightsSource, size: int) -> list[str]:
    counts = {split: len(samples) for split, samples in dataset.splits.items()}
    largest = ", ".join(
        f"{name} {count}" for name, count in list(zip(dataset.classes, dataset.counts("train"), strict=True))[:6]
    )
    more = f", and {len(dataset.classes) - 6} more classes" if len(dataset.classes) > 6 else ""
    weights = {"none": "untrained", "file": str(source.path)}.get(source.kind, f"{source.kind} weights")
    lines = [
        f"{dataset.name}: {len(dataset.classes)} classes; " + ", ".join(f"{count} {split}" for split, count in counts.items()),
        f"training pictures: {largest}{more}",
        f"backbone: {network.name}, {weights}, {size} pixels",
    ]
    return [*lines, *passed_over_lines(dataset)]


def _summary(
    run: Run,
    network: Network,
    source: WeightsSource,
    seconds: float,
    dataset: Dataset,
    frozen: Frozen,
    result: TransferResult,
    measured: dict[str, Measured],
) -> dict[str, Any]:
    best = result.best
    warnings = remarks(run, dataset, best.best, measured)
    if result.tail is not None and result.kept == "head":
        warnings.append("unfreezing did not raise the held-out accuracy, so the head alone was kept")
    if source.fallback:
        warnings.append("the bundled backbone stands in for resnet50 with ImageNet weights")
    extra = {
        "kept": result.kept,
        "head_top1": result.head.best.val_accuracy,
        "views": frozen.views,
    }
    return {**result_record(run.folder, network.name, source.kind, seconds, best, measured, warnings), **extra}
