"""Export a run: write its classifier in a format, load it again with that format's own runtime, compare, and only then keep it.

In: a run. Out: a folder with the model and labels.txt, complete or absent.
"""

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras

from resnet_cli.engines.portable import read_classifier
from resnet_cli.errors import ResnetError
from resnet_cli.inference.formats import LABELS, OUTPUT, FormatName, find_format, is_export
from resnet_cli.inference.geometry import run_geometry
from resnet_cli.inference.parity import Parity, Sample, compare, keras_answer, sample_pictures
from resnet_cli.networks.spec import spec_from_record
from resnet_cli.runs import Run


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
    """Export the classifier of a run, uint8 RGB pictures (N, H, W, 3) to probabilities (N, classes), preprocessing inside.

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
    _check_free(folder, force)
    classifier = read_classifier(run.weights, spec_from_record(run.record))
    sample = sample_pictures(run, run_geometry(run))
    with _new_folder(folder) as partial:
        parity = _write_and_compare(name, classifier, partial, sample)
        (partial / LABELS).write_text("".join(f"{each}\n" for each in run.classes), "utf-8", errors="surrogateescape")
        size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    return Exported(folder, folder / find_format(name).files[0], size, parity)


def _write_and_compare(name: FormatName, classifier: keras.Model, folder: Path, sample: Sample) -> Parity:
    """A difference within the tolerance leaves the class alone wherever the best two are twice the tolerance apart."""
    form = find_format(name)
    try:
        form.write(keras.Model(classifier.input, {OUTPUT: classifier.output}, name=classifier.name), folder)
        parity = compare(keras_answer(classifier), form.load(folder / form.files[0]), sample)
    except (ResnetError, OSError):
        raise
    except Exception as error:
        # Four converters and five runtimes have no error in common.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ResnetError(f"the export as {name} failed: {reason}", "is the disk full?") from error
    # Turned round, so that no number at all (NaN) fails as well.
    if not parity.max_probability_difference <= form.tolerance:
        raise ResnetError(
            f"the exported {name} model answers differently from the run: its probabilities differ by up to"
            f" {parity.max_probability_difference:.2g} on {parity.pictures} {parity.source}, more than {form.tolerance:g}",
            "nothing was kept; try another --format, and please report it",
        )
    return parity


def _check_free(folder: Path, force: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not force:
        raise ResnetError(f"{folder} exists already", "choose another --output, or add --force to replace it")
    if not is_export(folder):
        raise ResnetError(f"{folder} holds more than an export, so --force does not replace it", "choose another --output")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into; it takes that place when all went well and vanishes otherwise."""
    folder = folder.resolve()
    partial, old = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "old"))
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        # What an earlier export left that was killed outright.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise ResnetError(f"cannot write to {folder}: {reason}", "choose another --output") from error
        raise
