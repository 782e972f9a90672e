"""`--time-limit`: a clock that starts with the training, and the views and epochs of fine-tuning that fit into the limit.

In: seconds, and the measured speed of this machine. Out: numbers of views and epochs, and a line that compares plan and result.
"""

import itertools
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from resnet_cli.engines.base import Engine, good_batch
from resnet_cli.errors import ResnetError
from resnet_cli.progress import GO_ON, Progress, how_long, how_many, stop_if_asked
from resnet_cli.runs.folder import drop_checkpoint
from resnet_cli.training.config import FinetuneConfig
from resnet_cli.training.pace import MARGIN, measure_pace
from resnet_cli.transfer.features import Material, batched, views_of
from resnet_cli.transfer.tail import Tail

# Share of the limit for the frozen layers, by `unfreeze`; the rest is for the epochs of the fine-tuning phase.
_SHARE = {"none": 1.0, "last": 0.5, "all": 0.25}
# Seconds of the head phase, and of each of its rows: 3 s for 7,000 rows on two cores.
_HEAD, _HEAD_ROW = 4.0, 3e-4
_MEASURED = 4  # batches
_MEASURING = 0.05  # share of the limit


class Limit:
    """A time limit, counted from the moment this object is made, and the plan that was made for it.

    Args:
        seconds: the limit.
        began: when the clock started; None for now.
    """

    def __init__(self, seconds: float, began: float | None = None) -> None:
        self.seconds = seconds
        self._began = time.perf_counter() if began is None else began
        self._what, self._planned = "", 0.0

    def spent(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self._began

    def plan(self, what: str, seconds: float) -> None:
        """Store a description of the plan, and the seconds it is expected to take from now on."""
        self._what, self._planned = what, self.spent() + seconds

    def outcome(self) -> str:
        """A line that compares plan and result; empty if this process planned nothing."""
        if not self._what:
            return ""
        planned, spent = _precisely(self._planned), _precisely(self.spent())
        return f"time limit {_precisely(self.seconds)}: {self._what} planned to end after {planned}, ended after {spent}"


def _precisely(seconds: float) -> str:
    """A duration in text; ten minutes and less in seconds, as plans are accurate to seconds."""
    return f"{seconds:.0f} s" if seconds <= 600 else how_long(seconds)


@dataclass(frozen=True)
class FrozenPace:
    """The work of the frozen layers, and their speed.

    Attributes:
        row: seconds for the forward pass of one view, including decoding.
        training: number of training images, each with several views.
        held_out: number of held-out images, each with one view.
    """

    row: float
    training: int
    held_out: int

    def seconds_of(self, views: int) -> float:
        """Seconds of all forward passes and the head phase."""
        return self.row * self.held_out + self.training * views * (self.row + _HEAD_ROW) + _HEAD

    def views_within(self, seconds: float) -> int:
        """Views of every training image that fit into so many seconds; 0 where not even one fits."""
        left = seconds - self.seconds_of(0)
        return max(0, int(left / (self.training * (self.row + _HEAD_ROW))))


def views_within(limit: float, spent: float, pace: FrozenPace, unfreeze: str, usual: int, least: int) -> int:
    """Views of every training image: the usual number, or as many as fit into their share of the limit.

    If that share is too short for the least number of views, the views may take all of the limit, and the fine-tuning phase the
    rest.

    Args:
        limit: seconds, from the start of the training.
        spent: seconds until now.
        pace: speed of the frozen layers.
        unfreeze: layers that are fine-tuned in addition to the head.
        usual: number of views without a limit.
        least: smallest number of views allowed.

    Raises:
        ResnetError: even the least number of views takes longer.
    """
    fitting = pace.views_within(limit * MARGIN * _SHARE[unfreeze] - spent)
    if fitting >= least:
        return min(usual, fitting)
    needed = (spent + pace.seconds_of(least)) / MARGIN
    if needed <= limit:
        return least
    raise ResnetError(
        f"--time-limit {limit:.0f}s is too short: the frozen layers and the head take {needed:.0f} s here",
        f"give at least --time-limit {int(needed) + 1}s, a smaller --image-size or fewer images",
    )


def measure_frozen(engine: Engine, material: Material, views: int, limit: float, progress: Progress) -> FrozenPace:
    """Time a few rows in the frozen layers, for a twentieth of the limit at most.

    Args:
        engine: the frozen layers.
        material: the images, and how they are brought to the input size.
        views: views of every training image.
        limit: seconds.
        progress: tells when a stop was requested.

    Raises:
        Interrupted: a signal asked to stop.
    """
    training, size = material.training, good_batch(engine, material.geometry.size)
    count = -(-(_MEASURED + 1) * size // views)
    first = replace(training, samples=training.samples[:count])
    few = views_of("training", first, material.geometry, material.augmentation, views, 0, progress)
    batches = batched(few.squares(range(len(few)), {}), size)
    for batch in itertools.islice(batches, 1 if len(few) > size else 0):
        engine.run(batch)  # compiles, or fills caches
    began, seen = time.perf_counter(), 0
    for outputs in engine.run_many(batches):
        stop_if_asked(progress, GO_ON)
        seen += len(outputs[0])
        if time.perf_counter() - began > limit * _MEASURING:
            break
    return FrozenPace((time.perf_counter() - began) / max(1, seen), len(training), len(material.held_out))


def choose_views(
    limit: Limit, engine: Engine, material: Material, config: FinetuneConfig, usual: int, progress: Progress
) -> int:
    """The number of views that fit into the limit.

    Raises:
        ResnetError: too few fit; the run that has begun is removed.
    """
    pace = measure_frozen(engine, material, usual, limit.seconds, progress)
    least = usual if config.views else 1
    try:
        views = views_within(limit.seconds, limit.spent(), pace, config.unfreeze, usual, least)
    except ResnetError:  # nothing was computed yet: leave no unfinished run
        drop_checkpoint(material.folder)
        with suppress(OSError):
            material.folder.rmdir()
        raise
    limit.plan(how_many(views, "view"), pace.seconds_of(views))
    return views


def choose_epochs(limit: Limit, second: Tail, views: int, progress: Progress) -> int:
    """Epochs of the fine-tuning phase that fit into the time left; at most the usual number."""
    steps = second.stream.steps_per_epoch
    pace = measure_pace(second.model, second.stream, second.held_out, second.recipe, limit.seconds, progress, hint=GO_ON)
    epochs = min(second.recipe.epochs, pace.epochs_within(limit.seconds * MARGIN - limit.spent(), steps))
    if epochs:
        limit.plan(f"{how_many(views, 'view')} and {how_many(epochs, 'epoch')}", pace.seconds_of(epochs, steps))
    else:
        progress.warn(
            f"--time-limit {how_long(limit.seconds)} leaves no time to fine-tune: one epoch takes"
            f" {how_long(pace.seconds_of(1, steps))} here, so the head alone was trained"
        )
    return epochs
