"""Fine-tuning as the tutorials write it: Keras' ResNet50 at 224 pixels, every image through the whole network in every epoch.

    python benchmarks/finetune_keras.py head|last FOLDER EPOCHS

Started by head_finetune.py and last_stage.py. `image_dataset_from_directory` with a fifth held out, batches of 32, prefetched,
no augmentation, float32, Adam. Prints JSON: seconds of every epoch with its validation, seconds of its training steps alone,
and how many images it trains on.

head    the whole base frozen; pooling, Dense(2048, relu), Dense(classes)
last    the convolutions of conv5 are trained as well, batch-norm stays frozen; pooling, dropout, Dense(classes)
"""

import json
import sys
import time

import keras

_SIDE, _BATCH = 224, 32


class Clock(keras.callbacks.Callback):
    """The time of every epoch, and of its training steps."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[float] = []
        self.training: list[float] = []

    def on_train_begin(self, logs: object = None) -> None:
        self._last = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self._trained = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        now = time.perf_counter()
        self.epochs.append(now - self._last)
        self.training.append(self._trained - self._last)
        self._last = now


def main() -> None:
    """Train and print."""
    what, folder, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])
    training, held_out = keras.utils.image_dataset_from_directory(
        folder, image_size=(_SIDE, _SIDE), batch_size=_BATCH, validation_split=0.2, subset="both", seed=0, verbose=False
    )
    classes, images = len(training.class_names), len(training.file_paths)
    clock = Clock()
    model = network(what, classes)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3 if what == "head" else 1e-5),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(training.prefetch(2), validation_data=held_out.prefetch(2), epochs=epochs, callbacks=[clock], verbose=0)
    print(json.dumps({"epochs": clock.epochs, "training": clock.training, "pictures": images}))


def network(what: str, classes: int) -> keras.Model:
    """The tutorials' model: preprocessing, base, pooling, head."""
    base = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(_SIDE, _SIDE, 3))
    for layer in base.layers:
        layer.trainable = what == "last" and layer.name.startswith("conv5_") and layer.name.endswith("_conv")
        if layer.name.endswith("_3_bn"):
            layer.gamma.assign(0.2 + 0 * layer.gamma)  # as in the random run that this program gets
    pixels = keras.Input((_SIDE, _SIDE, 3))
    x = base(keras.applications.resnet.preprocess_input(pixels), training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(2048, activation="relu")(x) if what == "head" else keras.layers.Dropout(0.2)(x)
    return keras.Model(pixels, keras.layers.Dense(classes, activation="softmax")(x))


if __name__ == "__main__":
    main()
