"""Which engine runs a frozen network: OpenVINO on CPUs, Keras on GPUs or where OpenVINO is absent.

In: a Keras model. Out: an `Engine`.
"""

import keras

from resnet_cli.engines.base import Engine
from resnet_cli.engines.keras_engine import KerasEngine
from resnet_cli.engines.openvino import OpenVinoEngine, convert
from resnet_cli.errors import ResnetError


def engine_for(model: keras.Model) -> Engine:
    """The fastest engine that this machine has for many pictures through a Keras model."""
    if keras.distribution.list_devices("gpu"):
        return KerasEngine(model)
    try:
        return OpenVinoEngine(convert(model), "many")
    except ResnetError:
        return KerasEngine(model)
