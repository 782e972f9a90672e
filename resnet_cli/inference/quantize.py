"""Export a run as int8: write the float export, quantize it, measure both on held-out pictures, and keep the int8 model if it
answers about as well.

In: a run whose pictures are there. Out: a folder with the model and labels.txt, complete or absent; figures of both models.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_cli.data import scoring
from resnet_cli.data.decode import Geometry
from resnet_cli.engines.base import Images
from resnet_cli.engines.portable import read_classifier
from resnet_cli.errors import ResnetError
from resnet_cli.inference.export import Exported, converting, with_named_output, write_and_compare
from resnet_cli.inference.export_folder import check_free, describe, new_folder, size
from resnet_cli.inference.formats import FormatName, find_format
from resnet_cli.inference.geometry import run_geometry
from resnet_cli.inference.parity import sample_pictures
from resnet_cli.inference.quantizers import MAX_DROP, find_quantizer
from resnet_cli.inference.sampling import some_pictures
from resnet_cli.inference.side_by_side import BATCH, Side, answer_both, speeds_of
from resnet_cli.networks.spec import spec_from_record
from resnet_cli.runs import Run, read_splits

CALIBRATION = 300  # pictures: the tools' own advice is "a few hundred", and NNCF's default is 300


@dataclass(frozen=True)
class Quantized:
    """An int8 export and what it cost.

    Attributes:
        exported: what was written; its parity compares the int8 model with the float one on the held-out pictures.
        calibration: training pictures that the ranges of activations were taken from.
        split: which pictures were held out, "val" or "test".
        count: how many of them were measured.
        before, after: the float export and the int8 one.
    """

    exported: Exported
    calibration: int
    split: str
    count: int
    before: Side
    after: Side

    @property
    def drop(self) -> float:
        """Of held-out top-1, 0..1; negative where int8 does better."""
        return (self.before.correct - self.after.correct) / self.count


def export_int8(run: Run, name: FormatName, output: Path | None = None, force: bool = False) -> Quantized:
    """Export the classifier of a run with 8-bit weights and activations; the same input and output as the float export.

    Args:
        run: a complete run whose pictures are there.
        name: a format that has a quantizer.
        output: folder to write; None for export/<format>-int8 in the run.
        force: replace an export that is there, and keep a model that loses more than `MAX_DROP`.

    Raises:
        ResnetError: the folder exists or cannot be written, a package or the pictures are missing, or held-out top-1 drops
            by more than `MAX_DROP`; nothing is left behind.
    """
    form, quantizer = find_format(name), find_quantizer(name)
    folder = output or run.folder / "export" / f"{name}-int8"
    check_free(folder, force)
    geometry = run_geometry(run)
    scored = _held_out(run)
    pictures = _calibration_pictures(run, geometry)
    model = with_named_output(read_classifier(run.weights, spec_from_record(run.record)))
    with new_folder(folder, force) as partial:
        exact, small = partial / "float" / form.files[0], partial / form.files[0]
        exact.parent.mkdir()
        write_and_compare(name, model, exact.parent, sample_pictures(run, geometry))
        with converting(name):
            quantizer.write(model, exact, pictures, small)
            answers = quantizer.load(exact), quantizer.load(small)
            both = answer_both(answers, scored.samples, geometry)
            speeds = speeds_of(answers, pictures[:BATCH])
        before = Side(both.correct[0], size(exact.parent), speeds[0])
        shutil.rmtree(exact.parent)
        after = Side(both.correct[1], size(partial), speeds[1])
        exported = Exported(folder, folder / small.name, describe(partial, run, name, "int8"), both.parity)
        quantized = Quantized(exported, len(pictures), scored.split, both.parity.pictures, before, after)
        if not force:
            _refuse_drop(quantized)
    return quantized


def _held_out(run: Run) -> scoring.Scored:
    try:
        return scoring.held_out([run])
    except ResnetError as error:
        raise ResnetError(error.message, "put the data set back: int8 is measured on held-out pictures") from error


def _calibration_pictures(run: Run, geometry: Geometry) -> Images:
    """Up to 300 of the pictures that the run was trained on, of all classes, the same ones every time."""
    rows = [row for row in read_splits(run) if row.split == "train"]
    found = some_pictures(run, rows, geometry, CALIBRATION)
    if not found:
        raise ResnetError(
            f"none of the {len(rows)} training pictures of {run.data} can be read",
            "put the data set back: int8 needs some of them",
        )
    return np.stack(found)


def _refuse_drop(quantized: Quantized) -> None:
    count, drop = quantized.count, quantized.drop
    if drop <= MAX_DROP:
        return
    coarse = f" (one picture of {count} is {100 / count:.1f} points)" if 1 / count > MAX_DROP else ""
    raise ResnetError(
        f"int8 loses {100 * drop:.1f} points of held-out top-1, more than {100 * MAX_DROP:g}: it has {quantized.after.correct}"
        f" of {count} {quantized.split} pictures right, the float export {quantized.before.correct}",
        f"nothing was kept; export without --quantize, or keep it all the same with --force{coarse}",
    )
