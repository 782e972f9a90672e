"""Class-activation maps are those of the papers, in both engines, and lie where the network looks."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import MakeImage
from numpy.typing import NDArray
from PIL import Image

from resnet_cli.data import Resize
from resnet_cli.data.decode import Geometry, decode, decode_square
from resnet_cli.engines.frozen import keras_parts, read_classifier, write_classifier
from resnet_cli.engines.openvino import OpenVinoEngine, logits_of_features, with_feature_map
from resnet_cli.inference.explain import Explainable, Explanation, activation_map, covered, explain, heat_on, write_explanation
from resnet_cli.networks.catalogue import ClassifierSpec, find_network
from resnet_cli.networks.classifier import build_logits

SIZE = 32


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)


def grad_cam(model: keras.Model, images: NDArray[np.uint8], place: int) -> NDArray[np.float32]:
    """Grad-CAM as section 3 of its paper says, by TensorFlow's gradients."""
    import tensorflow as tf

    pooling = model.get_layer("avg_pool")
    features = keras.Model(model.input, pooling.input)(images)
    with tf.GradientTape() as tape:
        tape.watch(features)
        x = pooling(features)
        for name in ("hidden", "logits"):
            x = model.get_layer(name)(x) if name in [layer.name for layer in model.layers] else x
        wanted = x[:, place]
    weights = tf.reduce_mean(tape.gradient(wanted, features), (1, 2), keepdims=True)
    heat = np.maximum(tf.reduce_sum(weights * features, -1), 0)
    return heat / heat.max((1, 2), keepdims=True)


@pytest.mark.parametrize("hidden", [0, 24])
def test_maps_are_grad_cam_and_with_a_linear_head_cam(hidden: int, images: NDArray[np.uint8], tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    spec = ClassifierSpec(find_network("resnet20"), 5, SIZE, hidden=hidden)
    trained = build_logits(spec, fused=False)
    write_classifier(tmp_path, trained, spec)
    classifier = read_classifier(tmp_path / "model.weights.h5", spec)
    network, head = (
        OpenVinoEngine(with_feature_map(tmp_path / "model.xml"), "one", exact=True),
        logits_of_features(tmp_path / "model.xml"),
    )
    parts = {"openvino": (network, OpenVinoEngine(head, "one", exact=True)), "keras": keras_parts(classifier)}
    expected = grad_cam(trained, images, 3)
    for name, (whole, of_features) in parts.items():
        probabilities, features = whole.run(images)
        np.testing.assert_allclose(probabilities, np.asarray(classifier(images)), atol=2e-3, err_msg=name)
        for feature, heat in zip(features, expected, strict=True):
            # model.xml has fp16 weights; Keras' are those of the reference.
            np.testing.assert_allclose(
                activation_map(feature, of_features.run, 3), heat, atol=0.02 if name == "openvino" else 2e-3
            )
            if not hidden:
                kernel = np.asarray(trained.get_layer("logits").kernel)[:, 3]
                cam = np.maximum(feature @ kernel, 0)
                np.testing.assert_allclose(heat, cam / cam.max(), atol=0.02)


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(120, 60), (60, 120), (80, 80)])
def test_the_box_is_the_part_that_the_network_sees(resize: Resize, size: tuple[int, int], tmp_path: Path) -> None:
    # Red is 255 everywhere, green the column and blue the row of a pixel.
    image = np.full((size[1], size[0], 3), 255, np.uint8)
    image[..., 1], image[..., 2] = np.arange(size[0]), np.arange(size[1])[:, None]
    Image.fromarray(image).save(tmp_path / "a.png")
    geometry = Geometry(SIZE, resize, 0.8)
    seen = decode_square(tmp_path / "a.png", geometry)[2:-2, 2:-2]
    left, top, right, bottom = covered(*size, geometry)
    across, down = (
        left + (np.arange(2, SIZE - 2) + 0.5) / SIZE * (right - left),
        top + (np.arange(2, SIZE - 2) + 0.5) / SIZE * (bottom - top),
    )
    y, x = np.nonzero(seen[..., 0] == 255)  # and no grey border
    away = [np.abs(seen[y, x, 1] - (across[x] * size[0] - 0.5)), np.abs(seen[y, x, 2] - (down[y] * size[1] - 0.5))]
    assert len(x) > 300 and np.median(away) < 0.6


def test_heat_falls_on_the_pixels_it_belongs_to() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 1
    # The network sees the middle square of a wide image.
    found = heat_on(200, 100, Explanation(heat, (0.25, 0.0, 0.75, 1.0), "cat", 0.9))
    assert found.shape == (100, 200)
    y, x = np.unravel_index(found.argmax(), found.shape)
    assert abs(y - 37.5) <= 1 and abs(x - (50 + 62.5)) <= 1
    assert found[:, :50].max() == 0 and found[:, 150:].max() == 0 and found[90:].max() == 0
    # With padding, the map reaches beyond the image.
    padded = heat_on(200, 100, Explanation(heat, (0.0, -0.5, 1.0, 1.5), "cat", 0.9))
    y, x = np.unravel_index(padded.argmax(), padded.shape)
    assert abs(y - 25) <= 1 and abs(x - 125) <= 1


def test_an_explanation_is_written_at_the_original_size_and_orientation(tmp_path: Path, make_image: MakeImage) -> None:
    path = make_image(tmp_path / "in" / "a.jpg", size=(90, 40))
    with Image.open(path) as image:
        exif = image.getexif()
        exif[274] = 6  # to be turned by 90 degrees
        image.save(path, exif=exif)
    out = tmp_path / "out"
    out.mkdir()
    features = np.random.default_rng(0).random((1, 4, 4, 6)).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)

    def network(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        return np.array([[0.3, 0.7]], np.float32), features

    classifier = Explainable(network, lambda pooled: (pooled @ kernel,), Geometry(SIZE), ("cat", "dog / wolf"))
    found = explain(classifier, path)
    assert (found.label, found.probability) == ("dog / wolf", pytest.approx(0.7))
    written = [write_explanation(out, path, found) for _ in range(2)]
    assert [each.name for each in written] == ["a-dog _ wolf.jpg", "a-dog _ wolf-2.jpg"]
    assert decode(written[0]).shape == decode(path).shape == (90, 40, 3)
    assert explain(classifier, path, "cat").label == "cat"


def test_long_names_of_files_and_classes_are_cut(tmp_path: Path, make_image: MakeImage) -> None:
    image = make_image(tmp_path / "a.png").rename(tmp_path / f"{'ü' * 125}.png")
    flat = Explanation(np.zeros((4, 4), np.float32), (0.0, 0.0, 1.0, 1.0), "\N{SUNFLOWER}" * 62 + "é" * 3, 0.5)
    written = [write_explanation(tmp_path, image, flat) for _ in range(2)]
    assert [path.name for path in written] == [f"{'ü' * 75}-_ééé.jpg", f"{'ü' * 75}-_ééé-2.jpg"]
    long = replace(flat, label="é" * 125)
    assert write_explanation(tmp_path, image, long).name == f"{'ü' * 75}-{'é' * 40}.jpg"


def test_an_image_longer_than_a_jpeg_file_can_be_is_made_smaller(tmp_path: Path) -> None:
    image = tmp_path / "strip.png"
    Image.new("RGB", (131_000, 6), "red").save(image)
    flat = Explanation(np.zeros((4, 4), np.float32), (0.0, 0.0, 1.0, 1.0), "rose", 0.5)
    with Image.open(write_explanation(tmp_path, image, flat)) as written:
        assert written.size == (65_500, 3)
