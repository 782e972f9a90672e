"""The record of a run: data, configuration and metrics, and warnings about metrics that look wrong.

In: a data set, a configuration and results. Out: the content of run.json and of `--json`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_cli.data.archives import archive_of
from resnet_cli.data.contents import contents, kind_of, seen_by_earlier_runs
from resnet_cli.data.dataset import IMBALANCE, SMALL_CLASS, UNKNOWN, Dataset, LeftOut, Sample
from resnet_cli.data.folders import file_size
from resnet_cli.data.scoring import TEST_CHOSE, VAL_CHOSE, unreadable_note
from resnet_cli.data.warnings import dataset_warnings
from resnet_cli.networks.catalogue import ClassifierSpec
from resnet_cli.networks.pretrained import WeightsSource
from resnet_cli.progress import Progress, how_many
from resnet_cli.runs.folder import Run, SplitRow, read_splits, versions

if TYPE_CHECKING:
    from resnet_cli.data.decode import Geometry
    from resnet_cli.jobs.measure import Measured
    from resnet_cli.runs.folder import EpochRecord
    from resnet_cli.training.loop import TrainResult

_FEW_STEPS = 300
_MUCH_DROPOUT = 0.5  # a higher dropout is not recommended


def few_images(classes: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Classes with too few training images for a reliable result.

    Args:
        classes: names.
        counts: training images of each.
    """
    few = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if count < SMALL_CLASS]
    if not few:
        return []
    shown = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
    return [f"too few images to train on reliably: {shown}; use {SMALL_CLASS} or more images of each class"]


def unequal_classes(classes: Sequence[str], counts: Sequence[int], config: Mapping[str, Any]) -> list[str]:
    """Classes so much smaller than others that unweighted training neglects them.

    Args:
        classes: names.
        counts: training images of each.
        config: configuration of the training; with class weights no class is neglected.
    """
    few, many = (choose(range(len(counts)), key=counts.__getitem__) for choose in (min, max))
    if config["class_weights"] or counts[many] <= IMBALANCE * counts[few]:
        return []
    return [
        f"{classes[many]} has {how_many(int(counts[many]), 'training image')} and {classes[few]} {counts[few]}: --set"
        " class_weights=true gives all classes the same weight"
    ]


def few_steps(steps: int) -> list[str]:
    """A warning if there are too few optimizer steps to train random weights.

    Args:
        steps: optimizer steps of the whole training.
    """
    if steps >= _FEW_STEPS:
        return []
    return [
        f"only {how_many(steps, 'optimizer step')}: too few to train from scratch; use more --epochs or a smaller"
        " --batch-size, or `resnet finetune`, which starts from pretrained weights"
    ]


def odd_accuracies(
    training: float, held_out: float, counts: Mapping[str, int], kind: str, config: Mapping[str, Any]
) -> list[str]:
    """Warnings about a pair of accuracies, 0..1.

    High training accuracy with held-out accuracy near chance indicates wrong preprocessing, or batch-norm in different modes in
    training and prediction (keras-team/keras pull request 9965); on few images, plain overfitting.

    Args:
        training: accuracy on training images.
        held_out: accuracy on the held-out images.
        counts: held-out images by class; chance is to always predict the largest class.
        kind: name of the held-out images in messages, "test" or "held-out".
        config: configuration of the training.
    """
    total = sum(counts.values())
    largest = max(counts, key=counts.__getitem__)
    chance = counts[largest] / total
    near_chance = held_out < chance + max(0.1, 0.15 * (1 - chance))
    words = []
    if held_out <= chance:
        words.append(f"{kind} accuracy {held_out:.1%} is no better than always predicting {largest}, right for {chance:.1%}")
    if training > 0.9 and near_chance:
        words.append(
            f"training accuracy is {training:.0%} but {kind} accuracy {held_out:.0%}, near chance ({chance:.0%}): usually the"
            f" {kind} images are preprocessed differently, batch-norm behaves differently in training, or labels are mixed up"
        )
    elif training > max(held_out, chance) + 0.25:
        words.append(
            f"training accuracy is {training:.0%} but {kind} accuracy {held_out:.0%}: the network overfits; what helps:"
            f" {', '.join(_against_overfitting(config))}"
        )
    if total < 30:
        their = "its" if total == 1 else "their"
        words.append(f"only {how_many(total, f'{kind} image')}, so {their} accuracy is uncertain: see its interval")
    return words


def _against_overfitting(config: Mapping[str, Any]) -> list[str]:
    """Advice against overfitting that the training has not followed yet."""
    advice = ["more images"]
    solved = config.get("unfreeze") == "none" and not (config["hidden"] or config["epochs"])
    if config["dropout"] < _MUCH_DROPOUT and not solved:
        advice.append("a higher dropout (--set dropout=0.5)")
    if config.get("augment", "strong") != "strong":
        advice.append("--augment strong")
    if "unfreeze" not in config:
        advice.append("`resnet finetune`, which begins with pretrained weights")
    elif config["unfreeze"] != "none":
        advice.append("--unfreeze none")
    return advice


def run_record(
    command: str,
    config: dict[str, Any],
    dataset: Dataset,
    spec: ClassifierSpec,
    geometry: "Geometry",
    source: WeightsSource,
    precision: str,
) -> dict[str, Any]:
    """The part of run.json that says how to repeat a run; `precision` is that of training."""
    from resnet_cli.networks.precision import computed_on  # imports Keras, which the training has already done
    from resnet_cli.training.devices import trained_on

    weights = {
        "source": source.kind,
        "path": str(source.path.absolute()) if source.path else "",
        "sha256": source.sha256,
        "fallback": source.fallback,
        **({"name": source.name, "revision": source.revision} if source.name else {}),  # published on the hub
    }
    return {
        "command": command,
        "classes": list(dataset.classes),
        **spec.to_record(),
        "input": {
            "resize": geometry.resize,
            "fraction": geometry.fraction,
            "interpolation": geometry.interpolation,
            "steps": geometry.steps,
        },
        "weights": weights,
        "data": data_record(dataset),
        "config": config,
        "seed": config["seed"],
        "precision": precision,
        **computed_on(),
        **trained_on(),
        "versions": versions(),
    }


def result_record(
    folder: Path,
    arch: str,
    weights: str,
    seconds: float,
    result: "TrainResult",
    measured: "dict[str, Measured]",
    warnings: list[str],
) -> dict[str, Any]:
    """The JSON output of train and finetune: `val`, and `test` if the folder has one, as `evaluate` measures them."""
    return {
        "run": str(folder),
        "arch": arch,
        "weights": weights,
        "epochs": len(result.history),
        "seconds": round(seconds, 1),
        **{split: each.figures.to_json() for split, each in measured.items()},
        "best_epoch": result.best_epoch,
        "warnings": warnings,
    }


def warn_of_figures(
    run: Run, dataset: Dataset, best: "EpochRecord", measured: "dict[str, Measured]", progress: Progress
) -> list[str]:
    """Warn about the metrics of a training, of which the last split is the headline.

    Args:
        run: the run, which has its splits.csv already.
        dataset: its readable images.
        best: the epoch that was kept.
        measured: metrics by split.
        progress: where to warn.

    Returns:
        The warnings that only apply to these metrics.
    """
    split, figures = list(measured)[-1], list(measured.values())[-1].figures
    counts, tested = dataset.counts("train"), {each.name: each.count for each in figures.classes}
    config = run.record["config"]
    held = [row.content for row in read_splits(run) if row.split == split]
    odd = odd_accuracies(best.accuracy, figures.top1, tested, kind_of(split), config)
    for words in (
        *(few_images(dataset.classes, counts) if dataset.labelled else []),
        *(unequal_classes(dataset.classes, counts, config) if dataset.labelled else []),
        *odd,
        *([TEST_CHOSE] if dataset.is_validated_by_test else [VAL_CHOSE] if split == "val" else []),
        *seen_by_earlier_runs(held, run, split),  # copies within the data set were reported before the training
    ):
        progress.warn(words)
    return odd


def split_rows(dataset: Dataset) -> list[SplitRow]:
    """Lines of splits.csv: the images of every split, by their paths in the data set's folder."""
    samples = [(split, sample) for split, those in dataset.splits.items() for sample in those]
    return [
        SplitRow(dataset.relative(sample.path), _class_of(sample, dataset), split, content)
        for (split, sample), content in zip(samples, contents(sample.path for _, sample in samples), strict=True)
    ]


def _class_of(sample: Sample, dataset: Dataset) -> str:
    return "" if sample.label == UNKNOWN else dataset.classes[sample.label]


def data_record(dataset: Dataset) -> dict[str, Any]:
    """Where the images are, their fingerprint and number, how they were sampled, files left out, and groups of equal images."""
    counts = {split: dataset.counts(split) for split in dataset.splits}
    labels, sampling, archive = dataset.labels, dataset.sampling, archive_of(dataset.root.resolve())
    return {
        "path": str(dataset.root.resolve()),
        "name": dataset.name,
        "fingerprint": fingerprint(dataset),
        "pictures": images_fingerprint(dataset),
        "counts": counts,
        "left_out": len(dataset.left_out),
        "copies": len(dataset.copies),
        **({"archive": str(archive)} if archive else {}),
        **({"labels": {"path": str(labels.path.resolve()), "sha256": labels.sha256}} if labels else {}),
        **({"sample": asdict(sampling)} if sampling else {}),
    }


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 over the names and sizes of all images, their classes and splits."""
    digest = hashlib.sha256()
    for split in sorted(dataset.splits):
        for sample in dataset.splits[split]:
            digest.update(f"{split}/{sample.label}/{sample.path.name}/{file_size(sample.path)}\n".encode())
    return digest.hexdigest()


def images_fingerprint(dataset: Dataset) -> str:
    """SHA-256 over the paths and sizes of all images, regardless of splits: equal for runs with different seeds."""
    paths = {sample.path for samples in dataset.splits.values() for sample in samples}
    lines = sorted(f"{dataset.relative(path)}/{file_size(path)}\n" for path in paths)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def tell_dataset(dataset: Dataset, flips: bool, progress: Progress) -> None:
    """Report the contents of a data set with its splits in two lines, and warn of its problems.

    Args:
        dataset: the data set with its held-out split.
        flips: training images are mirrored at random.
        progress: where to report.
    """
    counts = ", ".join(f"{len(samples)} {split}" for split, samples in dataset.splits.items())
    largest = ", ".join(
        f"{name} {count}" for name, count in list(zip(dataset.classes, dataset.counts("train"), strict=True))[:6]
    )
    more = f", and {how_many(len(dataset.classes) - 6, 'more class')}" if len(dataset.classes) > 6 else ""
    if dataset.labelled:
        progress.line(f"{dataset.name}: {how_many(len(dataset.classes), 'class')}; {counts}")
        progress.line(f"training images: {largest}{more}")
    else:
        progress.line(f"{dataset.name}: images without labels; {counts}")
    if sampling := dataset.sampling:
        share = f"{sampling.per_class} per class" if sampling.fraction is None else f"{sampling.fraction:.1%}"
        progress.line(f"sample: {share}, of {', '.join(f'{count} {split}' for split, count in sampling.of.items())}")
    for words in dataset_warnings(dataset, flips):
        progress.warn(words)


def warn_of_left_out(left_out: Sequence[LeftOut], progress: Progress) -> None:
    """Warn of unreadable images, if there are any."""
    if left_out:
        progress.warn(unreadable_note(left_out))
