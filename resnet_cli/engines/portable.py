"""Write a trained network into a run: its weights, and the same for OpenVINO.

In: a trained logits network. Out: model.weights.h5 (float32), model.xml and model.bin (fp16), built of Keras' own layers.
"""

from dataclasses import replace
from pathlib import Path

import keras

from resnet_cli.engines.openvino import convert, save
from resnet_cli.networks.classifier import build_classifier
from resnet_cli.networks.spec import ClassifierSpec
from resnet_cli.networks.weights import copy_weights, load_weights, save_weights


def write_classifier(folder: Path, trained: keras.Model, spec: ClassifierSpec) -> keras.Model:
    """Write both files and return the classifier, uint8 pictures to probabilities.

    Raises:
        ResnetError: the folder cannot be written.
    """
    classifier = _in_float32(spec)
    copy_weights(trained, classifier)
    save_weights(classifier, folder / "model.weights.h5")
    save(convert(classifier), folder / "model.xml")
    return classifier


def read_classifier(weights: Path, spec: ClassifierSpec) -> keras.Model:
    """Rebuild a run's classifier, uint8 pictures to probabilities, from its spec and weights file."""
    classifier = _in_float32(spec)
    load_weights(classifier, weights)
    return classifier


def _in_float32(spec: ClassifierSpec) -> keras.Model:
    """Whatever precision trained the network: what is kept and exported computes in float32."""
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("float32")
    try:
        return build_classifier(replace(spec, dropout=0.0))
    finally:
        keras.mixed_precision.set_dtype_policy(policy)
