"""Classify images: the core of `predict` and `evaluate`.

In: images, as paths or in memory, and one or more classifiers. Out: per image, in input order, a probability vector or an
error; the most probable classes. Memory does not grow with the number of images: only a few batches are decoded ahead of the
engines. A batch is smaller when no further image is waiting.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_cli.data.decode import Geometry, InMemory, Pixels, Source, decode, decode_square, to_square
from resnet_cli.data.threads import Pause, items_ahead, map_arriving
from resnet_cli.engines.base import Engine, Images, good_batch
from resnet_cli.errors import ResnetError
from resnet_cli.files import path_text
from resnet_cli.inference.novelty import Novelty


@dataclass(frozen=True)
class Member:
    """One of the classifiers of an ensemble.

    Attributes:
        engine: computes probabilities.
        geometry: how images are brought to its input size.
        columns: its index of each class in the common order; None if its own order is the common one.
        novelty: tells how far images are from its training images; None if that is not known. The engine then has the pooled
            features as a second output.
        whole: whether the network resizes images itself: it gets them one by one, in any size.
    """

    engine: Engine
    geometry: Geometry
    columns: tuple[int, ...] | None = None
    novelty: Novelty | None = None
    whole: bool = False

    @property
    def preparation(self) -> tuple[Geometry, bool]:
        """What decoding depends on."""
        return self.geometry, self.whole


@dataclass(frozen=True)
class Classified:
    """The result of one image.

    Attributes:
        image: the image.
        probabilities: (classes,); None if it cannot be read.
        error: the reason.
        features: pooled features of the first member (D,), if its engine has them.
        distance: from the training images, above 1 if it is unlike them; the mean of the members that know it, or None.
    """

    image: Source
    probabilities: NDArray[np.float32] | None
    error: str | None = None
    features: NDArray[np.float32] | None = None
    distance: float | None = None


@dataclass(frozen=True)
class _Decoded:
    """The views of an image, uint8 (views, size, size, 3), by preparation; or the reason why there are none."""

    image: Source
    views: dict[tuple[Geometry, bool], NDArray[np.uint8]] = field(default_factory=dict)
    error: str | None = None


def classify(
    images: Iterable[Source | Pause],
    members: Sequence[Member],
    views: int = 1,
    batch: int | None = None,
    threads: int | None = None,
) -> Iterator[Classified]:
    """Classify images; an unreadable image gives an error and does not affect the others.

    Probabilities are the mean over the views of an image and over the members, as the papers score ensembles and crops
    (Krizhevsky et al. 2012, section 4.1). An image is decoded once for each different geometry of the members.

    Args:
        images: files or images in memory; at a pause, the results of all images before it are yielded before the next image is
            requested.
        members: the classifiers, one or more, all of the same classes.
        views: views of each image: 1, 2 or 10, see `decode_views`.
        batch: views in a forward pass; None chooses by the input size. The views of an image stay together.
        threads: that read and decode images; None = one per core.

    Example:
        >>> from pathlib import Path
        >>> from resnet_cli.data.decode import run_geometry
        >>> from resnet_cli.engines.openvino import OpenVinoEngine
        >>> from resnet_cli.inference.classify import Member, classify
        >>> from resnet_cli.networks.pretrained import bundled_run
        >>> run = bundled_run()
        >>> member = Member(OpenVinoEngine(run.openvino, "one"), run_geometry(run))
        >>> (found,) = classify([Path("sample_data/cars_vs_trucks/cars/car_001.jpg")], [member])
        >>> found.probabilities.shape
        (1000,)
    """
    if batch is None:
        batch = min(good_batch(member.engine, member.geometry.size) for member in members)
    preparations = tuple({member.preparation: None for member in members})
    count = 1 if any(member.whole for member in members) else max(1, batch // views)

    def attempt(image: Source) -> _Decoded:
        try:
            return _Decoded(image, {each: decode_views(image, each[0], views, each[1]) for each in preparations})
        except ResnetError as error:
            return _Decoded(image, error=error.message)

    # mypy joins the kinds of images to `object`.
    ahead = items_ahead(max(4 * count, 2 * (threads or 0)))
    decoded = map_arriving(attempt, images, ahead, threads)  # type: ignore[arg-type]
    # All engines read the same groups; each runs ahead of the results by its own few requests only.
    groups, *streams = itertools.tee(_grouped(decoded, count), 1 + len(members))
    answers = zip(*(_answers(member, stream, views) for member, stream in zip(members, streams, strict=True)), strict=True)
    for group in groups:
        if isinstance(group, Pause):
            continue
        rows = _rows(next(answers)) if _readable(group) else iter(())
        for each in group:
            probabilities, features, distance = (None, None, None) if each.error is not None else next(rows)
            yield Classified(each.image, probabilities, each.error, features, distance)


@dataclass(frozen=True)
class _Answers:
    """What a member says about a group of images; means over the views.

    Attributes:
        probabilities: (images, classes), in the common order of classes.
        features: (images, D), if the engine has them.
        distances: (images,), if the member knows them.
    """

    probabilities: NDArray[np.float32]
    features: NDArray[np.float32] | None
    distances: NDArray[np.float32] | None


_Row = tuple[NDArray[np.float32], NDArray[np.float32] | None, float | None]


def _rows(answers: Sequence[_Answers]) -> Iterator[_Row]:
    """Per image: mean probabilities, the features of the first member, and the mean distance; None for what is not known."""
    mean = np.mean([each.probabilities for each in answers], axis=0)
    features = itertools.repeat(None) if answers[0].features is None else answers[0].features
    known = [each.distances for each in answers if each.distances is not None]
    distances = np.mean(known, axis=0).tolist() if known else itertools.repeat(None)
    return zip(mean, features, distances, strict=False)


def _grouped(decoded: Iterable[_Decoded | Pause], size: int) -> Iterator[list[_Decoded] | Pause]:
    """Groups of `size`; a pause ends the group before it."""
    group: list[_Decoded] = []
    for each in decoded:
        if not isinstance(each, Pause):
            group.append(each)
        if group and (isinstance(each, Pause) or len(group) == size):
            yield group
            group = []
        if isinstance(each, Pause):
            yield each
    if group:
        yield group


def _answers(member: Member, groups: Iterable[list[_Decoded] | Pause], views: int) -> Iterator[_Answers]:
    """A member's answers about the readable images of each group that has any."""

    def batches() -> Iterator[Images | Pause]:
        for group in groups:
            if isinstance(group, Pause):
                yield group
            elif readable := _readable(group):
                yield np.concatenate([each.views[member.preparation] for each in readable])

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(values.reshape(-1, views, *values.shape[1:]).mean(1))

    for probabilities, *features in member.engine.run_many(batches()):
        common = mean(probabilities) if member.columns is None else mean(probabilities)[:, list(member.columns)]
        distances = mean(member.novelty.distances(features[0])) if member.novelty is not None else None
        yield _Answers(common, mean(features[0]) if features else None, distances)


def _readable(group: list[_Decoded]) -> list[_Decoded]:
    return [each for each in group if each.error is None]


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        name: its path; for an image in memory, its name in error messages.
        path: its file; None for an image in memory.
        error: why the image could not be classified; None if it was.
        top: the most probable classes and their probabilities, 0..1, best first; empty if there is an error.
        unsure: whether the most probable class is below the requested threshold.
        explanation: the written class-activation map; None without one.
        distance: from the training images, 0 or above, where 1 in 100 images of their kind exceeds 1; None if it is not known.
    """

    name: str
    path: Path | None
    error: str | None
    top: tuple[tuple[str, float], ...]
    unsure: bool = False
    explanation: Path | None = None
    distance: float | None = None

    @property
    def unlike_training(self) -> bool | None:
        """Whether the image is unlike the training images; None if that is not known."""
        return None if self.distance is None else self.distance > 1

    @property
    def label(self) -> str:
        """The most probable class.

        Raises:
            ResnetError: the image could not be read.
        """
        return self._best[0]

    @property
    def probability(self) -> float:
        """Its probability, 0..1.

        Raises:
            ResnetError: the image could not be read.
        """
        return self._best[1]

    @property
    def _best(self) -> tuple[str, float]:
        if self.error is not None:
            raise ResnetError(self.error)
        return self.top[0]

    def to_json(self, runs: Sequence[str]) -> dict[str, Any]:
        """Its entry in the result of `predict --json`; `runs` are the names of the classifiers."""
        return {
            "path": path_text(self.name),
            "error": self.error and path_text(self.error),
            "predictions": [{"class": name, "probability": probability} for name, probability in self.top],
            "unsure": self.unsure,
            "unlike_training": self.unlike_training,
            "distance": self.distance,
            **({"explanation": path_text(self.explanation)} if self.explanation else {}),
            "runs": runs,
        }


def predict(
    images: Iterable[Path | InMemory | Pause],
    members: Sequence[Member],
    names: Sequence[str],
    top: int,
    views: int,
    threshold: float = 0.0,
) -> Iterator[Prediction]:
    """Predict images.

    Args:
        images: files or images in memory; at a pause, all predictions so far are yielded, see `classify`.
        members: the classifiers of an ensemble.
        names: class names in their common order.
        top: number of most probable classes to return.
        views: views of each image: 1, 2 or 10.
        threshold: probability, 0..1, below which a prediction is marked as unsure.

    Example:
        >>> from resnet_cli.data.decode import in_memory, run_geometry
        >>> from resnet_cli.engines.openvino import OpenVinoEngine
        >>> from resnet_cli.inference.classify import Member, predict
        >>> from resnet_cli.networks.pretrained import bundled_run
        >>> import numpy as np
        >>> run = bundled_run()
        >>> member = Member(OpenVinoEngine(run.openvino, "one"), run_geometry(run))
        >>> image = in_memory(np.zeros((128, 128, 3), np.uint8), "black")
        >>> [len(each.top) for each in predict([image], [member], run.classes, top=5, views=1)]
        [5]
    """
    for result in classify(images, members, views):
        yield prediction_of(result, names, top, threshold)


def prediction_of(result: Classified, names: Sequence[str], top: int, threshold: float = 0.0) -> Prediction:
    """The most probable classes of a classified image; see `predict` for the arguments."""
    image = result.image
    name, path = (str(image), image) if isinstance(image, Path) else (image.name, None)
    if result.probabilities is None:
        return Prediction(name, path, result.error, ())
    best = np.argsort(-result.probabilities, kind="stable")[:top]
    found = tuple((names[i], float(result.probabilities[i])) for i in best)
    return Prediction(name, path, None, found, unsure=found[0][1] < threshold, distance=result.distance)


_KEPT = 0.875  # share of the side that a crop keeps: 224 of 256 pixels


_PLACES = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5))


def decode_views(path: Source, geometry: Geometry, views: int, whole: bool = False) -> NDArray[np.uint8]:
    """Decode an image into the views that a classifier with this geometry predicts.

    Ten views are the four corners, the centre and their mirror images (Krizhevsky et al. 2012, section 4.1; the "standard
    10-crop testing" of He et al. 2015, section 3.4) of the image with its short side scaled to size / fraction. Where the
    single view is the whole square (fraction 1, pad, squash) there is no room for crops. If training cropped from a black
    border (CIFAR, section 4.2), so do the views; otherwise they crop from the image scaled to size / 0.875. A network trained
    on random crops gains from the scaling, and would lose accuracy with a border, which was not in its training images.

    Args:
        path: an image file, or an image in memory.
        geometry: geometry of the single view.
        views: 1 = the image as `predict` sees it; 2 = also its mirror image; 10 = ten crops.
        whole: return the image in its own size, with 1 or 2 views.

    Returns:
        uint8 (views, size, size, 3); the second half mirrors the first.

    Raises:
        ResnetError: as `decode`.
    """
    if views == 1:
        return _single(path, geometry, whole)
    squares = _five(path, geometry) if views == 10 else _single(path, geometry, whole)
    return np.concatenate([squares, squares[:, :, ::-1]])


def _single(path: Source, geometry: Geometry, whole: bool) -> NDArray[np.uint8]:
    return (decode(path, geometry.enough) if whole else decode_square(path, geometry))[None]


def _five(path: Source, geometry: Geometry) -> NDArray[np.uint8]:
    """Corners and centre: uint8 (5, size, size, 3)."""
    size, border = geometry.size, geometry.border
    if border:
        square = np.pad(decode_square(path, geometry), ((border, border), (border, border), (0, 0)))
        return _crops(square, Geometry(size, fraction=size / (size + 2 * border)))
    crop = replace(geometry, resize="crop", fraction=min(geometry.fraction, _KEPT))
    side = crop.short_side
    image = decode(path, crop.enough)
    if geometry.resize != "crop":
        image = to_square(Image.fromarray(image), replace(geometry, size=side))
    return _crops(image, crop)


def _crops(image: Pixels, crop: Geometry) -> NDArray[np.uint8]:
    return np.stack([to_square(Image.fromarray(image), crop, place) for place in _PLACES])
