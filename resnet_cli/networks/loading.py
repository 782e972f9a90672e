"""Puts weights into a model, from any source that `pretrained.py` names.

In: a model that `classifier.py` built, and a file. Out: the model, its backbone filled and, if asked for, its head. The legacy
files of keras.applications are read into a network that Keras itself builds; nothing in them is taken for code.
"""

import json
from pathlib import Path

import h5py
import keras

from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import ClassifierSpec, Network
from resnet_cli.networks.classifier import build_classifier
from resnet_cli.networks.pretrained import ImagenetClassifier, WeightsSource
from resnet_cli.networks.weights import copy_weights, datasets, load_weights

_HEAD = ("logits", "hidden")


def load_backbone(model: keras.Model, network: Network, source: WeightsSource, with_head: bool = False) -> None:
    """Fill the backbone part of a model.

    Args:
        model: from `build_logits` or `build_classifier`; its head layers keep what they have.
        network: its backbone.
        source: from `choose_backbone`; nothing happens where its kind is none.
        with_head: fill the head too; its classes are those of the model.

    Raises:
        ResnetError: the file is missing, damaged, or belongs to another network.
    """
    if source.path is None:
        return
    if _is_keras_file(source.path):
        copy_weights(_read_keras_file(network, source.path), model, leave=_HEAD)
    else:
        load_weights(model, source.path, leave=() if with_head else _HEAD)


def load_imagenet_classifier(files: ImagenetClassifier) -> tuple[keras.Model, tuple[str, ...]]:
    """The published network with its own 1000 classes.

    Args:
        files: from `cached_imagenet_classifier`.

    Returns:
        A model of uint8 pixels (N, 224, 224, 3) to probabilities (N, 1000), and the names of the classes.
    """
    network = files.network
    model = build_classifier(ClassifierSpec(network, 1000, network.image_size))
    source = _read_keras_file(network, files.weights)
    copy_weights(source, model, leave=_HEAD)
    model.get_layer("logits").set_weights(source.layers[-1].get_weights())
    return model, _class_names(files.class_index)


def _is_keras_file(path: Path) -> bool:
    """Whether this is Keras' legacy layout: a group for each layer, their order in an attribute."""
    try:
        with h5py.File(path, "r") as file:
            return "model_weights" in file or any(name.startswith("layer_names") for name in file.attrs)
    except OSError:
        return False  # `load_weights` says what is wrong with it


def _read_keras_file(network: Network, path: Path) -> keras.Model:
    if network.pretrained != "imagenet":
        raise ResnetError(f"{path} is a file of keras.applications, which has no {network.name} of this kind")
    build = getattr(keras.applications, network.name.replace("resnet", "ResNet").replace("v2", "V2"))
    classes = _classes_in(path)
    try:
        model = build(include_top=True, weights=None, classes=classes) if classes else build(include_top=False, weights=None)
        model.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ResnetError(
            f"the weights {path} do not fit {network.name}: {reason}", "they belong to another network"
        ) from error
    return model


def _classes_in(path: Path) -> int:
    """Classes that a legacy file tells apart: the width of its only dense layer; 0 where it has none."""
    with h5py.File(path, "r") as file:
        widths = [item.shape[1] for item in datasets(file).values() if item.ndim == 2]
    return widths[-1] if widths else 0


def _class_names(path: Path) -> tuple[str, ...]:
    """The 1000 names; two of them (crane, maillot) occur twice and carry their WordNet number as well."""
    index = json.loads(path.read_text())
    entries = [index[str(position)] for position in range(1000)]
    names = [name for _, name in entries]
    return tuple(name if names.count(name) == 1 else f"{name} {number}" for number, name in entries)
