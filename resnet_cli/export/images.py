"""What an exported model can do with an image itself: bring it to the input size as Pillow does, and decode a file's bytes.

In: a `Geometry`. Out: a Keras model without weights, of Keras' own operations, that every format but OpenVINO can contain; a
TensorFlow function for the SavedModel. OpenVINO would round the filter to bf16 on CPUs that have it, which changes
probabilities of flowers by up to 0.05, where bf16 in the network alone changes them by up to 0.007.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from resnet_cli.data.decode import Geometry

_GREY = np.array((124, 116, 104), np.float32)  # of the geometry "pad", as in `data.decode`
_DRAFTS = (1, 2, 4, 8)  # JPEG decoders can decode at these fractions of the size
_EXIF = 65536  # bytes from the start that are searched for the orientation; an EXIF block has fewer
_DEPTH = 24  # place in a PNG of its bits per sample
_BMP_BITS = 28  # place in a BMP of its bits per pixel


def resizing(geometry: Geometry) -> keras.Model:
    """Images of one size, uint8 (N, H, W, 3), to the input size, uint8 (N, size, size, 3).

    It is a product with a matrix for each axis, whose rows are Pillow's filter; values are rounded after each, as in Pillow's
    Resample.c. Values differ from Pillow's by one or two levels of 255, if at all.
    """
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    # Without operations on shapes, which `.keras` files cannot store.
    whole = ops.cast(image, "int32")
    rows, columns = (ops.cumsum(line * 0 + 1) - 1 for line in (whole[0, :, 0, 0], whole[0, 0, :, 0]))
    height, width = ops.max(rows) + 1, ops.max(columns) + 1
    sides = ops.minimum(height, width), ops.maximum(height, width)
    down, shown_rows = _filter(geometry, rows, height, *sides)
    across, shown_columns = _filter(geometry, columns, width, *sides)
    planes = ops.transpose(ops.cast(image, "float32"), (0, 3, 1, 2))
    planes = _rounded(ops.matmul(down, _rounded(ops.matmul(planes, ops.transpose(across)))))
    square = ops.transpose(planes, (0, 2, 3, 1))
    if geometry.resize == "pad":
        shown = ops.expand_dims(ops.expand_dims(shown_rows, 1) * ops.expand_dims(shown_columns, 0), -1)
        square = square * shown + (1.0 - shown) * _GREY
    return keras.Model(image, ops.cast(square, "uint8"), name="resize")


def _filter(geometry: Geometry, places: Any, length: Any, short: Any, long: Any) -> tuple[Any, Any]:
    """The matrix of one axis, float32 (size, length), and which of its rows show the image, 0 or 1 (size,).

    Positions are integers, so that they are exact where a runtime computes in half precision.

    Args:
        geometry: how to resize.
        places: 0 to length - 1.
        length: of the axis, pixels.
        short, long: sides of the image, pixels.
    """
    size = geometry.size
    lines = np.arange(size, dtype=np.int32)
    # The image is scaled from `old` to `new` pixels; line i shows the middle (i + 1/2) old/new + start/(2 new).
    old, new, first, start = length, length * 0 + size, length * 0, length * 0
    if geometry.resize == "pad":
        new = ops.maximum(_divided(length * size, long), 1)
        first = (size - new) // 2
        start = -2 * first * length
    elif geometry.resize == "crop" and geometry.steps == "two":
        new = length * geometry.short_side // short
        start = 2 * _divided(new - size, 2) * length
    elif geometry.resize == "crop":
        old, new = short, length * 0 + geometry.short_side
        start = length * geometry.short_side - short * size
    doubled = (old * (2 * lines + 1)) + start
    distances = ops.abs(ops.expand_dims((2 * places + 1) * new, 0) - ops.expand_dims(doubled, 1))
    ratios = ops.cast(distances, "float32") / ops.cast(2 * ops.maximum(old, new), "float32")
    weights = _cubic(ratios) if geometry.interpolation == "bicubic" else ops.relu(1.0 - ratios)
    shown = ops.logical_and(-first + lines >= 0, -first + lines < new)
    return weights / ops.maximum(ops.sum(weights, 1, keepdims=True), 1e-6), ops.cast(shown, "float32")


def _divided(value: Any, by: Any) -> Any:
    """An integer division, rounded to the nearest integer, and halves to an even one, as Python's `round` does."""
    nearest = (2 * value + by) // (2 * by)
    is_half = ops.cast(ops.equal(2 * value + by, nearest * (2 * by)), "int32")
    return nearest - is_half * (nearest % 2)


def _cubic(x: Any) -> Any:
    """Pillow's bicubic filter, with a = -0.5 (Keys 1981)."""
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return ops.where(x < 1.0, near, ops.where(x < 2.0, far, 0.0 * x))


def _rounded(values: Any) -> Any:
    return ops.clip(ops.floor(values + 0.5), 0.0, 255.0)


def squares_of(geometry: Geometry) -> Callable[[Any], Any]:
    """A TensorFlow function: bytes of image files, string (N,), to uint8 (N, size, size, 3).

    JPEG, PNG, GIF (the first frame) and BMP of 24 or 32 bits. As in `data.decode`, JPEG and PNG are turned as their EXIF block
    says, large JPEG are decoded at a fraction of their size, and transparent parts of a PNG are on white.
    """
    import tensorflow as tf

    resize, size = resizing(geometry), geometry.size
    square = tf.TensorSpec((size, size, 3), tf.uint8)

    def squares(files: Any) -> Any:
        return tf.map_fn(lambda file: resize(_decoded(file, geometry.enough)[None])[0], files, fn_output_signature=square)

    return squares


def _decoded(file: Any, enough: int | None) -> Any:
    """The bytes of a file, a string, to uint8 (H, W, 3), upright."""
    import tensorflow as tf

    def jpeg() -> Any:
        # The slow and exact transform is Pillow's default, and not TensorFlow's.
        def draft(ratio: int) -> Any:
            return tf.io.decode_jpeg(file, 3, ratio, dct_method="INTEGER_ACCURATE")

        turn = _orientation(file, b"Exif\0\0")
        if enough is None:
            return _upright(draft(1), turn)
        larger = tf.reduce_min(tf.io.extract_jpeg_shape(file)[:2]) // enough
        place = tf.reduce_sum(tf.cast(larger >= tf.constant(_DRAFTS[1:]), tf.int32))
        return _upright(tf.switch_case(place, [partial(draft, ratio) for ratio in _DRAFTS]), turn)

    def png() -> Any:
        pixels = tf.cast(tf.io.decode_png(file, 4), tf.float32)
        # Where there is no alpha, TensorFlow fills in the largest value of a sample: 15 of 255 with 4 bits.
        opaque = tf.bitwise.left_shift(1, tf.minimum(_byte(file, _DEPTH), 8)) - 1
        is_opaque = tf.reduce_all(pixels[..., 3] == tf.cast(opaque, tf.float32))
        alpha = tf.where(is_opaque, 1.0, pixels[..., 3:] / 255.0)
        on_white = tf.cast(tf.floor(pixels[..., :3] * alpha + 255.0 * (1.0 - alpha) + 0.5), tf.uint8)
        return _upright(on_white, _orientation(file, b"eXIf"))

    def others() -> Any:
        return tf.io.decode_image(file, 3, expand_animations=False)

    def bmp() -> Any:
        # TensorFlow takes indexes of a palette for grey values.
        bits = _byte(file, _BMP_BITS)
        known = tf.debugging.Assert((bits == 24) | (bits == 32), ["only BMP files of 24 or 32 bits are decoded"])
        with tf.control_dependencies([known]):
            return tf.io.decode_bmp(file, 0)[..., :3]

    def starts(beginning: bytes) -> Any:
        return tf.strings.substr(file, 0, len(beginning)) == beginning

    kinds = (b"\xff\xd8\xff", jpeg), (b"\x89PNG", png), (b"BM", bmp)
    pixels = tf.case([(starts(beginning), decoder) for beginning, decoder in kinds], others)
    return tf.ensure_shape(pixels, (None, None, 3))


def _byte(file: Any, place: int) -> Any:
    """A byte of a file, int32."""
    import tensorflow as tf

    return tf.cast(tf.io.decode_raw(tf.strings.substr(file, place, 1), tf.uint8)[0], tf.int32)


def _orientation(file: Any, mark: bytes) -> Any:
    """The EXIF orientation of a file, 1 to 8; 1 if there is none. `mark` are the bytes in front of the EXIF block."""
    import tensorflow as tf

    start = tf.cast(tf.io.decode_raw(tf.strings.substr(file, 0, _EXIF), tf.uint8), tf.int32)
    begin, has_exif = _find(start, mark)
    block = start[begin:]
    # Tag 0x0112, type 3 (16 bits), one value, in either order of bytes; the value follows.
    little, is_little = _find(block, b"\x12\x01\x03\x00\x01\x00\x00\x00")
    big, is_big = _find(block, b"\x01\x12\x00\x03\x00\x00\x00\x01\x00")
    value = tf.where(is_little, tf.gather(block, little + 8), tf.where(is_big, tf.gather(block, big + 9), 1))
    return tf.where(has_exif & (value >= 1) & (value <= 8), value, 1)


def _find(data: Any, pattern: bytes) -> tuple[Any, Any]:
    """The first place of some bytes in int32 (L,), and whether they occur."""
    import tensorflow as tf

    count = tf.shape(data)[0]
    padded = tf.pad(data, [[0, 2 * len(pattern)]])
    matches = tf.reduce_all([padded[place : place + count] == byte for place, byte in enumerate(pattern)], 0)
    place = tf.argmax(tf.cast(matches, tf.int32), output_type=tf.int32)
    # The value behind a pattern must be there too.
    return place, tf.reduce_any(matches) & (place + len(pattern) < count)


def _upright(pixels: Any, orientation: Any) -> Any:
    import tensorflow as tf

    def among(*values: int) -> Any:
        return tf.reduce_any(orientation == tf.constant(values))

    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, (1, 0, 2)), lambda: pixels)
    pixels = tf.cond(among(2, 3, 6, 7), lambda: tf.reverse(pixels, [1]), lambda: pixels)
    return tf.cond(among(3, 4, 7, 8), lambda: tf.reverse(pixels, [0]), lambda: pixels)
