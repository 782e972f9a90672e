"""`resnet export`: write a run's classifier as a file that runs without this program."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_cli.cli import console
from resnet_cli.cli.options import Json, RunFolder
from resnet_cli.cli.reporter import Reporter
from resnet_cli.cli.results import columns_of, print_table
from resnet_cli.data.folders import LABELS
from resnet_cli.errors import ResnetError
from resnet_cli.export.formats import README, FormatName
from resnet_cli.export.quantizers import MAX_DROP, QUANTIZERS
from resnet_cli.jobs.export import HALVED, RESIZING, ExportRequest, QuantizeName, require_possible, run_export
from resnet_cli.progress import how_many

if TYPE_CHECKING:
    from resnet_cli.data.decode import Geometry
    from resnet_cli.export.export import Exported, Quantized

_NAMES = 15  # columns of the names of what is told

MaxDrop = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        help="Points of held-out top-1 that int8 may lose, in whole images and at least one; 0 allows none."
        f"  \\[default: {100 * MAX_DROP:g}]",
    ),
]


def export(
    format: Annotated[FormatName, typer.Option(help="What to write.")],
    run: RunFolder = None,
    quantize: Annotated[
        QuantizeName | None,
        typer.Option(
            help="int8: 8-bit weights and activations, calibrated on training images; refused if it loses more than --max-drop"
            f"  ({', '.join(QUANTIZERS)}). float16: weights in half precision ({HALVED})."
        ),
    ] = None,
    max_drop: MaxDrop = None,
    with_resize: Annotated[
        bool, typer.Option("--with-resize", help=f"The model takes images of any size and resizes them itself.  ({RESIZING})")
    ] = False,
    min_accuracy: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Exit 3 and keep nothing if held-out top-1 of the exported model is lower, 0..1."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder to write.  \\[default: export/ in the run, by format]"),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace the export in --output; keep an int8 model that loses more than --max-drop."),
    ] = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Write a classifier for other programs, and check it on held-out images.

    The model takes unscaled pixels; README.md and classify.py, in the same folder, show how to prepare an image.
    `predict --model` and `evaluate --model` take every export, and run it in the format's own runtime.
    """
    request = ExportRequest(format, run, quantize, max_drop, output, force, with_resize, min_accuracy)
    try:
        require_possible(request)
    except ResnetError as error:
        raise typer.BadParameter(error.message) from None
    # The converters need TensorFlow's graphs, whichever backend trained the run; a GPU is not needed.
    os.environ.update(KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="-1")
    signal.signal(signal.SIGTERM, _stop)
    done = run_export(request, Reporter(quiet or json))
    if json:
        console.print_json(done.to_json())
        return
    quantized = done.quantized
    other = "the float export" if quantized else "the run in float32"
    _print_result(done.exported, done.geometry, len(done.run.classes), other)
    if (found := done.exported.accuracy) is not None and quantized is None:
        images = how_many(found.count, f"{found.split} image")
        _print_item("top-1", f"{found.top1:.1%}, {found.correct} of {images}, in its own runtime")
    if quantized:
        _print_sides(quantized)


def _stop(number: int, frame: FrameType | None) -> None:
    # Not an ordinary exception, which a converter might catch: the partial folder is deleted, and the program exits.
    sys.exit(128 + number)


def _print_result(exported: "Exported", geometry: "Geometry", classes: int, other: str) -> None:
    parity, size = exported.parity, geometry.size
    source = parity.source if parity.images > 1 else parity.source.replace("images", "image")
    fitted = {
        "crop": f"short side to {geometry.short_side}, then the centre",
        "pad": "the whole image on grey",
        "squash": "the whole image, stretched",
    }
    console.out.print(f"[bold]{console.escape(str(exported.model))}[/]  ({exported.bytes / 1e6:.1f} MB)")
    shape = "N x height x width x 3" if exported.with_resize else f"N x {size} x {size} x 3"
    inside = f"resized to {size} pixels inside the model: " if exported.with_resize else ""
    _print_item("input", f"RGB pixels 0 to 255, uint8, {shape} ({inside}{fitted[geometry.resize]}, {geometry.interpolation})")
    _print_item("output", f"probabilities, N x {classes}, in the order of {LABELS}")
    _print_item("use", f"see {README} in the same folder: from an image file to its class")
    _print_item(
        "checked",
        f"on {parity.images} {source}: probabilities differ from those of {other} by at most"
        f" {parity.max_probability_difference:.1e}, the best class agrees on {parity.top1_agreement:.1%}",
    )


def _print_item(name: str, text: str) -> None:
    console.prose(console.out, f"{name:<{_NAMES}}{text}", hang=_NAMES)


def _print_sides(quantized: "Quantized") -> None:
    from resnet_cli.export.export import in_images

    before, after, count = quantized.before, quantized.after, quantized.count
    rows = [
        {
            "": name,
            "top-1": f"{side.correct / count:.1%}",
            "correct": f"{side.correct} of {count}",
            "size": f"{side.bytes / 1e6:.1f} MB",
            "images/s": f"{side.speed:,.0f}",
        }
        for name, side in (("float", before), ("int8", after))
    ]
    title = f"{how_many(count, f'{quantized.split} image')}, in its own runtime"
    print_table(columns_of(rows, ("top-1", "correct", "size", "images/s")), title)
    loss = f"loses {in_images(quantized.lost, count)}" if quantized.lost > 0 else "loses none of them"
    bound = f"--max-drop {quantized.max_drop:g} allows {in_images(quantized.allowed, count)}"
    console.out.print(f"int8 {loss}; {bound}")
    console.out.print(f"calibrated on {how_many(quantized.calibration, 'training image')}; speed in batches of 16, in turns")
