"""What figures of a training usually mean, in words."""

import pytest

from resnet_cli.learning.diagnose import odd_accuracies, unequal_classes


@pytest.mark.parametrize(
    ("training", "held_out", "counts", "said"),
    [
        (0.90, 0.85, {"a": 50, "b": 50}, []),
        (
            0.90,
            0.50,
            {"a": 50, "b": 50},
            ["always answering a, right for 50.0%", "the network overfits"],
        ),
        (
            0.70,
            0.67,
            {"a": 10, "b": 80},
            ["always answering b, right for 88.9%"],
        ),
        (0.99, 0.92, {"a": 10, "b": 80}, ["near chance (89%): usually the test images are preprocessed differently"]),
        (0.60, 0.30, {"a": 50, "b": 50}, ["always answering a, right for 50.0%"]),
        (0.90, 0.85, {"a": 9, "b": 10}, ["only 19 test images, so their accuracy is uncertain: see its interval"]),
    ],
)
def test_trouble_is_named(training: float, held_out: float, counts: dict[str, int], said: list[str]) -> None:
    words = odd_accuracies(training, held_out, counts, "test")
    assert len(words) == len(said) and all(part in word for part, word in zip(said, words, strict=True)), words


def test_classes_of_very_unequal_sizes_are_named() -> None:
    assert unequal_classes(["a", "b", "c"], [20, 100, 30]) == []
    assert unequal_classes(["a", "b", "c"], [19, 100, 30]) == [
        "b has 100 training images and a 19: --class-weights gives all classes the same weight"
    ]
