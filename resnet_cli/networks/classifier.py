"""The classifier: preprocessing, backbone and head in one network; and its parts on either side of the freeze boundary.

In: a `ClassifierSpec` (stored in run.json). Out: Keras models of uint8 RGB pixels. Models are never deserialised from a config.
The parts share their layers with the whole network: training a part trains the whole.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
from keras import layers

from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import ClassifierSpec, Network
from resnet_cli.networks.pretrained import SAFETENSORS, ImagenetClassifier, WeightsSource
from resnet_cli.networks.residual import build_backbone, room_for
from resnet_cli.networks.weights import PIXEL_MEAN, copy_weights, datasets, load_safetensors, load_weights, settle

# Channel means, 0..255, of the weights of keras.applications.
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


def preprocess(network: Network, pixels: Any) -> Any:
    """Scale uint8 or float RGB pixels (N, H, W, 3), 0..255, as the backbone's weights expect.

    By `network.preprocessing`: caffe = BGR minus the channel means; tf = -1..1; torch = 0..1 minus the network's mean, divided
    by its std; unit = 0..1; pixel-mean = 0..1 minus the training images' mean (H, W, 3), which `set_pixel_mean` or a weights
    file fills in.
    """
    kind = network.preprocessing
    if kind == "caffe":
        pixels = _rescale(pixels, 1.0, 0.0, "to_float")
        return _rescale(pixels[..., ::-1], 1.0, [-mean for mean in _CAFFE_MEAN_BGR])
    if kind == "tf":
        return _rescale(pixels, 1 / 127.5, -1.0)
    if kind == "unit":
        return _rescale(pixels, 1 / 255, 0.0)
    if kind == "pixel-mean":
        return layers.Normalization(axis=(1, 2, 3), dtype="float32", name=PIXEL_MEAN)(_rescale(pixels, 1 / 255, 0.0))
    scale = [1 / (255 * std) for std in network.std]
    return _rescale(pixels, scale, [-mean / std for mean, std in zip(network.mean, network.std, strict=True)])


def _rescale(pixels: Any, scale: float | list[float], offset: float | list[float], name: str = "preprocess") -> Any:
    # In float32 under mixed precision too: the 8 significant bits of bf16 are too few for scaled uint8 pixels.
    return layers.Rescaling(scale, offset=offset, dtype="float32", name=name)(pixels)


def set_pixel_mean(model: keras.Model, mean: Any) -> None:
    """Fill in the mean image, float32 (H, W, 3), 0..1, of a network whose preprocessing subtracts it."""
    model.get_layer(PIXEL_MEAN).adapt_mean.assign(mean)
    settle(model)


def add_head(spec: ClassifierSpec, features: Any) -> Any:
    """Pooled features (N, D) to logits (N, classes): [Dense(hidden, relu)] -> dropout -> Dense(classes)."""
    if spec.hidden:
        features = layers.Dense(spec.hidden, activation="relu", kernel_initializer="he_normal", name="hidden")(features)
    if spec.dropout:
        features = layers.Dropout(spec.dropout, name="dropout")(features)
    # Logits stay float32 under mixed precision: softmax in half precision loses the small probabilities.
    return layers.Dense(spec.classes, dtype="float32", name="logits")(features)


def build_logits(spec: ClassifierSpec, fused: bool = True, stochastic_depth: float = 0.0) -> keras.Model:
    """The trained network: from uint8 pixels (N, H, W, 3) to logits (N, classes).

    Args:
        spec: what to build.
        fused: build with the layers of `accelerations.py`, which train faster on TensorFlow.
        stochastic_depth: probability that training drops the last block, 0..1; see `build_backbone`. It is not part of the
            spec: weights, runs and exports are the same with and without.

    Raises:
        ResnetError: stochastic depth in a plain network.

    Example:
        >>> from resnet_cli.networks.catalogue import ClassifierSpec, find_network
        >>> from resnet_cli.networks.classifier import build_logits
        >>> model = build_logits(ClassifierSpec(find_network("resnet20"), classes=10, image_size=32))
        >>> model.count_params()  # 0.27 million: He et al. 2015, table 6
        271098
    """
    size = spec.image_size
    pixels = keras.Input((size, size, 3), dtype="uint8", name="image")
    backbone = build_backbone(spec.network, size, fused, stochastic_depth)
    features = layers.GlobalAveragePooling2D(name="avg_pool")(backbone(preprocess(spec.network, pixels)))
    return keras.Model(pixels, add_head(spec, features), name=f"{spec.network.name}_logits")


def build_head(spec: ClassifierSpec) -> keras.Model:
    """The head, with softmax: features (N, D) to probabilities (N, classes).

    Example:
        >>> from resnet_cli.networks.catalogue import ClassifierSpec, find_network
        >>> from resnet_cli.networks.classifier import build_head
        >>> head = build_head(ClassifierSpec(find_network("resnet50"), classes=5, image_size=224))
        >>> head.input.shape, head.output.shape
        ((None, 2048), (None, 5))
    """
    features = keras.Input((spec.network.outputs[-1],), name="features")
    return keras.Model(features, _probabilities(add_head(spec, features)), name="head")


def build_classifier(spec: ClassifierSpec) -> keras.Model:
    """The exported network: from uint8 pixels to probabilities (N, classes), made of Keras' own layers only.

    Example:
        >>> import numpy as np
        >>> from resnet_cli.networks.catalogue import ClassifierSpec, find_network
        >>> from resnet_cli.networks.classifier import build_classifier
        >>> model = build_classifier(ClassifierSpec(find_network("resnet8"), classes=3, image_size=32))
        >>> model.predict(np.zeros((2, 32, 32, 3), np.uint8), verbose=0).shape
        (2, 3)
    """
    logits = build_logits(spec, fused=False)
    return keras.Model(logits.input, _probabilities(logits.output), name=spec.network.name)


def _probabilities(logits: Any) -> Any:
    return layers.Softmax(dtype="float32", name="probabilities")(logits)


def boundary_layer(network: Network) -> str:
    """Name of the layer whose output the last stage reads.

    If the last stage begins with strided 1x1 convolutions, that is every second row and column of the stage before.
    """
    stage = len(network.blocks) - 2
    if network.stride_in == "1x1":
        return f"conv{stage + 3}_block1_0_subsample"
    # A plain v2 block ends with a convolution, all others with the addition or activation.
    plain_v2 = network.version == 2 and network.shortcut == "none"
    ending = f"{3 if network.block == 'bottleneck' else 2}_conv" if plain_v2 else "out"
    return f"conv{stage + 2}_block{network.blocks[stage]}_{ending}"


def feature_model(model: keras.Model) -> keras.Model:
    """uint8 images (N, H, W, 3) to pooled features (N, D)."""
    return keras.Model(model.input, model.get_layer("avg_pool").output, name="features")


def boundary_model(model: keras.Model, network: Network) -> keras.Model:
    """uint8 images to the boundary's feature map (N, h, w, c), as `tail_model` takes it."""
    backbone = model.get_layer(network.name)
    # Only of layers before the boundary: jax deletes the other layers' variables while they are trained.
    with room_for(network):
        inner = keras.Model(backbone.input, backbone.get_layer(boundary_layer(network)).output)
    return _on_pixels(model, network, "boundary", inner)


def prefix_model(model: keras.Model, network: Network) -> keras.Model:
    """uint8 images to two outputs: pooled features (N, D), and the boundary's feature map (N, h, w, c)."""
    backbone = model.get_layer(network.name)
    with room_for(network):
        inner = keras.Model(backbone.input, [backbone.output, backbone.get_layer(boundary_layer(network)).output])

    def outputs(pixels: Any) -> list[Any]:
        last, boundary = inner(pixels)
        return [layers.GlobalAveragePooling2D(name="avg_pool")(last), boundary]

    return _on_pixels(model, network, "prefix", outputs)


def tail_model(model: keras.Model, network: Network) -> keras.Model:
    """The boundary's feature map (N, h, w, c) to logits (N, classes), through the same layers as the whole network."""
    backbone = model.get_layer(network.name)
    boundary = backbone.get_layer(boundary_layer(network)).output
    with room_for(network):
        stage = keras.Model(boundary, backbone.output, name="last_stage")
    inputs = keras.Input(boundary.shape[1:], name="boundary")
    x = model.get_layer("avg_pool")(stage(inputs))
    for name in ("hidden", "dropout", "logits"):
        if any(layer.name == name for layer in model.layers):
            x = model.get_layer(name)(x)
    return keras.Model(inputs, x, name="tail")


def _on_pixels(model: keras.Model, network: Network, name: str, outputs: Callable[[Any], Any]) -> keras.Model:
    """A model of uint8 images with the preprocessing of the whole network."""
    pixels = keras.Input(model.input.shape[1:], dtype="uint8", name="image")
    first = keras.Model(pixels, outputs(preprocess(network, pixels)), name=name)
    if network.preprocessing == "pixel-mean":
        set_pixel_mean(first, model.get_layer(PIXEL_MEAN).adapt_mean)
    return first


def freeze_batch_norm(model: keras.Model) -> None:
    """Put every batch-norm, also in nested models, into inference mode: small data sets would spoil its statistics."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            freeze_batch_norm(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


_HEAD = ("logits", "hidden")


def load_backbone(model: keras.Model, network: Network, source: WeightsSource, with_head: bool = False) -> None:
    """Fill the backbone part of a model.

    Args:
        model: from `build_logits` or `build_classifier`; the weights of its head layers are not changed.
        network: its backbone.
        source: from `choose_backbone`; nothing is loaded if its kind is none.
        with_head: load the head too, which has the same classes as the model.

    Raises:
        ResnetError: the file is missing, damaged, or belongs to another network.
    """
    if source.path is None:
        return
    if source.path.suffix.lower() == SAFETENSORS:
        load_safetensors(model, network, source.path, source.head, with_head)
    elif _is_keras_file(source.path):
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
    """Whether a file has Keras' legacy layout: a group for each layer, their order in an attribute."""
    try:
        with h5py.File(path, "r") as file:
            return "model_weights" in file or any(name.startswith("layer_names") for name in file.attrs)
    except OSError:
        return False  # `load_weights` will report what is wrong with it


def _read_keras_file(network: Network, path: Path) -> keras.Model:
    if network.pretrained != "imagenet":
        raise ResnetError(f"{path} is a file of keras.applications, which has no such {network.name}")
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
    """Number of classes of a legacy file: the width of its only dense layer; 0 if it has none."""
    with h5py.File(path, "r") as file:
        widths = [item.shape[1] for item in datasets(file).values() if item.ndim == 2]
    return widths[-1] if widths else 0


def _class_names(path: Path) -> tuple[str, ...]:
    """The 1000 class names; two that occur twice (crane, maillot) get their WordNet number appended."""
    index = json.loads(path.read_text())
    entries = [index[str(position)] for position in range(1000)]
    names = [name for _, name in entries]
    return tuple(name if names.count(name) == 1 else f"{name} {number}" for number, name in entries)
