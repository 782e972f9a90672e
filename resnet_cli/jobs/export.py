"""The work of `resnet export`: write a run's classifier for other programs, and check it (light).

In: a request. Out: a `FinishedExport`; the folder with the model is complete or absent. TensorFlow and the converters are
imported after the request has been checked.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from resnet_cli.errors import ResnetError
from resnet_cli.export.folder import Wanted, check_free
from resnet_cli.export.formats import FORMATS, FormatName, find_format
from resnet_cli.export.quantizers import MAX_DROP, QUANTIZERS, find_quantizer
from resnet_cli.jobs.environment import tensorflow_import, without_chatter
from resnet_cli.jobs.published import names_published, published_run
from resnet_cli.progress import Progress, how_many
from resnet_cli.runs.folder import Run, load_run

if TYPE_CHECKING:
    from resnet_cli.data.decode import Geometry
    from resnet_cli.export.export import Exported, Quantized
    from resnet_cli.export.parity import Side

QuantizeName = Literal["int8", "float16"]
HALVED = ", ".join(name for name, form in FORMATS.items() if not form.no_half)
RESIZING = ", ".join(name for name, form in FORMATS.items() if not form.no_resize)


@dataclass(frozen=True)
class ExportRequest:
    """The arguments of an export.

    Attributes:
        format: such as "onnx".
        run: folder of the run, a name of published weights or a .safetensors file; None for the newest run.
        quantize: "int8" for 8-bit weights and activations, "float16" for weights in half precision; None for float.
        max_drop: points of held-out top-1 that int8 may lose, 0..100; None for the default.
        output: folder to write; None for export/<format>[-<quantize>][-with-resize] in the run.
        force: replace an existing export, and keep an int8 model that loses more than it may.
        with_resize: the model resizes images itself.
        min_accuracy: held-out top-1, 0..1, below which nothing is kept; None keeps any.
    """

    format: FormatName
    run: Path | None = None
    quantize: QuantizeName | None = None
    max_drop: float | None = None
    output: Path | None = None
    force: bool = False
    with_resize: bool = False
    min_accuracy: float | None = None

    @property
    def int8(self) -> bool:
        """Whether weights and activations get 8 bits."""
        return self.quantize == "int8"


@dataclass(frozen=True)
class FinishedExport:
    """A written export and its comparison.

    Attributes:
        format: such as "onnx".
        run: the exported run.
        geometry: how images are brought to its input size.
        exported: the files, and the comparison with the run, or of int8 with the float export.
        quantize: "int8", "float16" or None.
        quantized: for int8, its loss of accuracy; None otherwise.
        warnings: warnings about the export.
    """

    format: FormatName
    run: Run
    geometry: "Geometry"
    exported: "Exported"
    quantize: QuantizeName | None
    quantized: "Quantized | None"
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON output of `export`."""
        exported, parity, geometry = self.exported, self.exported.parity, self.geometry
        document = {
            "format": self.format,
            "path": str(exported.folder),
            "model": str(exported.model),
            "bytes": exported.bytes,
            "input": {
                "size": geometry.size,
                "resize": geometry.resize,
                "fraction": geometry.fraction,
                "filter": geometry.interpolation,
                "steps": geometry.steps,
            },
            "parity": {
                "pictures": parity.images,
                "top1_agreement": parity.top1_agreement,
                "max_probability_difference": parity.max_probability_difference,
                "source": parity.source,
            },
        }
        int8 = {} if self.quantized is None else {"int8": _int8_to_json(self.quantized)}
        found = exported.accuracy
        accuracy = None if found is None else {"top1": found.top1, **asdict(found)}
        more = {"quantize": self.quantize, "with_resize": exported.with_resize, "accuracy": accuracy}
        return {**document, **int8, **more, "warnings": list(self.warnings)}


def require_possible(request: ExportRequest) -> None:
    """Refuse contradicting arguments before anything is opened.

    Raises:
        ResnetError: the format has no such precision or cannot resize, or the bound of int8 is given without it.
    """
    form = FORMATS[request.format]
    if request.int8 and request.format not in QUANTIZERS:
        raise ResnetError(f"--quantize int8 goes with --format {', '.join(QUANTIZERS)}, not with {request.format}")
    if request.quantize == "float16" and form.no_half:
        raise ResnetError(f"--quantize float16 goes with --format {HALVED}, not with {request.format}: {form.no_half}")
    if request.with_resize and form.no_resize:
        raise ResnetError(f"--with-resize goes with --format {RESIZING}, not with {request.format}: {form.no_resize}")
    if request.with_resize and request.int8:
        raise ResnetError("--with-resize goes with --quantize float16 or without it: int8 would round the resizing")
    if request.max_drop is not None and not request.int8:
        raise ResnetError("--max-drop is the bound of int8: add --quantize int8, or leave it out")


def run_export(request: ExportRequest, progress: Progress) -> FinishedExport:
    """Write a run's classifier in a format, load it again in that format's own runtime, and compare.

    Raises:
        ResnetError: the run cannot be read, a package is missing, the folder cannot be written, or the model's probabilities
            differ from the run's; no files are left behind.
    """
    require_possible(request)
    run, name = _run_of(request, progress), request.format
    (find_quantizer if request.int8 else find_format)(name)
    half = request.quantize == "float16"
    wanted = Wanted(name, request.output, request.force, half, request.with_resize, request.min_accuracy)
    check_free(wanted.folder(run, request.quantize or "float"), request.force)  # before TensorFlow is imported
    progress.line(
        f"exporting {run.name} as {name}{f' in {request.quantize}' if request.quantize else ''}, then checking what was written"
    )
    with tensorflow_import():
        import keras

        from resnet_cli.data.decode import run_geometry
        from resnet_cli.export.export import export, export_int8

    if keras.backend.backend() != "tensorflow":
        what = f"the converters read TensorFlow's graphs, and Keras runs on {keras.backend.backend()} in this process"
        raise ResnetError(what, "export in a process with KERAS_BACKEND=tensorflow, as `resnet export` does")
    most = 100 * MAX_DROP if request.max_drop is None else request.max_drop
    with without_chatter():
        quantized = export_int8(run, wanted, most) if request.int8 else None
        exported = quantized.exported if quantized else export(run, wanted)
    if exported.parity.is_on_patterns and not run.is_published:
        progress.warn(f"none of the run's images is in {run.data} any more, so the export was checked on random patterns")
    for warning in _int8_warnings(quantized) if quantized else ():
        progress.warn(warning)
    return FinishedExport(name, run, run_geometry(run), exported, request.quantize, quantized, tuple(progress.warnings))


def _run_of(request: ExportRequest, progress: Progress) -> Run:
    """The run, or published weights, which have no folder of their own to write into and no images to calibrate int8 with."""
    if request.run is None or not names_published(request.run):
        return load_run(request.run)
    if request.output is None:
        raise ResnetError(f"{request.run} has no run folder to export into", "name a folder with --output")
    if request.int8:
        raise ResnetError(f"int8 is calibrated on training images, and there are none of {request.run}", "fine-tune it first")
    if request.min_accuracy is not None:
        raise ResnetError(f"--min-accuracy needs held-out images, and there are none of {request.run}", "fine-tune it first")
    return published_run(request.run, progress)


def _int8_to_json(quantized: "Quantized") -> dict[str, Any]:
    def side(each: "Side") -> dict[str, Any]:
        top1 = each.correct / quantized.count
        return {"top1": top1, "correct": each.correct, "bytes": each.bytes, "pictures_per_second": round(each.speed, 1)}

    return {
        "calibration_pictures": quantized.calibration,
        "split": quantized.split,
        "count": quantized.count,
        "before": side(quantized.before),
        "after": side(quantized.after),
        "drop": {"points": quantized.drop, "images": quantized.lost},
        "max_drop": {"points": quantized.max_drop, "images": quantized.allowed},
        "notes": _int8_warnings(quantized),
    }


def _int8_warnings(quantized: "Quantized") -> list[str]:
    from resnet_cli.export.export import in_images

    warnings, count, bound = list(quantized.left_out), quantized.count, quantized.max_drop
    if 0 < bound < 100 / count:
        points, are = f"{bound:g} point{'' if bound == 1 else 's'}", "is" if count == 1 else "are"
        warnings.append(
            f"only {how_many(count, 'image')} {are} held out, so one is {100 / count:.1f} points: too few to see a loss of"
            f" {points}, and int8 may lose one"
        )
    if quantized.is_worse:
        allowed = in_images(quantized.allowed, count)
        warnings.append(f"int8 loses {in_images(quantized.lost, count)}, more than {allowed}: kept because of --force")
    return warnings
