"""`resnet export`: a run's classifier as a file that answers without this program."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from resnet_cli.cli import console
from resnet_cli.cli.options import Json, RunFolder
from resnet_cli.cli.reporter import Reporter
from resnet_cli.data.folders import EXAMPLE, LABELS
from resnet_cli.export.formats import FormatName, find_format
from resnet_cli.export.quantizers import MAX_DROP, QUANTIZERS, find_quantizer
from resnet_cli.jobs.environment import tensorflow_import, without_chatter
from resnet_cli.runs.folder import load_run

if TYPE_CHECKING:
    from resnet_cli.data.decode import Geometry
    from resnet_cli.export.export import Exported
    from resnet_cli.export.parity import Side
    from resnet_cli.export.quantize import Quantized

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
        Literal["int8"] | None,
        typer.Option(
            help="8-bit weights and activations, calibrated on training images; refused if it loses more than --max-drop."
            f"  ({', '.join(QUANTIZERS)})"
        ),
    ] = None,
    max_drop: MaxDrop = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write.  \\[default: export/<format>[-int8] in the run]")
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace the export in --output; keep an int8 model that loses more than --max-drop."),
    ] = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Write a classifier for other programs, and check it on held-out images.

    Pixel values are scaled inside; classify.py beside the model shows how an image becomes its pixels.
    `predict` and `evaluate` take what `--format openvino` wrote as a --run.
    """
    if quantize and format not in QUANTIZERS:
        raise typer.BadParameter(f"--quantize {quantize} goes with --format {', '.join(QUANTIZERS)}, not with {format}")
    if max_drop is not None and not quantize:
        raise typer.BadParameter("--max-drop is the bound of int8: add --quantize int8, or leave it out")
    loaded = load_run(run)
    (find_quantizer if quantize else find_format)(format)
    # The converters read TensorFlow's graphs, whichever backend trained the run, and a GPU would be taken for nothing.
    os.environ.update(KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="-1")
    with tensorflow_import():
        from resnet_cli.data.decode import run_geometry
        from resnet_cli.export.export import export as export_run
        from resnet_cli.export.quantize import export_int8

    what = f"{format} in {quantize}" if quantize else format
    reporter = Reporter(quiet or json)
    reporter.line(f"exporting {loaded.folder} as {what}, then checking what was written")
    signal.signal(signal.SIGTERM, _stop)
    with without_chatter():
        most = 100 * MAX_DROP if max_drop is None else max_drop
        quantized = export_int8(loaded, format, output, force, most) if quantize else None
        exported = quantized.exported if quantized else export_run(loaded, format, output, force)
    geometry = run_geometry(loaded)
    if exported.parity.is_on_patterns:
        reporter.warn(f"none of the held-out images is in {loaded.data} any more, so the export was checked on random patterns")
    for warning in _warnings(quantized) if quantized else ():
        reporter.warn(warning)
    if json:
        console.print_json({**_document(format, exported, geometry, quantized), "warnings": reporter.warnings})
        return
    _print_result(exported, geometry, len(loaded.classes), "the float export" if quantized else "the run in float32")
    if quantized:
        _print_sides(quantized)


def _document(format: str, exported: "Exported", geometry: "Geometry", quantized: "Quantized | None") -> dict[str, Any]:
    parity = exported.parity
    document = {
        "format": format,
        "path": str(exported.folder),
        "model": str(exported.model),
        "bytes": exported.bytes,
        "input": {"size": geometry.size, "resize": geometry.resize, "fraction": geometry.fraction, "filter": "bilinear"},
        "parity": {
            "pictures": parity.images,
            "top1_agreement": parity.top1_agreement,
            "max_probability_difference": parity.max_probability_difference,
            "source": parity.source,
        },
    }
    if quantized is None:
        return document

    def side(each: "Side") -> dict[str, Any]:
        top1 = each.correct / quantized.count
        return {"top1": top1, "correct": each.correct, "bytes": each.bytes, "pictures_per_second": round(each.speed, 1)}

    int8 = {
        "calibration_pictures": quantized.calibration,
        "split": quantized.split,
        "count": quantized.count,
        "before": side(quantized.before),
        "after": side(quantized.after),
        "drop": {"points": quantized.drop, "images": quantized.lost},
        "max_drop": {"points": quantized.max_drop, "images": quantized.allowed},
        "notes": _warnings(quantized),
    }
    return {**document, "int8": int8}


def _stop(number: int, frame: FrameType | None) -> None:
    # Not an exception that a converter might take for its own: the folder it was writing into goes, and the program ends.
    sys.exit(128 + number)


def _print_result(exported: "Exported", geometry: "Geometry", classes: int, other: str) -> None:
    parity, size = exported.parity, geometry.size
    fitted = {
        "crop": f"short side to {round(size / geometry.fraction)}, then the centre",
        "pad": "the whole image on grey",
        "squash": "the whole image, stretched",
    }
    console.out.print(f"[bold]{console.escape(str(exported.model))}[/]  ({exported.bytes / 1e6:.1f} MB)")
    console.out.print(
        f"input          RGB pixels 0 to 255, uint8, N x {size} x {size} x 3 ({fitted[geometry.resize]}, bilinear)"
    )
    console.out.print(f"output         probabilities, N x {classes}, in the order of {LABELS}")
    console.out.print(f"use            as {EXAMPLE} beside it does, from an image's file to its class")
    console.out.print(
        f"checked        on {parity.images} {parity.source}: probabilities differ from those of {other} by at most"
        f" {parity.max_probability_difference:.1e}, the best class agrees on {parity.top1_agreement:.1%}"
    )


def _print_sides(quantized: "Quantized") -> None:
    from resnet_cli.export.quantize import in_images

    before, after, count = quantized.before, quantized.after, quantized.count
    table = console.Table(
        "", "top-1", "correct", "size", "images/s", title=f"{count} {quantized.split} images, in its own runtime"
    )
    for name, side in (("float", before), ("int8", after)):
        top1, size = f"{side.correct / count:.1%}", f"{side.bytes / 1e6:.1f} MB"
        table.add_row(name, top1, f"{side.correct} of {count}", size, f"{side.speed:.0f}")
    console.out.print(table)
    loss = f"loses {in_images(quantized.lost, count)}" if quantized.lost > 0 else "loses none of them"
    bound = f"--max-drop {quantized.max_drop:g} allows {in_images(quantized.allowed, count)}"
    console.out.print(f"int8 {loss}; {bound}")
    console.out.print(f"calibrated on {quantized.calibration} training images; speed in batches of 16, in turns")


def _warnings(quantized: "Quantized") -> list[str]:
    from resnet_cli.export.quantize import in_images

    warnings, count, bound = list(quantized.left_out), quantized.count, quantized.max_drop
    if 0 < bound < 100 / count:
        points = f"{bound:g} point{'' if bound == 1 else 's'}"
        warnings.append(
            f"only {count} images are held out, so one is {100 / count:.1f} points: too few to see a loss of {points}, and int8"
            " may lose one"
        )
    if quantized.is_worse:
        allowed = in_images(quantized.allowed, count)
        warnings.append(f"int8 loses {in_images(quantized.lost, count)}, more than {allowed}: kept because of --force")
    return warnings
