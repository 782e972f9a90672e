"""Export a run: write its classifier in a format, load it again with that format's own runtime, compare, and only then keep it.

In: a run. Out: a folder with the model and labels.txt, complete or absent.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras

from resnet_cli.data.decode import run_geometry
from resnet_cli.engines.frozen import read_classifier
from resnet_cli.errors import ResnetError
from resnet_cli.export.folder import check_free, describe, new_folder
from resnet_cli.export.formats import OUTPUT, FormatName, find_format
from resnet_cli.export.parity import Parity, Probe, compare, keras_answer, sample_images
from resnet_cli.networks.catalogue import spec_from_record
from resnet_cli.runs.folder import Run


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: it holds the model and labels.txt.
        model: what a runtime is given: a file in the folder, or the folder itself.
        bytes: size of everything in the folder.
        parity: how it compares with the run.
    """

    folder: Path
    model: Path
    bytes: int
    parity: Parity


def export(run: Run, name: FormatName, output: Path | None = None, force: bool = False) -> Exported:
    """Export the classifier of a run, uint8 RGB images (N, H, W, 3) to probabilities (N, classes), preprocessing inside.

    Args:
        run: a complete run.
        name: the format.
        output: folder to write; None for export/<format> in the run.
        force: replace an export that is there.

    Raises:
        ResnetError: the folder exists or cannot be written, a package is missing, the run is damaged, or the exported
            model answers differently from the run; nothing is left behind.
    """
    find_format(name)
    folder = output or run.folder / "export" / name
    check_free(folder, force)
    classifier = read_classifier(run.weights, spec_from_record(run.record))
    sample = sample_images(run, run_geometry(run))
    with new_folder(folder, force) as partial:
        parity = write_and_compare(name, with_named_output(classifier), partial, sample)
        size = describe(partial, run, name, "float")
    return Exported(folder, folder / find_format(name).files[0], size, parity)


def with_named_output(classifier: keras.Model) -> keras.Model:
    """The same classifier with its output named, which is what the formats write."""
    return keras.Model(classifier.input, {OUTPUT: classifier.output}, name=classifier.name)


def write_and_compare(name: FormatName, model: keras.Model, folder: Path, sample: Probe) -> Parity:
    """Write a model and load it again: a difference within the tolerance leaves the class alone wherever the best two are twice
    the tolerance apart.

    Args:
        name: the format.
        model: uint8 images to its one named output.
        folder: an existing one.
        sample: images to compare on.

    Raises:
        ResnetError: it cannot be written, or answers differently.
    """
    form = find_format(name)
    with converting(name):
        form.write(model, folder)
        parity = compare(keras_answer(model), form.load(folder / form.files[0]), sample)
    # Turned round, so that no number at all (NaN) fails as well.
    if not parity.max_probability_difference <= form.tolerance:
        raise ResnetError(
            f"the exported {name} model answers differently from the run: its probabilities differ by up to"
            f" {parity.max_probability_difference:.2g} on {parity.images} {parity.source}, more than {form.tolerance:g}",
            "nothing was kept; try another --format, and please report it",
        )
    return parity


@contextmanager
def converting(name: str) -> Iterator[None]:
    """Make one sentence of whatever goes wrong inside: converters and runtimes have no error in common."""
    try:
        yield
    except (ResnetError, OSError):
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ResnetError(f"the export as {name} failed: {reason}", "is the disk full?") from error
