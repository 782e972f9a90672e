"""The program that stands beside an exported model: from a picture's file to its class, by Pillow and the format's own runtime.

In: a format and how pictures reach its input. Out: Python source, which whoever embeds the model can read or run; it is what
`predict` does, but for pictures of 16 and more bits (light: the standard library only).
"""

from resnet_cli.data.own_files import EXAMPLE, LABELS
from resnet_cli.inference.formats import OUTPUT, FormatName

_PROGRAM = '''"""What a picture shows, by the model beside this file: python {name} PICTURE

The model takes RGB pixels 0 to 255, uint8, N x {size} x {size} x 3, and scales their values itself. It answers with
probabilities, N x {classes}, in the order of {labels}. Its pictures were prepared as `square` does: with another filter or crop
its answers get worse. Needs: pip install numpy pillow {needs}
"""

import contextlib
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
SIZE = {size}


def square(path):
    """A picture's file as uint8 ({size}, {size}, 3)."""
    picture = Image.open(path)
    picture.draft("RGB", ({enough}, {enough}))  # a large JPEG is decoded at a half, quarter or eighth of its size
    picture.load()
    with contextlib.suppress(Exception):  # a damaged tag may fail after the picture was turned
        ImageOps.exif_transpose(picture, in_place=True)
    if picture.has_transparency_data:  # on white
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("RGB")
{fit}


def probabilities(squares):
    """Of pictures, uint8 (N, {size}, {size}, 3): float32 (N, {classes})."""
{run}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {{sys.argv[0]}} PICTURE")
    names = (HERE / "{labels}").read_bytes().decode("utf-8", "backslashreplace").split("\\n")
    (answer,) = probabilities(np.stack([square(sys.argv[1])]))
    for place in answer.argsort()[::-1][:5]:
        print(f"{{answer[place]:.6f}} {{names[place]}}")
'''

_FIT = {
    "crop": """\
    part = min(picture.size) * SIZE / {enough}  # the square in the middle, in one step
    left, top = (picture.width - part) / 2, (picture.height - part) / 2
    box = (left, top, left + part, top + part)
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box))""",
    "pad": """\
    sides = [max(1, round(side * SIZE / max(picture.size))) for side in picture.size]
    grey = Image.new("RGB", (SIZE, SIZE), (124, 116, 104))  # the whole picture in its middle
    grey.paste(picture.resize(sides, Image.Resampling.BILINEAR), [(SIZE - side) // 2 for side in sides])
    return np.asarray(grey)""",
    "squash": """\
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR))""",
}

_RUN: dict[FormatName, tuple[str, str]] = {
    "savedmodel": (
        "tensorflow",
        f"""\
    import tensorflow as tf

    model = tf.saved_model.load(HERE)
    return model.signatures["serving_default"](tf.constant(squares))["{OUTPUT}"].numpy()""",
    ),
    "keras": (
        "tensorflow",
        """\
    import keras

    return keras.saving.load_model(HERE / "model.keras", compile=False).predict(squares, verbose=0)""",
    ),
    "onnx": (
        "onnxruntime",
        f"""\
    import onnxruntime

    session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(["{OUTPUT}"], {{"image": squares}})[0]""",
    ),
    "tflite": (
        "ai-edge-litert",
        f"""\
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(HERE / "model.tflite")).get_signature_runner("serving_default")
    return runner(image=squares)["{OUTPUT}"]""",
    ),
    "openvino": (
        "openvino",
        """\
    sys.modules["openvino_telemetry"] = None  # as if it were not installed: OpenVINO would report its use over the network
    import openvino

    return openvino.Core().compile_model(HERE / "model.xml", "CPU")(squares)[0]""",
    ),
}


def example(name: FormatName, size: int, resize: str, fraction: float, classes: int) -> str:
    """Source of a program that classifies a picture with an exported model.

    Args:
        name: the format.
        size: side of the input, pixels.
        resize: "crop", "pad" or "squash", see `data.decode.Geometry`.
        fraction: share of the short side that a crop keeps, 0..1.
        classes: their number.
    """
    needs, run = _RUN[name]
    enough = round(size / fraction)
    fit = _FIT[resize].format(enough=enough)
    places = {"size": size, "enough": enough, "classes": classes, "labels": LABELS}
    return _PROGRAM.format(name=EXAMPLE, needs=needs, fit=fit, run=run, **places)
