"""Cross-validation of the head on stored features, for `--folds`.

In: the features of all training and validation images, and the fold of each image. Out: `Folds`: the accuracy of each fold, its
mean and standard deviation. The frozen layers see every image once as in training and once as in prediction; a head is then
fitted for each fold to the augmented views of the other folds' images, and scored on the images of its own fold as prediction
sees them. The fine-tuning phase is not repeated.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.augment import Augmentation
from resnet_cli.data.dataset import Sample
from resnet_cli.data.images import ImageSet, reader_for_prediction
from resnet_cli.errors import ResnetError
from resnet_cli.files import write_csv
from resnet_cli.inference.metrics import wilson_interval
from resnet_cli.networks.catalogue import ClassifierSpec
from resnet_cli.progress import Progress
from resnet_cli.training.checkpoints import Stage
from resnet_cli.training.config import FinetuneConfig
from resnet_cli.transfer.features import AS_IT_IS, Material
from resnet_cli.transfer.head import fit_head
from resnet_cli.transfer.store import Stored

_FOLDER = Path("checkpoint", "folds")  # in a run

# (title, images, augmentation, views) to the readable images and their features
FeaturesOf = Callable[[str, ImageSet, Augmentation, int], tuple[ImageSet, Stored]]


@dataclass(frozen=True)
class Pool:
    """Images with their features, both as in training and as in prediction.

    Attributes:
        samples: the images.
        fold: fold of each image (N,).
        augmented: `views` rows per image.
        clean: one row per image.
        views: augmented views of an image.
    """

    samples: tuple[Sample, ...]
    fold: NDArray[np.int64]
    augmented: Stored
    clean: Stored
    views: int

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class indices (N,)."""
        return np.array([sample.label for sample in self.samples], np.int64)

    def of_training(self, images: NDArray[np.int64]) -> Stored:
        """The augmented rows of some images, given by index."""
        rows = (images[:, None] * self.views + np.arange(self.views)).ravel()
        return replace(self.augmented, numbers=self.augmented.numbers[rows])

    def of_prediction(self, images: NDArray[np.int64]) -> Stored:
        """The clean rows of some images, given by index."""
        return replace(self.clean, numbers=self.clean.numbers[images])


def pool_of(
    material: Material, folds: Mapping[Path, int], features: tuple[Stored, Stored], views: int, features_of: FeaturesOf
) -> Pool:
    """Compute the features that a cross-validation needs in addition to those of the run.

    Args:
        material: with the readable images.
        folds: the fold of each image by path; images without a fold are left out.
        features: of the training images, augmented, and of the held-out images.
        views: augmented views of a training image.
        features_of: computes features.
    """
    geometry, how, training, held_out = material.geometry, material.augmentation, material.training, material.held_out
    squares = replace(training, read=reader_for_prediction(geometry), kept=None)
    clean = features_of("unaugmented training", squares, AS_IT_IS, 1)
    whole = replace(held_out.without({i for i, each in enumerate(held_out.samples) if each.path not in folds}), kept=None)
    augmented = features_of("augmented held-out", replace(whole, read=training.read), how, views)
    # An image whose clean row was cached may turn out to be unreadable now, or the reverse: both rows are needed.
    first = _both((training, features[0]), clean, views)
    second = _both(augmented, (held_out, features[1]), views)
    samples = first[0] + second[0]
    fold = np.array([folds[sample.path] for sample in samples], np.int64)
    return Pool(samples, fold, _joined(first[1], second[1]), _joined(first[2], second[2]), views)


def part_of(pool: Pool, material: Material, fold: int) -> tuple[Material, tuple[Stored, Stored]]:
    """The images and features of a training on all folds but one, which is held out.

    Args:
        pool: the images.
        material: of the run, with the images' reader.
        fold: the fold that is held out.
    """
    (training,), (held_out,) = np.nonzero(pool.fold != fold), np.nonzero(pool.fold == fold)
    whole = ImageSet(tuple(pool.samples[index] for index in training), material.training.read, None, ())
    squares = ImageSet(tuple(pool.samples[index] for index in held_out), reader_for_prediction(material.geometry), None, ())
    return replace(material, training=whole, held_out=squares), (pool.of_training(training), pool.of_prediction(held_out))


def _both(
    augmented: tuple[ImageSet, Stored], clean: tuple[ImageSet, Stored], views: int
) -> tuple[tuple[Sample, ...], Stored, Stored]:
    """The images that are in both sets, with their rows in each."""
    place = {sample.path: index for index, sample in enumerate(clean[0].samples)}
    pairs = [(i, place[sample.path]) for i, sample in enumerate(augmented[0].samples) if sample.path in place]
    of_augmented, of_clean = np.array(pairs, np.int64).reshape(-1, 2).T
    rows = (of_augmented[:, None] * views + np.arange(views)).ravel()
    samples = tuple(augmented[0].samples[index] for index in of_augmented)
    return (
        samples,
        replace(augmented[1], numbers=augmented[1].numbers[rows]),
        replace(clean[1], numbers=clean[1].numbers[of_clean]),
    )


def _joined(first: Stored, second: Stored) -> Stored:
    """The rows of both, which are of one store: the one that was read later knows all files."""
    latest = max(first, second, key=lambda stored: len(stored.files))
    return replace(latest, numbers=np.concatenate([first.numbers, second.numbers]))


@dataclass(frozen=True)
class Fold:
    """The head that never saw one fold, measured on that fold: images, accuracy 0..1, cross-entropy in nats."""

    fold: int
    train: int
    count: int
    top1: float
    loss: float


@dataclass(frozen=True)
class Folds:
    """The result of a cross-validation: one entry per fold, two or more."""

    each: tuple[Fold, ...]

    def to_json(self) -> dict[str, Any]:
        """The field `folds` of the JSON and of run.json.

        `top1` is the share of all images, each classified by the head that never saw its fold. Its interval (Wilson) treats
        them as independent, which holds in the limit for stable learners, as L2-penalised ones are (Bayle et al. 2020,
        "Cross-validation confidence intervals for test error"); the standard deviation over folds has no such guarantee
        (Bengio and Grandvalet 2004).
        """
        accuracies, count = [fold.top1 for fold in self.each], sum(fold.count for fold in self.each)
        top1 = sum(fold.top1 * fold.count for fold in self.each) / count
        return {
            "phase": "head",
            "count": count,
            "mean": mean(accuracies),
            "sd": stdev(accuracies),
            "top1": top1,
            "top1_interval": list(wilson_interval(top1, count)),
            "folds": [asdict(fold) for fold in self.each],
        }


def cross_validate(
    pool: Pool, spec: ClassifierSpec, config: FinetuneConfig, folder: Path, resume: bool, progress: Progress
) -> Folds:
    """Fit a head without each fold and score it on that fold; write folds.csv.

    A head that AdamW trains is scored after its last epoch: choosing the best epoch would use the images it is scored on.

    Args:
        pool: the images.
        spec: the classifier.
        config: settings of the head.
        folder: the run folder.
        resume: continue an interrupted head; a solved head is solved again, which takes seconds.
        progress: where to report.

    Raises:
        ResnetError: no image of a fold can be read.
        Interrupted: a signal requested a stop.
    """
    results = []
    for number in range(int(pool.fold.max()) + 1):
        (training,), (held_out,) = np.nonzero(pool.fold != number), np.nonzero(pool.fold == number)
        if not len(held_out):
            raise ResnetError(f"no image of fold {number + 1} can be read", "`resnet check` tells why")
        place = folder / _FOLDER / str(number + 1)
        place.mkdir(parents=True, exist_ok=True)
        features = pool.of_training(training), pool.of_prediction(held_out)
        labels = pool.labels[training], pool.labels[held_out]
        stage = Stage(f"fold {number + 1}", place, resume, announce=False)
        _, fitted = fit_head(features, labels, spec, config, stage, progress)
        last = fitted.history[-1]
        results.append(Fold(number + 1, len(training), len(held_out), last.val_accuracy, last.val_loss))
    folds = Folds(tuple(results))
    names = list(asdict(results[0]))
    write_csv(folder / "folds.csv", [names, *([asdict(each)[name] for name in names] for each in folds.each)])
    found = folds.to_json()
    progress.line(
        f"{len(results)} folds, head on frozen features: accuracy {found['mean']:.1%}, standard deviation {found['sd']:.1%}"
    )
    return folds
