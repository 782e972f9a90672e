"""Pictures whose pooled features are stored: the head of model.xml answers alone, and some whole pictures vouch for it.

In: features and the written classifier. Out: results as `classify` gives them, or None where they cannot be trusted.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from resnet_cli.engines.base import Outputs
from resnet_cli.engines.openvino import OpenVinoEngine, behind_pooling
from resnet_cli.inference.classify import Classified, Member, classify

_SAMPLE = 32  # pictures that go through the whole network as well
_NEAR = 0.02  # probability; parts and whole differ by rounding: stored features are fp16, an engine may multiply in bf16


def classify_pooled(model: Path, pooled: Iterable[Outputs], paths: Sequence[Path], member: Member) -> list[Classified] | None:
    """Classify pictures by their features, which the same backbone gave in the same engine.

    Args:
        model: the classifier's model.xml; what lies behind its pooling answers.
        pooled: features of the pictures, in order, in pieces of float32 (n, D).
        paths: the pictures.
        member: the whole classifier; some pictures, evenly spread, go through it.

    Returns:
        None where there are no more pictures than would go through the whole, or where whole and parts disagree.
    """
    if len(paths) <= _SAMPLE:
        return None
    head = OpenVinoEngine(behind_pooling(model), "many")
    answers = np.concatenate([head.run(piece)[0] for piece in pooled])
    some = np.linspace(0, len(paths) - 1, _SAMPLE).round().astype(int)
    wholes = [each.probabilities for each in classify((paths[index] for index in some), [member])]
    agree = all(
        whole is not None and np.abs(whole - part).max() <= _NEAR for whole, part in zip(wholes, answers[some], strict=True)
    )
    return [Classified(path, answer) for path, answer in zip(paths, answers, strict=True)] if agree else None
