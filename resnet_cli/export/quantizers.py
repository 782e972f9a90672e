"""Turn a float export into int8, each format by its own tool: NNCF, ONNX Runtime, the LiteRT converter (light: the tools are
imported where they are used).

In: a float export and calibration images. Out: a model file with the same input and output as the float one, preprocessing
included; weights and activations are 8-bit integers. The scheme is that of Jacob et al. 2018, section 2 (arXiv 1712.05877).
"""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_cli.export.formats import (
    FORMATS,
    Answer,
    FormatName,
    Subject,
    find_format,
    readable_by_tensorflow,
    require_packages,
)

if TYPE_CHECKING:
    from resnet_cli.engines.base import Images

MAX_DROP = 0.01  # share of held-out top-1: an int8 model that loses more is not kept
# The head and softmax stay in float: the head's weights also scale the features, whose ranges differ, and it costs almost
# nothing. With an int8 head, on four runs, the mean difference of probabilities from the float model grows by 10 to 100 %
# (OpenVINO) and 8 to 150 % (ONNX), at worst from 0.0066 to 0.0167, where 10.5 % of the classes change instead of 4.8 %.
_ONNX_OPERATIONS = ["Conv", "Add", "Relu", "MaxPool", "GlobalAveragePool", "ReduceMean"]


@dataclass(frozen=True)
class Quantizer:
    """How one format is quantized.

    Attributes:
        write: writes the int8 model, from what is exported, the file of its float export, calibration images and the new path.
        load: opens a float or an int8 export as a user does, in the runtime's default precision.
        needs: packages of the `export` extra, in addition to the format's own.
    """

    write: Callable[[Subject, Path, "Images", Path], None]
    load: Callable[[Path], Answer]
    needs: tuple[str, ...] = ()


def find_quantizer(name: FormatName) -> Quantizer:
    """The quantizer of a format that has one.

    Raises:
        ResnetError: a package that it needs is not installed.
    """
    find_format(name)
    found = QUANTIZERS[name]
    require_packages(f"--format {name} --quantize int8", found.needs)
    return found


def _quantize_openvino(subject: Subject, exact: Path, images: "Images", path: Path) -> None:
    from resnet_cli.engines.openvino import import_openvino, save

    core = import_openvino().Core()
    # NNCF prints progress and logs to stdout, which is for results.
    with contextlib.redirect_stdout(io.StringIO()):
        # After OpenVINO, whose telemetry is blocked above: NNCF uses the same package, and falls back to a stub.
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        small = nncf.quantize(
            core.read_model(exact),
            nncf.Dataset(list(_one_by_one(images))),
            subset_size=len(images),
            # Weights without a zero point, activations with one: activations after a shortcut's addition are not symmetric.
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(types=["MatMul"]),
            # Use the extremes of all images, not the mean of each image's, and leave biases as they are: two to five times
            # closer to the float model on two runs, mean difference of probabilities 0.031 -> 0.006 and 0.005 -> 0.003.
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX, disable_bias_correction=True
            ),
        )
    save(small, path)


def _load_openvino(path: Path) -> Answer:
    from resnet_cli.engines.openvino import OpenVinoEngine

    engine = OpenVinoEngine(path, "one")
    return lambda images: engine.run(images)[0]


def _quantize_onnx(subject: Subject, exact: Path, images: "Images", path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Returns one image per call, and None after the last."""

        def __init__(self) -> None:
            self._left = _one_by_one(images)

        def get_next(self) -> "dict[str, Images] | None":
            images = next(self._left, None)
            return None if images is None else {"image": images}

    folded = path.with_name(".folded.onnx")
    # Batch norm is folded into the convolutions first. Symbolic shapes are for transformers, and need another package.
    quant_pre_process(exact, folded, skip_symbolic_shape=True)
    quantize_static(
        folded,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=_ONNX_OPERATIONS,
        per_channel=True,
        # The types that ONNX Runtime recommends for x86; ARM supports them too.
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=True,  # 7 bits: x86 without VNNI adds pairs of products in 16 bits, which overflow with 8-bit weights
    )
    folded.unlink()


def _quantize_tflite(subject: Subject, exact: Path, images: "Images", path: Path) -> None:
    import tensorflow as tf

    def calibrate() -> "Iterator[list[Images]]":
        return ([images] for images in _one_by_one(images))

    with tempfile.TemporaryDirectory(dir=path.parent) as saved, contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf\.lite\.Interpreter is deprecated")
        FORMATS["savedmodel"].write(subject, Path(saved))
        folder = str(stack.enter_context(readable_by_tensorflow(Path(saved))))  # read until the end of the conversion
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = calibrate
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        # The converter by itself quantizes every operation; its debugger is the documented way to keep some in float.
        chosen = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=["FULLY_CONNECTED", "SOFTMAX"])
        debugger = tf.lite.experimental.QuantizationDebugger(converter=converter, debug_dataset=calibrate, debug_options=chosen)
        path.write_bytes(debugger.get_nondebug_quantized_model())


def _one_by_one(images: "Images") -> "Iterator[Images]":
    return (images[place : place + 1] for place in range(len(images)))


QUANTIZERS: dict[FormatName, Quantizer] = {
    "openvino": Quantizer(_quantize_openvino, _load_openvino, ("nncf",)),
    "onnx": Quantizer(_quantize_onnx, FORMATS["onnx"].load),
    "tflite": Quantizer(_quantize_tflite, FORMATS["tflite"].load),
}
