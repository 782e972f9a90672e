"""Keras over a folder, as its documentation shows it: `image_dataset_from_directory`, then `predict` or `evaluate`, in float32.

    python benchmarks/bulk_keras.py predict|evaluate MODEL.keras FOLDER

Started by bulk_predict.py and bulk_evaluate.py. Prints JSON: how many images were answered, or loss and accuracy.
"""

import json
import sys

import keras

_SIDE, _BATCH = (224, 224), 32


def main() -> None:
    """Answer and print."""
    what, path, folder = sys.argv[1:]
    model = keras.models.load_model(path)
    if what == "predict":
        images = keras.utils.image_dataset_from_directory(
            folder, labels=None, shuffle=False, image_size=_SIDE, batch_size=_BATCH, verbose=False
        )
        print(json.dumps(len(model.predict(images, verbose=0))))
        return
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    images = keras.utils.image_dataset_from_directory(folder, shuffle=False, image_size=_SIDE, batch_size=_BATCH, verbose=False)
    print(json.dumps(model.evaluate(images, verbose=0)))


if __name__ == "__main__":
    main()
