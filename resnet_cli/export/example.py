"""What explains an export to whoever gets it: classify.py, which classifies an image file as `predict` does, except for images
of 16 and more bits, and README.md, whose program uses it (light).

In: the format, the geometry and the class names. Out: texts.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resnet_cli.data.folders import EXAMPLE, LABELS
from resnet_cli.data.layout import some_names
from resnet_cli.export.formats import FORMATS, FormatName

if TYPE_CHECKING:
    from resnet_cli.data.decode import Geometry

_PROGRAM = '''"""Classify an image with the model in this folder: python {name} IMAGE

The model takes RGB pixels 0 to 255, uint8, {shape}, and scales their values itself. It returns
probabilities, N x {classes}, in the order of {labels}. {prepared}
Needs: pip install numpy pillow {needs}
"""

import contextlib
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
NAMES = (HERE / "{labels}").read_bytes().decode("utf-8", "backslashreplace").split("\\n")[:-1]
{side}

def pixels(path):
    """Read an image file as uint8 ({sides}, 3)."""
    image = Image.open(path)
{draft}    image.load()
    with contextlib.suppress(Exception):  # a damaged tag may fail after the image was turned
        ImageOps.exif_transpose(image, in_place=True)
    if image.has_transparency_data:  # on white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
{fit}


def probabilities(images):
    """Class probabilities, float32 (N, {classes}), of images, uint8 (N, {sides}, 3)."""
{run}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {{sys.argv[0]}} IMAGE")
    (answer,) = probabilities(np.stack([pixels(sys.argv[1])]))
    for place in answer.argsort()[::-1][:5]:
        print(f"{{answer[place]:.6f}} {{NAMES[place]}}")
'''

_DRAFT = """\
    image.draft("RGB", ({short}, {short}))  # a large JPEG is decoded at a half, quarter or eighth of its size
"""

_FIT = {
    "inside": """\
    return np.asarray(image)""",
    "crop": """\
    part = min(image.size) * SIZE / {short}  # the square in the middle, in one step
    left, top = (image.width - part) / 2, (image.height - part) / 2
    box = (left, top, left + part, top + part)
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.{filter}, box=box))""",
    "crop in two steps": """\
    width, height = ({short} * side // min(image.size) for side in image.size)  # the short side to {short}, then the middle
    left, top = round((width - SIZE) / 2), round((height - SIZE) / 2)
    image = image.resize((width, height), Image.Resampling.{filter})
    return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))""",
    "pad": """\
    sides = [max(1, round(side * SIZE / max(image.size))) for side in image.size]
    grey = Image.new("RGB", (SIZE, SIZE), (124, 116, 104))  # the whole image in its middle
    grey.paste(image.resize(sides, Image.Resampling.{filter}), [(SIZE - side) // 2 for side in sides])
    return np.asarray(grey)""",
    "squash": """\
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.{filter}))""",
}


def example(name: FormatName, geometry: "Geometry", classes: int, with_resize: bool = False) -> str:
    """Source of a program that classifies an image with an exported model.

    Args:
        name: the format.
        geometry: how images are brought to the input size.
        classes: number of classes.
        with_resize: the model does that itself.
    """
    form, size = FORMATS[name], geometry.size
    in_two = geometry.resize == "crop" and geometry.steps == "two"
    places = {"short": geometry.short_side, "filter": geometry.filter.name}
    draft = "" if in_two else _DRAFT.format(**places)
    fit = _FIT["inside" if with_resize else "crop in two steps" if in_two else geometry.resize].format(**places)
    what = {"labels": LABELS, "classes": classes, "prepared": _INSIDE if with_resize else _PREPARED}
    what["sides"] = "height, width" if with_resize else f"{size}, {size}"
    what["shape"] = "N x height x width x 3" if with_resize else f"N x {size} x {size} x 3"
    what["side"] = "" if with_resize else f"SIZE = {size}\n"
    return _PROGRAM.format(name=EXAMPLE, needs=form.runtime, run=form.program, draft=draft, fit=fit, **what)


_PREPARED = """\
Images must be prepared as in `pixels`, like the
training images: with another filter or crop, predictions get worse."""
_INSIDE = """\
It resizes images of any size as in training."""

_README = """\
# {title}

{network} for {classes} classes ({names}), exported as {what}.

In this folder, `python program.py photo.jpg` prints the class of a photo, with this program.py and `pip install numpy pillow
{needs}`:

```python
import sys

import numpy as np
from {module} import NAMES, pixels, probabilities

(answer,) = probabilities(np.stack([pixels(sys.argv[1])]))
best = answer.argmax()
print(f"{{NAMES[best]}} ({{answer[best]:.1%}})")
```

- Input: RGB pixels 0 to 255, uint8, {shape}. {prepared}
- Output: probabilities, float32, N x {classes}, in the order of `{labels}`.
{facts}
"""


def readme(
    name: FormatName,
    title: str,
    network: str,
    precision: str,
    geometry: "Geometry",
    classes: Sequence[str],
    with_resize: bool,
    facts: Sequence[str],
) -> str:
    """README.md of an export.

    Args:
        name: the format.
        title: name of the run.
        network: name of the network.
        precision: "float", "float16" or "int8".
        geometry: how images are brought to the input size.
        classes: class names.
        with_resize: the model does that itself.
        facts: sentences about the model.
    """
    size = geometry.size
    return _README.format(
        title=title,
        network=network,
        classes=len(classes),
        names=some_names(classes, 12),
        what=name if precision == "float" else f"{name} in {precision}",
        needs=FORMATS[name].runtime,
        module=EXAMPLE.removesuffix(".py"),
        shape="N x height x width x 3" if with_resize else f"N x {size} x {size} x 3",
        prepared="The model resizes them as in training." if with_resize else f"`{EXAMPLE}` shows how to prepare an image.",
        labels=LABELS,
        facts="\n".join(f"- {fact}" for fact in facts),
    )
