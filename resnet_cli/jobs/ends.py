"""The common parts of `train` and `finetune`: reading images and the range test before the training, writing and evaluating the
network after it (heavy).

In: a data set with its splits; later a trained network. Out: `ImageSet`; the files of a run, all but run.json, and its
figures.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from resnet_cli.data.augment import Augmentation
from resnet_cli.data.dataset import Dataset, Sample
from resnet_cli.data.decode import Geometry
from resnet_cli.data.images import (
    MEMORY_LIMIT,
    ImageSet,
    read_images,
    reader_for_prediction,
    reader_for_training,
    reader_that_fits,
)
from resnet_cli.data.threads import map_in_order
from resnet_cli.engines import EngineName
from resnet_cli.engines.base import Outputs
from resnet_cli.engines.frozen import write_classifier
from resnet_cli.errors import ResnetError
from resnet_cli.inference.calibration import Calibration
from resnet_cli.jobs.measure import Measured, measure_splits
from resnet_cli.jobs.plan import FinetunePlan
from resnet_cli.jobs.record import split_rows, warn_of_left_out
from resnet_cli.jobs.start import begun_with, remember
from resnet_cli.networks.catalogue import ClassifierSpec
from resnet_cli.networks.classifier import build_logits, load_backbone
from resnet_cli.progress import Progress
from resnet_cli.reports.curves import draw_curves, write_rate_curve
from resnet_cli.runs.folder import write_metrics_csv, write_splits
from resnet_cli.training.rate_finder import RateSearch
from resnet_cli.transfer.features import augmentation_of
from resnet_cli.transfer.phases import ChooseRate

_PLOT, _FOUND = "rate.png", "found_rate"


def usable_rate(search: RateSearch, usual: float, progress: Progress) -> float:
    """The suggested rate, or the default one if the test suggests none; it is reported to the user."""
    if search.suggested is None:
        progress.line(f"the range test suggests nothing: no rate lowers the loss clearly; --learning-rate {usual:g} stays")
        return usual
    progress.line(f"the range test suggests --learning-rate {search.suggested:g}")
    return search.suggested


def write_search(folder: Path, search: RateSearch) -> None:
    """Write rate.png and rate.csv."""
    write_rate_curve(search, folder / _PLOT, folder.name)


def search_record(folder: Path, suggested: float | None, warnings: list[str]) -> dict[str, Any]:
    """The JSON output of `--lr-find plot`."""
    return {"folder": str(folder), "plot": str(folder / _PLOT), "suggested": suggested, "warnings": warnings}


def search_once(folder: Path, usual: float, only: bool, progress: Progress) -> ChooseRate:
    """A function that chooses the rate of the fine-tuning phase by a range test, which a resumed run does not repeat.

    Args:
        folder: the run folder, for the plot.
        usual: the rate if the test suggests none.
        only: only run the test, and train nothing.
        progress: where to report.
    """

    def choose(search: Callable[[], RateSearch]) -> float | None:
        before = found_rate(folder)
        if before is not None:
            return before
        found = search()
        write_search(folder, found)
        rate = found.suggested if only else usable_rate(found, usual, progress)
        remember(folder, _FOUND, rate)
        return None if only else rate

    return choose


def found_rate(folder: Path) -> float | None:
    """The rate found by the range test of an unfinished run; None if there was no test."""
    rate: float | None = begun_with(folder).get(_FOUND)
    return rate


def read_splits_for_training(
    dataset: Dataset,
    geometry: Geometry,
    how: Augmentation,
    progress: Progress,
    strict: bool,
    limit: int,
    largest: int = 0,
) -> tuple[ImageSet, ImageSet]:
    """Read training images for an augmentation and validation squares; warn of unreadable files, or with `strict` fail.

    Args:
        dataset: its splits "train" and "val" are read; of "test", all images are checked with `strict`, else until one is
            readable.
        geometry: how images are brought to the input size.
        how: augmentation of the training images.
        progress: where to report.
        strict: a damaged image is an error.
        limit: most bytes of decoded images kept in memory, per split; 0 if they are needed only once more.
        largest: side of the crops of training images, pixels, if the teacher's input is larger than the network's.

    Raises:
        ResnetError: nothing readable is left of a split, or of a class; or an image is damaged and `strict`.
    """
    samples = dataset.splits["train"]
    reader = reader_that_fits(samples, replace(geometry, size=max(geometry.size, largest)), how, limit)
    training = read_images(samples, reader, progress, "reading training images", limit)
    held_out = read_images(dataset.splits["val"], reader_for_prediction(geometry), progress, "reading held-out images", limit)
    damaged = (*training.left_out, *held_out.left_out)
    if strict and "test" in dataset.splits and not dataset.is_validated_by_test:
        test = dataset.splits["test"]
        damaged += read_images(test, reader_for_prediction(geometry), progress, "reading test images", 0).left_out
    if damaged and strict:
        raise ResnetError(damaged[0].reason, f"without --strict, images that cannot be read ({len(damaged)}) are left out")
    warn_of_left_out(damaged, progress)
    present = {sample.label for sample in training.samples}
    readable = [label in present or (not dataset.labelled and len(present) > 0) for label in range(len(dataset.classes))]
    _require_enough(dataset, readable, len(held_out) > 0, strict or _can_be_tested(dataset, held_out))
    return training, held_out


def splits_to_read_later(dataset: Dataset, geometry: Geometry, how: Augmentation) -> tuple[ImageSet, ImageSet]:
    """Training images and validation squares that are decoded later; only one readable image of every class is searched now.

    Raises:
        ResnetError: a class, or the validation, has none.
    """
    training = ImageSet(dataset.splits["train"], reader_for_training(geometry, how), None, ())
    held_out = ImageSet(dataset.splits["val"], reader_for_prediction(geometry), None, ())
    classes: list[list[Sample]] = [[] for _ in dataset.classes]
    for sample in training.samples:
        classes[sample.label].append(sample)

    def any_readable(samples: Sequence[Sample]) -> bool:
        return any(training.is_readable(sample) for sample in samples)

    *present, validates = map_in_order(any_readable, [*classes, held_out.samples])
    _require_enough(dataset, present, validates, _can_be_tested(dataset, held_out))
    return training, held_out


def read_to_finetune(plan: FinetunePlan, progress: Progress) -> tuple[ImageSet, ImageSet]:
    """Training and validation images: read now if all layers are trained, which needs them again; frozen layers read every
    image once, later.

    Raises:
        ResnetError: see `read_splits_for_training`.
    """
    how, strict = augmentation_of(plan.config, plan.geometry.resize), plan.request.strict
    if plan.config.unfreeze == "all" or strict:
        limit = MEMORY_LIMIT if plan.config.unfreeze == "all" else 0
        return read_splits_for_training(plan.dataset, plan.geometry, how, progress, strict, limit)
    return splits_to_read_later(plan.dataset, plan.geometry, how)


def pretrained(plan: FinetunePlan) -> keras.Model:
    """The network with its pretrained backbone and a new head, images to logits."""
    model = build_logits(plan.spec)
    load_backbone(model, plan.spec.network, plan.source)
    return model


def _can_be_tested(dataset: Dataset, held_out: ImageSet) -> bool:
    """Whether a test image can be read, if there are any: checked before the training, not after it."""
    test = dataset.splits.get("test", ())
    return not test or any(held_out.is_readable(sample) for sample in test)


def _require_enough(dataset: Dataset, present: Sequence[bool], validates: bool, tests: bool) -> None:
    for name, is_there in zip(dataset.classes, present, strict=True):
        if not is_there:
            raise ResnetError(f"no image of the class {name} in {dataset.root} can be read", "`resnet check` tells why")
    if not validates:
        raise ResnetError(f"{dataset.root} has no readable images to validate with", "`resnet check` tells why")
    if not tests:
        raise ResnetError(f"no test image of {dataset.root} can be read", "`resnet check` tells why")


def as_read(dataset: Dataset, training: ImageSet, held_out: ImageSet) -> Dataset:
    """The data set with only the readable images of the splits that were read."""
    read = {"train": training.samples, "val": held_out.samples}
    if dataset.is_validated_by_test:
        read["test"] = held_out.samples
    return replace(dataset, splits={**dataset.splits, **read})


@dataclass(frozen=True)
class Untrained:
    """The available results of a backbone that stayed frozen.

    Attributes:
        pooled: features of the images in "val", in order, in pieces of float32 (n, D).
        backbone: an OpenVINO model from images to pooled features.
        squares: features of some training images as `predict` sees them, in such pieces.
    """

    pooled: Iterable[Outputs] | None = None
    backbone: Any = None
    squares: Iterable[Outputs] | None = None


def write_trained(
    folder: Path,
    model: keras.Model,
    spec: ClassifierSpec,
    dataset: Dataset,
    geometry: Geometry,
    progress: Progress,
    engine: EngineName,
    untrained: Untrained = Untrained(),
    *,
    label_smoothing: float,
) -> tuple[dict[str, Measured], Calibration | None]:
    """Write a trained network, its curves and splits; calibrate it, and evaluate it on the held-out images.

    Args:
        folder: the run folder, with its metrics.jsonl.
        model: the trained network, images to logits.
        spec: its description.
        dataset: the data set with its readable images.
        geometry: how images are brought to the input size.
        progress: where to report.
        engine: engine of the evaluation.
        untrained: features and OpenVINO model of a frozen backbone, if available.
        label_smoothing: label smoothing of the training loss in the curves.

    Returns:
        Metrics of "val", and of "test" if there is one; the calibration, None for images without labels.
    """
    if reason := write_classifier(folder, model, spec, untrained.backbone):
        progress.warn(f"{reason}; Keras predicts from the weights, which is slower")
        engine = "keras"
    write_metrics_csv(folder)
    draw_curves(folder / "metrics.jsonl", folder / "curves.png", f"{dataset.name}-{spec.network.name}", label_smoothing)
    write_splits(folder, split_rows(dataset))
    known = (untrained.pooled, untrained.squares)
    measured, fitted = measure_splits(folder, spec, dataset, geometry, progress, engine, *known)
    for each in measured.values():
        warn_of_left_out(each.rows.left_out, progress)
    return measured, fitted
