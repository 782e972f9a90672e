"""When training ends before its last epoch, and when fine-tuning is not begun (light: pure functions of recorded epochs).

In: records of epochs, so that a resumed run decides as one that was never interrupted. Out: whether to go on.
"""

import math
from collections.abc import Sequence

from resnet_cli.history import EpochRecord

SURE = 0.05  # nats: the right class has a probability of 95 % in the geometric mean over the validation images


def is_perfect(record: EpochRecord) -> bool:
    """Whether validation can show no gain any more: every image is right, at a mean cross-entropy below `SURE`."""
    return record.val_accuracy == 1 and record.val_loss < SURE


def epochs_without_gain(history: Sequence[EpochRecord], reference: EpochRecord | None = None) -> int:
    """How many epochs ago validation last gained, counted from the peak of the learning rate at the earliest.

    An epoch gains if its validation accuracy is higher or its validation loss lower than in all epochs before it. Warm-up does
    not count: at a rising rate the loss often rises for some epochs, and falls below its start when the rate is lowered.

    Args:
        history: the epochs of a phase so far.
        reference: an epoch of an earlier phase that has to be surpassed too.
    """
    accuracy, loss = (reference.val_accuracy, reference.val_loss) if reference else (-1.0, math.inf)
    peak = max(range(len(history)), key=lambda index: history[index].learning_rate, default=0)
    last = peak
    for index, record in enumerate(history):
        if record.val_accuracy > accuracy or record.val_loss < loss:
            last = max(peak, index)
        accuracy, loss = max(accuracy, record.val_accuracy), min(loss, record.val_loss)
    return max(0, len(history) - 1 - last)
