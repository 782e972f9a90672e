"""Distillation: a student learns the probabilities of a teacher on the same crops (Hinton et al. 2015).

In: a training stream and a teacher. Out: a stream whose targets contain labels and the teacher's probabilities, and the loss
for them. A few crops of every image are drawn and reused in all epochs, mirrored and recoloured differently each time. The
teacher's probabilities are cached, so that after some epochs the teacher costs nothing (Shen and Xing 2022, "A fast knowledge
distillation framework for visual recognition"). Same crops for both, and long training: Beyer et al. 2022, "Knowledge
distillation: a good teacher is patient and consistent".
"""

import hashlib
import itertools
import os
import shutil
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from resnet_cli.data.augment import CHANGE, MIX, change, crop_view, generator, mix
from resnet_cli.data.batches import Batch, EvaluationBatches
from resnet_cli.data.contents import contents
from resnet_cli.data.dataset import UNKNOWN, Dataset
from resnet_cli.data.images import ImageSet
from resnet_cli.data.threads import batches_ahead, map_in_order
from resnet_cli.engines.teacher import Teacher, TeacherEngine
from resnet_cli.errors import ResnetError
from resnet_cli.runs.folder import versions
from resnet_cli.training.checkpoints import Derived
from resnet_cli.training.config import TrainConfig


class Distillation(keras.losses.Loss):  # type: ignore[misc]
    """(1 - w) * cross-entropy of the labels + w * T^2 * KL divergence of the student from the teacher, both at temperature T.

    Hinton et al. 2015, section 2: the factor T^2 keeps the size of the gradients as T changes.

    Args:
        weight: w, 0..1.
        temperature: T, above 0; logits are divided by it: 1 does not change probabilities, higher values soften them.
        label_smoothing: share of a label spread over all classes.
    """

    def __init__(self, weight: float, temperature: float, label_smoothing: float) -> None:
        super().__init__(name="distillation", reduction="sum_over_batch_size")
        self._weight, self._temperature, self._smoothing = weight, temperature, label_smoothing

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """(N,) of targets (N, 2 * classes) and logits (N, classes)."""
        labels, teacher = ops.split(y_true, 2, axis=-1)
        temperature = self._temperature
        logs = ops.log(ops.maximum(teacher, 1e-7)) / temperature
        softened = ops.softmax(logs)
        # Cross-entropy as one operation, which TensorFlow computes in float32 where it rewrites others to bf16.
        divergence = _cross_entropy(softened, y_pred / temperature) + ops.sum(softened * ops.log_softmax(logs), axis=-1)
        loss = self._weight * temperature**2 * divergence
        if self._weight == 1:
            return loss
        smooth = labels * (1 - self._smoothing) + self._smoothing / labels.shape[-1]
        return loss + (1 - self._weight) * _cross_entropy(smooth, y_pred)


def _cross_entropy(target: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    return ops.categorical_crossentropy(target, logits, from_logits=True)


def metrics_of_labels(metrics: Sequence[keras.metrics.Metric]) -> list[keras.metrics.Metric]:
    """The same metrics on the first half of the targets, the labels."""
    return [_OfLabels(metric) for metric in metrics]


class _OfLabels(keras.metrics.MeanMetricWrapper):  # type: ignore[misc]
    def __init__(self, metric: keras.metrics.MeanMetricWrapper) -> None:
        self._metric = metric
        super().__init__(self._of_labels, name=metric.name)

    def _of_labels(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        return self._metric._fn(ops.split(y_true, 2, axis=-1)[0], y_pred, **self._metric._fn_kwargs)


def loss_of(config: TrainConfig) -> keras.losses.Loss:
    """Cross-entropy of logits against one-hot or mixed targets; with a teacher, `Distillation`."""
    if config.teacher_weight:
        return Distillation(config.teacher_weight, config.temperature, config.label_smoothing)
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.label_smoothing)


_LARGEST = 10_000_000_000  # bytes of all files of probabilities in the cache
_SURE = 0.01  # largest difference of a sum of fp16 probabilities from 1


class Answers:
    """Rows of probabilities on disk, each written once and read often; thread-safe.

    A row that was not written, or was truncated by a crash, does not sum to 1 and counts as absent.

    Args:
        path: the file, created at its full size as a sparse file: only written rows take disk space.
        rows: largest number of rows.
        width: numbers in a row.
    """

    def __init__(self, path: Path, rows: int, width: int) -> None:
        self._size, self._lock = 2 * width, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self._file = path.open("r+b", buffering=0)
            weakref.finalize(self, self._file.close)
            if path.stat().st_size < rows * self._size:  # an earlier training may have used fewer views
                self._file.truncate(rows * self._size)
            os.utime(path)
        except OSError as error:
            raise ResnetError(f"cannot keep the teacher's answers in {path}: {error.strerror}", "free some disk") from error

    def read(self, row: int) -> NDArray[np.float16] | None:
        """float16 (width,), or None if it is absent."""
        with self._lock:
            self._file.seek(row * self._size)
            values = np.frombuffer(self._file.read(self._size), np.float16)
        return values if abs(float(values.sum(dtype=np.float32)) - 1) < _SURE else None

    def write(self, row: int, values: NDArray[np.float16]) -> None:
        """Store one row; if the disk is full it is not stored, and computed again later."""
        with suppress(OSError), self._lock:
            self._file.seek(row * self._size)
            self._file.write(values.tobytes())


class Assumed:
    """Constant probabilities in place of cached ones, to measure the speed of a training once all are cached.

    Args:
        width: numbers in a row.
    """

    def __init__(self, width: int) -> None:
        self._row = np.full(width, 1 / width, np.float16)

    def read(self, row: int) -> NDArray[np.float16] | None:
        """The same probability for every class."""
        return self._row

    def write(self, row: int, values: NDArray[np.float16]) -> None:
        """Stores nothing."""


def has_room(file: Path, size: int) -> bool:
    """Whether a file of probabilities may take so many bytes in its folder; deletes the least recently used files for it."""
    cache = file.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        others = sorted((path for path in cache.glob("*.f16") if path != file), key=lambda path: path.stat().st_mtime)
        held = 512 * file.stat().st_blocks if file.exists() and hasattr(os, "statvfs") else 0  # of its own, which has holes
        if size > _LARGEST or size - held > shutil.disk_usage(cache).free // 2:
            return False
        taken = sum(path.stat().st_size for path in others)
        while others and taken + size > _LARGEST:  # a process that has one open can read it until it ends
            taken -= others[0].stat().st_size
            others.pop(0).unlink()
        return True
    except OSError:
        return False


_ASKED = 8  # images in a forward pass of the teacher


@dataclass(frozen=True)
class Lesson:
    """How the teacher's probabilities are obtained.

    Attributes:
        teacher: the engine of the teacher.
        columns: the teacher's index of each class of the student; None if the orders are the same.
        views: crops drawn of each image; 0 draws new ones every epoch.
        answers: the cached probabilities; None caches nothing, and `Assumed` replaces all.
    """

    teacher: TeacherEngine
    columns: tuple[int, ...] | None
    views: int
    answers: Answers | Assumed | None = None

    @property
    def side(self) -> int:
        """Side of the teacher's input, pixels."""
        return self.teacher.teacher.size

    def ask(self, crops: Iterable[NDArray[np.uint8]]) -> NDArray[np.float16]:
        """Probabilities (N, classes) of N crops of uint8 (side, side, 3), in the student's order of classes; N is 1 or more.

        The teacher always gets batches of the same size, so that the probabilities of an image do not depend on the rest of its
        batch, even in a resumed training whose cache was lost.
        """
        sizes = []

        def batches() -> Iterator[NDArray[np.uint8]]:
            left = iter(crops)
            while some := list(itertools.islice(left, _ASKED)):
                sizes.append(len(some))
                yield np.stack(some + some[:1] * (_ASKED - len(some)))

        answers = np.concatenate(list(self.teacher.run_many(batches())))[: sum(sizes)]
        return (answers if self.columns is None else answers[:, self.columns]).astype(np.float16)

    def answers_of(self, squares: ImageSet) -> Iterator[NDArray[np.float16]]:
        """Probabilities of images in order, in pieces of float16 (n, classes); the images are squares of the teacher's size."""

        def ask(first: int) -> NDArray[np.float16]:
            return self.ask([squares[row] for row in range(first, min(first + _ASKED, len(squares)))])

        return map_in_order(ask, range(0, len(squares), _ASKED))


def columns_of(teacher: Teacher, dataset: Dataset) -> tuple[int, ...] | None:
    """The teacher's index of each class of a data set; None if the orders are the same."""
    place = {name: index for index, name in enumerate(teacher.classes)}
    return None if teacher.classes == dataset.classes else tuple(place[name] for name in dataset.classes)


@dataclass(frozen=True)
class Taught(Derived):
    """A training stream whose targets include the teacher's probabilities.

    Attributes:
        stream: the images and their augmentation.
        lesson: how the teacher's probabilities are obtained.
        side: side of the images in batches, pixels, if it differs from the stream's geometry, for which crops are drawn.
    """

    lesson: Lesson
    side: int | None = None

    def remembering(self, cache: Path | None) -> "Taught":
        """The same stream with a cache file for the teacher's probabilities, shared by trainings with the same crops.

        Nothing is cached if new crops are drawn every epoch, or if there is no room.

        Args:
            cache: folder of the cache; None for none.
        """
        rows = self.lesson.views * len(self.stream.images)
        if cache is None or not rows:
            return self
        path = cache / f"{self._crops()}.f16"
        if not has_room(path, 2 * rows * self.classes):
            return self
        with suppress(ResnetError):  # a cache that cannot be written
            return replace(self, lesson=replace(self.lesson, answers=Answers(path, rows, self.classes)))
        return self

    def _crops(self) -> str:
        """A hash of the teacher and of its crops: equal hashes mean equal probabilities."""
        stream, lesson = self.stream, self.lesson
        how = stream.augmentation
        size = stream.geometry.size if how.crop == "pad" else 0  # other crops are the same for inputs of any size
        shown = (stream.images.read, how.crop, how.scale, replace(stream.geometry, size=size), stream.seed)
        what = hashlib.sha256(f"{lesson.teacher.teacher.sha256} {lesson.columns} {shown} {versions()}".encode())
        for content in contents(sample.path for sample in stream.images.samples):
            what.update(f"{content}\n".encode())
        return what.hexdigest()[:16]

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """See `TrainStream.batches`."""
        size = self.stream.batch_size * (self.stream.geometry.size**2 * 3 + 8 * self.classes)
        return map_in_order(self.batch, itertools.count(first_step), batches_ahead(size))

    def batch(self, step: int) -> Batch:
        """The batch of one step: uint8 (N, size, size, 3) and float32 (N, 2 * classes), see `Distillation`."""
        stream, how, views = self.stream, self.stream.augmentation, self.lesson.views
        drawn = [(epoch, epoch % views if views else epoch, index) for epoch, index in stream.order.drawn(step)]
        sources = [stream.images[index] for _, _, index in drawn]
        answers = self._answers(sources, [(view, index) for _, view, index in drawn])
        side = self.side or stream.geometry.size
        images = np.empty((len(drawn), side, side, 3), np.uint8)
        for row, (source, (epoch, view, index)) in enumerate(zip(sources, drawn, strict=True)):
            crop = crop_view(source, stream.geometry, how, generator(stream.seed, view, index), side)
            images[row] = change(crop, how, generator(stream.seed, epoch, index, CHANGE))
        labels = np.array([stream.images.samples[index].label for _, _, index in drawn])
        targets = both(labels, answers)
        if how.mixup:
            mix(images, targets, how.mixup, generator(stream.seed, step, 0, MIX))
        return images, targets

    def _answers(self, images: Sequence[NDArray[np.uint8]], drawn: Sequence[tuple[int, int]]) -> NDArray[np.float16]:
        """The teacher's probabilities (N, classes) of some views: (view, index of the image)."""
        stream, lesson = self.stream, self.lesson
        rows = [view * len(stream.images) + index for view, index in drawn]
        answers = np.empty((len(drawn), self.classes), np.float16)
        asked = []
        for place, row in enumerate(rows):
            known = lesson.answers.read(row) if lesson.answers else None
            if known is None:
                asked.append(place)
            else:
                answers[place] = known
        if asked:
            answers[asked] = lesson.ask(
                crop_view(images[i], stream.geometry, stream.augmentation, generator(stream.seed, *drawn[i]), lesson.side)
                for i in asked
            )
        if lesson.answers:
            for place in asked:
                lesson.answers.write(rows[place], answers[place])
        return answers


def both(labels: NDArray[np.int64], answers: NDArray[np.float16]) -> NDArray[np.float32]:
    """Targets (N, 2 * classes): one-hot labels, then the teacher's probabilities, which also replace unknown labels.

    Args:
        labels: class indices (N,), `UNKNOWN` if there is none.
        answers: probabilities (N, classes).
    """
    classes = answers.shape[1]
    targets = np.zeros((len(labels), 2 * classes), np.float32)
    targets[:, classes:] = answers
    known = labels != UNKNOWN
    targets[np.flatnonzero(known), labels[known]] = 1
    targets[~known, :classes] = answers[~known]
    return targets


class TaughtEvaluation(keras.utils.PyDataset):  # type: ignore[misc]
    """Held-out images as prediction sees them; without labels, the teacher's probabilities are the targets.

    Args:
        batches: the images and one-hot labels.
        answers: the teacher's probabilities (N, classes) of the same images; None if they are labelled.
    """

    def __init__(self, batches: EvaluationBatches, answers: NDArray[np.float16] | None) -> None:
        super().__init__(workers=1)
        self._batches, self._answers = batches, answers

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:
        images, targets = self._batches[index]
        if self._answers is not None:
            first = index * self._batches.batch_size
            targets = self._answers[first : first + len(images)].astype(np.float32)
        return images, np.concatenate([targets, targets], axis=1)
