"""Export a run, in float, with weights in half precision or as int8: write its classifier, load it with that format's own
runtime, and keep it only if its probabilities match. An int8 model is made from the float export, and kept if it is about as
accurate on held-out images.

In: a run; for int8 its images too. Out: a folder with the model and labels.txt, complete or absent; a comparison with the run.
"""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from resnet_cli.data import scoring
from resnet_cli.data.contents import kind_of
from resnet_cli.data.decode import Geometry, run_geometry
from resnet_cli.data.layout import some_names
from resnet_cli.engines.base import Images
from resnet_cli.engines.frozen import read_classifier
from resnet_cli.errors import ResnetError
from resnet_cli.export.folder import Description, Wanted, check_free, describe, new_folder, size
from resnet_cli.export.formats import OUTPUT, FormatName, Subject, find_format
from resnet_cli.export.images import resizing
from resnet_cli.export.parity import (
    BATCH,
    Accuracy,
    Parity,
    Probe,
    Side,
    accuracy,
    answer_both,
    compare,
    keras_answer,
    reader,
    sample_images,
    some_images,
    some_samples,
    speeds_of,
)
from resnet_cli.export.quantizers import MAX_DROP, find_quantizer
from resnet_cli.networks.catalogue import spec_from_record
from resnet_cli.progress import how_many
from resnet_cli.runs.folder import Run, read_splits

CALIBRATION = 300  # images: the tools' own advice is "a few hundred", and NNCF's default is 300


@dataclass(frozen=True)
class Exported:
    """A written export.

    Attributes:
        folder: folder of the model and labels.txt.
        model: path that a runtime loads: a file in the folder, or the folder itself.
        bytes: size of all files in the folder.
        parity: comparison with the run.
        accuracy: held-out accuracy, if a smallest one was required.
        with_resize: whether the model resizes images itself.
    """

    folder: Path
    model: Path
    bytes: int
    parity: Parity
    accuracy: Accuracy | None = None
    with_resize: bool = False


class TooInaccurate(ResnetError):
    """The exported model is less accurate than required; nothing was kept."""

    exit_code = 3


def export(run: Run, wanted: Wanted) -> Exported:
    """Export the classifier of a run: uint8 RGB images (N, H, W, 3) to probabilities (N, classes), preprocessing included.

    Raises:
        ResnetError: the folder exists or cannot be written, a package is missing, the run is damaged, or the exported
            model's probabilities differ from the run's; no files are left behind.
        TooInaccurate: it is less accurate than required; no files are left behind.
    """
    form, precision = find_format(wanted.name), "float16" if wanted.half else "float"
    folder = wanted.folder(run, precision)
    check_free(folder, wanted.force)
    geometry = run_geometry(run)
    scored = None if wanted.min_accuracy is None else _held_out(run, "--min-accuracy")
    subject = _subject(run, wanted)
    sample = sample_images(run, geometry, wanted.with_resize)
    with new_folder(folder, wanted.force) as partial:
        parity = write_and_compare(wanted.name, subject, partial, sample)
        found = None
        if scored is not None:
            with converting(wanted.name):
                answer = form.load(partial / form.files[0])
                read, batch = reader(geometry, wanted.with_resize), 1 if wanted.with_resize else BATCH
                found = accuracy(answer, scored.split, some_samples(scored.samples), read, batch)
            _require_accuracy(found, wanted)
        size = describe(partial, run, Description(wanted.name, precision, wanted.with_resize, parity, found))
    return Exported(folder, folder / form.files[0], size, parity, found, wanted.with_resize)


def _subject(run: Run, wanted: Wanted) -> Subject:
    classifier = read_classifier(run.weights, spec_from_record(run.record))
    # The same classifier with a named output, as the formats write it.
    classifier = network = keras.Model(classifier.input, {OUTPUT: classifier.output}, name=classifier.name)
    if wanted.with_resize:
        resize = resizing(run_geometry(run))
        network = keras.Model(resize.input, classifier(resize.output), name=classifier.name)
    return Subject(classifier, network, run_geometry(run), run.classes, wanted.half)


def _require_accuracy(found: Accuracy, wanted: Wanted) -> None:
    if wanted.min_accuracy is not None and found.top1 < wanted.min_accuracy:
        images = how_many(found.count, f"{kind_of(found.split)} image")
        raise TooInaccurate(
            f"top-1 accuracy {found.top1:.4f} of the exported model ({found.correct} of {images}) is below"
            f" --min-accuracy {wanted.min_accuracy:g}",
            "nothing was kept",
        )


_ROUNDED = 2e-2  # tolerance where weights have 11 significant bits, or resized pixels may be rounded to the next level


def write_and_compare(name: FormatName, subject: Subject, folder: Path, sample: Probe) -> Parity:
    """Write a model, load it again and compare: a difference within the tolerance cannot change the predicted class where the
    two best probabilities are twice the tolerance apart.

    Args:
        name: the format.
        subject: what to write.
        folder: an existing folder.
        sample: images to compare on.

    Raises:
        ResnetError: it cannot be written, or its probabilities differ.
    """
    form = find_format(name)
    tolerance = max(form.tolerance, _ROUNDED) if subject.half or subject.with_resize else form.tolerance
    with converting(name):
        form.write(subject, folder)
        parity = compare(keras_answer(subject.classifier), form.load(folder / form.files[0]), sample)
    # Written as a negation, so that NaN fails too.
    if not parity.max_probability_difference <= tolerance:
        raise ResnetError(
            f"the exported {name} model answers differently from the run: its probabilities differ by up to"
            f" {parity.max_probability_difference:.2g} on {parity.images} {parity.source}, more than {tolerance:g}",
            "nothing was kept; try another --format, and please report it",
        )
    return parity


@contextmanager
def converting(name: str) -> Iterator[None]:
    """Turn any error inside into one sentence: converters and runtimes have no common error type."""
    try:
        yield
    except (ResnetError, OSError):
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ResnetError(f"the export as {name} failed: {reason}", "is the disk full?") from error


@dataclass(frozen=True)
class Quantized:
    """An int8 export and what it cost.

    Attributes:
        exported: the written export; its parity compares the int8 model with the float one on the held-out images.
        calibration: number of training images that the ranges of activations were computed from.
        split: split of the held-out images, "val" or "test".
        count: number of held-out images measured.
        before, after: the float export and the int8 one.
        max_drop: points of top-1 that int8 may lose.
        left_out: remarks on held-out images that were not measured.
    """

    exported: Exported
    calibration: int
    split: str
    count: int
    before: Side
    after: Side
    max_drop: float
    left_out: tuple[str, ...] = ()

    @property
    def lost(self) -> int:
        """Correct images of the float export minus those of int8; negative if int8 is better."""
        return self.before.correct - self.after.correct

    @property
    def drop(self) -> float:
        """Points of held-out top-1 that int8 loses."""
        return 100 * self.lost / self.count

    @property
    def allowed(self) -> int:
        """Number of images that int8 may lose."""
        return allowed_loss(self.max_drop, self.count)

    @property
    def is_worse(self) -> bool:
        """Whether int8 loses more than it may."""
        return self.lost > self.allowed


def allowed_loss(points: float, count: int) -> int:
    """Number of images, of `count`, that correspond to a loss of so many points of top-1.

    It is rounded down, but at least 1 for a bound above 0, as so few images cannot show a smaller loss.
    """
    return max(1, math.floor(points * count / 100 + 1e-9)) if points else 0


def export_int8(run: Run, wanted: Wanted, max_drop: float = 100 * MAX_DROP) -> Quantized:
    """Export the classifier of a run with 8-bit weights and activations; the same input and output as the float export.

    Args:
        run: a complete run whose images still exist.
        wanted: a format that has a quantizer, and the folder.
        max_drop: points of held-out top-1 that int8 may lose, see `allowed_loss`.

    Raises:
        ResnetError: the folder exists or cannot be written, a package or the images are missing, or held-out top-1 drops
            by more than `max_drop`; no files are left behind.
        TooInaccurate: it is less accurate than required; no files are left behind.
    """
    name = wanted.name
    form, quantizer = find_format(name), find_quantizer(name)
    folder = wanted.folder(run, "int8")
    check_free(folder, wanted.force)
    geometry = run_geometry(run)
    scored = _held_out(run, "int8")
    measured = some_samples(scored.samples)
    images = _calibration_images(run, geometry)
    subject = _subject(run, wanted)
    with new_folder(folder, wanted.force) as partial:
        exact, small = partial / "float" / form.files[0], partial / form.files[0]
        exact.parent.mkdir()
        write_and_compare(name, subject, exact.parent, sample_images(run, geometry))
        with converting(name):
            quantizer.write(subject, exact, images, small)
            answers = quantizer.load(exact), quantizer.load(small)
            both = answer_both(answers, measured, geometry)
            speeds = speeds_of(answers, images[:BATCH])
        before = Side(both.correct[0], size(exact.parent), speeds[0])
        shutil.rmtree(exact.parent)
        after = Side(both.correct[1], size(partial), speeds[1])
        count = both.parity.images
        found = Accuracy(scored.split, count, after.correct)
        total = describe(partial, run, Description(name, "int8", False, both.parity, found))
        exported = Exported(folder, folder / small.name, total, both.parity, found)
        left_out = _left_out(scored, len(measured) - count)
        quantized = Quantized(exported, len(images), scored.split, count, before, after, max_drop, left_out)
        if quantized.is_worse and not wanted.force:
            _refuse(quantized)
        _require_accuracy(found, wanted)
    return quantized


def _held_out(run: Run, what: str) -> scoring.Scored:
    try:
        return scoring.held_out([run])
    except ResnetError as error:
        raise ResnetError(error.message, f"put the data set back: {what} is measured on held-out images") from error


def _calibration_images(run: Run, geometry: Geometry) -> Images:
    """Up to 300 training images of the run, of all classes, always the same ones."""
    rows = [row for row in read_splits(run) if row.split == "train"]
    found = some_images(run, rows, reader(geometry), CALIBRATION)
    if not found:
        raise ResnetError(
            f"none of the {how_many(len(rows), 'training image')} of {run.data} can be read",
            "put the data set back: int8 needs some of them",
        )
    return np.stack(found)


def _left_out(scored: scoring.Scored, unreadable: int) -> tuple[str, ...]:
    kind, notes = kind_of(scored.split), []
    if changed := [str(path) for path in scored.changed]:
        notes.append(f"{kind} images that have changed since training are left out ({len(changed)}): {some_names(changed, 6)}")
    if unreadable:
        notes.append(f"{kind} images that cannot be read are left out ({unreadable})")
    return tuple(notes)


def _refuse(quantized: Quantized) -> None:
    count, kind = quantized.count, kind_of(quantized.split)
    raise ResnetError(
        f"int8 loses {in_images(quantized.lost, count)}, more than --max-drop {quantized.max_drop:g} allows, which is"
        f" {in_images(quantized.allowed, count)}: it has {quantized.after.correct} of {how_many(count, f'{kind} image')} right,"
        f" the float export {quantized.before.correct}",
        "nothing was kept; export without --quantize, raise --max-drop, or keep it anyway with --force",
    )


def in_images(lost: int, count: int) -> str:
    """A loss of top-1 in images and in points: "2 of 40 images (5.0 points)"."""
    return f"{lost} of {how_many(count, 'image')} ({100 * lost / count:.1f} points)"
