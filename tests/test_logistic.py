"""Logistic regression by L-BFGS: scikit-learn's solution, a penalty that images chose which were not fitted, rare classes."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from resnet_cli.errors import Interrupted
from resnet_cli.transfer.head import PENALTIES, Linear, Problem, cross_entropy, cross_validated, lowest, solve

CLASSES, WIDTH = 3, 20


def problem(count: int, seed: int, signal: float = 0.5, weights: NDArray[np.float32] | None = None) -> Problem:
    """Overlapping classes that follow each other."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    centres = np.random.default_rng(99).normal(size=(CLASSES, WIDTH)) * signal
    features = (centres[labels] + random.normal(size=(count, WIDTH))).astype(np.float32)
    return Problem(features, labels, CLASSES, np.ones(count, np.float32) if weights is None else weights)


def nothing() -> Linear:
    return Linear(np.zeros((WIDTH, CLASSES), np.float32), np.zeros(CLASSES, np.float32))


def loss_of(given: Problem, solution: Linear, penalty: float) -> float:
    """Of its probabilities, by scikit-learn, and the penalty."""
    logits = solution.logits(given.features).astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = log_loss(given.labels, probabilities, sample_weight=given.weights)
    return float(loss + penalty / 2 * np.square(solution.kernel).sum())


def do_nothing() -> None:
    return


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("penalty", [1.0, 0.1, 0.01])
def test_the_solution_is_that_of_scikit_learn(penalty: float, weighted: bool) -> None:
    weights = np.where(np.arange(150) % CLASSES == 0, 2.0, 0.5).astype(np.float32) if weighted else None
    given = problem(150, 0, weights=weights)
    reference = LogisticRegression(C=1 / (penalty * 150), tol=1e-8, max_iter=1000)
    reference.fit(given.features.astype(np.float64), given.labels, given.weights.astype(np.float64))
    best = loss_of(given, Linear(reference.coef_.T, reference.intercept_), penalty)
    solution = solve(given, penalty, nothing())
    assert best <= loss_of(given, solution, penalty) < best + 1e-4
    np.testing.assert_allclose(solution.kernel, reference.coef_.T, atol=0.02)


def test_rows_that_are_left_out_count_as_if_they_were_not_there() -> None:
    whole = problem(150, 0)
    rows = np.arange(150) < 90
    part = Problem(whole.features[rows], whole.labels[rows], CLASSES, whole.weights[rows])
    np.testing.assert_allclose(solve(whole, 0.1, nothing(), rows).kernel, solve(part, 0.1, nothing()).kernel, atol=1e-4)


def test_cross_entropy_is_that_of_scikit_learn() -> None:
    logits = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    labels, weights = np.arange(60) % 4, np.linspace(0.5, 1.5, 60).astype(np.float32)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(1, keepdims=True)
    assert cross_entropy(logits, labels) == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    weighted = log_loss(labels, probabilities, sample_weight=weights)
    assert cross_entropy(logits, labels, weights) == pytest.approx(weighted, rel=1e-5)


def test_the_penalty_chosen_is_as_good_on_other_images_as_the_best_of_all() -> None:
    given, others = problem(90, 0), problem(3000, 1)
    chosen = cross_validated(given, np.arange(90), 0, do_nothing)
    losses = [cross_entropy(solve(given, penalty, nothing()).logits(others.features), others.labels) for penalty in PENALTIES]
    assert cross_entropy(chosen.logits(others.features), others.labels) < min(losses) + 0.01
    # It matters: the others are not all as good.
    assert max(losses) > min(losses) + 0.3


def test_views_of_an_image_are_held_out_together() -> None:
    """Features say nothing, each image has eight views alike: held out one by one, they would be overfitted."""
    images = problem(24, 0, signal=0.0)
    features = np.repeat(images.features, 8, axis=0)
    views = Problem(features, np.repeat(images.labels, 8), CLASSES, np.ones(192, np.float32))
    together = cross_validated(views, np.repeat(np.arange(24), 8), 0, do_nothing)
    apart = cross_validated(views, np.arange(192), 0, do_nothing)
    assert np.abs(together.kernel).max() < 0.2 < 1 < np.abs(apart.kernel).max()


def test_the_lowest_of_a_parabola_is_found_between_the_penalties_that_were_tried() -> None:
    exact = 10.0**-1.7
    losses = [3 + 0.2 * (np.log10(penalty) + 1.7) ** 2 for penalty in PENALTIES[:4]]
    assert lowest(losses) == pytest.approx(exact)
    assert lowest([1.0, 2.0]) == 1.0
    assert lowest([3.0, 2.0, 1.0]) == pytest.approx(0.01)
    assert lowest([1.0, 1.0, 1.0]) == 1.0


@pytest.mark.parametrize("labels", [[0, 0, 0, 0, 1, 1, 1, 1, 2], [0, 1, 2]], ids=["one of a class", "one of every class"])
def test_a_class_of_one_image_is_learned_too(labels: list[int]) -> None:
    features = 3 * np.eye(CLASSES, WIDTH, dtype=np.float32)[labels]
    given = Problem(features, np.array(labels), CLASSES, np.ones(len(labels), np.float32))
    solution = cross_validated(given, np.arange(len(labels)), 0, do_nothing)
    assert list(solution.logits(features).argmax(1)) == labels


def test_a_class_without_images_is_never_the_answer() -> None:
    given = problem(60, 0)
    solution = cross_validated(Problem(given.features, given.labels, CLASSES + 1, given.weights), np.arange(60), 0, do_nothing)
    assert solution.kernel.shape == (WIDTH, CLASSES + 1)
    assert solution.logits(given.features).argmax(1).max() < CLASSES


def test_it_can_be_stopped_between_solutions() -> None:
    def stop() -> None:
        raise Interrupted(2, "go on")

    with pytest.raises(Interrupted):
        cross_validated(problem(60, 0), np.arange(60), 0, stop)
