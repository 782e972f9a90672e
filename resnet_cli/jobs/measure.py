"""Measure classifiers on images whose class is known; calibrate a new run (heavy).

In: classifiers, and the images to score. Out: `Measured`: predictions and metrics.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resnet_cli.data.dataset import Dataset, spread
from resnet_cli.data.decode import Geometry
from resnet_cli.data.scoring import Scored
from resnet_cli.engines import EngineName
from resnet_cli.engines.base import Outputs
from resnet_cli.files import path_text
from resnet_cli.inference.calibration import (
    Calibration,
    Coverage,
    calibration,
    coverage,
    coverage_summary,
    fit_temperature,
    tempered,
)
from resnet_cli.inference.classify import Classified, classify
from resnet_cli.inference.metrics import Evaluation, measure
from resnet_cli.inference.novelty import NOVELTY, Novelty, fit_novelty, with_threshold, write_novelty
from resnet_cli.inference.scoring import Rows, classify_pooled, collect
from resnet_cli.jobs.predict import Ready, load_members, read_weights
from resnet_cli.networks.catalogue import ClassifierSpec
from resnet_cli.progress import Progress, how_many, stop_if_asked

_MOST = 1000  # training images whose features are computed: 1 to 3 % of a run; twice as many flag little more


@dataclass(frozen=True)
class Measured:
    """Predictions of scored images, and their metrics; `views` views of each image were averaged.

    `engine` names the engine and its precision. Of a bulk evaluation, `rows` only has the images that could not be read.
    """

    scored: Scored
    rows: Rows
    figures: Evaluation
    engine: str
    views: int = 1

    @property
    def coverage(self) -> tuple[tuple[Coverage, ...], dict[float, Coverage | None]]:
        """See `inference.calibration.coverage_summary`."""
        return coverage_summary(coverage(self.rows.probabilities, self.rows.labels))

    def coverage_json(self) -> dict[str, Any] | None:
        """Its entry in the JSON of `evaluate`; None for a bulk evaluation."""
        if not self.rows.samples:
            return None
        points, wanted = self.coverage
        reached = [{"accuracy": each, "point": None if point is None else asdict(point)} for each, point in wanted.items()]
        return {"points": list(map(asdict, points)), "wanted": reached}

    @property
    def unlike_training(self) -> tuple[int, ...] | None:
        """The rows of images unlike the training images, the most distant first; None if distances are not known."""
        distances = self.rows.distances
        if distances is None:
            return None
        order = np.argsort(-distances, kind="stable")
        return tuple(order[: int((distances > 1).sum())].tolist())

    def unlike_training_json(self) -> dict[str, Any] | None:
        """Its entry in the JSON of `evaluate`; None if distances are not known."""
        found, distances = self.unlike_training, self.rows.distances
        if found is None or distances is None:
            return None
        images = [{"path": path_text(self.rows.samples[i].path), "distance": float(distances[i])} for i in found]
        return {"count": len(found), "share": len(found) / len(distances), "images": images}


def measure_together(
    classifiers: Sequence[Ready],
    scored: Scored,
    views: int,
    progress: Progress,
    engine: EngineName = "auto",
    pooled: Iterable[Outputs] | None = None,
) -> Measured:
    """Score images with the files that `predict` loads; probabilities are averaged over classifiers and views.

    Args:
        classifiers: one or more, of the same classes.
        scored: the images.
        views: views of each image.
        progress: where to report.
        engine: engine of the forward passes.
        pooled: features of the images from the only classifier's backbone, in pieces of float32 (n, D), if they are known:
            then only its head is run, and the whole network for some images.
    """
    members = load_members(classifiers, "many", engine, progress)
    words = ", ".join(sorted({f"{member.engine.name} {member.engine.precision}" for member in members}))
    paths = [sample.path for sample in scored.samples]
    results: Iterable[Classified] | None = None
    if pooled is not None and members[0].engine.name == "openvino":
        results = classify_pooled(classifiers[0].model, pooled, paths, members[0])
    words += ", on stored features" if results is not None else ""
    progress.line(f"measuring {scored.split}, engine: {words}")
    task = progress.start(f"measuring {scored.split}", len(paths))
    if results is None:
        results = classify(paths, members, views)
    rows = collect(_until_asked(results, progress), scored.samples, task)
    task.finish()
    return Measured(scored, rows, measure(rows.probabilities, rows.labels, scored.classes), words, views)


def _until_asked(results: Iterable[Classified], progress: Progress) -> Iterator[Classified]:
    """The results; stop if a signal requests it."""
    for each in results:
        stop_if_asked(progress, "type the same command with --resume; only measuring is left")
        yield each


def measure_splits(
    folder: Path,
    spec: ClassifierSpec,
    dataset: Dataset,
    geometry: Geometry,
    progress: Progress,
    engine: EngineName,
    pooled: Iterable[Outputs] | None,
    squares: Iterable[Outputs] | None,
) -> tuple[dict[str, Measured], Calibration | None]:
    """Calibrate and evaluate a run before it is finished; write novelty.npz.

    Args:
        folder: the run.
        spec: its classifier.
        dataset: its data set with the readable images.
        geometry: how images are brought to the input size.
        progress: where to report.
        engine: engine of the forward passes.
        pooled: features of the images in "val", in order, in pieces of float32 (n, D), if they are known.
        squares: features of some training images as `predict` sees them, in such pieces, if they are known.

    Returns:
        Metrics of "val", and of "test" if there is one, with calibrated probabilities; the same images, as with --val-split 0,
        are evaluated once. The calibration; None for images without labels.
    """
    rebuild = partial(read_weights, folder / "model.weights.h5", spec)
    classifier = Ready(str(folder), folder / "model.xml", dataset.classes, geometry, rebuild)
    # It imports Keras, which a training process has already done.
    from resnet_cli.engines.frozen import calibrate, measuring_engine

    engine = measuring_engine(engine)

    def measured(split: str, novelty: Novelty | None, known: Iterable[Outputs] | None) -> Measured:
        scored = Scored(dataset.name, split, dataset.classes, dataset.splits[split], (), dataset.root)
        return measure_together([replace(classifier, novelty=lambda: novelty)], scored, 1, progress, engine, known)

    known = np.concatenate(list(squares)) if squares else _features(classifier, dataset, engine, progress)
    novelty = fit_novelty(known)
    first = measured("test" if dataset.is_validated_by_test else "val", novelty, pooled)
    novelty, first = _with_threshold(novelty, first)
    (folder / NOVELTY).unlink(missing_ok=True)
    if novelty is not None:
        write_novelty(folder / NOVELTY, novelty)
    fitted = None
    if dataset.labelled:
        first, fitted = _calibrated(first, progress)
        calibrate(folder, fitted.temperature)
    if dataset.is_validated_by_test:
        return dict.fromkeys(("val", "test"), first), fitted
    return {"val": first, **({"test": measured("test", novelty, None)} if "test" in dataset.splits else {})}, fitted


def _calibrated(measured: Measured, progress: Progress) -> tuple[Measured, Calibration]:
    """Validation images with the temperature that was fitted on them, and what it did."""
    rows, before = measured.rows, measured.figures
    temperature = fit_temperature(rows.probabilities, rows.labels)
    rows = replace(rows, probabilities=tempered(rows.probabilities, temperature))
    after = measure(rows.probabilities, rows.labels, measured.scored.classes)
    points = coverage(rows.probabilities, rows.labels)
    fitted = calibration(temperature, before, after, measured.scored.split, points)
    told = f"temperature {temperature:.3f}, calibration error {before.ece:.3f} before and {after.ece:.3f} after"
    progress.line(f"calibrated on {how_many(fitted.images, 'validation image')}: {told}")
    return replace(measured, rows=rows, figures=after), fitted


def _features(classifier: Ready, dataset: Dataset, engine: EngineName, progress: Progress) -> Outputs:
    """Pooled features (N, D) of some training images, evenly drawn, as `predict` sees them.

    Features of the training are not what is needed: they are of random crops, or from before the fine-tuning phase.
    """
    (member,) = load_members([classifier], "many", engine, progress, features=True)
    some = spread(dataset.splits["train"], _MOST)
    task = progress.start("features of the trained network", len(some))
    features = []
    for each in _until_asked(classify((sample.path for sample in some), [member]), progress):
        features += [] if each.features is None else [each.features]
        task.advance()
    task.finish()
    return np.stack(features) if features else np.empty((0, 0), np.float32)


def _with_threshold(novelty: Novelty | None, measured: Measured) -> tuple[Novelty | None, Measured]:
    """Set the threshold by the validation images, and divide their distances by it."""
    distances = measured.rows.distances
    if novelty is None or distances is None:
        return None, measured
    found = with_threshold(novelty, distances)
    scaled = None if found is None else (distances * (novelty.threshold / found.threshold)).astype(np.float32)
    return found, replace(measured, rows=replace(measured.rows, distances=scaled))
