"""The decisions of `resnet train` and `resnet finetune` before TensorFlow is imported: data set, teacher, split, network, input
size and run folder (light).

In: a request and a configuration. Out: a `TrainPlan` or a `FinetunePlan`. All errors in paths and options are raised here, and
the data set's summary is reported, within the first second.
"""

import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_cli.data.dataset import Dataset, scan_dataset, scan_photos
from resnet_cli.data.folders import folder_names, list_folder
from resnet_cli.data.labels import scan_labels
from resnet_cli.data.layout import some_names, split_of
from resnet_cli.data.split import hold_out, hold_out_photos, sampled, stratified_folds
from resnet_cli.engines import EngineName
from resnet_cli.errors import ResnetError
from resnet_cli.files import at_home
from resnet_cli.jobs.environment import settled
from resnet_cli.jobs.record import fingerprint, tell_dataset
from resnet_cli.jobs.start import (
    GIVEN,
    FinetuneRequest,
    Place,
    TrainRequest,
    begun_with,
    place_of_run,
    require_same,
    tell_interrupted,
)
from resnet_cli.networks.catalogue import ClassifierSpec, Network, find_network
from resnet_cli.networks.pretrained import BUNDLED, PREFERRED, WeightsSource, choose_backbone, classes_of, require_size
from resnet_cli.progress import Progress, how_many
from resnet_cli.runs.folder import unfinished_runs
from resnet_cli.training.config import FinetuneConfig, TrainConfig
from resnet_cli.training.processes import group
from resnet_cli.training.tuning import given_of, require_several, sizes_around

if TYPE_CHECKING:
    from resnet_cli.data.decode import Geometry
    from resnet_cli.engines.teacher import Teacher

_ANYTIME = ("cache", "cache_limit")  # may differ when a run is resumed
_SMALLEST = 32  # pixels: of the image sizes that --tune tries
_WITH_LABELS = 0.9  # default of teacher_weight for labelled images


def taught_by(path: Path, progress: Progress) -> "Teacher":
    """Open the teacher and report it; see `find_teacher`."""
    from resnet_cli.engines.teacher import find_teacher

    teacher = find_teacher(at_home(str(path)))
    progress.line(f"teacher: {teacher.name}, {how_many(len(teacher.classes), 'class')}, {teacher.size} pixels")
    return teacher


def scan(request: TrainRequest | FinetuneRequest) -> Dataset:
    """The data set as its folder, or its table of labels, says; see `scan_dataset` and `scan_labels`."""
    if request.labels is not None:
        return scan_labels(request.labels, request.dataset, request.strict)
    return scan_dataset(request.dataset)


def dataset_to_teach(request: TrainRequest, teacher: "Teacher", config: TrainConfig) -> Dataset:
    """The images of a folder, with some held out.

    Class folders with the names of the teacher's classes are labels, and so is a table of labels. A folder with images only has
    no labels, and with a `teacher_weight` of 1 labels are ignored in any other tree.

    Args:
        request: the folder, and the table of labels if there is one.
        teacher: the teacher, which defines the classes.
        config: `teacher_weight` is 1 to use only the teacher's probabilities, and 0 if it was not set.

    Raises:
        ResnetError: the class folders differ from the teacher's classes; or see `hold_out`.
    """
    root = request.dataset
    if not root.is_dir():
        raise ResnetError(f"there is no folder {root}", "name a folder of images")
    alone = config.teacher_weight == 1
    if request.labels is not None or not _has_only_images(root):
        try:
            dataset = scan(request)
        except ResnetError:
            if not alone or request.labels is not None or _names_below(root) & set(teacher.classes):
                raise
        else:
            if set(dataset.classes) == set(teacher.classes):
                return hold_out(dataset, config.val_split, config.seed)
            if not alone or request.labels is not None or set(dataset.classes) & set(teacher.classes):
                raise _other_classes(dataset, teacher)
    for name in folder_names(root):
        told = split_of(name)
        if told and told[1] and told[0] != "train":
            what = f"{root} has a folder {name}, and without labels nothing is measured on it"
            raise ResnetError(what, "move it out of the folder, or give only the folder of training images")
    if config.class_weights:
        raise ResnetError(f"class_weights needs labels, and {root} has none", "leave it out")
    return hold_out_photos(scan_photos(root, teacher.classes), config.val_split, config.seed)


def with_teacher(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """The recipe with the default of `teacher_weight` filled in."""
    share = (config.teacher_weight or _WITH_LABELS) if dataset.labelled else 1.0
    return replace(config, teacher_weight=share)


def _names_below(root: Path) -> set[str]:
    """Names of the subfolders of a folder, and of theirs."""
    names = folder_names(root)
    return {*names, *(inner for name in names for inner in folder_names(root / name))}


def _has_only_images(root: Path) -> bool:
    return not folder_names(root) and bool(list_folder(root, deep=False).images)


def _other_classes(dataset: Dataset, teacher: "Teacher") -> ResnetError:
    theirs, own = set(teacher.classes), set(dataset.classes)
    unknown, lacking = sorted(own - theirs), sorted(theirs - own)
    parts = [f"it does not know {some_names(unknown)}"] if unknown else []
    where = dataset.labels.path if dataset.labels else dataset.root
    kind = "label" if dataset.labels else "folder"
    parts += [f"{where} has no {kind} for its {some_names(lacking)}"] if lacking else []
    return ResnetError(
        f"the teacher {teacher.name} has other classes than {where}: {', and '.join(parts)}",
        f"name the {kind}s as its classes; for photos without labels add --set teacher_weight=1"
        if not own & theirs
        else "give both the same classes",
    )


@dataclass(frozen=True)
class TrainPlan:
    """A training that is ready to begin; nothing is written yet.

    Attributes:
        request: the request.
        config: the recipe; in a resumed run with the epochs and the rate that were chosen when it began.
        dataset: the data set with its splits.
        teacher: the teacher; None without distillation.
        source: the initial weights.
        keeps_head: whether the head of the initial weights is kept, as its classes are those of the data set.
        spec: the classifier.
        place: the run folder.
        chosen: settings that a resumed run must have begun with.
        engine: engine of the evaluation.
        began: `time.perf_counter` at the start of the command.
    """

    request: TrainRequest
    config: TrainConfig
    dataset: Dataset
    teacher: "Teacher | None"
    source: WeightsSource
    keeps_head: bool
    spec: ClassifierSpec
    place: Place
    chosen: dict[str, Any]
    engine: EngineName
    began: float


def plan_training(request: TrainRequest, config: TrainConfig, progress: Progress) -> TrainPlan:
    """Decide everything that needs no TensorFlow.

    Raises:
        ResnetError: a path or an option is wrong, or weights that were asked for by name cannot be had.
    """
    began = time.perf_counter()
    request.page.require_possible()
    teacher = taught_by(request.teacher, progress) if request.teacher else None
    if teacher is None:
        dataset = hold_out(scan(request), config.val_split, config.seed)
    else:
        dataset = dataset_to_teach(request, teacher, config)
        config = with_teacher(config, dataset)
    dataset = sampled(dataset, request.fraction, request.per_class, config.seed)
    tell_dataset(dataset, config.flip, progress)
    network, source = find_network(request.arch, request.shortcut), WeightsSource("none", None, "")
    if request.weights != "none":
        network, source = choose_backbone(request.arch, request.weights, progress, request.shortcut)
    size = request.image_size or network.image_size
    _require_scaling(request, config, network, source, size)
    if config.pixel_mean:
        network = replace(network, preprocessing="pixel-mean")
    spec = ClassifierSpec(network, len(dataset.classes), size, dropout=config.dropout)
    chosen = _chosen(request, config, dataset, spec, source) | ({"teacher": teacher.sha256} if teacher else {})
    typed = {key: value for key, value in chosen.items() if key not in _decided(request)}
    name = f"{dataset.name}-{find_network(request.arch).name}{'-lr-find' if request.lr_find == 'plot' else ''}"
    needed = (request.weights, str(request.teacher or ""))
    place = _place_of_first(name, request, typed, needed, progress)
    if request.resume and _decided(request):
        config = replace(config, **{key: begun_with(place.folder)[key] for key in _decided(request)})
    engine = settled("auto", progress)
    keeps_head = classes_of(source) == dataset.classes
    head = "their head, of the same classes" if keeps_head else "a new head"
    weights = "random weights" if source.path is None else f"weights of {request.weights}, with {head}"
    progress.line(f"network: {network.name}, {size} pixels, {weights}; recipe {request.recipe}")
    return TrainPlan(request, config, dataset, teacher, source, keeps_head, spec, place, chosen, engine, began)


def _place_of_first(
    name: str, request: TrainRequest, typed: dict[str, Any], needed: tuple[str, str], progress: Progress
) -> Place:
    """The run folder, which the first of several processes chooses and alone sees."""

    def choose() -> tuple[str, str]:
        place = place_of_run(name, request.output, request.force, typed if request.resume else None, needed)
        tell_interrupted(place, progress)
        if request.resume:
            require_same(place.folder, typed)
        return str(place.folder), place.name

    folder, base = group().from_first(choose)
    return Place(Path(folder), base, request.force and not request.resume)


def _require_scaling(request: TrainRequest, config: TrainConfig, network: Network, source: WeightsSource, size: int) -> None:
    """Refuse recipes that scale pixels in another way than the weights were trained with."""
    if source.path is None:
        return
    has_mean = network.preprocessing == "pixel-mean"
    if config.pixel_mean and not has_mean:
        raise ResnetError(
            f"--weights {request.weights} scale pixels in their own way, which recipe {request.recipe} would replace by a mean"
            " image",
            "add --set pixel_mean=false",
        )
    require_size(network, source, size)
    if has_mean and config.progressive:
        raise ResnetError(f"--weights {request.weights} subtract a mean image of one size", "leave progressive out")


def _chosen(
    request: TrainRequest, config: TrainConfig, dataset: Dataset, spec: ClassifierSpec, source: WeightsSource
) -> dict[str, Any]:
    """The settings that a resumed run must have begun with."""
    network = spec.network
    options = {"arch": network.name, "shortcut": network.shortcut, "image_size": spec.image_size, "weights": source.sha256}
    limit = None if request.limit is None else f"{request.limit:g}s"
    sample = {"fraction": request.fraction, "per_class": request.per_class}
    return {
        **asdict(config),
        **options,
        "time_limit": limit,
        "lr_find": request.lr_find,
        **sample,
        "data": fingerprint(dataset),
    }


def _decided(request: TrainRequest) -> list[str]:
    """The keys chosen by the time limit and the range test when a run begins, and not again when it is resumed."""
    return [*(["epochs"] if request.limit else []), *(["learning_rate"] if request.lr_find else [])]


@dataclass(frozen=True)
class FinetunePlan:
    """A fine-tuning that is ready to begin; nothing is written yet.

    Attributes:
        request: the request.
        config: the recipe, with engine, rate and held-out share filled in.
        dataset: the data set with its splits.
        source: the weights of the backbone.
        geometry: how images are brought to the input size.
        spec: the classifier.
        place: the run folder.
        chosen: settings that a resumed run must have begun with.
        began: `time.perf_counter` at the start of the command.
        folds: the fold of each image by path, for `--folds`; None without.
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
    folds: dict[Path, int] | None = None


def plan_finetune(request: FinetuneRequest, config: FinetuneConfig, progress: Progress) -> FinetunePlan:
    """Decide everything that needs no TensorFlow.

    Raises:
        ResnetError: a path or an option is wrong, or weights that were asked for by name cannot be had.
    """
    began = time.perf_counter()
    request.page.require_possible()
    config = replace(config, flip=config.mirrors)  # record what is actually done
    asked = _asked_size(request.image_size)
    scanned = scan(request)
    share = config.share("test" in scanned.splits)
    dataset = sampled(hold_out(scanned, share, config.seed), request.fraction, request.per_class, config.seed)
    tell_dataset(dataset, config.mirrors, progress)
    if request.tune and dataset.is_validated_by_test:
        raise ResnetError("--val-split 0 validates on the test images, which --tune must not see", "leave --val-split out")
    folds = stratified_folds(dataset, request.folds, config.seed) if request.folds else None
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
    if request.tune and not request.resume:
        require_several(config, size, sizes_to_search(request, network, source, size), request.fixed)
    spec = ClassifierSpec(network, len(dataset.classes), size, config.hidden, config.dropout)
    name = f"{dataset.name}-{network.name}{'-lr-find' if request.lr_find == 'plot' else ''}"
    options = {"arch": network.name, "image_size": size, "weights": source.sha256, "resize": request.resize}
    options |= {"folds": request.folds, "tune": request.tune, "fraction": request.fraction, "per_class": request.per_class}
    recipe = {name: value for name, value in asdict(config).items() if name not in _ANYTIME}
    chosen = {**recipe, **options, "lr_find": request.lr_find, "data": fingerprint(dataset)}
    if request.tune:
        chosen[GIVEN] = sorted(given_of(request.fixed, request.image_size))
    place = place_of_run(name, request.output, request.force, chosen if request.resume else None, (request.weights,))
    tell_interrupted(place, progress)
    if request.resume:
        require_same(place.folder, chosen)
        _refuse_former_layout(place.folder)
    weights = {"none": "untrained", "file": str(source.path)}.get(source.kind, source.name or f"{source.kind} weights")
    progress.line(f"backbone: {network.name}, {weights}, {size} pixels")
    geometry = network.geometry(size, request.resize)
    return FinetunePlan(request, replace(config, val_split=share), dataset, source, geometry, spec, place, chosen, began, folds)


def sizes_to_search(request: FinetuneRequest, network: Network, source: WeightsSource, size: int) -> tuple[int, ...]:
    """The image sizes that --tune tries, around the usual `size` as far as the weights allow, or that alone if given."""
    if request.image_size != "auto":
        return (size,)
    has_mean = source.path is not None and network.preprocessing == "pixel-mean"  # of one size
    return (size,) if has_mean else sizes_around(size, _SMALLEST)


def _refuse_former_layout(folder: Path) -> None:
    """Refuse to resume a run of an older version, whose chosen views and epochs this version could not find."""
    if (folder / "checkpoint" / "activations").exists():
        raise ResnetError(
            f"the run {folder} was interrupted in an older version, whose features this one cannot read",
            "resume it with that version, or begin a new run",
        )


def _weights(request: FinetuneRequest, dataset: Dataset) -> str:
    """The requested weights; but a run that fell back to the bundled network is resumed with it."""
    if request.resume and (request.arch, request.weights) == ("auto", "auto"):
        for arch, weights in ((PREFERRED, "auto"), (BUNDLED, "bundled")):
            with suppress(ResnetError):
                newest = unfinished_runs(f"{dataset.name}-{arch}", request.output)[0]
                if begun_with(newest)["arch"] == arch:
                    return weights
    return request.weights


def _asked_size(asked: str) -> int | None:
    """The value of --image-size; None for auto."""
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
