"""The export formats: how each is written, how its own runtime is run, and its example program (light: converters and
runtimes are imported where they are used).

In: a Keras model of uint8 images with one output, named "probabilities". Out: files in a folder; a function that runs them;
classify.py, which classifies an image file with Pillow and the format's runtime, as `predict` does, except for images of 16
and more bits.
"""

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from resnet_cli.data.folders import EXAMPLE, LABELS
from resnet_cli.errors import ResnetError
from resnet_cli.files import UNFINISHED
from resnet_cli.runs.folder import EVALUATIONS, EXPORT_RECORD, FIGURES, SPLITS

if TYPE_CHECKING:
    from resnet_cli.data.decode import Geometry
    from resnet_cli.engines.base import Images, Outputs

FormatName = Literal["savedmodel", "keras", "onnx", "tflite", "openvino"]
Answer = Callable[["Images"], "Outputs"]

OUTPUT = "probabilities"
_BESIDE = {LABELS, EXAMPLE, EXPORT_RECORD, SPLITS, EVALUATIONS, *FIGURES}
# ONNX opset: supported by every runtime of the last years; a newer one adds nothing that a residual network needs.
_OPSET = 15


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        files: what `write` leaves in the folder; the first is what a runtime loads, "" is the folder itself.
        tolerance: largest allowed difference of a probability. Keras and TensorFlow run the same kernels again; ONNX Runtime
            and LiteRT sum in another order; OpenVINO's weights are fp16, with 11 significant bits.
        write: writes a Keras model into an existing folder.
        load: loads the written files in the format's own runtime, which computes in float32.
        runtime: the package that runs it, for whoever uses the export.
        program: lines of classify.py that run it: `squares`, uint8 (N, H, W, 3), to probabilities (N, classes), returned.
        needs: packages of the `export` extra without which it cannot be written and checked.
    """

    files: tuple[str, ...]
    tolerance: float
    write: Callable[[Any, Path], None]
    load: Callable[[Path], Answer]
    runtime: str
    program: str
    needs: tuple[str, ...] = ()


def find_format(name: FormatName) -> Format:
    """The format of that name.

    Raises:
        ResnetError: a package that it needs is not installed.
    """
    found = FORMATS[name]
    require_packages(f"--format {name}", found.needs)
    return found


def require_packages(option: str, needs: tuple[str, ...]) -> None:
    """Check that the packages that an option needs are installed.

    Raises:
        ResnetError: one of them is not installed.
    """
    missing = [package for package in needs if find_spec(package) is None]
    if missing:
        raise ResnetError(f"{option} needs {' and '.join(missing)}", "pip install 'resnet-cli[export]'")


def is_export(folder: Path) -> bool:
    """Whether a folder contains an export and nothing else: --force replaces no other folder."""
    known = {*_BESIDE, *(name for each in FORMATS.values() for name in each.files)}
    present = {path.name for path in folder.iterdir() if not path.name.startswith(UNFINISHED)} if folder.is_dir() else set()
    return LABELS in present and present <= known


def _write_savedmodel(model: Any, folder: Path) -> None:
    import tensorflow as tf

    # Saved by TensorFlow itself: `model.export` writes every weight twice (Keras 3.15).
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    pixels = tf.TensorSpec(model.input.shape, tf.uint8, name=model.input.name)
    serve = tf.function(lambda image: model(image, training=False), input_signature=[pixels])
    tf.saved_model.save(module, folder, signatures={"serving_default": serve})


def _load_savedmodel(path: Path) -> Answer:
    import tensorflow as tf

    # Keep a reference to the module: its signature does not keep the variables alive.
    loaded = tf.saved_model.load(path)
    return lambda images: loaded.signatures["serving_default"](tf.constant(images))[OUTPUT].numpy()


def _write_keras(model: Any, folder: Path) -> None:
    import keras

    # With an unnamed output: names are for formats whose users address tensors by name, not for `model.predict`.
    keras.Model(model.input, model.output[OUTPUT], name=model.name).save(folder / "model.keras")


def _load_keras(path: Path) -> Answer:
    import keras

    # In Keras' safe mode, the default: a file that contains code is refused here, as it will be for users.
    loaded = keras.saving.load_model(path, compile=False)
    return lambda images: keras.ops.convert_to_numpy(loaded(images, training=False))


def _write_onnx(model: Any, folder: Path) -> None:
    import onnx

    path = folder / "model.onnx"
    with warnings.catch_warnings(), _collected_early():
        # Keras checks whether numpy still has names that tf2onnx uses, and numpy warns about the check.
        warnings.filterwarnings("ignore", message=r"In the future `np\.object`", category=FutureWarning)
        model.export(path, format="onnx", verbose=False, opset_version=_OPSET, input_signature=model.inputs)
    graph = onnx.load(path)
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


@contextmanager
def _collected_early() -> Iterator[None]:
    """Collect garbage often: tf2onnx copies graph and weights in each pass, in reference cycles that Python frees late.

    The export of a ResNet50 peaks at 3.7 GB instead of 7.3 GB, and takes two thirds of the time.
    """
    before = gc.get_threshold()
    gc.set_threshold(700, 5, 2)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.collect()


def _load_onnx(path: Path) -> Answer:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {"image": images})[0]


def _write_tflite(model: Any, folder: Path) -> None:
    import tensorflow as tf

    # Without TensorFlow's own operations, which Keras allows by default: the runtimes of phones lack them.
    builtins = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    model.export(folder / "model.tflite", format="litert", verbose=False, target_spec=builtins)


def _load_tflite(path: Path) -> Answer:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf\.lite\.Interpreter is deprecated")
        runner = _litert_interpreter()(model_path=str(path)).get_signature_runner("serving_default")
    return lambda images: runner(image=images)[OUTPUT]


def _litert_interpreter() -> Any:
    """LiteRT's interpreter; without that package, the deprecated one of TensorFlow."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        return tf.lite.Interpreter
    return Interpreter


def _write_openvino(model: Any, folder: Path) -> None:
    from resnet_cli.engines.openvino import convert, save

    save(convert(model), folder / "model.xml")


def _load_openvino(path: Path) -> Answer:
    from resnet_cli.engines.openvino import OpenVinoEngine

    engine = OpenVinoEngine(path, "many", exact=True)
    return lambda images: engine.run(images)[0]


_PROGRAM = '''"""Classify an image with the model in this folder: python {name} IMAGE

The model takes RGB pixels 0 to 255, uint8, N x {size} x {size} x 3, and scales their values itself. It returns
probabilities, N x {classes}, in the order of {labels}. Images must be prepared as in `square`, like the training images: with
another filter or crop, predictions get worse. Needs: pip install numpy pillow {needs}
"""

import contextlib
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
SIZE = {size}


def square(path):
    """Read an image file as uint8 ({size}, {size}, 3)."""
    image = Image.open(path)
{draft}    image.load()
    with contextlib.suppress(Exception):  # a damaged tag may fail after the image was turned
        ImageOps.exif_transpose(image, in_place=True)
    if image.has_transparency_data:  # on white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
{fit}


def probabilities(squares):
    """Class probabilities, float32 (N, {classes}), of images, uint8 (N, {size}, {size}, 3)."""
{run}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {{sys.argv[0]}} IMAGE")
    names = (HERE / "{labels}").read_bytes().decode("utf-8", "backslashreplace").split("\\n")
    (answer,) = probabilities(np.stack([square(sys.argv[1])]))
    for place in answer.argsort()[::-1][:5]:
        print(f"{{answer[place]:.6f}} {{names[place]}}")
'''

_DRAFT = """\
    image.draft("RGB", ({short}, {short}))  # a large JPEG is decoded at a half, quarter or eighth of its size
"""

_FIT = {
    "crop": """\
    part = min(image.size) * SIZE / {short}  # the square in the middle, in one step
    left, top = (image.width - part) / 2, (image.height - part) / 2
    box = (left, top, left + part, top + part)
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.{filter}, box=box))""",
    "crop in two steps": """\
    width, height = ({short} * side // min(image.size) for side in image.size)  # the short side to {short}, then the middle
    left, top = round((width - SIZE) / 2), round((height - SIZE) / 2)
    image = image.resize((width, height), Image.Resampling.{filter})
    return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))""",
    "pad": """\
    sides = [max(1, round(side * SIZE / max(image.size))) for side in image.size]
    grey = Image.new("RGB", (SIZE, SIZE), (124, 116, 104))  # the whole image in its middle
    grey.paste(image.resize(sides, Image.Resampling.{filter}), [(SIZE - side) // 2 for side in sides])
    return np.asarray(grey)""",
    "squash": """\
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.{filter}))""",
}

FORMATS: dict[FormatName, Format] = {
    "savedmodel": Format(
        files=("", "saved_model.pb", "variables", "assets", "fingerprint.pb"),
        tolerance=1e-4,
        write=_write_savedmodel,
        load=_load_savedmodel,
        runtime="tensorflow",
        program=f"""\
    import tensorflow as tf

    model = tf.saved_model.load(HERE)
    return model.signatures["serving_default"](tf.constant(squares))["{OUTPUT}"].numpy()""",
    ),
    "keras": Format(
        files=("model.keras",),
        tolerance=1e-4,
        write=_write_keras,
        load=_load_keras,
        runtime="tensorflow",
        program="""\
    import keras

    return keras.saving.load_model(HERE / "model.keras", compile=False).predict(squares, verbose=0)""",
    ),
    "onnx": Format(
        files=("model.onnx",),
        tolerance=1e-3,
        write=_write_onnx,
        load=_load_onnx,
        needs=("onnx", "tf2onnx", "onnxruntime"),
        runtime="onnxruntime",
        program=f"""\
    import onnxruntime

    session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(["{OUTPUT}"], {{"image": squares}})[0]""",
    ),
    "tflite": Format(
        files=("model.tflite",),
        tolerance=1e-3,
        write=_write_tflite,
        load=_load_tflite,
        runtime="ai-edge-litert",
        program=f"""\
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(HERE / "model.tflite")).get_signature_runner("serving_default")
    return runner(image=squares)["{OUTPUT}"]""",
    ),
    "openvino": Format(
        files=("model.xml", "model.bin"),
        tolerance=2e-2,
        write=_write_openvino,
        load=_load_openvino,
        runtime="openvino",
        program="""\
    sys.modules["openvino_telemetry"] = None  # as if it were not installed: OpenVINO would report its use over the network
    import openvino

    return openvino.Core().compile_model(HERE / "model.xml", "CPU")(squares)[0]""",
    ),
}


def example(name: FormatName, geometry: "Geometry", classes: int) -> str:
    """Source of a program that classifies an image with an exported model.

    Args:
        name: the format.
        geometry: how images are brought to the input size.
        classes: number of classes.
    """
    form = FORMATS[name]
    in_two = geometry.resize == "crop" and geometry.steps == "two"
    places = {"short": geometry.short_side, "filter": geometry.filter.name}
    draft = "" if in_two else _DRAFT.format(**places)
    fit = _FIT["crop in two steps" if in_two else geometry.resize].format(**places)
    places = {"draft": draft, "fit": fit, "size": geometry.size, "classes": classes, "labels": LABELS}
    return _PROGRAM.format(name=EXAMPLE, needs=form.runtime, run=form.program, **places)
