"""Which classifier answers: a run's, or without any run a ready-made one.

In: `--run` or nothing. Out: an OpenVINO file, its classes and geometry. A ready-made network is converted once, into the
user's cache; only that imports TensorFlow.
"""

from dataclasses import dataclass
from pathlib import Path

from resnet_cli.cli.cache import cache_folder
from resnet_cli.cli.quiet import tensorflow_import
from resnet_cli.data.decode import Geometry
from resnet_cli.inference.geometry import run_geometry
from resnet_cli.networks.pretrained import ImagenetClassifier, bundled_run, cached_imagenet_classifier
from resnet_cli.progress import Progress
from resnet_cli.runs import RUNS, Run, load_run


@dataclass(frozen=True)
class Ready:
    """A classifier that OpenVINO can load."""

    model: Path
    classes: tuple[str, ...]
    geometry: Geometry


def classifier_for(folder: Path | None, progress: Progress) -> Ready:
    """The classifier of a run; without `folder` of the newest; without any run a ready-made one, and it says so."""
    if folder is not None or any(RUNS.glob("*/run.json")):
        run = load_run(folder)
        return Ready(run.openvino, run.classes, run_geometry(run))
    imagenet = cached_imagenet_classifier()
    if imagenet is not None:
        progress.line(f"no run here: {imagenet.network.name} answers with the 1000 ImageNet classes")
        return _imagenet(imagenet)
    run = bundled_run()
    progress.line(
        f"no run here: the bundled {run.record['network']['name']} answers with its own {len(run.classes)} classes;"
        " `resnet finetune FOLDER` makes a classifier of yours"
    )
    return Ready(_bundled(run), run.classes, run_geometry(run))


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
