"""The heavy half of `resnet finetune`: backbone, transfer, evaluation and the run folder."""

import time
from dataclasses import asdict, replace
from typing import Any

from resnet_cli.engines.frozen import require_convertible
from resnet_cli.jobs.ends import (
    Untrained,
    as_read,
    found_rate,
    pretrained,
    read_to_finetune,
    search_once,
    search_record,
    write_trained,
)
from resnet_cli.jobs.environment import kept_in_cache
from resnet_cli.jobs.plan import FinetunePlan
from resnet_cli.jobs.record import result_record, run_record, warn_of_figures, warn_of_left_out
from resnet_cli.jobs.report import write_measured
from resnet_cli.jobs.start import PRECISION, begin_run, begun_by, tell_other_precision
from resnet_cli.jobs.tune import tune
from resnet_cli.networks.precision import prepare
from resnet_cli.progress import Progress
from resnet_cli.runs.folder import Run, drop_checkpoint, finish_run
from resnet_cli.transfer.features import Material, augmentation_of
from resnet_cli.transfer.folds import cross_validate
from resnet_cli.transfer.phases import Frozen, TransferResult, run_frozen, transfer

_SQUARES = 500  # training images, of a backbone that stays frozen, to tell which images are unlike them: 3 % of its features


def run_finetune(plan: FinetunePlan, progress: Progress) -> dict[str, Any]:
    """Fine-tune and write a run; returns the JSON output of `finetune`, or that of `--lr-find plot`."""
    request, folder, tuned = plan.request, plan.place.folder, None
    require_convertible(plan.config.engine)
    precision = prepare(plan.config.seed)
    images = None if request.tune else read_to_finetune(plan, progress)
    model = None if request.tune else pretrained(plan)
    if request.resume:
        tell_other_precision(folder, precision, progress)
    else:
        folder = begin_run(plan.place, {**plan.chosen, PRECISION: precision}, request.command)
    if request.tune:
        plan, tuned = tune(plan, folder, progress)
        prepare(plan.config.seed)
    config, dataset, source, spec = plan.config, plan.dataset, plan.source, plan.spec
    network, (training, held_out) = spec.network, images or read_to_finetune(plan, progress)
    model = model or pretrained(plan)
    command, earlier = begun_by(folder)
    kept = kept_in_cache("features") if config.cache else None
    room = None if config.cache_limit is None else int(config.cache_limit * 1e9)
    how = augmentation_of(config, plan.geometry.resize)
    squares = _SQUARES if config.unfreeze == "none" else 0
    where = (training, held_out, folder, kept, room)
    material = Material(spec, plan.geometry, how, *where, request.tensorboard, plan.folds, squares)
    frozen = run_frozen(model, material, config, progress)
    warn_of_left_out(frozen.left_out, progress)
    folds = cross_validate(frozen.pool, spec, config, folder, request.resume, progress).to_json() if frozen.pool else None
    only_search = request.lr_find == "plot"
    choose_rate = search_once(folder, config.learning_rate, only_search, progress) if request.lr_find else None
    result = transfer(model, frozen, config, progress, request.resume, choose_rate)
    if frozen.limit is not None and (outcome := frozen.limit.outcome()):
        progress.line(outcome)
    found = found_rate(folder)
    if only_search:
        drop_checkpoint(folder)
        return search_record(folder, found, progress.warnings)
    config = replace(config, learning_rate=found or config.learning_rate)
    seen = frozen.material
    readable = as_read(dataset, seen.training, seen.held_out)
    what = (folder, model, spec, readable, plan.geometry, progress, config.engine, _untrained(frozen, result))
    measured, fitted = write_trained(*what, label_smoothing=config.label_smoothing)
    seconds = earlier + time.perf_counter() - plan.began
    record = run_record(command, asdict(config), dataset, spec, plan.geometry, source, precision)
    odd = warn_of_figures(Run(folder, record), readable, result.best.best, measured, progress)
    figures = result_record(folder, network.name, source.kind, seconds, result.best, measured, progress.warnings)
    summary = {**figures, **result.to_json(), "views": frozen.views, "figure_warnings": odd}
    summary["report"] = request.page.of_run(folder)
    summary |= {name: found for name, found in (("folds", folds), ("tuning", tuned)) if found}
    record |= {"engine": f"{frozen.engine} {frozen.precision}", "results": summary}
    record |= {"calibration": fitted.to_json()} if fitted else {}
    write_measured(folder, list(measured.values())[-1], [Run(folder, record)], progress, request.page)
    finish_run(folder, record)
    return summary


def _untrained(frozen: Frozen, result: TransferResult) -> Untrained:
    """What is known of a backbone that stayed frozen, if it comes from the engine that evaluates the network."""
    if result.kept != "head" or frozen.engine != "openvino":
        return Untrained(backbone=frozen.backbone)
    squares = frozen.squares.pieces() if frozen.squares else None
    return Untrained(frozen.features[1].pieces(), frozen.backbone, squares)
