"""Multinomial logistic regression: the linear head that fits features best, its L2 penalty chosen by cross-validation.

In: standardised features (N, D), all in memory, and class indices (N,). Out: kernel (D, classes) and bias (classes,). The loss
is convex: there is one solution, to which no learning rate, batch size or number of epochs leads, and L-BFGS finds it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

# From features whose mean decides alone to hardly any penalty. Of 14 finer steps none was better than the vertex of a parabola.
PENALTIES = tuple(10.0**-exponent for exponent in range(6))
FOLDS = 5
_USUAL = 0.1  # where no image can be held out
_ITERATIONS, _GRADIENT, _GAIN = 200, 1e-3, 1e-7  # of L-BFGS: the first that is reached ends it

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Linear:
    """A linear classifier: kernel (D, classes), bias (classes,)."""

    kernel: Matrix
    bias: Matrix

    def logits(self, features: Matrix) -> Matrix:
        """Of features (N, D): (N, classes)."""
        return features @ self.kernel + self.bias


@dataclass(frozen=True)
class Problem:
    """What is fitted.

    Attributes:
        features: (N, D), of zero mean and at most unit variance: the penalty is the same for all.
        labels: class indices (N,).
        classes: number of classes.
        weights: of each row (N,), of mean 1.
    """

    features: Matrix
    labels: NDArray[np.int64]
    classes: int
    weights: Matrix

    def loss(self, logits: Matrix, rows: NDArray[np.bool_] | None = None) -> float:
        """Mean weighted cross-entropy in nats, over some rows or all."""
        return cross_entropy(logits, self.labels, self.weights if rows is None else self.weights * rows)


def cross_entropy(logits: Matrix, labels: NDArray[np.int64], weights: Matrix | None = None) -> float:
    """Mean cross-entropy in nats of logits (N, classes); of rows with weights (N,) where these are given."""
    own = _log_softmax(logits)[np.arange(len(logits)), labels].astype(np.float64)
    return -float(np.average(own, weights=weights))


def _log_softmax(logits: Matrix) -> Matrix:
    """Logarithms of probabilities (N, classes)."""
    shifted = logits - logits.max(1, keepdims=True)
    result: Matrix = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def solve(problem: Problem, penalty: float, start: Linear, rows: NDArray[np.bool_] | None = None) -> Linear:
    """Minimise the mean weighted cross-entropy plus penalty / 2 times the squared kernel; the bias is free.

    Source: L-BFGS (Liu and Nocedal 1989), from a nearby solution.

    Args:
        problem: what to fit.
        penalty: above 0.
        start: where to begin.
        rows: (N,), those to fit; None for all.
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
    """The solution at the penalty whose cross-validated loss is lowest.

    From strong to weak, until the loss rises; between them the vertex of the parabola through the lowest three decides.

    Args:
        problem: what to fit.
        groups: number of the image of each row (N,): all views of an image are held out together.
        seed: of the folds.
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
    """The penalty of the lowest loss, by a parabola over the penalty's logarithm through that loss and its two neighbours.

    Args:
        losses: of the first of `PENALTIES`.
    """
    place = int(np.argmin(losses))
    if not 0 < place < len(losses) - 1:
        return PENALTIES[place]
    before, here, after = losses[place - 1 : place + 2]
    step = (before - after) / (2 * (before - 2 * here + after)) if before + after > 2 * here else 0.0
    return float(PENALTIES[place] * (PENALTIES[place + 1] / PENALTIES[place]) ** step)


def _folds(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The fold that holds out each row (N,), all classes alike in each; -1 for the only image of a class, which none does."""
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
