"""Engines for Keras models in memory, and the OpenVINO files of a trained network.

In: a Keras model. Out: an `Engine` that runs it, with OpenVINO if it can be converted, else with Keras; model.xml and
model.bin next to the weights. If the conversion fails, prediction is slower, but the trained network is kept.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_cli.data.threads import Pause
from resnet_cli.engines import EngineName
from resnet_cli.engines.base import Engine, Images, Outputs, one_by_one
from resnet_cli.engines.openvino import (
    OpenVinoEngine,
    convert,
    divide_logits,
    import_openvino,
    joined,
    rounded,
    save,
    usual_precision,
)
from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import ClassifierSpec
from resnet_cli.networks.classifier import build_classifier, build_head
from resnet_cli.networks.precision import has_gpu, multiply_exactly
from resnet_cli.networks.weights import copy_weights, divide_stored_logits, load_weights, save_weights

_CONVERT = """
import json, sys
from pathlib import Path
from resnet_cli.engines.openvino import convert, save
from resnet_cli.engines.frozen import read_classifier
from resnet_cli.networks.catalogue import spec_from_record
folder = Path(sys.argv[1])
save(convert(read_classifier(folder / "model.weights.h5", spec_from_record(json.loads(sys.argv[2])))), folder / "model.xml")
"""


def write_classifier(folder: Path, trained: keras.Model, spec: ClassifierSpec, backbone: Any = None) -> str:
    """Write weights and model.xml. Without OpenVINO there is no model.xml, and Keras predicts from the weights.

    Args:
        folder: the folder to write to.
        trained: the trained network, images to logits.
        spec: its description.
        backbone: the backbone, if it stayed frozen and is already an OpenVINO model: uint8 images to pooled features.

    Returns:
        Why there is no model.xml although OpenVINO is installed; empty if there is one.

    Raises:
        ResnetError: the folder cannot be written.
    """
    save_weights(trained, folder / "model.weights.h5")
    try:
        import_openvino()
    except ResnetError:
        return ""  # already reported when the training began
    try:
        if keras.backend.backend() == "tensorflow":
            model = _joined(backbone, spec, trained) or convert(_filled(build_classifier, spec, trained))
        else:
            _convert_elsewhere(folder, spec)
            return ""
    except ResnetError as error:
        return error.message
    save(model, folder / "model.xml")
    return ""


def calibrate(folder: Path, temperature: float) -> None:
    """Divide the logits of the classifier in a folder by a temperature, in the weights and in model.xml if there is one.

    Raises:
        ResnetError: the folder cannot be written.
    """
    divide_stored_logits(folder / "model.weights.h5", temperature)
    if (folder / "model.xml").exists():
        divide_logits(folder / "model.xml", temperature)


def _joined(backbone: Any, spec: ClassifierSpec, trained: keras.Model) -> Any | None:
    """The whole classifier, made from a backbone that is already converted; None without one, or if they cannot be joined."""
    if backbone is None:
        return None
    try:
        return joined(backbone, convert(_filled(build_head, spec, trained)))
    except Exception:  # this relies on the converter's graphs; converting the whole network instead takes seconds
        return None


def read_classifier(weights: Path, spec: ClassifierSpec) -> keras.Model:
    """Rebuild a run's classifier, uint8 images to probabilities, from its spec and weights file."""
    classifier = _in_float32(build_classifier, spec)
    load_weights(classifier, weights)
    return classifier


def and_features(classifier: keras.Model) -> keras.Model:
    """A classifier of `read_classifier` with a second output: its pooled features, float32 (N, D)."""
    return keras.Model(classifier.input, [classifier.output, classifier.get_layer("avg_pool").output])


def _convert_elsewhere(folder: Path, spec: ClassifierSpec) -> None:
    """Write model.xml in a new process with TensorFlow: OpenVINO cannot convert Keras models of other backends."""
    record = {**spec.to_record(), "classes": list(range(spec.classes))}
    command = [sys.executable, "-c", _CONVERT, str(folder), json.dumps(record)]
    done = subprocess.run(
        command, env={**os.environ, "KERAS_BACKEND": "tensorflow"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ResnetError(f"cannot convert the network for OpenVINO: {reason[0]}", "TensorFlow must be installed beside jax")


def _filled(build: Callable[[ClassifierSpec], keras.Model], spec: ClassifierSpec, trained: keras.Model) -> keras.Model:
    model = _in_float32(build, spec)
    copy_weights(trained, model)
    return model


def _in_float32(build: Callable[[ClassifierSpec], keras.Model], spec: ClassifierSpec) -> keras.Model:
    """Build a model that computes in float32, whatever precision the network was trained in."""
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("float32")
    try:
        return build(replace(spec, dropout=0.0))
    finally:
        keras.mixed_precision.set_dtype_policy(policy)


_ON_CPU = 32 * 224 * 224  # 8 images of 224 x 224 instead of 32 take up to a fifth more time each on two cores (ResNet-50)
_ON_GPU = 2 * _ON_CPU
_SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


class KerasEngine:
    """A Keras model, on the device that Keras uses."""

    name = "keras"

    def __init__(self, model: keras.Model, exact: bool = False) -> None:
        """Wrap a model.

        Args:
            model: uint8 images to one or more outputs.
            exact: multiply in the model's own precision, even if training turned on graph rewriting in this process.
        """
        self._model = model
        self.pixels = _ON_GPU if has_gpu() else _ON_CPU
        rewritten = False
        if exact:
            multiply_exactly()
        if keras.backend.backend() == "tensorflow":
            from resnet_cli.networks.accelerations import rewrites, set_rewriting

            model.jit_compile = False  # with XLA the CPU takes a fifth longer, and seconds for every new batch size
            if exact:
                set_rewriting(False)
            rewritten = rewrites()
        self.precision = "bf16" if rewritten else _SHORT[model.compute_dtype]

    def run(self, images: Images | Outputs) -> tuple[Outputs, ...]:
        """See `Engine.run`; a head takes features, float32 (N, D), instead of images."""
        outputs = self._model.predict_on_batch(images)
        several = outputs if isinstance(outputs, list | tuple) else (outputs,)
        return tuple(np.asarray(output, dtype=np.float32) for output in several)

    def run_many(self, batches: Iterable[Images | Pause]) -> Iterator[tuple[Outputs, ...]]:
        """See `Engine.run_many`."""
        return one_by_one(self.run, batches)


def keras_parts(model: keras.Model) -> tuple[KerasEngine, KerasEngine]:
    """A classifier's network with its feature map, and its head: what class-activation maps need.

    Args:
        model: uint8 images to probabilities (N, classes), from `read_classifier`.

    Returns:
        uint8 images to probabilities and the feature map (N, h, w, D); pooled features (N, D) to logits (N, classes).
    """
    pooling = model.get_layer("avg_pool")
    features = keras.Input(pooling.output.shape[1:], name="features")
    x = features
    for name in ("hidden", "logits"):
        if any(layer.name == name for layer in model.layers):
            x = model.get_layer(name)(x)
    network = keras.Model(model.input, [model.output, pooling.input], name="explained")
    return KerasEngine(network, exact=True), KerasEngine(keras.Model(features, x, name="head"), exact=True)


def require_convertible(wish: EngineName) -> None:
    """Refuse `--engine openvino` on a Keras backend whose networks OpenVINO cannot convert.

    Raises:
        ResnetError: OpenVINO was chosen by name.
    """
    if wish == "openvino" and not _convertible():
        raise ResnetError(
            f"--engine openvino cannot convert networks of Keras' backend {keras.backend.backend()}",
            "--engine keras, or KERAS_BACKEND=tensorflow",
        )


def engine_for(model: keras.Model, wish: EngineName) -> Engine:
    """The chosen engine; "auto" is the fastest on this machine for many images."""
    if wish == "keras" or (wish == "auto" and (has_gpu() or not _convertible())):
        return KerasEngine(model)
    return _LateOpenVino(model)


def measuring_engine(wish: EngineName) -> EngineName:
    """The engine that evaluates a network trained in this process: with "auto", Keras if there is a GPU."""
    return "keras" if wish == "auto" and has_gpu() else wish


def converted(engine: Engine) -> Any | None:
    """The float32 OpenVINO model that an engine was made from; None if there is none."""
    in_float32 = keras.mixed_precision.dtype_policy().name == "float32"
    return engine.model if isinstance(engine, _LateOpenVino) and in_float32 else None


class _LateOpenVino:
    """OpenVINO for a Keras model that is only converted for the first image: if all rows are stored, never."""

    name = "openvino"
    pixels = OpenVinoEngine.pixels

    def __init__(self, model: keras.Model) -> None:
        self._keras_model = model
        self.precision = usual_precision()

    def run(self, images: Images) -> tuple[Outputs, ...]:
        """See `Engine.run`."""
        return self._engine.run(images)

    def run_many(self, batches: Iterable[Images | Pause]) -> Iterator[tuple[Outputs, ...]]:
        """See `Engine.run_many`."""
        return self._engine.run_many(batches)

    @cached_property
    def model(self) -> Any:
        return convert(self._keras_model)

    @cached_property
    def _engine(self) -> OpenVinoEngine:
        return OpenVinoEngine(rounded(self.model.clone()), "many")


def _convertible() -> bool:
    # OpenVINO converts graphs traced by TensorFlow.
    return bool(keras.backend.backend() == "tensorflow")
