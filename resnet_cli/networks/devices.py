"""What Keras can compute on."""

import keras


def has_gpu() -> bool:
    """Whether Keras' backend sees a GPU."""
    try:
        return bool(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # jax's answer where there is none
        return False
