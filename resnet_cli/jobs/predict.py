"""The work of `resnet predict`, and the choice of classifiers: those of runs, or without any run an ImageNet classifier.

In: the `--run` options, the requested engine, and images. Out: classifiers, loaded into their engines; predictions. The bundled
network comes with its OpenVINO model; ImageNet weights are converted once, into the user's cache. TensorFlow is only imported
for this conversion, and for Keras as the engine.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from resnet_cli.data.decode import Geometry, run_geometry
from resnet_cli.data.inputs import count_named, image_paths, is_one_file
from resnet_cli.data.layout import some_names
from resnet_cli.data.threads import Pause
from resnet_cli.engines import EngineName
from resnet_cli.engines.base import Engine
from resnet_cli.engines.openvino import (
    OpenVinoEngine,
    Purpose,
    features_file,
    logits_of_features,
    with_feature_map,
    with_features,
)
from resnet_cli.errors import ResnetError
from resnet_cli.export.folder import exported_model, load_export, open_export, resizes
from resnet_cli.files import write_text
from resnet_cli.inference.classify import Classified, Member, Prediction, classify, prediction_of
from resnet_cli.inference.explain import Explainable, explained
from resnet_cli.inference.novelty import NOVELTY, Novelty, read_novelty
from resnet_cli.inference.scoring import require_free, with_embeddings
from resnet_cli.jobs.environment import (
    cache_folder,
    gpu_is_likely,
    is_worth_a_gpu,
    kept_in_cache,
    settled,
    surroundings,
    tensorflow_import,
    without_chatter,
)
from resnet_cli.jobs.published import names_published, published_run
from resnet_cli.networks.catalogue import ClassifierSpec, spec_from_record
from resnet_cli.networks.pretrained import ImagenetClassifier, bundled_run, cached_imagenet_classifier
from resnet_cli.progress import Progress, Silent
from resnet_cli.runs.folder import RUNS, Run, load_run


@dataclass(frozen=True)
class PredictRequest:
    """The arguments of a prediction.

    Attributes:
        words: files, folders and patterns; "-" stands for paths on stdin.
        runs: folders of runs, exports (folder or model file), names of published weights, or .safetensors files; several form
            an ensemble, none means the newest run.
        views: views of each image to average: 1, 2 or 10.
        engine: engine of the forward passes.
        top: number of most probable classes to return.
        threshold: probability, 0..1, below which a prediction is marked as unsure.
        explain: folder of class-activation maps, which is created; None for no maps.
        embeddings: new file of the pooled features, .npz or .parquet; None for none.
    """

    words: Sequence[str]
    runs: Sequence[Path] = ()
    views: int = 1
    engine: EngineName = "auto"
    top: int = 5
    threshold: float = 0.0
    explain: Path | None = None
    embeddings: Path | None = None


def run_prediction(
    request: PredictRequest, listed: Iterable[Path | Pause], progress: Progress
) -> tuple[tuple[str, ...], Iterator[Prediction]]:
    """Classify images; an unreadable image gives an error instead of classes, and does not affect the others.

    Args:
        request: the arguments.
        listed: the paths that "-" stands for.
        progress: where the classifiers and skipped files are reported.

    Returns:
        The names of the classifiers, and the predictions in the order of the images, each as soon as it is ready.

    Raises:
        ResnetError: a run cannot be read, or an argument names no image.
    """
    loading = progress.start("loading the network", None)
    try:
        engine = settled(request.engine, progress)
        classifiers = classifiers_for(request.runs, engine, progress)
        require_possible(classifiers, request.engine, request.views)
        for option, asked in (("--explain", request.explain), ("--embeddings", request.embeddings)):
            if asked is not None and len(classifiers) > 1:
                raise ResnetError(f"{option} needs one run, and an ensemble answers here", "name one of them with --run")
        if request.embeddings is not None:
            require_free(request.embeddings)
        engine = engine_for_many(engine, classifiers, lambda: count_named(request.words), progress)
        purpose: Purpose = "one" if is_one_file(request.words) else "many"
        members = load_members(classifiers, purpose, engine, progress, features=request.embeddings is not None)
    finally:
        loading.finish()
    classes = classifiers[0].classes
    results: Iterable[Classified] = classify(image_paths(request.words, listed, progress), members, request.views)
    if request.embeddings is not None:
        results = with_embeddings(results, request.embeddings, classes)
    predictions: Iterator[Prediction] = (prediction_of(each, classes, request.top, request.threshold) for each in results)
    if request.explain is not None:
        predictions = explained(predictions, explainable(classifiers[0], engine, progress), request.explain)
    return tuple(classifier.name for classifier in classifiers), predictions


@dataclass(frozen=True)
class Ready:
    """A classifier that can be loaded.

    Attributes:
        name: the run's folder, or the name of the ImageNet network or of published weights.
        model: its OpenVINO file, which is missing if it was trained without OpenVINO.
        classes: class names in the order of its probabilities.
        geometry: how images are brought to its input size.
        rebuild: builds the same classifier in Keras, uint8 images to probabilities; imports Keras.
        for_keras: whether Keras can run it, which is not possible for an export.
        weights: its weights file; None for an export and for downloaded weights.
        novelty: reads what tells images unlike its training images; returns None if there is nothing.
        runtime: loads an export into a runtime other than OpenVINO; None for what the engines run.
        whole: whether it resizes images itself.
    """

    name: str
    model: Path
    classes: tuple[str, ...]
    geometry: Geometry
    rebuild: Callable[[], Any]
    for_keras: bool = True
    weights: Path | None = None
    novelty: Callable[[], Novelty | None] = lambda: None
    runtime: Callable[[], Engine] | None = None
    whole: bool = False


def require_possible(classifiers: Sequence[Ready], wish: EngineName, views: int) -> None:
    """Refuse, with a ResnetError, an engine for a model with a runtime of its own, and ten crops for one that resizes."""
    for each in classifiers:
        if each.runtime is not None and wish != "auto":
            raise ResnetError(f"{each.model} runs in its own runtime, not with --engine {wish}", "leave --engine out")
        if each.whole and views == 10:
            raise ResnetError(f"{each.model} resizes images itself, so --views 10 cannot crop them", "--views 1 or 2")


def classifiers_for(folders: Sequence[Path], engine: EngineName, progress: Progress) -> tuple[Ready, ...]:
    """The classifiers of runs; without `folders` that of the newest run; without any run an ImageNet classifier."""
    if folders or any(RUNS.glob("*/run.json")):
        runs = load_runs(folders, progress)
        if not folders:
            progress.line(f"the newest run answers: {runs[0].folder}")
        return tuple(map(run_classifier, runs))
    imagenet = cached_imagenet_classifier()
    if imagenet is not None:
        progress.line(f"no run here: {imagenet.network.name} answers with ImageNet's 1,000 classes")
        return (_imagenet(imagenet, engine),)
    run = bundled_run()
    progress.line(
        f"no run here: the bundled {run.record['network']['name']} answers with ImageNet's {len(run.classes):,} classes;"
        " `resnet finetune FOLDER` makes a classifier of yours"
    )
    return (_bundled(run, engine),)


def run_classifier(run: Run) -> Ready:
    """The classifier of a run."""
    about = run.name, run.classes, run_geometry(run), partial(_read, run)
    if not run.is_export:
        novelty = partial(read_novelty, run.folder / NOVELTY)
        return Ready(about[0], run.openvino, *about[1:], weights=run.weights, novelty=novelty)
    runtime = None if run.record["export"]["format"] == "openvino" else partial(_load_exported, run)
    return Ready(about[0], exported_model(run), *about[1:], for_keras=False, runtime=runtime, whole=resizes(run))


def _load_exported(run: Run) -> Engine:
    with tensorflow_import() if run.record["export"]["format"] in ("savedmodel", "keras") else without_chatter():
        return load_export(run)


def engine_for_many(wish: EngineName, classifiers: Sequence[Ready], count: Callable[[], int], progress: Progress) -> EngineName:
    """Keras instead of "auto" if there are many images and Keras sees a GPU; else the requested engine.

    Args:
        wish: as returned by `jobs.environment.settled`.
        classifiers: the members of the ensemble.
        count: returns the number of images, 0 if unknown; only called if there may be a GPU.
        progress: where a GPU is reported that Keras does not see.
    """
    seen = surroundings()
    if not gpu_is_likely(seen) or not all(each.for_keras for each in classifiers) or not is_worth_a_gpu(wish, count(), seen):
        return wish
    try:
        with tensorflow_import():
            from resnet_cli.networks.precision import has_gpu
    except ResnetError:  # Keras' backend cannot be started: OpenVINO does not need it
        return wish
    if has_gpu():
        return "keras"
    progress.line(f"there is an NVIDIA GPU, but Keras does not see it on {seen.backend}: OpenVINO runs on the CPU")
    return wish


def read_weights(weights: Path, spec: ClassifierSpec) -> Any:
    """Rebuild a classifier in Keras; only this imports Keras."""
    with tensorflow_import():
        from resnet_cli.engines.frozen import read_classifier
    return read_classifier(weights, spec)


def load_members(
    classifiers: Sequence[Ready],
    purpose: Purpose,
    engine: EngineName,
    progress: Progress,
    features: bool = False,
    threads: int | None = None,
) -> tuple[Member, ...]:
    """Load classifiers of an ensemble; their common order of classes is the first one's.

    Args:
        classifiers: one or more, of the same classes.
        purpose: "one" optimises the latency of one image, "many" the images per second.
        engine: as returned by `jobs.environment.settled`.
        progress: where runs are reported that only Keras can run.
        features: the engines also return the pooled features.
        threads: threads of OpenVINO; None = one per core.

    Raises:
        ResnetError: a file is missing or damaged.
    """

    def member(ready: Ready) -> Member:
        novelty = ready.novelty()
        loaded = _load(ready, purpose, engine, progress, features or novelty is not None, threads)
        progress.detail(f"{ready.name}: {loaded.name} {loaded.precision}, {ready.geometry.size} pixels")
        return Member(loaded, ready.geometry, _columns(ready.classes, classifiers[0].classes), novelty, ready.whole)

    return tuple(map(member, classifiers))


def _load(
    ready: Ready, purpose: Purpose, engine: EngineName, progress: Progress, features: bool, threads: int | None
) -> Engine:
    if ready.runtime is not None:
        if features:
            raise ResnetError(f"{ready.model} answers with probabilities, and has no pooled features", "name the run")
        return ready.runtime()
    if engine != "keras" and not ready.model.exists():
        if engine == "openvino":
            raise ResnetError(f"there is no {ready.model} for --engine openvino", "--engine keras predicts from the weights")
        progress.line(f"there is no {ready.model}, so Keras predicts from the weights, which is slower")
        engine = "keras"
    if engine != "keras":
        cache = kept_in_cache("compiled")
        model = features_file(ready.model, cache) if features and cache else None
        if features and model is None:
            return OpenVinoEngine(with_features(ready.model), purpose, threads=threads)
        return OpenVinoEngine(model or ready.model, purpose, cache=cache, threads=threads)
    classifier = ready.rebuild()
    from resnet_cli.engines.frozen import KerasEngine, and_features

    return KerasEngine(and_features(classifier) if features else classifier, exact=True)


def explainable(ready: Ready, engine: EngineName, progress: Progress) -> Explainable:
    """Load a classifier in the parts that class-activation maps need.

    Raises:
        ResnetError: a file is missing or damaged, or it is an export that is not for OpenVINO.
    """
    if ready.runtime is not None:
        raise ResnetError(f"{ready.model} answers with probabilities only, so there are no heat maps", "name the run")
    if engine != "keras" and ready.model.exists():
        network = OpenVinoEngine(with_feature_map(ready.model), "one")
        head = OpenVinoEngine(logits_of_features(ready.model), "one", exact=True)
        return Explainable(network.run, head.run, ready.geometry, ready.classes)
    if engine != "keras":
        progress.line(f"there is no {ready.model}, so Keras explains, which is slower")
    classifier = ready.rebuild()
    from resnet_cli.engines.frozen import keras_parts

    parts = keras_parts(classifier)
    return Explainable(parts[0].run, parts[1].run, ready.geometry, ready.classes)


def _columns(own: tuple[str, ...], common: tuple[str, ...]) -> tuple[int, ...] | None:
    """The index in `own` of each class of `common`; None if the orders are the same."""
    place = {name: index for index, name in enumerate(own)}
    return None if own == common else tuple(place[name] for name in common)


def _read(run: Run) -> Any:
    if "export" in run.record:
        raise ResnetError(
            f"{run.folder} is an export for OpenVINO, and only OpenVINO can run it",
            "leave --engine keras out and install OpenVINO, or use the run that it was exported from",
        )
    return read_weights(run.weights, spec_from_record(run.record))


def _imagenet(files: ImagenetClassifier, engine: EngineName) -> Ready:
    model = cache_folder() / f"{files.network.name}-imagenet.xml"
    names = model.with_suffix(".txt")
    if not names.exists() or (engine != "keras" and not _is_converted(model)):
        network, classes = _read_imagenet(files)
        if engine != "keras":
            _convert(network, model)
        write_text(names, "\n".join(classes))
    size = files.network.image_size
    geometry = files.network.geometry(size)
    classes = tuple(names.read_text("utf-8").split("\n"))
    return Ready(f"{files.network.name} (ImageNet)", model, classes, geometry, lambda: _read_imagenet(files)[0])


def _read_imagenet(files: ImagenetClassifier) -> tuple[Any, tuple[str, ...]]:
    with tensorflow_import():
        from resnet_cli.networks.classifier import load_imagenet_classifier
    return load_imagenet_classifier(files)


def _bundled(run: Run, engine: EngineName) -> Ready:
    model = run.openvino
    if run.record.get("openvino_weights_sha256") != run.record["weights_sha256"] or not model.exists():
        # The bundled weights were replaced without running `scripts/make_bundled.py --openvino`.
        model = cache_folder() / f"bundled-{run.record['weights_sha256'][:16]}.xml"
        if engine != "keras" and not _is_converted(model):
            _convert(_read(run), model)
    return Ready(f"{run.record['network']['name']} (bundled)", model, run.classes, run_geometry(run), partial(_read, run))


def _is_converted(model: Path) -> bool:
    return model.exists() and model.with_suffix(".bin").exists()


def _convert(classifier: Any, model: Path) -> None:
    from resnet_cli.engines.openvino import convert, save

    save(convert(classifier), model)


def load_classifier(folder: Path, progress: Progress | None = None) -> Run:
    """Open a run, an export of one, or published weights.

    Args:
        folder: its folder, or an exported model file; or the name of published weights, or a .safetensors file.
        progress: where to report the download of published weights.

    Raises:
        ResnetError: see `load_run` and `open_export`.
    """
    if names_published(folder):
        return published_run(folder, progress or Silent())
    return open_export(folder) or load_run(folder)


def load_runs(folders: Sequence[Path], progress: Progress) -> tuple[Run, ...]:
    """Open the runs of an ensemble, as `load_classifier`; without folders, only the newest complete one under runs/.

    Raises:
        ResnetError: a run cannot be opened or is given twice, or their classes differ.
    """
    runs = tuple(load_classifier(folder, progress) for folder in folders) or (load_run(),)
    for number, run in enumerate(runs):
        if any(run.folder.resolve() == other.folder.resolve() for other in runs[:number]):
            raise ResnetError(f"the run {run.name} is named twice", "every --run counts once; leave one out")
        _require_same_classes(runs[0], run)
    return runs


def _require_same_classes(first: Run, other: Run) -> None:
    """Refuse runs with different classes: a class that one of them does not know cannot be averaged."""
    pairs = ((first, other), (other, first))
    alone = [(knows, [name for name in knows.classes if name not in lacks.classes]) for knows, lacks in pairs]
    words = "; ".join(f"only {run.name} knows {some_names(names)}" for run, names in alone if names)
    if words:
        raise ResnetError(f"the runs cannot form an ensemble, their classes differ: {words}", "name one of them with --run")
