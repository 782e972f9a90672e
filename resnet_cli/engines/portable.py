"""Write a trained network into a run: its weights, and the same for OpenVINO.

In: a trained logits network. Out: model.weights.h5 (float32), model.xml and model.bin (fp16), built of Keras' own layers.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from resnet_cli.engines.openvino import convert, import_openvino, joined, save
from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import ClassifierSpec
from resnet_cli.networks.classifier import build_classifier, build_head
from resnet_cli.networks.weights import copy_weights, load_weights, save_weights

_CONVERT = """
import json, sys
from pathlib import Path
from resnet_cli.engines.openvino import convert, save
from resnet_cli.engines.portable import read_classifier
from resnet_cli.networks.catalogue import spec_from_record
folder = Path(sys.argv[1])
save(convert(read_classifier(folder / "model.weights.h5", spec_from_record(json.loads(sys.argv[2])))), folder / "model.xml")
"""


def write_classifier(folder: Path, trained: keras.Model, spec: ClassifierSpec, backbone: Any = None) -> None:
    """Write both files. Where OpenVINO cannot be used there is no model.xml: Keras answers from the weights.

    Args:
        folder: where to.
        trained: images to logits.
        spec: what it is.
        backbone: where it was not trained and is an OpenVINO model already: that, uint8 images to pooled features.

    Raises:
        ResnetError: the folder cannot be written.
    """
    save_weights(trained, folder / "model.weights.h5")
    try:
        import_openvino()
    except ResnetError:
        # Whoever trained was told when the training began, and a finished training is not thrown away for it.
        return
    if backbone is not None:
        save(joined(backbone, convert(_filled(build_head, spec, trained))), folder / "model.xml")
    elif keras.backend.backend() == "tensorflow":
        save(convert(_filled(build_classifier, spec, trained)), folder / "model.xml")
    else:
        _convert_elsewhere(folder, spec)


def read_classifier(weights: Path, spec: ClassifierSpec) -> keras.Model:
    """Rebuild a run's classifier, uint8 images to probabilities, from its spec and weights file."""
    classifier = _in_float32(build_classifier, spec)
    load_weights(classifier, weights)
    return classifier


def _convert_elsewhere(folder: Path, spec: ClassifierSpec) -> None:
    """Write model.xml in a process on TensorFlow: OpenVINO cannot convert a Keras model of another backend."""
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
    """Whatever precision trained the network: what is kept and exported computes in float32."""
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("float32")
    try:
        return build(replace(spec, dropout=0.0))
    finally:
        keras.mixed_precision.set_dtype_policy(policy)
