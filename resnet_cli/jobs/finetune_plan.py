"""What `resnet finetune` decides before TensorFlow is imported: data set, split, backbone, input size and run folder (light).

In: a request and a configuration. Out: a `FinetunePlan`. Everything that can be wrong with paths and options is found here, and
the data set's summary is told here, within the first second.
"""

import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_cli.data.dataset import Dataset, scan_dataset
from resnet_cli.data.split import hold_out
from resnet_cli.errors import ResnetError
from resnet_cli.jobs.environment import settled
from resnet_cli.jobs.record import fingerprint, tell_dataset
from resnet_cli.jobs.start import FinetuneRequest, Place, begun_with, place_of_run, require_same, tell_interrupted
from resnet_cli.networks.catalogue import ClassifierSpec, Network
from resnet_cli.networks.pretrained import BUNDLED, PREFERRED, WeightsSource, choose_backbone, require_size
from resnet_cli.progress import Progress
from resnet_cli.runs.folder import unfinished_runs
from resnet_cli.training.config import FinetuneConfig

if TYPE_CHECKING:
    from resnet_cli.data.decode import Geometry


_ANYTIME = ("cache", "cache_limit")  # may differ when a run goes on


@dataclass(frozen=True)
class FinetunePlan:
    """A fine-tuning that can begin; nothing is written yet.

    Attributes:
        request: what was asked for.
        config: how to train; engine, rate and held-out share are settled.
        dataset: with its splits.
        source: where the backbone's weights come from.
        geometry: how an image reaches the input size.
        spec: the classifier.
        place: the run folder.
        chosen: what a resumed run must have begun with.
        began: `time.perf_counter` when the command did.
    """

    request: FinetuneRequest
    config: FinetuneConfig
    dataset: Dataset
    source: WeightsSource
    geometry: "Geometry"
    spec: ClassifierSpec
    place: Place
    chosen: dict[str, Any]
    began: float


def plan_finetune(request: FinetuneRequest, config: FinetuneConfig, progress: Progress) -> FinetunePlan:
    """Decide everything that needs no TensorFlow.

    Raises:
        ResnetError: a path or an option is wrong, or weights that were asked for by name cannot be had.
    """
    began = time.perf_counter()
    config = replace(config, flip=config.mirrors)  # what is done is recorded
    asked = _asked_size(request.image_size)
    scanned = scan_dataset(request.dataset)
    share = config.val_split if config.val_split is not None else (0.1 if "test" in scanned.splits else 0.2)
    dataset = hold_out(scanned, share, config.seed)
    tell_dataset(dataset, config.mirrors, progress)
    config = replace(config, engine=settled(config.engine, progress))
    network, source = choose_backbone(request.arch, _weights(request, dataset), progress)
    if config.unfreeze == "auto":
        config = replace(config, unfreeze=network.unfreeze)
        if config.cache_limit is not None and config.unfreeze != "last":
            raise ResnetError(
                f"cache_limit is about the activations that --unfreeze last stores, and all of {network.name} is trained",
                "leave it out, or add --unfreeze last",
            )
    config = replace(config, learning_rate=config.rate)
    size = asked or _natural_size(network, dataset)
    require_size(network, source, size)
    spec = ClassifierSpec(network, len(dataset.classes), size, config.hidden, config.dropout)
    name = f"{dataset.name}-{network.name}{'-lr-find' if request.lr_find == 'plot' else ''}"
    options = {"arch": network.name, "image_size": size, "weights": source.sha256, "resize": request.resize}
    recipe = {name: value for name, value in asdict(config).items() if name not in _ANYTIME}
    chosen = {**recipe, **options, "lr_find": request.lr_find, "data": fingerprint(dataset)}
    place = place_of_run(name, request.output, request.force, chosen if request.resume else None, (request.weights,))
    tell_interrupted(place, progress)
    if request.resume:
        require_same(place.folder, chosen)
        _refuse_former_layout(place.folder)
    weights = {"none": "untrained", "file": str(source.path)}.get(source.kind, f"{source.kind} weights")
    progress.line(f"backbone: {network.name}, {weights}, {size} pixels")
    from resnet_cli.data.decode import Geometry

    geometry = Geometry(size, request.resize, network.crop_fraction)
    return FinetunePlan(request, replace(config, val_split=share), dataset, source, geometry, spec, place, chosen, began)


def _refuse_former_layout(folder: Path) -> None:
    """Refuse to go on with what an older version kept otherwise: this one would not find the views and epochs it chose."""
    if (folder / "checkpoint" / "activations").exists():
        raise ResnetError(
            f"the run {folder} was interrupted in an older version, whose features this one cannot read",
            "resume it with that version, or begin a new run",
        )


def _weights(request: FinetuneRequest, dataset: Dataset) -> str:
    """What was asked for; but a run that began with the bundled network, for want of a better one, goes on with it."""
    if request.resume and (request.arch, request.weights) == ("auto", "auto"):
        for arch, weights in ((PREFERRED, "auto"), (BUNDLED, "bundled")):
            with suppress(ResnetError):
                newest = unfinished_runs(f"{dataset.name}-{arch}", request.output)[0]
                if begun_with(newest)["arch"] == arch:
                    return weights
    return request.weights


def _asked_size(asked: str) -> int | None:
    """What --image-size says, None of auto."""
    if asked == "auto":
        return None
    if not asked.isdecimal() or int(asked) < 8:
        raise ResnetError(f"--image-size {asked} is neither auto nor a number of pixels", "such as --image-size 224")
    return int(asked)


def _natural_size(network: Network, dataset: Dataset) -> int:
    if not network.sides or network.preprocessing == "pixel-mean":
        return network.image_size
    from resnet_cli.data.images import suitable_size

    return suitable_size(dataset.splits["train"], network.sides)
