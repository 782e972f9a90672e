"""The head on stored features: what hardly varies decides little, what never varies decides nothing, figures are exact."""

from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import log_loss
from training_material import stored

from resnet_cli.data.dataset import Sample
from resnet_cli.data.decode import Geometry
from resnet_cli.data.images import ImageSet
from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import ClassifierSpec, find_network
from resnet_cli.networks.classifier import build_logits
from resnet_cli.progress import Silent
from resnet_cli.runs.folder import EpochRecord, read_history
from resnet_cli.training.checkpoints import Stage
from resnet_cli.training.config import FinetuneConfig
from resnet_cli.training.loop import TrainResult
from resnet_cli.transfer.features import LIGHT, Material
from resnet_cli.transfer.head import feature_scale, train_head

CLASSES, FEATURES = 3, 64  # of resnet8
HARDLY, NEVER = 5, 9  # features that vary by a thousandth of the others, and not at all


def features_of(labels: NDArray[np.int64], seed: int) -> NDArray[np.float16]:
    """Overlapping classes in 62 features; HARDLY tells the first class from the others, by little."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(CLASSES, FEATURES)) * 0.3
    rows = centres[labels] + random.normal(size=(len(labels), FEATURES))
    rows[:, HARDLY] = 0.001 * (labels == 0)
    rows[:, NEVER] = 0.3
    return rows.astype(np.float16)


def head_on(
    folder: Path,
    training: NDArray[np.float16],
    held_out: NDArray[np.float16],
    hidden: int = 0,
    config: FinetuneConfig | None = None,
) -> tuple[dict[str, NDArray[np.float32]], TrainResult]:
    """Train a head on features of images whose classes follow each other; its weights in the whole network."""
    keras.utils.set_random_seed(0)
    spec = ClassifierSpec(find_network("resnet8"), CLASSES, 32, hidden)
    features, images = [], []
    for name, rows in (("training", training), ("held-out", held_out)):
        features.append(stored(folder / name, rows))
        samples = tuple(Sample(Path(str(index)), index % CLASSES) for index in range(len(rows)))
        images.append(ImageSet(samples, lambda path: np.zeros((32, 32, 3), np.uint8), None, ()))
    material = Material(spec, Geometry(32), LIGHT, *images, folder)
    model = build_logits(spec)
    stage = Stage("head", folder, announce=False)
    config = config or FinetuneConfig(hidden=hidden)
    result = train_head(model, features[0], features[1], material, config, stage, Silent())
    layers = ("hidden", "logits") if hidden else ("logits",)
    return {layer: [np.asarray(value) for value in model.get_layer(layer).get_weights()] for layer in layers}, result


LABELS, VAL_LABELS = np.arange(300) % CLASSES, np.arange(90) % CLASSES


def test_features_are_brought_to_unit_variance_but_for_those_that_hardly_vary() -> None:
    variance = np.array([4, 1, 1, 0.25, 0.01, 1e-5, 1e-7, 0], np.float32)
    # The median of those that vary is 0.625, of six 0.25..1; a tenth of it is the least that is divided by.
    least = 0.1 * np.median(variance[:6])
    expected = [0.5, 1, 1, 2, least**-0.5, least**-0.5, 0, 0]
    np.testing.assert_allclose(feature_scale(variance), expected, rtol=1e-6)


def test_features_that_never_vary_are_not_divided_by_nothing() -> None:
    np.testing.assert_array_equal(feature_scale(np.zeros(3, np.float32)), np.zeros(3))


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [0, 16])
def test_a_feature_that_hardly_varies_gets_a_weight_like_the_others_and_a_constant_one_none(
    hidden: int, tmp_path: Path
) -> None:
    weights, result = head_on(tmp_path, features_of(LABELS, 0), features_of(VAL_LABELS, 1), hidden)
    kernel = np.abs(weights["hidden" if hidden else "logits"][0])
    assert not kernel[NEVER].any()
    others = np.delete(kernel, [HARDLY, NEVER], axis=0)
    # It is divided by the root of a tenth of the median variance at least: 3.2 times as large as others for the same effect.
    assert kernel[HARDLY].max() < 4 * others.max()
    assert result.best.val_accuracy > 0.6


def test_an_image_unlike_the_training_images_gets_no_huge_logits(tmp_path: Path) -> None:
    held_out = features_of(VAL_LABELS, 1)
    weights, _ = head_on(tmp_path, features_of(LABELS, 0), held_out)
    kernel, bias = weights["logits"]
    usual = np.abs(held_out.astype(np.float32) @ kernel + bias).max()
    unlike = held_out[:1].astype(np.float32)
    unlike[:, [HARDLY, NEVER]] = 3.0
    assert np.abs(unlike @ kernel + bias).max() < 2 * usual


def test_where_no_feature_varies_the_head_answers_with_the_shares_of_the_classes(tmp_path: Path) -> None:
    constant = np.full((300, FEATURES), 0.7, np.float16)
    weights, result = head_on(tmp_path, constant, constant[:90])
    kernel, bias = weights["logits"]
    assert not kernel.any()
    np.testing.assert_allclose(softmax(bias), np.full(CLASSES, 1 / CLASSES), atol=0.02)
    assert result.best.val_loss == pytest.approx(np.log(CLASSES), abs=0.01)


def test_the_validation_loss_of_the_head_is_plain_cross_entropy(tmp_path: Path) -> None:
    held_out = features_of(VAL_LABELS, 1)
    weights, result = head_on(tmp_path, features_of(LABELS, 0), held_out)
    kernel, bias = weights["logits"]
    probabilities = softmax(held_out.astype(np.float64) @ kernel + bias, axis=1)
    assert result.best.val_loss == pytest.approx(log_loss(VAL_LABELS, probabilities), rel=1e-4)


def test_a_head_without_a_hidden_layer_is_solved_and_recorded_once_however_often(tmp_path: Path) -> None:
    held_out = features_of(VAL_LABELS, 1)
    _, result = head_on(tmp_path, features_of(LABELS, 0), held_out)
    later = EpochRecord("tail", 1, 2.0, 0.3, 1.5, 0.5, 0.1, 100.0, 1.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(later.to_line())
    weights, again = head_on(tmp_path, features_of(LABELS, 0), held_out)
    assert read_history(tmp_path / "metrics.jsonl") == [again.best, later]
    assert (again.best.epoch, again.best.learning_rate, again.best.val_top5) == (1, 0.0, None)
    assert again.best.rank == result.best.rank
    kernel, bias = weights["logits"]
    right = (held_out.astype(np.float32) @ kernel + bias).argmax(1) == VAL_LABELS
    assert again.best.val_accuracy == pytest.approx(right.mean())


@pytest.mark.parametrize(
    ("config", "epochs"),
    [
        (FinetuneConfig(unfreeze="none"), 1),
        (FinetuneConfig(unfreeze="none", epochs=7), 7),
        (FinetuneConfig(unfreeze="last", epochs=7), 1),  # of the fine-tuning phase
    ],
)
def test_epochs_of_a_head_alone_are_those_of_adamw(config: FinetuneConfig, epochs: int, tmp_path: Path) -> None:
    _, result = head_on(tmp_path, features_of(LABELS, 0), features_of(VAL_LABELS, 1), config=config)
    assert len(result.history) == epochs


@pytest.mark.slow
def test_a_head_on_more_numbers_than_are_solved_soon_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_cli.transfer.head._SOLVED", 300 * FEATURES * CLASSES - 1)
    _, result = head_on(tmp_path, features_of(LABELS, 0), features_of(VAL_LABELS, 1))
    assert len(result.history) == 40


def test_features_that_are_no_numbers_are_one_sentence(tmp_path: Path) -> None:
    training = features_of(LABELS, 0)
    training[7, 3] = np.nan
    with pytest.raises(ResnetError, match="the features contain NaN: the weights to begin with do, or nearly"):
        head_on(tmp_path, training, features_of(VAL_LABELS, 1))
