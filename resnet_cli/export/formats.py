"""The export formats: how each is written, and how its own runtime is run (light: converters and runtimes are imported where
they are used).

In: a `Subject`: Keras models of uint8 images with one output, named "probabilities". Out: files in a folder; a function that
runs them.
"""

import gc
import tempfile
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
from resnet_cli.runs.folder import EVALUATIONS, EXPORT_RECORD, FIGURES, LITTER, SPLITS

if TYPE_CHECKING:
    from resnet_cli.data.decode import Geometry
    from resnet_cli.engines.base import Images, Outputs

FormatName = Literal["savedmodel", "keras", "onnx", "tflite", "openvino"]
Answer = Callable[["Images"], "Outputs"]

OUTPUT = "probabilities"
ENCODED, ENCODED_INPUT = "encoded", "image_bytes"  # second signature of a SavedModel, for files of images
README = "README.md"  # of an export
_BESIDE = {LABELS, EXAMPLE, README, EXPORT_RECORD, SPLITS, EVALUATIONS, *FIGURES}
# ONNX opset: supported by every runtime of the last years; a newer one adds nothing that a residual network needs.
_OPSET = 15


@dataclass(frozen=True)
class Subject:
    """What is written.

    Attributes:
        classifier: Keras model of uint8 images (N, size, size, 3).
        network: the written model: the classifier, or for uint8 images (N, H, W, 3) the resizing and the classifier.
        geometry: how images are brought to the input size.
        classes: class names, in the order of probabilities.
        half: store weights in half precision; they are multiplied in float32.
    """

    classifier: Any
    network: Any
    geometry: "Geometry"
    classes: tuple[str, ...]
    half: bool = False

    @property
    def with_resize(self) -> bool:
        """Whether the written model resizes images."""
        return self.network is not self.classifier


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        files: what `write` leaves in the folder; the first is what a runtime loads, "" is the folder itself.
        tolerance: largest allowed difference of a probability. Keras and TensorFlow run the same kernels again; ONNX Runtime
            and LiteRT sum in another order; OpenVINO's weights are fp16, with 11 significant bits.
        write: writes a model into an existing folder.
        load: loads the written files in the format's own runtime, which computes in float32.
        runtime: the package that runs it, for whoever uses the export.
        runtime_name: its name in sentences.
        runs_on: packages of the `export` extra without which it cannot be run.
        program: lines of classify.py that run it: `images`, uint8 (N, H, W, 3), to probabilities (N, classes), returned.
        needs: packages of the `export` extra without which it cannot be written and checked.
        no_half: why it has no weights in half precision; empty if it has.
        no_resize: why the model cannot resize images; empty if it can.
    """

    files: tuple[str, ...]
    tolerance: float
    write: Callable[[Subject, Path], None]
    load: Callable[[Path], Answer]
    runtime: str
    runtime_name: str
    program: str
    needs: tuple[str, ...] = ()
    runs_on: tuple[str, ...] = ()
    no_half: str = ""
    no_resize: str = ""


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
    ignored = (UNFINISHED, *LITTER, "__pycache__")  # Python leaves the last where a program imports classify.py
    present = {path.name for path in folder.iterdir() if not path.name.startswith(ignored)} if folder.is_dir() else set()
    return LABELS in present and present <= known


def _write_savedmodel(subject: Subject, folder: Path) -> None:
    import tensorflow as tf

    from resnet_cli.export.images import resizing, squares_of

    # Saved by TensorFlow itself: `model.export` writes every weight twice (Keras 3.15).
    module = tf.Module()
    module.weights, answer = _weights_and_answer(subject)
    pixels, squares = subject.network.input, squares_of(subject.geometry)
    resize = resizing(subject.geometry) if subject.with_resize else lambda image: image
    names = [name.encode("utf-8", "surrogateescape") for name in subject.classes]

    def serve(image: Any) -> Any:
        return {OUTPUT: answer(resize(image))}

    def encoded(image_bytes: Any) -> Any:
        found = answer(squares(image_bytes))
        # Every output has a row per image, as TensorFlow Serving wants it.
        classes = tf.tile(tf.constant(names)[None], [tf.shape(found)[0], 1])
        return {OUTPUT: found, "classes": classes, "label": tf.gather(tf.constant(names), tf.argmax(found, 1))}

    signatures = {
        "serving_default": tf.function(serve, [tf.TensorSpec(pixels.shape, tf.uint8, name=pixels.name)]),
        ENCODED: tf.function(encoded, [tf.TensorSpec((None,), tf.string, name=ENCODED_INPUT)]),
    }
    tf.saved_model.save(module, folder, signatures=signatures)


def _is_kernel(value: Any) -> bool:
    """Whether an array is a kernel; the few biases and batch-norm statistics stay in float32."""
    return bool(value.dtype == "float32" and value.ndim > 1)


def _weights_and_answer(subject: Subject) -> tuple[list[Any], Callable[[Any], Any]]:
    """Variables to save, and the TensorFlow function from squares to probabilities that reads them."""
    import numpy as np
    import tensorflow as tf

    from resnet_cli.engines.base import in_half

    model = subject.classifier
    if not subject.half:
        return [variable.value for variable in model.variables], lambda squares: model(squares, training=False)[OUTPUT]

    def stored(variables: Any) -> list[Any]:
        arrays = (np.asarray(each.value) for each in variables)
        return [tf.Variable(in_half(array) if _is_kernel(array) else array) for array in arrays]

    parts = stored(model.trainable_variables), stored(model.non_trainable_variables)

    def answer(squares: Any) -> Any:
        whole = ([tf.cast(each, tf.float32) for each in part] for part in parts)
        return model.stateless_call(*whole, squares, training=False)[0][OUTPUT]

    return [*parts[0], *parts[1]], answer


@contextmanager
def readable_by_tensorflow(folder: Path) -> Iterator[Path]:
    """A path of a SavedModel for TensorFlow, which reads `[`, `*` and `?` in the paths of its variables as a pattern."""
    if not set(str(folder.resolve())) & set("[]*?\\"):
        yield folder
        return
    with tempfile.TemporaryDirectory() as plain:
        link = Path(plain) / "model"
        link.symlink_to(folder.resolve(), target_is_directory=True)
        yield link


def _load_savedmodel(path: Path) -> Answer:
    import tensorflow as tf

    # Keep a reference to the module: its signature does not keep the variables alive.
    with readable_by_tensorflow(path) as folder:
        loaded = tf.saved_model.load(folder)
    return lambda images: loaded.signatures["serving_default"](tf.constant(images))[OUTPUT].numpy()


def _write_keras(subject: Subject, folder: Path) -> None:
    import keras

    model = subject.network
    # With an unnamed output: names are for formats whose users address tensors by name, not for `model.predict`.
    keras.Model(model.input, model.output[OUTPUT], name=model.name).save(folder / "model.keras")


def _load_keras(path: Path) -> Answer:
    import keras

    # In Keras' safe mode, the default: a file that contains code is refused here, as it will be for users.
    loaded = keras.saving.load_model(path, compile=False)
    return lambda images: keras.ops.convert_to_numpy(loaded(images, training=False))


def _write_onnx(subject: Subject, folder: Path) -> None:
    import onnx

    path, model = folder / "model.onnx", subject.network
    with warnings.catch_warnings(), _collected_early():
        # Keras checks whether numpy still has names that tf2onnx uses, and numpy warns about the check.
        warnings.filterwarnings("ignore", message=r"In the future `np\.object`", category=FutureWarning)
        model.export(path, format="onnx", verbose=False, opset_version=_OPSET, input_signature=model.inputs)
    written = onnx.load(path)
    for value in (*written.graph.input, *written.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    if subject.half:
        _halve(written.graph)
    onnx.checker.check_model(written)
    onnx.save(written, path)


def _halve(graph: Any) -> None:
    """Store the kernels of an ONNX graph in half precision; a Cast node for each gives them back in float32."""
    from onnx import TensorProto, helper, numpy_helper

    from resnet_cli.engines.base import in_half

    casts = []
    for kernel in graph.initializer:
        array = numpy_helper.to_array(kernel)
        if _is_kernel(array):
            name = kernel.name
            kernel.CopyFrom(numpy_helper.from_array(in_half(array), f"{name}_half"))
            casts.append(helper.make_node("Cast", [kernel.name], [name], f"{name}_float", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


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


def _write_tflite(subject: Subject, folder: Path) -> None:
    import tensorflow as tf

    # Without TensorFlow's own operations, which Keras allows by default: the runtimes of phones lack them.
    target: dict[str, Any] = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    options: dict[str, Any] = {}
    if subject.half:
        target["supported_types"], options["optimizations"] = [tf.float16], [tf.lite.Optimize.DEFAULT]
    subject.network.export(folder / "model.tflite", format="litert", verbose=False, target_spec=target, **options)


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


def _write_openvino(subject: Subject, folder: Path) -> None:
    from resnet_cli.engines.openvino import convert, save

    save(convert(subject.network), folder / "model.xml")


def _load_openvino(path: Path) -> Answer:
    from resnet_cli.engines.openvino import OpenVinoEngine

    engine = OpenVinoEngine(path, "many", exact=True)
    return lambda images: engine.run(images)[0]


FORMATS: dict[FormatName, Format] = {
    "savedmodel": Format(
        files=("", "saved_model.pb", "variables", "assets", "fingerprint.pb"),
        tolerance=1e-4,
        write=_write_savedmodel,
        load=_load_savedmodel,
        runtime="tensorflow",
        runtime_name="TensorFlow",
        program=f"""\
    import tensorflow as tf

    model = tf.saved_model.load(HERE)
    return model.signatures["serving_default"](tf.constant(images))["{OUTPUT}"].numpy()""",
    ),
    "keras": Format(
        files=("model.keras",),
        tolerance=1e-4,
        write=_write_keras,
        load=_load_keras,
        runtime="tensorflow",
        runtime_name="Keras",
        no_half="Keras multiplies weights in the precision in which it stores them",
        program="""\
    import keras

    return keras.saving.load_model(HERE / "model.keras", compile=False).predict(images, verbose=0)""",
    ),
    "onnx": Format(
        files=("model.onnx",),
        tolerance=1e-3,
        write=_write_onnx,
        load=_load_onnx,
        needs=("onnx", "tf2onnx", "onnxruntime"),
        runs_on=("onnxruntime",),
        runtime="onnxruntime",
        runtime_name="ONNX Runtime",
        program=f"""\
    import onnxruntime

    session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(["{OUTPUT}"], {{"image": images}})[0]""",
    ),
    "tflite": Format(
        files=("model.tflite",),
        tolerance=1e-3,
        write=_write_tflite,
        load=_load_tflite,
        runtime="ai-edge-litert",
        runtime_name="LiteRT",
        program=f"""\
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(HERE / "model.tflite")).get_signature_runner("serving_default")
    return runner(image=images)["{OUTPUT}"]""",
    ),
    "openvino": Format(
        files=("model.xml", "model.bin"),
        tolerance=2e-2,
        write=_write_openvino,
        load=_load_openvino,
        runtime="openvino",
        runtime_name="OpenVINO",
        no_half="its weights are always stored in half precision",
        no_resize="on CPUs with bf16 OpenVINO would resize in bf16",
        program="""\
    sys.modules["openvino_telemetry"] = None  # as if it were not installed: OpenVINO would report its use over the network
    import openvino

    return openvino.Core().compile_model(HERE / "model.xml", "CPU")(images)[0]""",
    ),
}
