"""A network trained by this program or by a plain Keras script, with every step timed.

    python benchmarks/training_keras.py alone|pipeline|keras ARCH CLASSES BATCH_SIZE STEPS FOLDER

Started by training_speed.py. FOLDER holds (STEPS + 1) * BATCH_SIZE images in class folders. Prints JSON: trainable
parameters, seconds of every step after the first, versions.

alone       what `resnet train` runs (`prepare`, `build_logits`, `train`), on one batch that is made once
pipeline    the same with its stream: images drawn at random, cropped, mirrored and cut out; photos decoded anew every time
keras       `compile` and `fit` as every tutorial has them: float32, Keras' own layers, arrays in memory. The network comes from
            the same builder, with `keras.layers.BatchNormalization`, so that both have the same layers and parameters.
"""

import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from resnet_cli.jobs.environment import tensorflow_import

# This program starts TensorFlow with all that makes it fast; a script of one's own takes it as it comes.
with nullcontext() if sys.argv[1] == "keras" else tensorflow_import():
    import keras
    import tensorflow as tf

    from resnet_cli.data.augment import Augmentation
    from resnet_cli.data.batches import Batch, EvaluationBatches, TrainStream
    from resnet_cli.data.dataset import scan_dataset
    from resnet_cli.data.decode import Geometry
    from resnet_cli.data.images import MEMORY_LIMIT, read_images, reader_for_prediction, reader_for_training
    from resnet_cli.networks.catalogue import ClassifierSpec, find_network
    from resnet_cli.networks.classifier import build_logits
    from resnet_cli.networks.precision import prepare
    from resnet_cli.progress import Silent, Task
    from resnet_cli.training.checkpoints import Stage
    from resnet_cli.training.config import TrainConfig
    from resnet_cli.training.loop import train

RATE = 0.01  # low, so that no network loses its way in a few steps: arithmetic with what is no number takes other times


class OneBatch(TrainStream):
    """The first batch of a stream over and over."""

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        batch = self.batch(0)
        while True:
            yield batch


class Watch(Silent):
    """The progress that `train` reports to: notes the time of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def start(self, title: str, total: int | None) -> Task:
        return self

    def advance(self, steps: int = 1, figures: Mapping[str, float] | None = None) -> None:
        self.times.append(time.perf_counter())

    def finish(self) -> None:
        return


class WatchFit(keras.callbacks.Callback):
    """The same for a plain `fit`."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.times.append(time.perf_counter())


def main() -> None:
    """Train and print."""
    kind, arch, folder = sys.argv[1], sys.argv[2], Path(sys.argv[6])
    classes, batch_size, steps = (int(word) for word in sys.argv[3:6])
    network = find_network(arch)
    small = network.stem == "cifar"
    geometry = Geometry(32 if small else network.image_size, fraction=network.crop_fraction)
    spec = ClassifierSpec(network, classes, geometry.size)
    samples = scan_dataset(folder).splits["all"]
    # Small images are kept decoded; photos are read from their files every time, as in sets larger than the limit.
    augmentation = Augmentation("pad" if small else "resized", cutout=0.25)
    source = read_images(samples, reader_for_training(geometry, augmentation), Silent(), "", MEMORY_LIMIT if small else 0)
    stream = (OneBatch if kind == "alone" else TrainStream)(source, classes, batch_size, geometry, augmentation, seed=0)
    versions = {"Python": platform.python_version(), "Keras": keras.__version__, "TensorFlow": tf.__version__}
    if kind == "keras":
        images, targets = (np.concatenate(arrays) for arrays in zip(*map(stream.batch, range(steps + 1)), strict=True))
        model = build_logits(spec, fused=False)
        times = plain_keras(model, images, targets, batch_size)
    else:
        versions["precision"] = prepare(0)
        held_out = read_images(samples[:2], reader_for_prediction(geometry), Silent(), "")
        model = build_logits(spec)
        watch = Watch()
        with tempfile.TemporaryDirectory() as place:
            config = TrainConfig(epochs=1, batch_size=batch_size, learning_rate=RATE)
            train(model, stream, EvaluationBatches(held_out, classes, 2), config, Stage("train", Path(place)), watch)
        times = watch.times
    result = {
        "parameters": sum(int(np.prod(variable.shape)) for variable in model.trainable_variables),
        "seconds": np.diff(times).tolist(),
        "network": asdict(network),
        "image_size": geometry.size,
        "versions": versions,
    }
    print(json.dumps(result))


def plain_keras(model: keras.Model, images: Any, targets: Any, batch_size: int) -> list[float]:
    """What a user's own script does; the times at which its steps ended."""
    watch = WatchFit()
    model.compile(
        optimizer=keras.optimizers.SGD(RATE, momentum=0.9),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(images, targets, batch_size=batch_size, epochs=1, callbacks=[watch], verbose=0)
    return watch.times


if __name__ == "__main__":
    main()
