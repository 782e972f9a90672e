"""Warnings about the figures of a training (light: pure functions).

In: accuracies, counts, and the configuration that run.json keeps. Out: sentences for the user; none where nothing is odd. None
advises an option that was used already.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from resnet_cli.data.dataset import IMBALANCE, SMALL_CLASS

_FEW_STEPS = 300
_MUCH_DROPOUT = 0.5  # more than this share of features dropped helps nobody


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
        config: of the training; with class weights nothing is neglected.
    """
    few, many = (choose(range(len(counts)), key=counts.__getitem__) for choose in (min, max))
    if config["class_weights"] or counts[many] <= IMBALANCE * counts[few]:
        return []
    return [
        f"{classes[many]} has {counts[many]} training images and {classes[few]} {counts[few]}: --class-weights gives all"
        " classes the same weight"
    ]


def few_steps(steps: int) -> list[str]:
    """Too few optimizer steps to train random weights.

    Args:
        steps: optimizer steps of the whole training.
    """
    if steps >= _FEW_STEPS:
        return []
    return [
        f"only {steps} optimizer steps: too few to train from scratch; use more --epochs or a smaller --batch-size, or `resnet"
        " finetune`, which starts from pretrained weights"
    ]


def odd_accuracies(
    training: float, held_out: float, counts: Mapping[str, int], kind: str, config: Mapping[str, Any]
) -> list[str]:
    """Warnings about a pair of accuracies, 0..1.

    Training accuracy high with held-out accuracy near chance is what wrong preprocessing, or batch-norm that trains in one mode
    and predicts in the other, looks like (keras-team/keras pull request 9965); on few images, plain overfitting.

    Args:
        training: on training images.
        held_out: on those that `counts` counts.
        counts: images by class; chance is to answer with the largest.
        kind: what they are called, "test" or "held-out".
        config: of the training.
    """
    total = sum(counts.values())
    largest = max(counts, key=counts.__getitem__)
    chance = counts[largest] / total
    near_chance = held_out < chance + max(0.1, 0.15 * (1 - chance))
    words = []
    if held_out <= chance:
        words.append(f"{kind} accuracy {held_out:.1%} is no better than always answering {largest}, right for {chance:.1%}")
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
        words.append(f"only {total} {kind} images, so their accuracy is uncertain: see its interval")
    return words


def _against_overfitting(config: Mapping[str, Any]) -> list[str]:
    """What can still be done, with how a network was trained in mind."""
    advice = ["more images"]
    solved = config.get("unfreeze") == "none" and not (config["hidden"] or config["epochs"])
    if config["dropout"] < _MUCH_DROPOUT and not solved:
        advice.append("a higher --dropout")
    if config.get("augment", "strong") != "strong":
        advice.append("--augment strong")
    if "unfreeze" not in config:
        advice.append("`resnet finetune`, which begins with pretrained weights")
    elif config["unfreeze"] != "none":
        advice.append("--unfreeze none")
    return advice
