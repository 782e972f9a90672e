"""Forward passes behind one interface: OpenVINO and Keras."""

from typing import Literal

EngineName = Literal["auto", "openvino", "keras"]
