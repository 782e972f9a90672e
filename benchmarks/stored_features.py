"""Features of a data set by a pretrained network, computed once and kept as files; head_methods.py tries heads on them.

In: class folders, a network. Out: pooled activations of the last stage and of the one before, of images as prediction sees
them and of augmented views, as `resnet finetune` makes them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from common import images_by_class
from numpy.typing import NDArray

from resnet_cli.data.augment import Augmentation
from resnet_cli.data.dataset import Sample
from resnet_cli.data.decode import Geometry
from resnet_cli.data.images import ImageSet, reader_for_training
from resnet_cli.engines.base import good_batch
from resnet_cli.engines.openvino import OpenVinoEngine, convert, import_openvino
from resnet_cli.progress import Silent
from resnet_cli.transfer.features import AS_IT_IS, LIGHT, batched, views_of

VIEWS = 8


class Source(Protocol):
    """A pretrained network: its name for files, its geometry at a size, and its converted form."""

    name: str

    def geometry(self, size: int) -> Geometry: ...

    def model(self, size: int) -> Any: ...


@dataclass(frozen=True)
class OfResnet:
    """A backbone of this program, by the words of `--weights`."""

    weights: str

    @property
    def name(self) -> str:
        return Path(self.weights).name

    def _choice(self) -> tuple[Any, Any]:
        from resnet_cli.networks.pretrained import choose_backbone

        return choose_backbone("auto", self.weights, Silent())

    def geometry(self, size: int) -> Geometry:
        return Geometry(size, fraction=self._choice()[0].crop_fraction)

    def model(self, size: int) -> Any:
        import keras

        from resnet_cli.networks.catalogue import ClassifierSpec
        from resnet_cli.networks.classifier import build_logits, load_backbone, prefix_model

        network, source = self._choice()
        model = build_logits(ClassifierSpec(network, 2, size))
        load_backbone(model, network, source)
        prefix = prefix_model(model, network)
        last, before = prefix.outputs
        pooled = keras.layers.GlobalAveragePooling2D(name="boundary_pool")(before)
        return convert(keras.Model(prefix.input, [last, pooled]))


@dataclass(frozen=True)
class OfFile:
    """A classifier as an ONNX or OpenVINO file: what its last matrix product reads, and the last map of twice the last side."""

    path: Path

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}-{self.path.stem}"

    def geometry(self, size: int) -> Geometry:
        return Geometry(size)

    def model(self, size: int) -> Any:
        openvino = import_openvino()
        model = openvino.Core().read_model(self.path)
        model.reshape([-1, size, size, 3])
        ops = model.get_ordered_ops()
        features = [op for op in ops if op.get_type_name() == "MatMul"][-1].input_value(0)
        sides = [_side(op) for op in ops]
        last = [side for side in sides if side > 1][-1]
        before = [op for op, side in zip(ops, sides, strict=True) if side == 2 * last][-1]
        pooled = openvino.opset13.reduce_mean(before.output(0), np.array([2, 3]), False)
        return openvino.Model([features, pooled.output(0)], model.get_parameters())


def _side(op: Any) -> int:
    """Of the square map (N, C, H, W) that an operation gives; 0 for anything else."""
    shape = op.output(0).get_partial_shape() if op.get_output_size() == 1 and op.get_type_name() != "Constant" else []
    return shape[2].get_length() if len(shape) == 4 and shape[2].is_static and shape[2] == shape[3] else 0


@dataclass(frozen=True)
class Features:
    """Of a split: `plain` (images, D) as prediction sees the images, `views` (images, views, D) augmented, by stage.

    Attributes:
        labels: class indices (images,).
        plain: of the last stage, and of the one before.
        views: the same of augmented views; none where a split has none.
    """

    labels: NDArray[np.int64]
    plain: tuple[NDArray[np.float32], NDArray[np.float32]]
    views: tuple[NDArray[np.float32], NDArray[np.float32]] | None


def features_of(source: Source, size: int, folder: Path, per_class: int, views: bool, cache: Path) -> Features:
    """Features of the first `per_class` images of each class of a folder, from the cache or computed now."""
    found = images_by_class(folder)
    samples = tuple(Sample(path, label) for label, paths in enumerate(found.values()) for path in spread_out(paths, per_class))
    words = (source.name, str(size), *folder.resolve().parts[-2:], str(per_class), "views" if views else "plain")
    path = cache / ("-".join(words) + ".npz")
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        arrays = dict(_computed(source, size, samples, views))
        np.savez(path, **arrays)
    labels = np.array([sample.label for sample in samples])
    with np.load(path) as kept:
        pair = [kept[name].astype(np.float32) for name in ("last", "before")]
        augmented = [kept[f"{name}_views"].astype(np.float32) for name in ("last", "before")] if views else []
    return Features(labels, tuple(pair), tuple(augmented) or None)  # type: ignore[arg-type]


def spread_out(paths: list[Path], count: int) -> list[Path]:
    """`count` of some paths at even distances, or all of them."""
    return [paths[index * len(paths) // count] for index in range(count)] if len(paths) > count else paths


def _computed(source: Source, size: int, samples: tuple[Sample, ...], views: bool) -> Iterator[tuple[str, NDArray[np.float16]]]:
    geometry = source.geometry(size)
    engine = OpenVinoEngine(source.model(size), "many")
    for suffix, how, count in (("", AS_IT_IS, 1), ("_views", LIGHT, VIEWS)) if views else (("", AS_IT_IS, 1),):
        images = ImageSet(samples, reader_for_training(geometry, how), None, ())
        rows = _rows(engine, images, geometry, how, count)
        for name, array in zip(("last", "before"), rows, strict=True):
            flat = array.reshape(len(samples), count, -1)
            yield name + suffix, flat if suffix else flat[:, 0]


def _rows(
    engine: OpenVinoEngine, images: ImageSet, geometry: Geometry, how: Augmentation, count: int
) -> list[NDArray[np.float16]]:
    views, unreadable = views_of("training", images, geometry, how, count, 0, Silent()), dict[int, str]()
    squares = views.squares(range(len(views)), unreadable)
    outputs = list(engine.run_many(batched(squares, good_batch(engine, geometry.size))))
    if unreadable:
        raise SystemExit(f"unreadable: {unreadable}")
    return [np.concatenate(parts).astype(np.float16) for parts in zip(*outputs, strict=True)]
