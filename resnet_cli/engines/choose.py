"""Which engine runs a frozen network: OpenVINO on CPUs, Keras on GPUs or where OpenVINO is absent.

In: a Keras model. Out: an `Engine`.
"""

import keras

from resnet_cli.engines.base import Engine
from resnet_cli.engines.keras_engine import KerasEngine
from resnet_cli.engines.openvino import OpenVinoEngine, convert
from resnet_cli.errors import ResnetError
from resnet_cli.networks.devices import has_gpu


def engine_for(model: keras.Model) -> Engine:
    """The fastest engine that this machine has for many pictures through a Keras model."""
    # OpenVINO converts what TensorFlow traces: on another backend Keras runs itself.
    if has_gpu() or keras.backend.backend() != "tensorflow":
        return KerasEngine(model)
    try:
        return OpenVinoEngine(convert(model), "many")
    except ResnetError:
        return KerasEngine(model)
