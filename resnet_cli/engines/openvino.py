"""OpenVINO: fast forward passes on CPUs, without TensorFlow; with a cache of compiled models for later processes.

In: a model.xml, or a Keras model to convert. Out: an `Engine`. OpenVINO's telemetry is on by default and opens a connection at
import; it is blocked here, before the first import. From the cache, a ResNet-50 loads in 0.03 to 0.04 s of processor time
instead of 0.09 to 0.11 s, for 0.16 MB on disk.
"""

import ctypes
import hashlib
import shutil
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal
from xml.etree import ElementTree

import numpy as np

from resnet_cli.data.threads import Pause
from resnet_cli.engines.base import Images, Outputs, in_half
from resnet_cli.errors import ResnetError
from resnet_cli.files import unfinished, write_bytes
from resnet_cli.runs.folder import is_older

_KEPT = 64  # models in the cache; the oldest entries are deleted first


def cache_options(model: Path, root: Path) -> dict[str, str]:
    """Options that make OpenVINO cache a compiled model, and load it from the cache.

    Each model has a folder of its own, because OpenVINO identifies models only by path, size and modification time of
    model.xml: it could load the weights of an earlier training. Entries that are damaged or of another version are recompiled.

    Args:
        model: its model.xml, with model.bin in the same folder.
        root: folder of all entries; it is created if it is missing.

    Returns:
        The options; empty if the folder cannot be used.
    """
    try:
        files = [(path, path.stat()) for path in (model.resolve(), model.resolve().with_suffix(".bin"))]
        identity = [(str(path), file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns) for path, file in files]
        folder = root / hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
        if not folder.is_dir():
            folder.mkdir(parents=True)
            for old in sorted(root.iterdir(), key=lambda entry: entry.stat().st_mtime)[:-_KEPT]:
                shutil.rmtree(old, ignore_errors=True)
    except OSError:
        return {}
    # Cache the graph only: weights are read from model.bin.
    return {"CACHE_DIR": str(folder), "CACHE_MODE": "OPTIMIZE_SIZE"}


Purpose = Literal["one", "many"]

OLDEST = "2026.0"  # the version that pyproject.toml asks for


def import_openvino() -> Any:
    """The openvino module, with its telemetry replaced by OpenVINO's own stub.

    Raises:
        ResnetError: OpenVINO is not installed, broken or too old.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    mend = f"pip install -U 'openvino>={OLDEST}'"
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise ResnetError("OpenVINO is not installed", mend) from error
    except ImportError as error:
        raise ResnetError(f"OpenVINO cannot be imported ({error})", mend) from error
    found = openvino.__version__.split("-")[0]
    if is_older(found, OLDEST):
        raise ResnetError(f"OpenVINO {found} is too old: at least {OLDEST} is needed", mend)
    return openvino


def usual_precision() -> str:
    """OpenVINO's default precision on this machine's CPU: "bf16", "f16" or "f32"."""
    return _short(import_openvino().Core().get_property("CPU", "INFERENCE_PRECISION_HINT"))


def _short(kind: Any) -> str:
    return "bf16" if "bfloat16" in str(kind) else "f16" if "float16" in str(kind) else "f32"


def convert(keras_model: Any) -> Any:
    """Convert a Keras model to an OpenVINO model with the same outputs and a free batch dimension.

    Raises:
        ResnetError: the installed converter fails.
    """
    openvino = import_openvino()
    with warnings.catch_warnings():
        # The converter passes the only input in a list, and Keras warns about it.
        warnings.filterwarnings("ignore", message="The structure of `inputs` doesn't match")
        try:
            model = openvino.convert_model(keras_model)
        except Exception as error:  # of any type, depending on its version
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ResnetError(f"OpenVINO cannot convert the network: {reason}", "use --engine keras") from error
    if len(model.outputs) == 1:
        return model
    # The converter sorts outputs by name; put them back in the order of the Keras model.
    by_name = {name: result for result in model.get_results() for name in result.output(0).get_names()}
    ordered = [by_name[tensor.name] for tensor in keras_model.outputs]
    return openvino.Model(ordered, model.get_parameters(), keras_model.name)


def rounded(model: Any) -> Any:
    """The same model with weights rounded as `save` writes them: a part then gives the same features as in the saved model."""
    openvino = import_openvino()
    for op in model.get_ops():
        if op.get_type_name() == "Constant" and op.get_element_type() == openvino.Type.f32:
            half = openvino.opset13.constant(in_half(op.data))
            weights = openvino.opset13.convert(half, "f32")
            for reader in op.output(0).get_target_inputs():
                reader.replace_source_output(weights.output(0))
    return model


def joined(features: Any, head: Any) -> Any:
    """Join two models: `head` reads the only output of `features`."""
    openvino = import_openvino()
    (parameter,) = head.get_parameters()
    pooled = features.get_results()[0].input_value(0)
    for reader in parameter.output(0).get_target_inputs():
        reader.replace_source_output(pooled)
    return openvino.Model(head.get_results(), features.get_parameters(), features.get_name())


def _read(path: Path) -> Any:
    """The model of a model.xml.

    Raises:
        ResnetError: it is missing or damaged.
    """
    try:
        return import_openvino().Core().read_model(path)
    except RuntimeError as error:
        raise _unreadable(path, error) from error


def _unreadable(model: Any, error: RuntimeError) -> ResnetError:
    # The first lines are locations in OpenVINO's source.
    reason = str(error).strip().splitlines()[-1]
    return ResnetError(f"OpenVINO cannot load {model}: {reason}", "the run is damaged")


def behind_pooling(path: Path) -> Any:
    """The head of a classifier's model.xml: pooled features, float32 (N, D), to probabilities (N, classes)."""
    openvino = import_openvino()
    model = _read(path)
    pooling = _poolings(model)[-1].output(0)
    features = openvino.opset13.parameter(pooling.get_partial_shape(), np.float32, "features")
    for reader in pooling.get_target_inputs():
        reader.replace_source_output(features.output(0))
    return openvino.Model(model.get_results(), [features])


def with_features(path: Path) -> Any:
    """The classifier of a model.xml with a second output: its pooled features, float32 (N, D).

    Raises:
        ResnetError: it has no pooling that this program knows.
    """
    openvino = import_openvino()
    model = _read(path)
    pooling = _poolings(model)
    if not pooling:
        raise ResnetError(f"{path} has no pooled features", "leave --features out")
    features = openvino.opset13.result(pooling[-1].output(0))
    return openvino.Model([*model.get_results(), features], model.get_parameters(), model.get_name())


def features_file(path: Path, root: Path) -> Path | None:
    """The model of `with_features` as a file, with a link to the run's model.bin: compiled models are only cached for files.

    Args:
        path: a classifier's model.xml.
        root: folder of all entries, as for `cache_options`.

    Returns:
        Its path; None if it cannot be written, or has no pooling that this program knows.
    """
    options = cache_options(path, root)
    if not options:
        return None
    copy = Path(options["CACHE_DIR"]) / "features.xml"
    if copy.exists():
        return copy
    try:
        tree = ElementTree.parse(path)
        layers, edges = tree.getroot().find("layers"), tree.getroot().find("edges")
        pooling = [layer for layer in tree.iter("layer") if layer.get("type") == "ReduceMean"]
        if layers is None or edges is None or not pooling:
            return None
        output = pooling[-1].findall("output/port")[0]
        number = str(1 + max(int(layer.get("id", 0)) for layer in layers))
        result = ElementTree.SubElement(layers, "layer", id=number, name="pooled_features", type="Result", version="opset1")
        port = ElementTree.SubElement(ElementTree.SubElement(result, "input"), "port", id="0", precision="FP32")
        port.extend(output.findall("dim"))
        source = {"from-layer": pooling[-1].get("id", ""), "from-port": output.get("id", "")}
        ElementTree.SubElement(edges, "edge", {**source, "to-layer": number, "to-port": "0"})
        with suppress(FileExistsError):  # made by another process; a later training's entry is another one
            copy.with_suffix(".bin").symlink_to(path.resolve().with_suffix(".bin"))
        write_bytes(copy, ElementTree.tostring(tree.getroot()))
    except (OSError, ResnetError, ElementTree.ParseError):
        return None
    return copy


def _poolings(model: Any) -> list[Any]:
    """The operations that may be the global average pooling of a classifier, which is the last of them."""
    return [op for op in model.get_ordered_ops() if op.get_type_name() == "ReduceMean"]


def with_feature_map(path: Path) -> Any:
    """A classifier's model.xml with a second output: what its pooling reads, float32 (N, h, w, D)."""
    openvino = import_openvino()
    model = _read(path)
    pooling = _poolings(model)[-1]
    features = pooling.input_value(0)
    if sorted(axis % 4 for axis in pooling.input_value(1).get_node().data.tolist()) == [2, 3]:  # (N, D, h, w)
        order = openvino.opset13.constant(np.array([0, 2, 3, 1]))
        features = openvino.opset13.transpose(features, order).output(0)
    results = [each.input_value(0) for each in model.get_results()]
    return openvino.Model([*results, features], model.get_parameters())


def logits_of_features(path: Path) -> Any:
    """The head of a classifier's model.xml without its softmax: pooled features, float32 (N, D), to logits (N, classes)."""
    openvino = import_openvino()
    head = behind_pooling(path)
    return openvino.Model([_softmax(head).input_value(0)], head.get_parameters())


def _softmax(model: Any) -> Any:
    return [op for op in model.get_ordered_ops() if op.get_type_name() == "Softmax"][-1]


def divide_logits(path: Path, temperature: float) -> None:
    """Divide the logits of a classifier's model.xml by a temperature; the file is replaced.

    Raises:
        ResnetError: the folder cannot be written.
    """
    openvino = import_openvino()
    model = _read(path)
    softmax = _softmax(model)
    factor = openvino.opset13.constant(np.float32(1 / temperature))
    cooled = openvino.opset13.multiply(softmax.input_value(0), factor)
    softmax.input(0).replace_source_output(cooled.output(0))
    save(model, path)


def save(model: Any, path: Path) -> None:
    """Write model.xml and model.bin with fp16 weights, each atomically.

    Raises:
        ResnetError: the folder cannot be written.
    """
    try:
        with unfinished(path) as folder:
            folder.mkdir()
            whole = folder / path.name
            import_openvino().save_model(model, whole, compress_to_fp16=True)
            whole.with_suffix(".bin").replace(path.with_suffix(".bin"))
            whole.replace(path)
    except (OSError, RuntimeError) as error:
        raise ResnetError(f"cannot write {path}: {error}", "is the disk full or read-only?") from error


class OpenVinoEngine:
    """A compiled OpenVINO model."""

    name = "openvino"
    # Measured on two cores: in batches of 32, images of 224 x 224 take 7 % more time each than in batches of 8, and cores wait
    # for the last batch; images of 32 x 32 take a fifth more in batches of 8 than of 64 (ResNet-20).
    pixels = 8 * 224 * 224

    def __init__(
        self, model: Any, purpose: Purpose, exact: bool = False, cache: Path | None = None, threads: int | None = None
    ) -> None:
        """Compile a model for the CPU.

        Args:
            model: an OpenVINO model, or the path of its model.xml.
            purpose: "one" optimises the latency of one image, "many" the images per second.
            exact: multiply in float32 even if the CPU has bf16.
            cache: folder of compiled models, for a model given by its path.
            threads: threads of the forward passes; None = one per core.
        """
        openvino = import_openvino()
        hints: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY" if purpose == "one" else "THROUGHPUT"}
        if exact:
            hints["EXECUTION_MODE_HINT"] = "ACCURACY"
        if threads:
            hints["INFERENCE_NUM_THREADS"] = threads
        self._compiled = _compile(openvino.Core(), model, hints, cache_options(model, cache) if cache else {})
        self.precision = _short(self._compiled.get_property("INFERENCE_PRECISION_HINT"))
        self._names = range(len(self._compiled.outputs))

    def run(self, images: Images | Outputs) -> tuple[Outputs, ...]:
        """See `Engine.run`; a head takes features, float32 (N, D), instead of images."""
        results = self._compiled(images)
        return tuple(np.asarray(results[place], dtype=np.float32) for place in self._names)

    def run_many(self, batches: Iterable[Images | Pause]) -> Iterator[tuple[Outputs, ...]]:
        """See `Engine.run_many`: as many requests run as OpenVINO recommends, and as many are waiting."""
        depth = 2 * int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        idle = [self._compiled.create_infer_request() for _ in range(depth)]
        busy: deque[Any] = deque()
        for images in batches:
            while busy and (isinstance(images, Pause) or not idle or busy[0].wait_for(0)):
                yield self._collect(busy, idle)
            if isinstance(images, Pause):
                continue
            request = idle.pop()
            request.start_async({0: images})
            busy.append(request)
        while busy:
            yield self._collect(busy, idle)

    def _collect(self, busy: deque[Any], idle: list[Any]) -> tuple[Outputs, ...]:
        request = busy.popleft()
        request.wait()
        outputs = tuple(np.array(request.get_output_tensor(place).data, dtype=np.float32) for place in self._names)
        idle.append(request)
        return outputs


class _SignalStack(ctypes.Structure):
    """`stack_t` of sigaltstack(2)."""

    _fields_: ClassVar = [("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def _usual_signal_stack() -> Iterator[None]:
    """Replace the small signal stack that OpenVINO gives the compiling thread on a CPU with AMX.

    It only has room for the registers, and none for the handler: once this thread has used AMX, in TensorFlow, Ctrl-C would end
    the process by SIGSEGV.
    """
    if sys.platform != "linux":
        yield
        return
    system, before = ctypes.CDLL(None), _SignalStack()
    system.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        system.sigaltstack(ctypes.byref(before), None)


def _compile(core: Any, model: Any, hints: dict[str, Any], cache: dict[str, str]) -> Any:
    try:
        with _usual_signal_stack():
            return core.compile_model(model, "CPU", hints | cache)
    except RuntimeError as error:
        if cache:
            # The cache may be at fault (a full or read-only disk) and not the model: try without it.
            return _compile(core, model, hints, {})
        raise _unreadable(model, error) from error
