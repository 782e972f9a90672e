"""What figures of a training usually mean, in words."""

from dataclasses import asdict

import pytest

from resnet_cli.jobs.record import odd_accuracies, unequal_classes
from resnet_cli.training.config import FinetuneConfig, TrainConfig


@pytest.mark.parametrize(
    ("training", "held_out", "counts", "said"),
    [
        (0.90, 0.85, {"a": 50, "b": 50}, []),
        (
            0.90,
            0.50,
            {"a": 50, "b": 50},
            ["always predicting a, right for 50.0%", "the network overfits"],
        ),
        (
            0.70,
            0.67,
            {"a": 10, "b": 80},
            ["always predicting b, right for 88.9%"],
        ),
        (0.99, 0.92, {"a": 10, "b": 80}, ["near chance (89%): usually the test images are preprocessed differently"]),
        (0.60, 0.30, {"a": 50, "b": 50}, ["always predicting a, right for 50.0%"]),
        (0.90, 0.85, {"a": 9, "b": 10}, ["only 19 test images, so their accuracy is uncertain: see its interval"]),
    ],
)
def test_trouble_is_named(training: float, held_out: float, counts: dict[str, int], said: list[str]) -> None:
    words = odd_accuracies(training, held_out, counts, "test", asdict(FinetuneConfig()))
    assert len(words) == len(said) and all(part in word for part, word in zip(said, words, strict=True)), words


def test_classes_of_very_unequal_sizes_are_named() -> None:
    plain, weighed = asdict(FinetuneConfig()), asdict(FinetuneConfig(class_weights=True))
    assert unequal_classes(["a", "b", "c"], [20, 100, 30], plain) == []
    assert unequal_classes(["a", "b", "c"], [19, 100, 30], weighed) == []
    assert unequal_classes(["a", "b", "c"], [19, 100, 30], plain) == [
        "b has 100 training images and a 19: --set class_weights=true gives all classes the same weight"
    ]


@pytest.mark.parametrize(
    ("config", "advice"),
    [
        (FinetuneConfig(), "more images, a higher dropout (--set dropout=0.5), --augment strong, --unfreeze none"),
        (FinetuneConfig(unfreeze="none"), "more images, --augment strong"),
        (FinetuneConfig(unfreeze="none", hidden=64), "more images, a higher dropout (--set dropout=0.5), --augment strong"),
        (FinetuneConfig(unfreeze="none", epochs=9), "more images, a higher dropout (--set dropout=0.5), --augment strong"),
        (
            FinetuneConfig(unfreeze="all", augment="strong"),
            "more images, a higher dropout (--set dropout=0.5), --unfreeze none",
        ),
        (FinetuneConfig(unfreeze="none", augment="strong", dropout=0.5), "more images"),
        (
            TrainConfig(),
            "more images, a higher dropout (--set dropout=0.5), `resnet finetune`, which begins with pretrained weights",
        ),
        (TrainConfig(dropout=0.6), "more images, `resnet finetune`, which begins with pretrained weights"),
    ],
)
def test_no_option_is_advised_that_was_used(config: FinetuneConfig | TrainConfig, advice: str) -> None:
    (words,) = odd_accuracies(0.99, 0.70, {"a": 50, "b": 50}, "held-out", asdict(config))
    assert words == f"training accuracy is 99% but held-out accuracy 70%: the network overfits; what helps: {advice}"
