"""The head phase: a new head on the stored features of the frozen network (`train_head`; the solver follows it).

In: stored features. Out: the head's weights, put into the whole network. A linear head is solved as a logistic regression by
L-BFGS, its L2 penalty chosen by cross-validation: the loss is convex, so it has one solution, and there is no learning rate,
batch size or number of epochs to choose. AdamW trains a head with a hidden layer, or one with too much data to solve quickly.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from resnet_cli.errors import ResnetError
from resnet_cli.files import write_text
from resnet_cli.networks.catalogue import ClassifierSpec
from resnet_cli.networks.classifier import add_head
from resnet_cli.networks.weights import named_variables
from resnet_cli.progress import GO_ON, Progress, stop_if_asked
from resnet_cli.runs.folder import EpochRecord, read_history
from resnet_cli.training.checkpoints import Stage
from resnet_cli.training.config import FinetuneConfig, TrainConfig
from resnet_cli.training.loop import TrainResult, balanced_weights, train
from resnet_cli.training.tensorboard import EventFile
from resnet_cli.transfer.features import Material
from resnet_cli.transfer.store import Stored
from resnet_cli.transfer.tail import StoredBatches, StoredStream

Matrix = NDArray[np.float32]

_SHOWN = 96_000  # views over all epochs: enough for a head to converge, whatever the size of the data set
_FEWEST, _MOST = 6, 40  # epochs
# Share of the median variance. Without it, a feature that hardly varies on the training images would get a very large weight,
# and an image unlike them a very large logit. On photos no share up to 0.3 costs accuracy.
_FLOOR = 0.1
# Rows * features * classes that take some seconds to solve on two cores. With more rows, AdamW trains as good a head.
_SOLVED = 2e8
_CONSTANT = 1e-6  # of the largest variance: below it a feature is constant but for fp16's rounding


def feature_scale(variance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Factors (D,) that scale features of these variances (D,) to a standard deviation of at most one.

    The factor is one over the standard deviation, which is taken as at least the square root of a tenth of the median variance;
    it is 0 for constant features, which carry no information about a class.
    """
    varies = variance > _CONSTANT * variance.max()
    if not varies.any():
        return np.zeros_like(variance)
    floor = _FLOOR * np.median(variance[varies])
    return np.where(varies, 1 / np.sqrt(np.maximum(variance, floor)), 0).astype(np.float32)


@dataclass(frozen=True)
class _Scaling:
    """Mean and factor of each feature (D,)."""

    mean: Matrix
    scale: Matrix

    def of(self, stored: Stored) -> Matrix:
        """All rows of stored features, scaled (N, D)."""
        return np.concatenate([(rows - self.mean) * self.scale for rows in stored.pieces()])


@dataclass(frozen=True)
class _Rows:
    """The features that a head is trained on, by view of each image, and those that it is validated on."""

    training: Stored
    labels: NDArray[np.int64]
    views: int
    held_out: Stored
    held_out_labels: NDArray[np.int64]
    scaling: _Scaling


def train_head(
    model: keras.Model,
    features: Stored,
    held_out: Stored,
    material: Material,
    config: FinetuneConfig,
    stage: Stage,
    progress: Progress,
) -> TrainResult:
    """Train a head on features of zero mean, scaled by `feature_scale`; then fold mean and scale into its first layer.

    A solved head has one record, and does not depend on the held-out images; of AdamW's epochs they select one.

    Raises:
        ResnetError: the features contain NaN.
        Interrupted: a signal requested a stop.
    """
    labels = material.training.labels, material.held_out.labels
    values, result = fit_head((features, held_out), labels, material.spec, config, stage, progress)
    whole = named_variables(model)
    for name, value in values.items():
        whole[name].assign(value)
    return result


def fit_head(
    features: tuple[Stored, Stored],
    labels: tuple[NDArray[np.int64], NDArray[np.int64]],
    spec: ClassifierSpec,
    config: FinetuneConfig,
    stage: Stage,
    progress: Progress,
) -> tuple[dict[str, Matrix], TrainResult]:
    """The weights of a head by name, and its figures; see `train_head`.

    Args:
        features: of the training images, all views of an image in a row, and of the held-out images.
        labels: class indices of both, one per image.
        spec: the classifier.
        config: settings of the head.
        stage: where records and checkpoints go.
        progress: where to report.
    """
    training, held_out = features
    mean, variance = training.moments()
    if not np.isfinite(variance).all():
        raise ResnetError("the features contain NaN: the weights to begin with do, or nearly", "choose other --weights")
    # Every view counts as an image of its own here.
    views = training.count // len(labels[0])
    scaling = _Scaling(mean, feature_scale(variance))
    rows = _Rows(training, np.repeat(labels[0], views), views, held_out, labels[1], scaling)
    fit = _solve if is_solved(training, spec, config) else _train
    values, result = fit(rows, spec, config, stage, progress)
    first = "hidden" if spec.hidden else "logits"
    kernel = values[f"{first}/kernel"] * scaling.scale[:, None]
    values[f"{first}/bias"] = values[f"{first}/bias"] - mean @ kernel
    values[f"{first}/kernel"] = kernel
    return values, result


def is_solved(features: Stored, spec: ClassifierSpec, config: FinetuneConfig) -> bool:
    """Whether the head is solved rather than trained: it is linear, and the problem is small enough."""
    return config.solves_head and features.count * features.shape[0] * spec.classes <= _SOLVED


_Values = dict[str, Matrix]  # of the head's variables, for scaled features


def _solve(
    rows: _Rows, spec: ClassifierSpec, config: FinetuneConfig, stage: Stage, progress: Progress
) -> tuple[_Values, TrainResult]:
    began, count = time.perf_counter(), len(rows.labels)
    weights = balanced_weights(rows.labels, spec.classes)[rows.labels] if config.class_weights else np.ones(count, np.float32)
    problem = Problem(rows.scaling.of(rows.training), rows.labels, spec.classes, weights)
    task = progress.start(stage.name, None)

    def after_each() -> None:
        task.advance()
        stop_if_asked(progress, GO_ON)

    linear = cross_validated(problem, np.arange(count) // rows.views, config.seed, after_each)
    task.finish()
    logits, held_out = linear.logits(problem.features), linear.logits(rows.scaling.of(rows.held_out))
    seconds = time.perf_counter() - began
    record = EpochRecord(
        stage=stage.name,
        epoch=1,
        loss=problem.loss(logits),
        accuracy=_among_first(1, logits, rows.labels),
        val_loss=cross_entropy(held_out, rows.held_out_labels),
        val_accuracy=_among_first(1, held_out, rows.held_out_labels),
        val_top5=_among_first(5, held_out, rows.held_out_labels) if spec.classes > 5 else None,
        learning_rate=0.0,
        images_per_second=round(count / max(seconds, 1e-9), 1),
        seconds=round(seconds, 2),
    )
    _write(record, stage)
    return {"logits/kernel": linear.kernel, "logits/bias": linear.bias}, TrainResult((record,), 1)


def _among_first(most: int, logits: Matrix, labels: NDArray[np.int64]) -> float:
    """Share of rows whose class is among the `most` likeliest; of equal logits the first one counts, as in `argmax`."""
    own = logits[np.arange(len(labels)), labels][:, None]
    ahead = (logits > own) | ((logits == own) & (np.arange(logits.shape[1]) < labels[:, None]))
    return float((ahead.sum(1) < most).mean())


def _write(record: EpochRecord, stage: Stage) -> None:
    """Write the only record of this stage, before the records of later stages."""
    path = stage.folder / "metrics.jsonl"
    others = [each for each in read_history(path) if each.stage != stage.name]
    write_text(path, "".join(each.to_line() for each in [record, *others]))
    if stage.tensorboard:
        EventFile(stage.folder / "tensorboard" / stage.name, [record])


def _train(
    rows: _Rows, spec: ClassifierSpec, config: FinetuneConfig, stage: Stage, progress: Progress
) -> tuple[_Values, TrainResult]:
    settling = int(np.clip(round(_SHOWN / len(rows.labels)), _FEWEST, _MOST))
    # With a hidden layer, the overhead of a step equals about a hundred images: larger batches where there are enough images.
    batch_size = 128 if spec.hidden and settling < _MOST else 64
    stream = StoredStream(rows.training, rows.labels, spec.classes, batch_size, config.seed)
    inputs = keras.Input(rows.training.shape)
    head = keras.Model(inputs, add_head(spec, (inputs - rows.scaling.mean) * rows.scaling.scale))
    asked = config.epochs if config.unfreeze == "none" else 0
    recipe = TrainConfig(
        epochs=asked or settling,
        optimizer="adamw",
        learning_rate=3e-3,
        schedule="one-cycle",
        warmup=0.1,
        weight_decay=0.1,
        class_weights=config.class_weights,
        seed=config.seed,
    )
    batches = StoredBatches(rows.held_out, rows.held_out_labels, spec.classes)
    result = train(head, stream, batches, recipe, stage, progress)
    layers = ("hidden", "logits") if spec.hidden else ("logits",)
    values = {
        f"{layer}/{name}": value
        for layer in layers
        for name, value in zip(("kernel", "bias"), head.get_layer(layer).get_weights(), strict=True)
    }
    return values, result


# From a penalty so strong that only the mean of each class decides, to hardly any. 14 finer steps were no better than the
# vertex of a parabola.
PENALTIES = tuple(10.0**-exponent for exponent in range(6))
FOLDS = 5
_USUAL = 0.1  # penalty where no image can be held out
_ITERATIONS, _GRADIENT, _GAIN = 200, 1e-3, 1e-7  # L-BFGS ends at whichever is reached first


@dataclass(frozen=True)
class Linear:
    """A linear classifier: kernel (D, classes), bias (classes,)."""

    kernel: Matrix
    bias: Matrix

    def logits(self, features: Matrix) -> Matrix:
        """Logits (N, classes) of features (N, D)."""
        return features @ self.kernel + self.bias


@dataclass(frozen=True)
class Problem:
    """The data that a linear classifier is fitted to.

    Attributes:
        features: (N, D), of zero mean and at most unit variance: one penalty suits all.
        labels: class indices (N,).
        classes: number of classes.
        weights: weight of each row (N,), of mean 1.
    """

    features: Matrix
    labels: NDArray[np.int64]
    classes: int
    weights: Matrix

    def loss(self, logits: Matrix, rows: NDArray[np.bool_] | None = None) -> float:
        """Mean weighted cross-entropy in nats, over some rows or all."""
        return cross_entropy(logits, self.labels, self.weights if rows is None else self.weights * rows)


def cross_entropy(logits: Matrix, labels: NDArray[np.int64], weights: Matrix | None = None) -> float:
    """Mean cross-entropy in nats of logits (N, classes); weighted by row where weights (N,) are given."""
    own = _log_softmax(logits)[np.arange(len(logits)), labels].astype(np.float64)
    return -float(np.average(own, weights=weights))


def _log_softmax(logits: Matrix) -> Matrix:
    """Logarithms of probabilities (N, classes)."""
    shifted = logits - logits.max(1, keepdims=True)
    result: Matrix = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def solve(problem: Problem, penalty: float, start: Linear, rows: NDArray[np.bool_] | None = None) -> Linear:
    """Minimise the mean weighted cross-entropy plus penalty / 2 times the squared kernel; the bias has no penalty.

    Source: L-BFGS (Liu and Nocedal 1989), from a nearby solution.

    Args:
        problem: the data.
        penalty: L2 penalty, above 0.
        start: the classifier to start from.
        rows: (N,), true for the rows to fit; None for all.
    """
    weights = problem.weights if rows is None else problem.weights * rows
    weights = (weights / weights.sum(dtype=np.float64)).astype(np.float32)[:, None]
    each, shape = np.arange(len(problem.labels)), start.kernel.shape

    def value(numbers: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        at = _unpacked(numbers, shape)
        logs = _log_softmax(at.logits(problem.features))
        loss = -(logs[each, problem.labels] * weights[:, 0]).sum(dtype=np.float64)
        error = np.exp(logs)
        error[each, problem.labels] -= 1
        error *= weights
        slope = Linear(problem.features.T @ error + penalty * at.kernel, error.sum(0))
        return loss + penalty / 2 * float(np.square(at.kernel).sum(dtype=np.float64)), _packed(slope)

    options = {"maxiter": _ITERATIONS, "gtol": _GRADIENT, "ftol": _GAIN}
    return _unpacked(minimize(value, _packed(start), jac=True, method="L-BFGS-B", options=options).x, shape)


def cross_validated(problem: Problem, groups: NDArray[np.int64], seed: int, after_each: Callable[[], None]) -> Linear:
    """The solution at the penalty with the lowest cross-validated loss.

    Penalties are tried from strong to weak until the loss rises; the minimum is the vertex of the parabola through the lowest
    three.

    Args:
        problem: the data.
        groups: index of the image of each row (N,): all views of an image are held out together.
        seed: random seed of the folds.
        after_each: called after each of up to 31 solutions; it may raise.
    """
    fold = _folds(problem.labels, groups, seed)
    parts = [fold != number for number in np.unique(fold[fold >= 0])]
    nothing = Linear(np.zeros((problem.features.shape[1], problem.classes), np.float32), np.zeros(problem.classes, np.float32))
    solutions, losses = [nothing] * len(parts), list[float]()
    logits = np.zeros((len(problem.labels), problem.classes), np.float32)
    for penalty in PENALTIES if parts else ():
        for place, part in enumerate(parts):
            solutions[place] = solve(problem, penalty, solutions[place], part)
            logits[~part] = solutions[place].logits(problem.features[~part])
            after_each()
        losses.append(problem.loss(logits, fold >= 0))
        if losses[-1] > min(losses):
            break
    start = solutions[0] if parts else nothing
    best = solve(problem, lowest(losses) if losses else _USUAL, start)
    after_each()
    return best


def lowest(losses: list[float]) -> float:
    """The penalty with the lowest loss: the vertex of a parabola over log(penalty) through that loss and its two neighbours.

    Args:
        losses: loss at each of the first `PENALTIES`.
    """
    place = int(np.argmin(losses))
    if not 0 < place < len(losses) - 1:
        return PENALTIES[place]
    before, here, after = losses[place - 1 : place + 2]
    step = (before - after) / (2 * (before - 2 * here + after)) if before + after > 2 * here else 0.0
    return float(PENALTIES[place] * (PENALTIES[place + 1] / PENALTIES[place]) ** step)


def _folds(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Stratified folds: the fold that holds out each row (N,); -1 for the only image of a class, which is never held out."""
    images, first = np.unique(groups, return_index=True)
    random, fold = np.random.default_rng(seed), np.full(images.max() + 1, -1)
    for label in np.unique(labels):
        members = random.permutation(images[labels[first] == label])
        if len(members) > 1:
            fold[members] = (np.arange(len(members)) + random.integers(FOLDS)) % FOLDS
    chosen: NDArray[np.int64] = fold[groups]
    return chosen


def _packed(linear: Linear) -> NDArray[np.float64]:
    return np.concatenate([linear.kernel.ravel(), linear.bias]).astype(np.float64)


def _unpacked(numbers: NDArray[np.float64], shape: tuple[int, ...]) -> Linear:
    kernel, bias = np.split(numbers.astype(np.float32), [shape[0] * shape[1]])
    return Linear(kernel.reshape(shape), bias)
