"""Exports where models are served: as TensorFlow Serving calls them, and by the programs of README.md and docs/serving.md."""

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeDataset, MakeImage, MakeRun, RunCli, run_once
from numpy.typing import NDArray
from PIL import Image

from resnet_cli.data.decode import Geometry, decode_square, to_square
from resnet_cli.export.formats import ENCODED, ENCODED_INPUT, OUTPUT

CLASSES = ("b c", "çaña", "Zebra")


@pytest.fixture(scope="module")
def run(make_run: MakeRun, make_dataset: MakeDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = make_dataset(tmp_path_factory.mktemp("data") / "fruit", CLASSES, 12)
    return make_run(tmp_path_factory.mktemp("runs") / "fruit", data, arch="resnet8")


@pytest.fixture(scope="module")
def files(make_image: MakeImage, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A large photo in all eight orientations, and images of every kind that TensorFlow decodes."""
    folder = tmp_path_factory.mktemp("kinds")
    with Image.open(make_image(folder / "made.png", seed=3, size=(700, 401))) as made:
        image = made.convert("RGB")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(folder / f"turned{orientation}.jpg", exif=exif)
    image.save(folder / "none.jpg")
    image.convert("L").resize((30, 57)).save(folder / "grey.jpg")
    clear = image.convert("RGBA")
    clear.putalpha(image.convert("L"))
    clear.save(folder / "clear.png")
    image.convert("P").save(folder / "palette.png")
    image.convert("1").save(folder / "black_and_white.png")
    for colours in (2, 4, 16):
        few = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=colours)
        few.save(folder / f"{colours}.png")
        few.save(folder / f"{colours}_clear.png", transparency=1)
        few.save(folder / f"{colours}_half.png", transparency=bytes((100, 255)))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.png", exif=exif)
    image.convert("P").save(folder / "one.gif")
    image.save(folder / "plain.bmp")
    image.convert("RGBA").save(folder / "four_bytes.bmp")
    return sorted(folder.iterdir())


def rest_body(files: list[Path], **more: str) -> str:
    """The body of a POST to TensorFlow Serving, `v1/models/NAME:predict`."""
    instances = [{"image_bytes": {"b64": base64.b64encode(path.read_bytes()).decode()}} for path in files]
    return json.dumps({**more, "instances": instances})


def serve(model: Any, body: str) -> list[dict[str, Any]]:
    """What TensorFlow Serving does with such a body: {"b64": ...} becomes a string, and a row of each output an answer."""
    import tensorflow as tf

    request = json.loads(body)
    names = request["instances"][0]
    columns = {name: tf.constant([base64.b64decode(row[name]["b64"]) for row in request["instances"]]) for name in names}
    outputs = model.signatures[request.get("signature_name", "serving_default")](**columns)
    assert {len(output) for output in outputs.values()} == {len(request["instances"])}  # or there are no rows

    def plain(value: Any) -> Any:
        return [plain(each) for each in value] if isinstance(value, list) else getattr(value, "decode", lambda: value)()

    rows = {name: plain(output.numpy().tolist()) for name, output in outputs.items()}
    return [{name: column[place] for name, column in rows.items()} for place in range(len(request["instances"]))]


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--with-resize", "--quantize", "float16")])
def test_a_savedmodel_classifies_encoded_images_as_tensorflow_serving_sends_them(
    options: tuple[str, ...], run: Path, files: list[Path], run_cli: RunCli, tmp_path: Path
) -> None:
    import tensorflow as tf

    result = run_cli("export", "--format", "savedmodel", "--run", run, "--output", tmp_path / "1", *options, "--json")
    assert result.exit_code == 0, result.stderr
    model = tf.saved_model.load(tmp_path / "1")
    answers = serve(model, rest_body(files, signature_name="encoded"))
    predicted = json.loads(run_cli("predict", *files, "--run", run, "--engine", "keras", "--json").stdout)
    for answer, row in zip(answers, predicted, strict=True):
        expected = {each["class"]: each["probability"] for each in row["predictions"]}
        assert answer["classes"] == sorted(CLASSES)
        found = dict(zip(answer["classes"], answer["probabilities"], strict=True))
        assert found == pytest.approx(expected, abs=5e-3), row["path"]
        assert answer["label"] == row["predictions"][0]["class"]
    # The first signature stays what it was: with one output, Serving answers a list of numbers.
    first = model.signatures["serving_default"]
    assert set(first.structured_outputs) == {"probabilities"}
    assert set(first.structured_input_signature[1]) == {"image"}


def test_bytes_that_are_no_image_are_an_invalid_argument() -> None:
    import tensorflow as tf

    from resnet_cli.export.images import squares_of

    for content in (b"no image", b"\xff\xd8\xff\xe0 and no more", b""):
        with pytest.raises(tf.errors.InvalidArgumentError):
            squares_of(Geometry(32))(tf.constant([content]))


def test_a_bmp_with_a_palette_is_refused_and_not_taken_for_grey(make_image: MakeImage, tmp_path: Path) -> None:
    import tensorflow as tf

    from resnet_cli.export.images import squares_of

    with Image.open(make_image(tmp_path / "made.png", seed=3, size=(70, 41))) as image:
        image.convert("P").save(tmp_path / "palette.bmp")
    with pytest.raises(tf.errors.InvalidArgumentError, match="only BMP files of 24 or 32 bits"):
        squares_of(Geometry(32))(tf.constant([(tmp_path / "palette.bmp").read_bytes()]))


def photo(width: int, height: int) -> NDArray[np.uint8]:
    random = np.random.default_rng((width, height)).integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(random).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(32),
        Geometry(48, "crop", 0.875, 0, "bicubic"),
        Geometry(48, "crop", 0.95, 0, "bicubic", "two"),
        Geometry(32, "crop", 1.0, 0, "bilinear", "two"),
        Geometry(32, "pad"),
        Geometry(33, "pad", 1.0, 0, "bicubic"),
        Geometry(32, "squash"),
    ],
)
def test_resizing_inside_a_model_is_that_of_pillow(geometry: Geometry) -> None:
    from resnet_cli.export.images import resizing

    inside = resizing(geometry)
    for width, height in ((90, 61), (61, 90), (32, 32), (20, 37), (1, 1), (1, 70), (203, 9)):
        pixels = photo(width, height)
        expected = to_square(Image.fromarray(pixels), geometry).astype(int)
        difference = np.abs(np.asarray(inside(pixels[None]))[0].astype(int) - expected)
        assert difference.max() <= 2 and difference.mean() < 0.3, (width, height)


def test_bytes_of_files_are_decoded_and_prepared_as_for_predict(files: list[Path]) -> None:
    import tensorflow as tf

    from resnet_cli.export.images import squares_of

    geometry = Geometry(32)
    squares = squares_of(geometry)(tf.constant([path.read_bytes() for path in files])).numpy()
    for path, square in zip(files, squares, strict=True):
        difference = np.abs(square.astype(int) - decode_square(path, geometry).astype(int))
        assert difference.max() <= 2 and difference.mean() < 0.1, path.name


# --- docs/serving.md ----------------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")


def block(section: str, language: str, start: str = "") -> str:
    """The first code block of a language in a section of the page."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    found: str = re.findall(rf"```{language}\n({start}.*?)```", text, re.DOTALL)[0]
    return found


@pytest.fixture(scope="module")
def onnx_folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "out"
    result = run_once("export", "--format", "onnx", "--run", run, "--output", folder)
    assert result.exit_code == 0, result.stderr
    return folder


def test_the_body_for_tensorflow_serving_names_the_signature_its_input_and_its_outputs() -> None:
    body = block("TensorFlow Serving", "", "curl")
    assert f'\\"signature_name\\": \\"{ENCODED}\\"' in body and f'{{\\"{ENCODED_INPUT}\\": {{\\"b64\\": ' in body
    (answer,) = json.loads(block("TensorFlow Serving", "json"))["predictions"]
    assert set(answer) == {"probabilities", "classes", "label"}
    assert len(answer["probabilities"]) == len(answer["classes"])


@pytest.mark.slow
def test_the_configuration_of_triton_has_the_names_types_and_dimensions_of_an_export(onnx_folder: Path) -> None:
    import onnx

    config = block("Triton", "", "name:").replace("224", "32").replace("[ 5 ]", "[ 3 ]")
    tensors = {
        kind: re.search(rf'{kind} \[ {{ name: "(\w+)", data_type: (\w+), dims: \[ ([\d, ]+) \] }} \]', config)
        for kind in ("input", "output")
    }
    graph = onnx.load(onnx_folder / "model.onnx").graph
    types = {onnx.TensorProto.UINT8: "TYPE_UINT8", onnx.TensorProto.FLOAT: "TYPE_FP32"}
    for kind, values in (("input", graph.input), ("output", graph.output)):
        found, (value,) = tensors[kind], values
        assert found is not None
        shape = value.type.tensor_type.shape.dim
        # With a max_batch_size, Triton adds the first dimension, which has to be free.
        assert re.search(r"max_batch_size: [1-9]", config) and shape[0].dim_param == "batch"
        described = ", ".join(str(each.dim_value) for each in shape[1:])
        assert found.groups() == (value.name, types[value.type.tensor_type.elem_type], described)
    assert 'platform: "onnxruntime_onnx"' in config


@pytest.mark.slow
def test_the_program_for_onnx_runtime_prints_the_class_of_a_photo(
    onnx_folder: Path, files: list[Path], run: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    folder = shutil.copytree(onnx_folder, tmp_path / "out")
    shutil.copy(next(path for path in files if path.name == "turned6.jpg"), folder / "photo.jpg")
    (folder / "program.py").write_text(block("ONNX Runtime", "python"))
    done = subprocess.run([sys.executable, "program.py"], cwd=folder, capture_output=True, text=True, check=True)
    (row,) = json.loads(run_cli("predict", folder / "photo.jpg", "--run", run, "--json").stdout)
    assert done.stdout == f"{row['predictions'][0]['class']}\n"


def test_the_page_for_browsers_uses_the_names_of_an_export() -> None:
    page = block("Browsers", "html")
    for name in ("model.onnx", "labels.txt", "run({ image })", OUTPUT, '"uint8"', "[1, height, width, 3]", "ort.wasm.min.js"):
        assert name in page
    assert "http" not in page  # nothing from elsewhere
