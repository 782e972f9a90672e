"""How to train a linear head on the features of a network: accuracy, log loss and calibration of several ways, on several sets.

    python benchmarks/head_methods.py NETWORK FOLDER[:IMAGES] ... [--image-size 128] [--seeds 3] [--views 0] [--cache DIR]

NETWORK is what `--weights` takes, such as bundled or a run, or an ONNX or OpenVINO file. Features of each FOLDER are computed
once and kept in DIR. IMAGES of each class, drawn anew for each seed, are trained on less a tenth that is held out; the test
folder measures. A folder without one is cut into five parts by each seed: each measures once, the next one is held out.

AdamW        the head as epochs of AdamW train it, `--unfreeze none --epochs N`; the held-out images choose the epoch
solved       our own default: logistic regression, the L2 penalty by cross-validation
ridge        ridge regression on one-hot targets, its penalty and a temperature by cross-validation
two stages   solved, on the pooled features of the last two stages

--views: of each training image; 0 = as many as `resnet finetune` takes, eight at most; 1 = as prediction sees it.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import positive, print_table
from numpy.typing import NDArray
from stored_features import VIEWS, Features, OfFile, OfResnet, Source, features_of

_MOST = 500  # images of a class whose features are computed
_NAMES = ("AdamW", "solved", "ridge", "two stages")
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """Rows to train on, image after image; held-out and test images as prediction sees them."""

    rows: Matrix
    labels: NDArray[np.int64]
    views: int
    held_out: tuple[Matrix, NDArray[np.int64]]
    test: tuple[Matrix, NDArray[np.int64]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("folders", nargs="+", metavar="FOLDER[:IMAGES]")
    parser.add_argument("--image-size", type=positive, default=128)
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--views", type=int, choices=range(VIEWS + 1), default=0, metavar="N", help="0 to 8; 0 chooses")
    parser.add_argument("--cache", type=Path, default=Path("head-features"))
    options = parser.parse_args()
    is_file = options.network.endswith((".onnx", ".xml"))
    source: Source = OfFile(Path(options.network)) if is_file else OfResnet(options.network)
    rows, means = list[list[str]](), {name: list[tuple[float, ...]]() for name in _NAMES}
    for words in options.folders:
        folder, _, count = words.partition(":")
        images = int(count or _MOST)
        tasks = _tasks(source, Path(folder), images, options)
        for name in _NAMES:
            figures = _measured(name, tasks)
            means[name].append(figures)
            rows.append([f"{Path(folder).name}, {images} a class", name, *_told(figures)])
    for name in _NAMES:
        rows.append(["mean", name, *_told([statistics.fmean(each) for each in zip(*means[name], strict=True)])])
    print_table(["data", "head", "accuracy", "log loss", "calibration error", "seconds"], rows)


def _told(figures: list[float] | tuple[float, ...]) -> list[str]:
    accuracy, loss, error, seconds = figures
    return [f"{accuracy:.1%}", f"{loss:.3f}", f"{error:.3f}", f"{seconds:.2f}"]


def _tasks(source: Source, folder: Path, images: int, options: argparse.Namespace) -> list[tuple[Task, Task]]:
    """A task a seed, with the features of the last stage and of the last two."""
    train, test = folder / "train", folder / "test"
    size, cache = options.image_size, options.cache
    training = features_of(source, size, train if train.is_dir() else folder, _MOST, True, cache)
    measuring = features_of(source, size, test, _MOST, False, cache) if test.is_dir() else None
    tasks = []
    for seed in range(options.seeds):
        random = np.random.default_rng(seed)
        if measuring is not None:
            used = [random.permutation(np.flatnonzero(training.labels == label))[:images] for label in set(training.labels)]
            fitted = np.concatenate([each[len(each) // 10 :] for each in used])
            held_out = np.concatenate([each[: len(each) // 10] for each in used])
            tasks.append(_pair(training, fitted, held_out, measuring, np.arange(len(measuring.labels)), options.views))
            continue
        mixed = [random.permutation(np.flatnonzero(training.labels == label))[:images] for label in set(training.labels)]
        for part in range(5):
            seen, held_out, *fitted = (np.concatenate([each[(part + step) % 5 :: 5] for each in mixed]) for step in range(5))
            tasks.append(_pair(training, np.concatenate(fitted), held_out, training, seen, options.views))
    return tasks


def _pair(
    training: Features,
    fitted: NDArray[np.int64],
    held_out: NDArray[np.int64],
    test: Features,
    seen: NDArray[np.int64],
    views: int,
) -> tuple[Task, Task]:
    count = min(views or int(np.clip(round(12_000 / len(fitted)), 2, 12)), VIEWS)

    def task(stages: int) -> Task:
        def plain(features: Features, some: NDArray[np.int64]) -> tuple[Matrix, NDArray[np.int64]]:
            return np.concatenate([stage[some] for stage in features.plain[:stages]], -1), features.labels[some]

        rows, labels = plain(training, fitted)
        if count > 1 and training.views is not None:
            rows = np.concatenate([stage[fitted, :count] for stage in training.views[:stages]], -1)
            rows = rows.reshape(-1, rows.shape[-1])
        return Task(rows, labels, count, plain(training, held_out), plain(test, seen))

    return task(1), task(2)


def _measured(name: str, tasks: list[tuple[Task, Task]]) -> tuple[float, ...]:
    """Accuracy, log loss and calibration error over the answers for all seeds together; seconds of the median one."""
    from scipy.special import softmax

    from resnet_cli.inference.metrics import measure

    probabilities, labels, seconds = [], [], []
    for last, both in tasks:
        task = both if name == "two stages" else last
        began = time.perf_counter()
        logits = _WAYS[name](task)
        seconds.append(time.perf_counter() - began)
        probabilities.append(softmax(logits, axis=1))
        labels.append(task.test[1])
    classes = tuple(map(str, range(probabilities[0].shape[1])))
    figures = measure(np.concatenate(probabilities), np.concatenate(labels), classes)
    return figures.top1, figures.loss, figures.ece, statistics.median(seconds)


def _by_adamw(task: Task) -> Matrix:
    return _by_train_head(task, int(np.clip(round(96_000 / len(task.rows)), 6, 40)))


def _solved(task: Task) -> Matrix:
    return _by_train_head(task, 0)


def _by_train_head(task: Task, epochs: int) -> Matrix:
    """Logits (N, classes) of the test images, by a head as `resnet finetune --unfreeze none` trains it."""
    import keras

    from resnet_cli.data.dataset import Sample
    from resnet_cli.data.decode import Geometry
    from resnet_cli.data.images import ImageSet
    from resnet_cli.networks.catalogue import ClassifierSpec, find_network
    from resnet_cli.networks.classifier import add_head
    from resnet_cli.progress import Silent
    from resnet_cli.training.checkpoints import Stage
    from resnet_cli.training.config import FinetuneConfig
    from resnet_cli.transfer.features import AS_IT_IS, Material
    from resnet_cli.transfer.head import train_head
    from resnet_cli.transfer.store import KEY, Store, Stored, write_rows

    config, width = FinetuneConfig(unfreeze="none", epochs=epochs), task.rows.shape[1]
    spec = ClassifierSpec(find_network("resnet18"), int(task.labels.max()) + 1, 64, dropout=config.dropout)
    inputs = keras.Input((width,))
    model = keras.Model(inputs, add_head(spec, inputs))
    with tempfile.TemporaryDirectory() as name:
        folder, stored, images = Path(name), list[Stored](), list[ImageSet]()
        for title, rows, labels in (("training", task.rows, task.labels), ("held-out", *task.held_out)):
            store, keys = Store(folder / title, (width,)), [number.to_bytes(KEY) for number in range(len(rows))]
            write_rows([store], [(keys, (rows,))])
            stored.append(store.rows(keys))
            samples = tuple(Sample(Path(str(index)), int(label)) for index, label in enumerate(labels))
            images.append(ImageSet(samples, _unread, None, ()))
        material = Material(spec, Geometry(64), AS_IT_IS, *images, folder)
        train_head(model, *stored, material, config, Stage("head", folder, announce=False), Silent())
    kernel, bias = model.get_layer("logits").get_weights()
    return np.asarray(task.test[0] @ kernel + bias, np.float32)


def _unread(path: Path) -> NDArray[np.uint8]:
    raise AssertionError(f"{path} stands for features")


def _ridge(task: Task) -> Matrix:
    """Logits by ridge regression, times the temperature; both of the lowest cross-validated log loss."""
    from resnet_cli.transfer.head import cross_entropy, feature_scale

    mean, scale = task.rows.mean(0), feature_scale(task.rows.var(0))
    rows, labels = (task.rows - mean) * scale, np.repeat(task.labels, task.views)
    targets = np.eye(labels.max() + 1)[labels]
    fold = np.repeat(np.random.default_rng(0).permutation(len(task.labels)) % 5, task.views)
    solvers = [_ridge_solver(rows[fold != part], targets[fold != part]) for part in range(5)]
    best = (np.inf, 0.0, 0.0)
    for penalty in 10.0 ** np.arange(-3, 2.1, 0.5):
        logits = np.empty(targets.shape, np.float32)
        for part, solver in enumerate(solvers):
            logits[fold == part] = solver(penalty)(rows[fold == part])
        best = min(
            best, *((cross_entropy(logits * factor, labels), penalty, factor) for factor in np.exp(np.arange(0, 4, 0.1)))
        )
    _, penalty, factor = best
    return np.asarray(_ridge_solver(rows, targets)(penalty)((task.test[0] - mean) * scale) * factor, np.float32)


def _ridge_solver(rows: Matrix, targets: NDArray[np.float64]) -> Callable[[float], Callable[[Matrix], Matrix]]:
    """For a penalty, what gives the answers for rows."""
    middle, share = rows.mean(0), targets.mean(0)
    centred = (rows - middle).astype(np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
    projected = vectors.T @ (centred.T @ (targets - share)) / len(rows)

    def solver(penalty: float) -> Callable[[Matrix], Matrix]:
        kernel = vectors @ (projected / (np.maximum(values, 0) + penalty)[:, None])
        return lambda some: np.asarray((some - middle) @ kernel + share, np.float32)

    return solver


_WAYS = {"AdamW": _by_adamw, "solved": _solved, "ridge": _ridge, "two stages": _solved}

if __name__ == "__main__":
    main()
