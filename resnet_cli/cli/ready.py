"""Which classifiers answer: a run's, those of several runs together, or without any run a ready-made one.

In: `--run`s or nothing. Out: OpenVINO files, their classes and geometries. A ready-made network is converted once, into the
user's cache; only that imports TensorFlow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_cli.cli.cache import cache_folder
from resnet_cli.cli.quiet import tensorflow_import
from resnet_cli.data.decode import Geometry
from resnet_cli.engines.openvino import OpenVinoEngine, Purpose
from resnet_cli.inference.classify import Member
from resnet_cli.inference.ensemble import load_runs
from resnet_cli.inference.geometry import run_geometry
from resnet_cli.networks.pretrained import ImagenetClassifier, bundled_run, cached_imagenet_classifier
from resnet_cli.progress import Progress
from resnet_cli.runs import RUNS, Run


@dataclass(frozen=True)
class Ready:
    """A classifier that OpenVINO can load."""

    model: Path
    classes: tuple[str, ...]
    geometry: Geometry


def classifiers_for(folders: Sequence[Path], progress: Progress) -> tuple[Ready, ...]:
    """The classifiers of runs; without `folders` of the newest; without any run a ready-made one, and it says so."""
    if folders or any(RUNS.glob("*/run.json")):
        return tuple(map(run_classifier, load_runs(folders)))
    imagenet = cached_imagenet_classifier()
    if imagenet is not None:
        progress.line(f"no run here: {imagenet.network.name} answers with the 1000 ImageNet classes")
        return (_imagenet(imagenet),)
    run = bundled_run()
    progress.line(
        f"no run here: the bundled {run.record['network']['name']} answers with its own {len(run.classes)} classes;"
        " `resnet finetune FOLDER` makes a classifier of yours"
    )
    return (Ready(_bundled(run), run.classes, run_geometry(run)),)


def run_classifier(run: Run) -> Ready:
    """The classifier of a run."""
    return Ready(run.openvino, run.classes, run_geometry(run))


def load_members(classifiers: Sequence[Ready], purpose: Purpose) -> tuple[Member, ...]:
    """Load classifiers that answer together; their common order of classes is the first one's."""
    return tuple(
        Member(OpenVinoEngine(each.model, purpose), each.geometry, _columns(each.classes, classifiers[0].classes))
        for each in classifiers
    )


def _columns(own: tuple[str, ...], common: tuple[str, ...]) -> tuple[int, ...] | None:
    """Where a classifier with classes in the order `own` has each of the common ones; None where the orders are the same."""
    place = {name: index for index, name in enumerate(own)}
    return None if own == common else tuple(place[name] for name in common)


def _imagenet(files: ImagenetClassifier) -> Ready:
    model = cache_folder() / f"{files.network.name}-imagenet.xml"
    names = model.with_suffix(".txt")
    if not model.exists() or not names.exists():
        with tensorflow_import():
            from resnet_cli.engines.openvino import convert, save
            from resnet_cli.networks.loading import load_imagenet_classifier
        network, classes = load_imagenet_classifier(files)
        save(convert(network), model)
        names.write_text("\n".join(classes))
    size = files.network.image_size
    return Ready(model, tuple(names.read_text().split("\n")), Geometry(size, fraction=files.network.crop_fraction))


def _bundled(run: Run) -> Path:
    model = cache_folder() / f"bundled-{run.record['weights_sha256'][:16]}.xml"
    if not model.exists():
        with tensorflow_import():
            from resnet_cli.engines.openvino import convert, save
            from resnet_cli.engines.portable import read_classifier
            from resnet_cli.networks.spec import spec_from_record
        save(convert(read_classifier(run.weights, spec_from_record(run.record))), model)
    return model
