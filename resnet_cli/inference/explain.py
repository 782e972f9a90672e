"""Class-activation maps: where in an image a network sees the evidence for a class.

In: an image, and a classifier in its parts: feature map and head. Out: a map, (h, w), 0..1; an image file that shows it.

All networks here end with global average pooling and a head. The gradient of a class's logit with respect to the pooled
features then weights the feature map: with a linear head that is CAM (Zhou et al. 2016, section 2), with a hidden layer it is
Grad-CAM (Selvaraju et al. 2017, section 3), of which CAM is the special case. No backward pass through the network is needed.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_cli.data.decode import Geometry, Source, decode, to_square
from resnet_cli.engines.base import Images, Outputs
from resnet_cli.errors import ResnetError
from resnet_cli.files import write_bytes
from resnet_cli.inference.classify import Prediction

Array = NDArray[np.float32]
Head = Callable[[NDArray[np.float32]], tuple[Outputs, ...]]
Box = tuple[float, float, float, float]
_STEM, _NAME = 150, 80  # bytes of the image's name and of the class in a file name, which may have 255
_JPEG = 65500  # pixels, the longest side that libjpeg writes
_STEP = 0.02  # of finite differences, in units of the mean feature: small enough to stay on one side of nearly all ReLUs


@dataclass(frozen=True)
class Explainable:
    """A classifier whose predictions can be explained.

    Attributes:
        network: uint8 images (N, H, W, 3) to probabilities (N, classes) and the feature map (N, h, w, D).
        head: pooled features (N, D) to logits (N, classes), in float32, the only output.
        geometry: how images are brought to the input size.
        classes: class names in the order of the probabilities.
    """

    network: Callable[[Images], tuple[Outputs, ...]]
    head: Head
    geometry: Geometry
    classes: Sequence[str]


@dataclass(frozen=True)
class Explanation:
    """The evidence for one class in one image.

    Attributes:
        heat: (h, w), 0..1, of the network's input; all 0 if nothing speaks for the class.
        box: the part of the upright image that the map covers: left, top, right, bottom, shares of its sides. With
            `--resize pad` it reaches beyond the image.
        label: the class.
        probability: of the class, 0..1.
    """

    heat: Array
    box: Box
    label: str
    probability: float


def explain(classifier: Explainable, path: Source, label: str | None = None) -> Explanation:
    """Explain one prediction.

    Args:
        classifier: network and head.
        path: the image.
        label: the class to explain; None for the predicted one.

    Raises:
        ResnetError: the image cannot be read.
    """
    image = decode(path, classifier.geometry.enough)
    probabilities, features = classifier.network(to_square(Image.fromarray(image), classifier.geometry)[None])
    place = int(probabilities[0].argmax()) if label is None else list(classifier.classes).index(label)
    heat = activation_map(features[0], classifier.head, place)
    height, width = image.shape[:2]  # only their ratio matters
    box = covered(width, height, classifier.geometry)
    return Explanation(heat, box, classifier.classes[place], float(probabilities[0, place]))


def activation_map(features: Array, head: Head, place: int) -> Array:
    """The class-activation map of one class.

    Args:
        features: feature map (h, w, D).
        head: pooled features (N, D) to logits (N, classes).
        place: index of the class.

    Returns:
        (h, w), 0..1: the positive part of the evidence, divided by its largest value.
    """
    weights = gradient(head, features.mean((0, 1)), place)
    evidence = np.maximum(features.astype(np.float64) @ weights, 0)
    return (evidence / (evidence.max() or 1.0)).astype(np.float32)


def gradient(head: Head, pooled: Array, place: int) -> NDArray[np.float64]:
    """The gradient of a class's logit with respect to the pooled features, (D,), by central differences.

    The logits are piecewise linear in the features, so differences are exact where no ReLU changes sides.
    """
    step = np.float32(_STEP * float(np.abs(pooled).mean()) or 1.0)
    steps = step * np.eye(len(pooled), dtype=np.float32)
    (logits,) = head(np.concatenate([pooled + steps, pooled - steps]))
    ahead, behind = np.split(logits[:, place].astype(np.float64), 2)
    return (ahead - behind) / (2.0 * float(step))


def covered(width: int, height: int, geometry: Geometry) -> Box:
    """The part of an image that the network sees, as shares of its sides: left, top, right, bottom."""
    if geometry.resize == "squash":
        return 0.0, 0.0, 1.0, 1.0
    short, long = min(width, height), max(width, height)
    side = long if geometry.resize == "pad" else short * geometry.size / round(geometry.size / geometry.fraction)
    across, down = side / width, side / height
    return 0.5 - across / 2, 0.5 - down / 2, 0.5 + across / 2, 0.5 + down / 2


_RAMP = ((0.0, (255, 225, 0)), (0.5, (255, 130, 0)), (1.0, (225, 0, 40)))  # colours of weak to strong evidence
_OPACITY = 0.7  # of the strongest
_OVERLAY = 320  # pixels


def as_image(heat: Array) -> Image.Image:
    """A map, (h, w), 0..1, as an RGBA image that is the more opaque the stronger the evidence is."""
    places, colours = [place for place, _ in _RAMP], np.array([colour for _, colour in _RAMP])
    layers = [np.interp(heat, places, colours[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack([*layers, 255 * _OPACITY * heat**2], axis=-1).round().astype(np.uint8))


def heat_on(width: int, height: int, explanation: Explanation) -> Array:
    """The map in the pixels of an upright image, (height, width), 0..1; 0 where the network does not look."""
    left, top, right, bottom = explanation.box
    rows, columns = explanation.heat.shape
    across, down = columns / ((right - left) * width), rows / ((bottom - top) * height)
    place = (across, 0, -left * width * across, 0, down, -top * height * down)
    shown = Image.fromarray(explanation.heat).transform(
        (width, height), Image.Transform.AFFINE, place, Image.Resampling.BICUBIC
    )
    return np.asarray(shown, np.float32).clip(0, 1)


def overlay(image: Source, explanation: Explanation) -> bytes:
    """A PNG file with transparency to lay over the whole upright image: of its proportions, the long side 320 pixels.

    Raises:
        ResnetError: the image cannot be read.
    """
    height, width = decode(image, _OVERLAY).shape[:2]  # only their ratio matters
    scale = _OVERLAY / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    content = io.BytesIO()
    as_image(heat_on(*size, explanation)).save(content, "PNG")
    return content.getvalue()


def explained(predictions: Iterable[Prediction], classifier: Explainable, folder: Path) -> Iterator[Prediction]:
    """The predictions, each with a written map of the evidence for its most probable class; the folder is created.

    Raises:
        ResnetError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResnetError(f"cannot write to {folder}: {error.strerror}", "choose another folder for --explain") from error

    def with_map(each: Prediction) -> Prediction:
        if each.path is None or each.error is not None:
            return each
        return replace(each, explanation=write_explanation(folder, each.path, explain(classifier, each.path, each.label)))

    return map(with_map, predictions)


def write_explanation(folder: Path, path: Path, explanation: Explanation) -> Path:
    """Write an image with its map on it, at its original size and upright: FOLDER/<name>-<class>.jpg; nothing is overwritten.

    Long names are cut, and an image with a side over 65,500 pixels, the most that a JPEG file can have, is made smaller.

    Raises:
        ResnetError: the image cannot be read, or the folder cannot be written.
    """
    image = Image.fromarray(decode(path)).convert("RGBA")
    image.thumbnail((_JPEG, _JPEG))
    heat = as_image(heat_on(image.width, image.height, explanation))
    content = io.BytesIO()
    Image.alpha_composite(image, heat).convert("RGB").save(content, "JPEG", quality=90)
    label = re.sub(r"[^\w -]+", "_", explanation.label)
    name = f"{_cut(path.stem, _STEM)}-{_cut(label, _NAME)}"
    target, number = folder / f"{name}.jpg", 1
    while target.exists():
        number += 1
        target = folder / f"{name}-{number}.jpg"
    write_bytes(target, content.getbuffer())
    return target


def _cut(name: str, most: int) -> str:
    """The beginning of a name that has at most this number of bytes."""
    return name.encode()[:most].decode(errors="ignore")
