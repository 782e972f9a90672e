"""`resnet export`: a run's classifier as a file that answers without this program."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_cli.cli import console
from resnet_cli.cli.options import Json, RunFolder
from resnet_cli.cli.quiet import tensorflow_import, without_chatter
from resnet_cli.cli.reporter import Reporter
from resnet_cli.inference.formats import LABELS, FormatName, find_format
from resnet_cli.runs import load_run

if TYPE_CHECKING:
    from resnet_cli.data.decode import Geometry
    from resnet_cli.inference.export import Exported


def export(
    format: Annotated[FormatName, typer.Option(help="What to write.")],
    run: RunFolder = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write.  [default: export/<format> in the run]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the export in --output.")] = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Write a classifier for other programs, preprocessing inside, and check it on held-out pictures."""
    loaded = load_run(run)
    find_format(format)
    # The converters read TensorFlow's graphs, whichever backend trained the run, and a GPU would be taken for nothing.
    os.environ.update(KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="-1")
    with tensorflow_import():
        from resnet_cli.inference.export import export as export_run
        from resnet_cli.inference.geometry import run_geometry

    Reporter(quiet or json).line(f"exporting {loaded.folder} as {format}, then checking what was written")
    signal.signal(signal.SIGTERM, _stop)
    with without_chatter():
        exported = export_run(loaded, format, output, force)
    parity = exported.parity
    if json:
        compared = {
            "pictures": parity.pictures,
            "top1_agreement": parity.top1_agreement,
            "max_probability_difference": parity.max_probability_difference,
            "source": parity.source,
        }
        files = {"path": str(exported.folder), "model": str(exported.model), "bytes": exported.bytes}
        console.print_json({"format": format, **files, "parity": compared})
    else:
        _print_result(exported, run_geometry(loaded), len(loaded.classes))


def _stop(number: int, frame: FrameType | None) -> None:
    # Not an exception that a converter might take for its own: the folder it was writing into goes, and the program ends.
    sys.exit(128 + number)


def _print_result(exported: "Exported", geometry: "Geometry", classes: int) -> None:
    parity, size = exported.parity, geometry.size
    fitted = {
        "crop": f"short side to {round(size / geometry.fraction)}, then the centre",
        "pad": "the whole picture on grey",
        "squash": "the whole picture, stretched",
    }
    console.out.print(f"[bold]{console.escape(str(exported.model))}[/]  ({exported.bytes / 1e6:.1f} MB)")
    console.out.print(f"input          RGB pixels 0 to 255, uint8, N x {size} x {size} x 3 ({fitted[geometry.resize]})")
    console.out.print(f"output         probabilities, N x {classes}, in the order of {LABELS}")
    console.out.print(
        f"checked        on {parity.pictures} {parity.source}: probabilities differ by at most"
        f" {parity.max_probability_difference:.1e}, the best class agrees on {parity.top1_agreement:.1%}"
    )
