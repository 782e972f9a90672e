"""Images whose pooled features are stored: the head of model.xml answers alone, and the whole network where that could differ.

In: features and the written classifier. Out: results as `classify` gives them, or None where they cannot be trusted.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from resnet_cli.engines.base import Outputs
from resnet_cli.engines.openvino import OpenVinoEngine, behind_pooling
from resnet_cli.inference.classify import Classified, Member, classify

_SAMPLE = 32  # images that go through the whole network as well
_NEAR = 0.02  # probability; parts and whole differ by rounding: stored features are fp16, an engine may multiply in bf16


def classify_pooled(model: Path, pooled: Iterable[Outputs], paths: Sequence[Path], member: Member) -> list[Classified] | None:
    """Classify images by their features, which the same backbone gave in the same engine.

    Some images, evenly spread, go through the whole classifier and vouch for the others; so do those whose two best classes are
    so near that rounding could change the answer: `evaluate` and `predict` must name the same class.

    Args:
        model: the classifier's model.xml; what lies behind its pooling answers.
        pooled: features of the images, in order, in pieces of float32 (n, D).
        paths: the images.
        member: the whole classifier.

    Returns:
        None where all images would go through the whole network, or where whole and parts disagree.
    """
    if len(paths) <= _SAMPLE:
        return None
    head = OpenVinoEngine(behind_pooling(model), "many")
    answers = np.concatenate([head.run(piece)[0] for piece in pooled])
    best = np.partition(answers, -2, axis=1)[:, -2:]
    unsure = np.flatnonzero(best[:, 1] - best[:, 0] <= 2 * _NEAR)
    sample = np.linspace(0, len(paths) - 1, _SAMPLE).round().astype(int)
    some = np.union1d(sample, unsure)
    if len(some) == len(paths):
        return None
    wholes = [each.probabilities for each in classify((paths[index] for index in some), [member])]
    for index, whole in zip(some, wholes, strict=True):
        if whole is None or np.abs(whole - answers[index]).max() > _NEAR:
            return None
        answers[index] = whole
    return [Classified(path, answer) for path, answer in zip(paths, answers, strict=True)]
