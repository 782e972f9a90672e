"""What a student is shown: crops of images, and what the teacher says of the very same crops.

In: a training stream and a teacher. Out: a stream whose targets hold labels and the teacher's answers. Of every image a few
crops are drawn and shown again and again, mirrored and recoloured anew each time, so that after some epochs the teacher costs
nothing (Shen and Xing 2022, "A fast knowledge distillation framework for visual recognition"). The same crop for both, and
long training: Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent".
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.augment import CHANGE, MIX, change, crop_view, generator, mix
from resnet_cli.data.batches import Batch, EvaluationBatches
from resnet_cli.data.pictures import Pictures
from resnet_cli.data.same_files import contents
from resnet_cli.data.scan import UNKNOWN, Dataset
from resnet_cli.data.threads import batches_ahead, map_in_order
from resnet_cli.engines.teacher import Teacher, TeacherEngine
from resnet_cli.errors import ResnetError
from resnet_cli.learning.answers import Answers, Assumed, has_room
from resnet_cli.learning.stage import Derived
from resnet_cli.versions import versions

_ASKED = 8  # images of a forward pass of the teacher


@dataclass(frozen=True)
class Lesson:
    """How a teacher is asked.

    Attributes:
        teacher: answers.
        columns: where the teacher has each class of the student; None where the orders are the same.
        views: crops of each image that are drawn; 0 draws new ones every epoch.
        answers: those that were given already; None keeps none, and `Assumed` stands for all.
    """

    teacher: TeacherEngine
    columns: tuple[int, ...] | None
    views: int
    answers: Answers | Assumed | None = None

    @property
    def side(self) -> int:
        """Of the teacher's input, pixels."""
        return self.teacher.teacher.size

    def ask(self, crops: Iterable[NDArray[np.uint8]]) -> NDArray[np.float16]:
        """Probabilities (N, classes) of N crops of uint8 (side, side, 3), in the student's order of classes; N is 1 or more.

        The teacher always sees batches of one size: what it says of an image does not depend on what stands beside it, nor does
        it after a training goes on whose answers were lost.
        """
        sizes = []

        def batches() -> Iterator[NDArray[np.uint8]]:
            left = iter(crops)
            while some := list(itertools.islice(left, _ASKED)):
                sizes.append(len(some))
                yield np.stack(some + some[:1] * (_ASKED - len(some)))

        answers = np.concatenate(list(self.teacher.run_many(batches())))[: sum(sizes)]
        return (answers if self.columns is None else answers[:, self.columns]).astype(np.float16)

    def answers_of(self, squares: Pictures) -> Iterator[NDArray[np.float16]]:
        """Probabilities of images in order, in pieces of float16 (n, classes); the images are squares of the teacher's size."""

        def ask(first: int) -> NDArray[np.float16]:
            return self.ask([squares[row] for row in range(first, min(first + _ASKED, len(squares)))])

        return map_in_order(ask, range(0, len(squares), _ASKED))


def columns_of(teacher: Teacher, dataset: Dataset) -> tuple[int, ...] | None:
    """Where the teacher has each class of a data set; None where the orders are the same."""
    place = {name: index for index, name in enumerate(teacher.classes)}
    return None if teacher.classes == dataset.classes else tuple(place[name] for name in dataset.classes)


@dataclass(frozen=True)
class Taught(Derived):
    """A training stream with the teacher's answers beside the labels.

    Attributes:
        stream: the images, and what happens to them.
        lesson: how the teacher is asked.
        side: of the batches' images, if not that of the stream's geometry, for which the crops are drawn; pixels.
    """

    lesson: Lesson
    side: int | None = None

    def remembering(self, cache: Path | None) -> "Taught":
        """The same, with a file for the teacher's answers, in which other trainings find those to the same crops.

        Nothing is kept where new crops are drawn every epoch, or where there is no room.

        Args:
            cache: folder of such files; None for none.
        """
        rows = self.lesson.views * len(self.stream.pictures)
        if cache is None or not rows:
            return self
        path = cache / f"{self._crops()}.f16"
        if not has_room(path, 2 * rows * self.classes):
            return self
        with suppress(ResnetError):  # a cache that cannot be written
            return replace(self, lesson=replace(self.lesson, answers=Answers(path, rows, self.classes)))
        return self

    def _crops(self) -> str:
        """A name for the teacher and the crops that it is shown, view after view: one name, the same answers."""
        stream, lesson = self.stream, self.lesson
        how = stream.augmentation
        size = stream.geometry.size if how.crop == "pad" else 0  # other crops are the same for inputs of any size
        shown = (stream.pictures.read, how.crop, how.scale, replace(stream.geometry, size=size), stream.seed)
        what = hashlib.sha256(f"{lesson.teacher.teacher.sha256} {lesson.columns} {shown} {versions()}".encode())
        for content in contents(sample.path for sample in stream.pictures.samples):
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
        pictures = [stream.pictures[index] for _, _, index in drawn]
        answers = self._answers(pictures, [(view, index) for _, view, index in drawn])
        side = self.side or stream.geometry.size
        images = np.empty((len(drawn), side, side, 3), np.uint8)
        for row, (picture, (epoch, view, index)) in enumerate(zip(pictures, drawn, strict=True)):
            crop = crop_view(picture, stream.geometry, how, generator(stream.seed, view, index), side)
            images[row] = change(crop, how, generator(stream.seed, epoch, index, CHANGE))
        labels = np.array([stream.pictures.samples[index].label for _, _, index in drawn])
        targets = both(labels, answers)
        if how.mixup:
            mix(images, targets, how.mixup, generator(stream.seed, step, 0, MIX))
        return images, targets

    def _answers(self, pictures: Sequence[NDArray[np.uint8]], drawn: Sequence[tuple[int, int]]) -> NDArray[np.float16]:
        """The teacher's answers (N, classes) to some views: (view, index of the image)."""
        stream, lesson = self.stream, self.lesson
        rows = [view * len(stream.pictures) + index for view, index in drawn]
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
                crop_view(pictures[i], stream.geometry, stream.augmentation, generator(stream.seed, *drawn[i]), lesson.side)
                for i in asked
            )
        if lesson.answers:
            for place in asked:
                lesson.answers.write(rows[place], answers[place])
        return answers


def both(labels: NDArray[np.int64], answers: NDArray[np.float16]) -> NDArray[np.float32]:
    """Targets (N, 2 * classes): one-hot labels, then the teacher's probabilities; these in both places where no label is known.

    Args:
        labels: class indices (N,), `UNKNOWN` where there is none.
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
    """Held-out images as prediction sees them, with the teacher's answers where the labels are those.

    Args:
        batches: the images and one-hot labels.
        answers: the teacher's probabilities (N, classes) of the same images; None where they have labels of their own.
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
