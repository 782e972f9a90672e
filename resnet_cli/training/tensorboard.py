"""TensorBoard's event files: the metrics of metrics.jsonl for `tensorboard --logdir runs` (light).

In: the records of a stage. Out: tensorboard/<stage>/events.out.tfevents.* in the run's folder. The package `tensorboard` is
optional; its record format and messages need no TensorFlow, unlike Keras' callback, and no network.
"""

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_cli.errors import ResnetError
from resnet_cli.files import writing

if TYPE_CHECKING:
    from resnet_cli.runs.folder import EpochRecord

_FIGURES = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "images_per_second")


def require_tensorboard() -> None:
    """Check that event files can be written, before anything else is done.

    Raises:
        ResnetError: the package is not installed.
    """
    if find_spec("tensorboard") is None:
        raise ResnetError("--tensorboard needs the package tensorboard", "pip install 'resnet-cli[tensorboard]'")


class EventFile:
    """The event file of one stage: one scalar per metric and epoch; the step is the epoch, from 1.

    It is written again from the epochs that are already done, so that a resumed training neither repeats nor misses one.

    Args:
        folder: folder of the stage; older event files there are deleted.
        history: finished epochs of this stage.

    Raises:
        ResnetError: the disk is full, or the folder cannot be written.
    """

    def __init__(self, folder: Path, history: "Sequence[EpochRecord]") -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        now = time.time()
        self._path = folder / f"events.out.tfevents.{now:.6f}"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        # An open viewer discards the events from this step on.
        start = Event(wall_time=now, step=1, session_log=SessionLog(status=SessionLog.START))
        self._append([Event(wall_time=now, file_version="brain.Event:2"), start])
        # Times of the finished epochs are counted back from now by their durations.
        left = sum(record.seconds for record in history)
        for record in history:
            left -= record.seconds
            self.append(record, now - left)

    def append(self, record: "EpochRecord", ended: float | None = None) -> None:
        """Add an epoch that ended now, or at a given time (seconds since 1970)."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=getattr(record, name)) for name in _FIGURES]
        self._append([Event(wall_time=ended or time.time(), step=record.epoch, summary=Summary(value=values))])

    def _append(self, events: list[Any]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        with writing(self._path), self._path.open("ab") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())
