"""The heavy half of `resnet train`: network, training, evaluation and the run folder."""

import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_cli.data.augment import Augmentation
from resnet_cli.data.batches import EvaluationBatches, TrainStream
from resnet_cli.data.dataset import Dataset, Sample
from resnet_cli.data.decode import Geometry
from resnet_cli.data.images import MEMORY_LIMIT, ImageSet, mean_image, reader_for_prediction
from resnet_cli.engines.teacher import TeacherEngine
from resnet_cli.jobs.ends import as_read, read_splits_for_training, search_record, usable_rate, write_search, write_trained
from resnet_cli.jobs.environment import kept_in_cache
from resnet_cli.jobs.plan import TrainPlan
from resnet_cli.jobs.record import few_steps, result_record, run_record, warn_of_figures
from resnet_cli.jobs.report import write_measured
from resnet_cli.jobs.start import PRECISION, begin_run, begun_by, make_run_folder, remember_launch, tell_other_precision
from resnet_cli.networks.classifier import build_logits, load_backbone, set_pixel_mean
from resnet_cli.networks.precision import prepare
from resnet_cli.progress import NOTHING_YET, Progress, how_many, stop_if_asked
from resnet_cli.runs.folder import Run, finish_run, versions
from resnet_cli.training.checkpoints import Stage, Stream
from resnet_cli.training.config import TrainConfig
from resnet_cli.training.devices import own_part, trained_on
from resnet_cli.training.distillation import Assumed, Lesson, Taught, TaughtEvaluation, columns_of
from resnet_cli.training.loop import train
from resnet_cli.training.pace import Pace, fit_to_limit, measure_pace
from resnet_cli.training.processes import group
from resnet_cli.training.rate_finder import find_rate
from resnet_cli.transfer.time_limit import Limit


@dataclass(frozen=True)
class _Setup:
    """Everything that a training needs, made from a plan; nothing is written yet.

    Attributes:
        model: images to logits.
        precision: precision of the training, as returned by `prepare`.
        geometry: how images are brought to the input size.
        images: training images and validation squares.
        stream: training batches.
        held_out: validation batches.
        small: training batches at half the size, for progressive training.
        dataset: the plan's data set; the teacher labels held-out images without labels.
    """

    model: keras.Model
    precision: str
    geometry: Geometry
    images: tuple[ImageSet, ImageSet]
    stream: Stream
    held_out: keras.utils.PyDataset
    small: Stream | None
    dataset: Dataset


def run_training(plan: TrainPlan, progress: Progress) -> dict[str, Any]:
    """Train and write a run; returns the JSON output of `train`, or that of `--lr-find plot`.

    Of several processes, the first one alone writes; the others return an empty result after the training.
    """
    request, config, spec, folder, together = plan.request, plan.config, plan.spec, plan.place.folder, group()
    setup = _set_up(plan, progress)
    together.require_same({**plan.chosen, PRECISION: setup.precision, **trained_on(), **versions()})
    limit = Limit(request.limit) if request.limit and not request.resume else None
    if request.resume:
        together.from_first(lambda: tell_other_precision(folder, setup.precision, progress))
        together.from_first(lambda: remember_launch(folder))
    else:
        search = find_rate(setup.model, setup.stream, config, progress) if request.lr_find else None
        if search is not None and request.lr_find == "plot":
            folder = make_run_folder(plan.place)
            write_search(folder, search)
            return search_record(folder, search.suggested, progress.warnings)
        if search is not None:
            config = replace(config, learning_rate=usable_rate(search, config.learning_rate, progress))
        if limit is not None:
            steps = setup.stream.steps_per_epoch
            pace = _pace(setup, config, limit.seconds, progress)
            config = fit_to_limit(config, limit.seconds, pace, steps, limit.spent())
            limit.plan(how_many(config.epochs, "epoch"), pace.seconds_of(config.epochs, steps))
            progress.line(f"{how_many(config.epochs, 'epoch')} {'fits' if config.epochs == 1 else 'fit'} into the time limit")
        begun = {**plan.chosen, **asdict(config), PRECISION: setup.precision}
        folder = Path(together.from_first(lambda: str(begin_run(plan.place, begun, request.command))))
        if search is not None:
            write_search(folder, search)
    together.begin()
    command, earlier = together.from_first(lambda: begun_by(folder))
    stage = Stage("train", folder, request.resume, tensorboard=request.tensorboard)
    result = train(setup.model, setup.stream, setup.held_out, config, stage, progress, setup.small)
    if not together.is_first:
        return {}
    if limit is not None:
        progress.line(limit.outcome())
    readable = as_read(setup.dataset, *setup.images)
    where = (folder, setup.model, spec, readable, setup.geometry, progress, plan.engine)
    measured, fitted = write_trained(*where, label_smoothing=config.label_smoothing)
    seconds = earlier + time.perf_counter() - plan.began
    configuration = {"recipe": request.recipe, **asdict(config)}
    record = run_record(command, configuration, setup.dataset, spec, setup.geometry, plan.source, setup.precision)
    if plan.teacher:
        record["teacher"] = plan.teacher.to_record()
    if plan.source.kind == "none":
        for words in few_steps(len(result.history) * setup.stream.steps_per_epoch):
            progress.warn(words)
    if not plan.dataset.labelled:
        progress.warn("held-out images have no labels: accuracy is the agreement with the teacher's most probable class")
    odd = warn_of_figures(Run(folder, record), readable, result.best, measured, progress)
    warnings = progress.warnings
    figures = result_record(folder, spec.network.name, plan.source.kind, seconds, result, measured, warnings)
    summary = {**figures, "figure_warnings": odd, "report": request.page.of_run(folder)}
    headline = list(measured.values())[-1]
    record |= {"engine": headline.engine, "results": summary, **({"calibration": fitted.to_json()} if fitted else {})}
    write_measured(folder, headline, [Run(folder, record)], progress, request.page)
    finish_run(folder, record)
    return summary


def _pace(setup: _Setup, config: TrainConfig, limit: float, progress: Progress) -> Pace:
    """Seconds of steps and validation; if a teacher's probabilities are cached, of steps with and without the cache."""

    def measured(answers: Assumed | None) -> Pace:
        stream, small = (
            replace(each, lesson=replace(each.lesson, answers=answers)) if isinstance(each, Taught) else each
            for each in (setup.stream, setup.small)
        )
        assert stream is not None
        return measure_pace(setup.model, stream, setup.held_out, config, limit, progress, small)

    asking = measured(None)
    if not isinstance(setup.stream, Taught) or not setup.stream.lesson.answers:
        return asking
    known = measured(Assumed(setup.stream.classes))
    return replace(known, asking=max(0.0, asking.step - known.step), asking_epochs=setup.stream.lesson.views)


def _set_up(plan: TrainPlan, progress: Progress) -> _Setup:
    request, config, spec = plan.request, plan.config, plan.spec
    network, size = spec.network, spec.image_size or spec.network.image_size
    geometry = network.geometry(size)
    precision = prepare(config.seed)
    # Progressive training changes the size of images, so the network is built for any size.
    model = build_logits(
        replace(spec, image_size=None if config.progressive else size), stochastic_depth=config.stochastic_depth
    )
    load_backbone(model, network, plan.source, with_head=plan.keeps_head)
    how = _augmentation(config)
    teacher = TeacherEngine(plan.teacher) if plan.teacher else None
    largest = plan.teacher.size if plan.teacher else 0
    training, held_out = read_splits_for_training(plan.dataset, geometry, how, progress, request.strict, MEMORY_LIMIT, largest)
    if config.pixel_mean:
        set_pixel_mean(model, mean_image(training, geometry))
    stream = TrainStream(training, spec.classes, config.batch_size, geometry, how, config.seed, own_part())
    half = max(network.reduction, size // 2) if config.progressive else None
    if teacher is None:
        batches = EvaluationBatches(held_out, spec.classes, 128, stream.part)
        small = replace(stream, geometry=replace(geometry, size=half)) if half else None
        return _Setup(model, precision, geometry, (training, held_out), stream, batches, small, plan.dataset)
    lesson = Lesson(teacher, columns_of(teacher.teacher, plan.dataset), config.teacher_views)
    examined, batches, dataset = _examined(plan.dataset, lesson, held_out, geometry, progress)
    taught = Taught(stream, lesson).remembering(kept_in_cache("teacher"))
    if taught.lesson.views and not taught.lesson.answers:
        progress.line("the cache has no room for the teacher's probabilities: they are computed again every epoch")
    taught_small = replace(taught, side=half) if half else None
    return _Setup(model, precision, geometry, (training, examined), taught, batches, taught_small, dataset)


def _examined(
    dataset: Dataset, lesson: Lesson, held_out: ImageSet, geometry: Geometry, progress: Progress
) -> tuple[ImageSet, TaughtEvaluation, Dataset]:
    """Held-out images of a student; without labels, the teacher's most probable classes are the labels."""
    if dataset.labelled:
        return held_out, TaughtEvaluation(EvaluationBatches(held_out, len(dataset.classes), 128), None), dataset
    squares = replace(held_out, read=reader_for_prediction(replace(geometry, size=lesson.side)), kept=None)
    task = progress.start("asking the teacher", len(held_out))
    pieces = []
    for piece in lesson.answers_of(squares):
        pieces.append(piece)
        task.advance(len(piece))
        stop_if_asked(progress, NOTHING_YET)
    task.finish()
    answers = np.concatenate(pieces)
    first = answers.argmax(1)
    samples = tuple(Sample(sample.path, int(label)) for sample, label in zip(held_out.samples, first, strict=True))
    held_out = replace(held_out, samples=samples)
    labelled = replace(dataset, splits={**dataset.splits, "val": samples})
    return held_out, TaughtEvaluation(EvaluationBatches(held_out, len(dataset.classes), 128), answers), labelled


def _augmentation(config: TrainConfig) -> Augmentation:
    return Augmentation(**{each.name: getattr(config, each.name) for each in fields(Augmentation)})
