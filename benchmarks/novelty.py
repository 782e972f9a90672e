"""How well are images told that are unlike the training images? The distance of `predict`, compared with others.

    python benchmarks/novelty.py FLOWERS CARS [--runs FOLDER]

FLOWERS and CARS are folders with `train` and `test`. Three networks are fine-tuned with the defaults and `--weights bundled`:
on FLOWERS, on CARS, and on FLOWERS without its last class, which is then unknown. Every method is fitted on the features of the
training images that `finetune` takes; its threshold is set on the validation images, so that 1 in 100 of them is flagged.
Printed: the share of known test images that are flagged; for unknown ones, the area under the ROC curve and that share.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import RESNET, machine, print_table, run, workplace
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf, shrunk_covariance
from sklearn.metrics import roc_auc_score

from resnet_cli.data.dataset import Sample, spread
from resnet_cli.data.folders import list_folder
from resnet_cli.engines.openvino import OpenVinoEngine, logits_of_features
from resnet_cli.inference.classify import classify
from resnet_cli.inference.novelty import fit_novelty, with_threshold
from resnet_cli.jobs.predict import load_members, run_classifier
from resnet_cli.progress import Silent
from resnet_cli.runs.folder import load_run, read_splits

Array = NDArray[np.float64]
Distance = Callable[[Array], Array]
MOST = 1000  # training images


class Network:
    """A run's network: features of images, and logits of features."""

    def __init__(self, folder: Path) -> None:
        self.run = load_run(folder)
        ready = run_classifier(self.run)
        self._members = load_members([ready], "many", "auto", Silent(), features=True)
        self._head = OpenVinoEngine(logits_of_features(ready.model), "many", exact=True)

    def features(self, paths: list[Path]) -> Array:
        found = [each.features for each in classify(paths, self._members) if each.features is not None]
        return np.stack(found).astype(np.float64)

    def logits(self, features: Array) -> Array:
        return self._head.run(features.astype(np.float32))[0].astype(np.float64)

    def split(self, name: str) -> tuple[list[Path], NDArray[np.int64]]:
        """Images and classes of a split; of train, as many as `finetune` takes."""
        rows = [row for row in read_splits(self.run) if row.split == name]
        samples = [Sample(self.run.data / row.path, self.run.classes.index(row.label)) for row in rows]
        some = spread(samples, MOST) if name == "train" else samples
        return [sample.path for sample in some], np.array([sample.label for sample in some])


def unit(features: Array) -> Array:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def mahalanobis(features: Array, means: Array, labels: NDArray[np.int64], shrinkage: float | None = None) -> Distance:
    """Squared distance from the nearest mean, with one covariance, shrunk by this share or after Ledoit and Wolf."""
    rows = features - means[labels]
    covariance, _ = ledoit_wolf(rows, assume_centered=True)
    if shrinkage is not None:
        covariance = shrunk_covariance(rows.T @ rows / len(rows), shrinkage)
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    return lambda rows: np.min([(((rows - mean) @ whitening) ** 2).sum(1) for mean in means], axis=0)


def candidates(network: Network, known: Array, labels: NDArray[np.int64]) -> Iterator[tuple[str, Distance]]:
    """Name and function of each method: features to distances, the larger the less known."""
    ours = fit_novelty(known.astype(np.float32))
    assert ours is not None
    yield "Mahalanobis, one mean, square roots (used)", lambda rows: ours.distances(rows.astype(np.float32)).astype(np.float64)
    nothing = np.zeros_like(labels)

    def means(values: Array, of: NDArray[np.int64]) -> Array:
        return np.stack([values[of == label].mean(0) for label in range(of.max() + 1)])

    def rooted(rows: Array) -> Array:
        return np.sqrt(rows / np.maximum(rows.sum(1, keepdims=True), 1e-12))

    by_class = mahalanobis(rooted(known), means(rooted(known), labels), labels)
    yield "Mahalanobis, class means, square roots", lambda rows: by_class(rooted(rows))
    yield "Mahalanobis, class means (Lee et al. 2018)", mahalanobis(known, means(known, labels), labels)
    # The difference of two distances needs covariances that are shrunk alike.
    near, background = (mahalanobis(known, means(known, of), of, 0.01) for of in (labels, nothing))
    yield "relative Mahalanobis (Ren et al. 2021)", lambda rows: near(rows) - background(rows)
    scaled = mahalanobis(unit(known), means(unit(known), labels), labels)
    yield "Mahalanobis, class means, unit length", lambda rows: scaled(unit(rows))
    centres = unit(means(unit(known), labels))
    yield "cosine to class means", lambda rows: 1 - (unit(rows) @ centres.T).max(1)
    yield "10 nearest neighbours, cosine (Sun et al. 2022)", lambda rows: -np.partition(unit(rows) @ unit(known).T, -10)[:, -10]
    yield "energy (Liu et al. 2020)", lambda rows: -np.logaddexp.reduce(network.logits(rows), axis=1)
    yield "largest logit", lambda rows: -network.logits(rows).max(1)

    def least_certain(rows: Array) -> Array:
        logits = network.logits(rows)
        return np.logaddexp.reduce(logits, axis=1) - logits.max(1)

    yield "probability of the predicted class", least_certain


def beyond(validation: Array, distances: Array) -> float:
    """The share of distances above the threshold that 1 in 100 validation images exceeds."""
    place = min(int(np.ceil((len(validation) + 1) * 0.99)), len(validation)) - 1
    return float((distances > np.sort(validation)[place]).mean())


def report(title: str, folder: Path, unknown: dict[str, Path]) -> None:
    network = Network(folder)
    paths, labels = network.split("train")
    known = network.features(paths)
    validation, test = (network.features(network.split(name)[0]) for name in ("val", "test"))
    others = {name: network.features(list(list_folder(path).images)) for name, path in unknown.items()}
    counts = f"{len(known)} training, {len(validation)} validation, {len(test)} test images"
    counts += "".join(f"; {name}: {len(rows)}" for name, rows in others.items())
    print(f"\n{title} ({counts})\n")
    rows = []
    for method, distance in candidates(network, known, labels):
        held, seen = distance(validation), distance(test)
        row = [method, f"{beyond(held, seen):.1%}"]
        for each in others.values():
            far = distance(each)
            truth = np.repeat([0, 1], [len(seen), len(far)])
            row += [f"{roc_auc_score(truth, np.concatenate([seen, far])):.3f}", f"{beyond(held, far):.1%}"]
        rows.append(row)
    header = ["method", "known flagged"]
    for name in others:
        header += [f"{name}: AUROC", f"{name} flagged"]
    print_table(header, rows)
    few_validation_images(known, validation, test, others)


def few_validation_images(known: Array, validation: Array, test: Array, others: dict[str, Array]) -> None:
    """Print what the threshold of `with_threshold` flags when it is fitted on a few of the validation images."""
    novelty = fit_novelty(known.astype(np.float32))
    assert novelty is not None
    held, seen = (novelty.distances(rows.astype(np.float32)) for rows in (validation, test))
    far = {name: novelty.distances(rows.astype(np.float32)) for name, rows in others.items()}
    generator, rows = np.random.default_rng(0), []
    for count in (5, 10, 30, 100):
        drawn: list[list[float]] = []
        for _ in range(100):
            found = with_threshold(novelty, generator.permutation(held)[:count])
            assert found is not None
            drawn.append([float((each > found.threshold).mean()) for each in (seen, *far.values())])
        rows.append([str(count), *(f"{share:.1%}" for share in np.mean(drawn, axis=0))])
    print("\nMean of 100 draws of validation images:\n")
    print_table(["validation images", "known flagged", *(f"{name} flagged" for name in far)], rows)


def finetune(data: Path, target: Path, cache: Path) -> Path:
    if not (target / "run.json").exists():
        print(f"fine-tuning {target.name}", file=sys.stderr, flush=True)
        run([RESNET, "finetune", data, "--weights", "bundled", "--output", target, "--quiet"], cache)
    return target


def without_last(data: Path, target: Path) -> str:
    """Links to the data set without its last class, whose name is returned."""
    names = sorted(path.name for path in (data / "train").iterdir() if path.is_dir())
    for split in ("train", "test"):
        (target / split).mkdir(parents=True, exist_ok=True)
        for name in names[:-1]:
            link = target / split / name
            if not link.is_symlink():
                link.symlink_to((data / split / name).resolve())
    return names[-1]


@contextmanager
def place(runs: Path | None) -> Iterator[Path]:
    """The folder of the runs: the one that was named, or a temporary one."""
    with workplace() as temporary:
        chosen = runs or temporary
        (chosen / "cache").mkdir(parents=True, exist_ok=True)
        yield chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flowers", type=Path)
    parser.add_argument("cars", type=Path)
    parser.add_argument("--runs", type=Path, help="keep the runs here, and take those that are there")
    asked: Any = parser.parse_args()
    with place(asked.runs) as folder:
        last = without_last(asked.flowers, folder / "fewer")
        flowers = finetune(asked.flowers, folder / "flowers", folder / "cache")
        cars = finetune(asked.cars, folder / "cars", folder / "cache")
        fewer = finetune(folder / "fewer", folder / "without-last", folder / "cache")
        report("Flowers", flowers, {"cars": asked.cars / "test"})
        report("Cars", cars, {"flowers": asked.flowers / "test"})
        unknown = {last: asked.flowers / "test" / last, "cars": asked.cars / "test"}
        report(f"Flowers without {last}", fewer, unknown)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
