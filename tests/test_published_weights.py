"""Published weights of timm and torchvision: equal to timm's own answers, fetched from the hub, and refused where they do not
fit.

The reference comes from timm itself: tests/timm was written by scripts/make_timm_reference.py.
"""

import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import MakeDataset, RunCli, without_proxy
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from PIL import Image
from safetensors.numpy import load_file, save_file

from resnet_cli import downloads
from resnet_cli.data.decode import Geometry, decode_square, run_geometry
from resnet_cli.downloads import fetch_from_hub
from resnet_cli.engines.frozen import read_classifier, write_classifier
from resnet_cli.engines.openvino import OpenVinoEngine
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.jobs import predict, published
from resnet_cli.networks.catalogue import ClassifierSpec, Network, find_network, spec_from_record
from resnet_cli.networks.classifier import build_logits
from resnet_cli.networks.description import describe
from resnet_cli.networks.pretrained import ImagenetClassifier, WeightsSource, choose_backbone
from resnet_cli.networks.published import CHECKPOINTS, find_checkpoint, require_fitting, tensors_of
from resnet_cli.networks.weights import load_safetensors
from resnet_cli.progress import Silent
from resnet_cli.runs.folder import load_run

TIMM = Path(__file__).parent / "timm"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "timm:resnet18.a1_in1k"


class Listener(Silent):
    """Keeps lines and notices; asks to stop if it has a signal."""

    def __init__(self, signal: int = 0) -> None:
        self.lines: list[str] = []
        self.notices: list[str] = []
        self.signal = signal

    def line(self, text: str) -> None:
        self.lines.append(text)

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def stop_signal(self) -> int:
        return self.signal


# --- equal to timm -----------------------------------------------------------------------------------------------------------


def narrow(kind: str) -> tuple[Network, int]:
    """The network that a folder of tests/timm holds, and the side of its published accuracy."""
    folder = TIMM / kind
    found = describe(folder / "model.safetensors", folder / "config.json", ())
    assert found.classes == tuple(f"class {number}" for number in range(10))
    outputs = (64, 8, 16, 32) if kind == "basic" else (256, 32, 64, 128)
    network = replace(found.network, blocks=(1, 1, 1, 1), filters=(64, 8, 16, 32), outputs=outputs)
    return network, network.crops[-1][0]


def filled(kind: str) -> tuple[keras.Model, ClassifierSpec]:
    network, size = narrow(kind)
    spec = ClassifierSpec(network, 10, size)
    model = build_logits(spec, fused=False)
    load_safetensors(model, network, TIMM / kind / "model.safetensors", head=10, with_head=True)
    return model, spec


def answers(kind: str, sample_data: Path) -> Iterator[tuple[Path, list[float], list[float]]]:
    for each in json.loads((TIMM / kind / "reference.json").read_text())["answers"]:
        yield next(sample_data.rglob(each["image"])), each["logits"], each["probabilities"]


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_a_photo_gets_the_logits_and_probabilities_of_timm(kind: str, sample_data: Path) -> None:
    model, spec = filled(kind)
    assert spec.image_size is not None
    for path, logits, probabilities in answers(kind, sample_data):
        image = decode_square(path, spec.network.geometry(spec.image_size))
        ours = np.asarray(model.predict_on_batch(image[None]))[0]
        np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-4)
        np.testing.assert_allclose(np.asarray(keras.ops.softmax(ours)), probabilities, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_run_answers_as_timm_does_after_it_was_stored_and_read_again(sample_data: Path, tmp_path: Path) -> None:
    model, spec = filled("basic")
    assert spec.image_size is not None and spec.network.mean == (0.5, 0.4, 0.3)
    geometry = spec.network.geometry(spec.image_size)
    assert write_classifier(tmp_path, model, spec) == ""
    record = {**json.loads(json.dumps(spec.to_record())), "classes": list("abcdefghij")}
    told = spec_from_record(record)
    assert (told.network.mean, told.network.std, told.network.epsilon) == (spec.network.mean, spec.network.std, 1e-5)
    again = read_classifier(tmp_path / "model.weights.h5", spec)
    engine = OpenVinoEngine(tmp_path / "model.xml", "one", exact=True)
    for path, _, probabilities in answers("basic", sample_data):
        image = decode_square(path, geometry)[None]
        np.testing.assert_allclose(np.asarray(again.predict_on_batch(image))[0], probabilities, rtol=0, atol=1e-4)
        # OpenVINO's weights are stored in half precision.
        np.testing.assert_allclose(engine.run(image)[0][0], probabilities, rtol=0, atol=3e-2)


@pytest.mark.parametrize(("size", "fraction"), [(224, 0.875), (224, 0.95), (224, 0.965), (288, 1.0), (176, 0.875)])
@pytest.mark.parametrize("shape", [(500, 333), (333, 500), (300, 300), (1021, 517)])
def test_the_crop_is_that_of_torchvisions_two_steps(size: int, fraction: float, shape: tuple[int, int], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (shape[1] // 9, shape[0] // 9, 3), np.uint8)
    Image.fromarray(noise).resize(shape, Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as image:
        width, height = image.size
        # torchvision's _compute_resized_output_size and center_crop, as timm calls them.
        short = int(np.floor(size / fraction))
        wide, high = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
        resized = image.convert("RGB").resize((wide, high), Image.Resampling.BICUBIC)
        top, left = round((high - size) / 2.0), round((wide - size) / 2.0)
        expected = np.asarray(resized.crop((left, top, left + size, top + size)))
    geometry = Geometry(size, "crop", fraction, interpolation="bicubic", steps="two")
    np.testing.assert_array_equal(decode_square(tmp_path / "a.jpg", geometry), expected)


def test_resnet50_v15_has_the_parameters_that_torchvision_documents() -> None:
    # torchvision.models.ResNet50_Weights: num_params 25557032, and a mean and a variance for 26560 channels.
    for name, trained, channels in (("resnet18", 11_689_512, 4_800), ("resnet50v1.5", 25_557_032, 26_560)):
        tensors = list(tensors_of(find_network(name), 1000))
        moving = sum(np.prod(each.shape) for each in tensors if "running" in each.name)
        assert sum(np.prod(each.shape) for each in tensors) - moving == trained
        assert moving == 2 * channels


# --- names and files that do not fit -----------------------------------------------------------------------------------------


def test_a_name_without_a_tag_is_the_usual_one_of_its_source() -> None:
    assert find_checkpoint("timm:ResNet50").repository == "timm/resnet50.a1_in1k"
    assert find_checkpoint("torchvision:resnet18").repository == "timm/resnet18.tv_in1k"
    assert find_checkpoint("torchvision:resnet50").repository == "timm/resnet50.tv2_in1k"
    assert find_checkpoint("torchvision:resnet50.IMAGENET1K_V1").repository == "timm/resnet50.tv_in1k"
    assert find_checkpoint("timm:resnet50.tv_in1k") == find_checkpoint("torchvision:resnet50.imagenet1k_v1")
    newer = find_checkpoint(f"timm:resnet50.z9_in1k@{COMMIT}")
    assert (newer.repository, newer.revision, newer.top1) == ("timm/resnet50.z9_in1k", COMMIT, 0)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("timm:resnet5O.a1_in1k", "timm:resnet5O.a1_in1k is not a ResNet-18", "timm:resnet50.a1_in1k"),
        ("timm:resnet50d.ra2_in1k", "timm:resnet50d.ra2_in1k is not a ResNet-18", "(resnet50d)"),
        ("timm:resnetv2_50.a1h_in1k", "timm:resnetv2_50.a1h_in1k is not a ResNet-18", "(resnetv2)"),
        ("timm:wide_resnet50_2.tv_in1k", "is not a ResNet-18", "wide, ResNeXt"),
        (
            "torchvision:resnet18.imagenet1k_v2",
            "torchvision has no resnet18.imagenet1k_v2",
            "torchvision:resnet18.imagenet1k_v1",
        ),
    ],
)
def test_a_name_that_cannot_be_had_gets_the_nearest_names(name: str, message: str, hint: str, offline: list[str]) -> None:
    with pytest.raises(ResnetError) as caught:
        choose_backbone("auto", name, Silent())
    assert message in caught.value.message and hint in caught.value.hint
    assert offline == []


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18.a b", "resnet18.\u00e9", "resnet18.a--b", "resnet18.../../x", "resnet18.a1_in1k.git", "resnet18.a1_in1k-"),
        *("resnet18.a\nb", "resnet18." + "a" * 120, "resnet18@a b", "resnet18@../x", "resnet18@" + "a" * 120),
    ],
)
def test_a_name_that_no_repository_can_have_gets_the_nearest_names(name: str, hugging_face: Path, offline: list[str]) -> None:
    with pytest.raises(ResnetError) as caught:
        choose_backbone("auto", f"timm:{name}", Silent())
    assert "cannot be published weights" in caught.value.message and "\n" not in caught.value.message
    assert "timm:resnet18." in caught.value.hint and "`resnet models --weights`" in caught.value.hint
    assert offline == []


def test_tensors_of_another_network_are_counted_and_named(tmp_path: Path) -> None:
    tensors = load_file(TIMM / "basic" / "model.safetensors")
    del tensors["layer2.0.bn1.weight"], tensors["bn1.bias"]
    tensors["layer1.0.se.fc1.weight"] = tensors["fc.bias"]
    tensors["fc.weight"] = tensors["fc.weight"][:7]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ResnetError) as caught:
        require_fitting(tmp_path / "model.safetensors", narrow("basic")[0], 10)
    assert caught.value.message == (
        f"{tmp_path / 'model.safetensors'} does not fit resnet18 with its 62 tensors:"
        " 2 missing (bn1.bias, layer2.0.bn1.weight); 1 extra (layer1.0.se.fc1.weight);"
        " 1 of another shape (fc.weight (7, 32) instead of (10, 32))"
    )
    shutil.copy(TIMM / "basic" / "config.json", tmp_path)
    with pytest.raises(ResnetError, match=r"does not fit resnet18 with its 102 tensors: 42 missing \(.*, ...\); 1 extra"):
        choose_backbone("auto", str(tmp_path / "model.safetensors"), Silent())


def damaged(path: Path, change: str) -> None:
    """A copy of the basic network's two files at `path`, with a fault."""
    config = json.loads((TIMM / "basic" / "config.json").read_text())
    whole = (TIMM / "basic" / "model.safetensors").read_bytes()
    if change == "truncated":
        whole = whole[:-1000]
    elif change == "empty":
        whole = b""
    elif change == "pickle":
        whole = b"PK\x03\x04" + bytes(1000)
    elif change == "old pickle":
        whole = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    elif change == "another architecture":
        config["architecture"] = "resnet50d"
    elif change == "another argument":
        config["model_args"] = {"output_stride": 8}
    elif change == "another crop":
        config["pretrained_cfg"]["crop_mode"] = "border"
    elif change == "no mean":
        del config["pretrained_cfg"]["mean"]
    elif change == "too few names":
        config["pretrained_cfg"]["label_names"].pop()
    path.write_bytes(whole)
    (path.parent / "config.json").write_text("{" if change == "no JSON" else json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("truncated", "model.safetensors is damaged or truncated"),
        ("empty", "model.safetensors is damaged or truncated"),
        ("pickle", "model.safetensors is a pickle of PyTorch, which may contain code and is never read"),
        ("old pickle", "model.safetensors is a pickle of PyTorch, which may contain code and is never read"),
        ("another architecture", "config.json describes resnet50d, which this program does not build"),
        ("another argument", "config.json changes the network by output_stride=8"),
        ("another crop", "config.json asks for crop border with bicubic interpolation, which is not supported"),
        ("no mean", 'config.json is damaged: "mean" is null instead of three finite numbers'),
        ("too few names", 'config.json is damaged: it has 9 different "label_names" for 10 classes'),
        ("no JSON", "config.json is no config.json of timm"),
    ],
)
def test_a_damaged_file_is_one_sentence(change: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    damaged(path, change)
    with pytest.raises(ResnetError) as caught:
        choose_backbone("auto", str(path), Silent())
    assert message in caught.value.message and "\n" not in caught.value.message and caught.value.hint is not None


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("layer1.0.bn1.weight", lambda old: old * np.float32("nan"), "layer1.0.bn1.weight has values that are not finite"),
        ("fc.bias", lambda old: old + np.float32("inf"), "fc.bias has values that are not finite in float32"),
        ("conv1.weight", lambda old: old + np.float64(1e300), "conv1.weight has values that are not finite in float32"),
        ("bn1.running_var", lambda old: -old, "bn1.running_var has a negative variance"),
        ("conv1.weight", lambda old: (old * 99).astype(np.int8), "conv1.weight as int8, which is not read"),
        ("conv1.weight", lambda old: old > 0, "conv1.weight as bool, which is not read"),
    ],
)
def test_weights_that_compute_nothing_are_refused_by_name(
    name: str, change: Callable[[np.ndarray], np.ndarray], message: str, tmp_path: Path
) -> None:
    network, _ = narrow("basic")
    tensors = load_file(TIMM / "basic" / "model.safetensors")
    path = tmp_path / "model.safetensors"
    save_file({**tensors, name: change(tensors[name])}, path)
    model = build_logits(ClassifierSpec(network, 10, 32), fused=False)
    with pytest.raises(ResnetError) as caught:
        load_safetensors(model, network, path, head=10, with_head=True)
    assert str(path) in caught.value.message and message in caught.value.message and caught.value.hint


TEN = [f"class {number}" for number in range(10)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.5, float("nan"), 0.5]}, 'damaged: "mean" is [0.5, nan, 0.5] instead of three finite numbers'),
        ({"mean": [0.5, 10**400, 0.5]}, 'damaged: "mean" is [0.5, 1000'),
        ({"mean": ["0.5", "0.5", "0.5"]}, 'damaged: "mean" is'),
        ({"std": [0.2, 0, 0.2]}, 'damaged: "std" is [0.2, 0.0, 0.2], which must be positive'),
        ({"std": [1, 1]}, 'damaged: "std" is [1, 1] instead of three finite numbers'),
        (
            {"test_input_size": [3, float("inf"), 80]},
            'damaged: "test_input_size" is [3, inf, 80] instead of [3, height, width]',
        ),
        ({"input_size": [3, 48, 64]}, 'has "input_size" [3, 48, 64], which is not square'),
        ({"input_size": [1, 48, 48]}, 'damaged: "input_size" is [1, 48, 48]'),
        ({"input_size": [3, 10**9, 10**9]}, "a side has 1 to 4096 pixels"),
        ({"crop_pct": "0.9"}, 'damaged: "crop_pct" is 0.9 instead of a number'),
        ({"num_classes": 10, "label_names": list(range(10))}, 'damaged: "label_names" has 0, which is no text of one line'),
        ({"label_names": [*TEN[:9], None]}, 'damaged: "label_names" has null'),
        ({"label_names": [*TEN[:9], " "]}, "damaged: \"label_names\" has ' '"),
        ({"label_names": [*TEN[:9], "a\nb"]}, "damaged: \"label_names\" has 'a\\nb'"),
        ({"label_names": [*TEN[:9], "class 0"]}, 'damaged: it has 9 different "label_names" for 10 classes'),
        ({"label_names": []}, 'damaged: it has 0 different "label_names" for 10 classes'),
        ({"label_names": "abcdefghij"}, 'damaged: "label_names" is abcdefghij instead of a list'),
        ({"label_names": dict.fromkeys(TEN, 1)}, 'damaged: "label_names" is {'),
    ],
)
def test_what_cannot_be_in_a_config_is_named_with_its_path(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = json.loads((TIMM / "basic" / "config.json").read_text())
    config["pretrained_cfg"].update(change)
    require_refused(json.dumps(config), message, tmp_path / "config.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": ["resnet18"]}, "is no config.json of timm"),
        ({"pretrained_cfg": None}, 'is damaged: "pretrained_cfg" is null, not an object'),
        ({"pretrained_cfg": "resnet18"}, 'is damaged: "pretrained_cfg" is resnet18, not an object'),
        ({"model_args": [1]}, 'is damaged: "model_args" is [1], not an object'),
        ({"model_args": {"block": "a\nb"}}, "changes the network by block=a b"),
        ({"num_classes": "10"}, 'is damaged: "num_classes" is 10'),
        ({"num_classes": float("inf")}, 'is damaged: "num_classes" is inf'),
    ],
)
def test_other_kinds_than_a_config_has_are_one_sentence(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = json.loads((TIMM / "basic" / "config.json").read_text())
    require_refused(json.dumps({**config, **change}), message, tmp_path / "config.json")


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", '{"architecture": 1' + "0" * 5000 + "}", ""])
def test_other_json_is_no_config(text: str, tmp_path: Path) -> None:
    require_refused(text, "is no config.json of timm", tmp_path / "config.json")


def require_refused(text: str, message: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(ResnetError) as caught:
        describe(TIMM / "basic" / "model.safetensors", path, ())
    assert caught.value.message.startswith(f"{path} ") and message in caught.value.message
    assert "\n" not in caught.value.message and caught.value.hint


def test_a_pickle_is_refused_under_its_usual_name_too(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ResnetError, match="is a pickle of PyTorch"):
        choose_backbone("resnet18", str(tmp_path / "pytorch_model.bin"), Silent())


@pytest.mark.parametrize(
    ("missing", "words", "message"),
    [
        ("huggingface_hub", NAME, f"{NAME} needs the package huggingface_hub"),
        ("safetensors", str(TIMM / "basic" / "model.safetensors"), "needs the package safetensors"),
    ],
)
def test_without_the_extra_the_command_that_installs_it_is_named(
    missing: str, words: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    if missing == "huggingface_hub":
        monkeypatch.setattr(downloads, "find_spec", lambda name: None)
    with pytest.raises(ResnetError) as caught:
        choose_backbone("auto", words, Silent())
    assert message in caught.value.message and caught.value.hint == "pip install 'resnet-cli[hub]'"


# --- the hub -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hub:
    """A server that answers as the hub does, for one repository.

    Attributes:
        files: content by name.
        asked: method, path, user agent and range of every request.
        faults: "cut" breaks the first download off in the middle, "other" sends other bytes than announced.
    """

    files: dict[str, bytes]
    asked: list[tuple[str, str, str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    repository: str = "timm/resnet18.a1_in1k"


def handler_of(served: Hub, port: list[int]) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            asked_range = self.headers.get("Range", "")
            served.asked.append((self.command, self.path, self.headers.get("User-Agent", ""), asked_range))
            name = self.path.rsplit("/", 1)[-1]
            if self.path.startswith("/cdn/"):
                self.send_content(served.files[name], int(asked_range.removeprefix("bytes=").partition("-")[0] or 0))
                return
            known = self.path.startswith(f"/{served.repository}/resolve/") and name in served.files
            self.send_response(302 if known else 401)
            if known:
                content = served.files[name]
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("X-Linked-Size", str(len(content)))
                self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("Location", f"http://localhost:{port[0]}/cdn/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send_content(self, content: bytes, start: int) -> None:
            if "other" in served.faults:
                content = bytes(len(content))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if "cut" in served.faults and len(content) > 100_000:
                served.faults.remove("cut")
                self.wfile.write(content[start : start + len(content) // 2])
                self.close_connection = True
            elif self.command == "GET":
                self.wfile.write(content[start:])

    return Handler


@pytest.fixture
def hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of Hugging Face."""
    without_proxy(monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


@pytest.fixture
def served(hugging_face: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    port = [0]
    made = Hub({name: (TIMM / "basic" / name).read_bytes() for name in ("config.json", "model.safetensors")})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_of(made, port))
    port[0] = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    # As after HF_ENDPOINT=http://127.0.0.1:..., which the library reads when it is imported.
    endpoint = f"http://127.0.0.1:{port[0]}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    yield made
    close_session()
    server.shutdown()
    server.server_close()
    thread.join()


def test_weights_are_fetched_once_and_then_used_without_a_connection(
    served: Hub, hugging_face: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    listener = Listener()
    fetched = fetch_from_hub(find_checkpoint(NAME).on_hub, listener)
    content = served.files["model.safetensors"]
    assert (fetched.revision, fetched.sha256) == (COMMIT, hashlib.sha256(content).hexdigest())
    assert fetched.weights.read_bytes() == content and fetched.weights.is_relative_to(hugging_face)
    assert len(listener.lines) == 1 and listener.lines[0].startswith(f"downloading {NAME} from ")
    # Nobody is told about other packages, and nothing but the two files is asked for.
    assert {path for _, path, _, _ in served.asked} == {
        *(f"/timm/resnet18.a1_in1k/resolve/main/{name}" for name in served.files),
        *(f"/cdn/{name}" for name in served.files),
    }
    assert not any(word in agent for _, _, agent, _ in served.asked for word in ("torch", "tensorflow", "agent/"))
    before = len(served.asked)
    assert fetch_from_hub(find_checkpoint(NAME).on_hub, listener) == fetched
    assert fetch_from_hub(find_checkpoint(f"{NAME}@{COMMIT}").on_hub, listener) == fetched
    assert len(served.asked) == before and len(listener.lines) == 1
    assert capfd.readouterr() == ("", "")


def test_a_download_that_breaks_off_is_resumed_where_it_stopped(
    served: Hub, hugging_face: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.faults.append("cut")
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    fetched = fetch_from_hub(find_checkpoint(NAME).on_hub, Silent())
    written = len(served.files["model.safetensors"]) // 2 // 10_000 * 10_000
    ranges = [asked for _, path, _, asked in served.asked if path == "/cdn/model.safetensors" and asked]
    assert ranges == [f"bytes={written}-"]
    assert fetched.weights.read_bytes() == served.files["model.safetensors"]


def test_other_bytes_than_announced_are_not_used(served: Hub, hugging_face: Path) -> None:
    served.faults.append("other")
    announced = hashlib.sha256(served.files["model.safetensors"]).hexdigest()
    for _ in range(2):  # nor the next time, from the cache
        with pytest.raises(ResnetError) as caught:
            fetch_from_hub(find_checkpoint(NAME).on_hub, Silent())
        assert f"is damaged: its SHA-256 is not {announced}, which the hub announced" in caught.value.message
        assert caught.value.hint == "delete it to have it downloaded again"
        assert caught.value.message.startswith(f"{hugging_face / 'models--timm--resnet18.a1_in1k' / 'blobs' / announced} is")


def test_a_name_that_the_hub_does_not_have_gets_the_nearest_names(served: Hub, hugging_face: Path) -> None:
    with pytest.raises(ResnetError) as caught:
        fetch_from_hub(find_checkpoint("timm:resnet50.a9_in1k").on_hub, Silent())
    assert caught.value.message == (
        "the hub has no timm:resnet50.a9_in1k: it answers 401 for config.json of timm/resnet50.a9_in1k"
    )
    assert "timm:resnet50.a2_in1k" in caught.value.hint and "`resnet models --weights`" in caught.value.hint


def test_ctrl_c_ends_a_download(served: Hub, hugging_face: Path) -> None:
    with pytest.raises(Interrupted) as caught:
        fetch_from_hub(find_checkpoint(NAME).on_hub, Listener(signal=2))
    assert caught.value.exit_code == 130


@pytest.mark.parametrize("reason", ["HF_HUB_OFFLINE forbids to fetch it", "127.0.0.1 cannot be reached"])
def test_without_a_network_the_cache_and_the_way_to_fill_it_are_named(
    reason: str, hugging_face: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", "OFFLINE" in reason)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the port of "discard": nobody listens
    with pytest.raises(ResnetError) as caught:
        choose_backbone("resnet18", NAME, Silent())
    assert caught.value.message == f"the weights {NAME} are not in Hugging Face's cache {hugging_face}, and {reason}"
    assert "hf download timm/resnet18.a1_in1k config.json model.safetensors" in caught.value.hint


# --- with the commands -------------------------------------------------------------------------------------------------------


def write_resnet18(folder: Path) -> Path:
    """ResNet-18 of 1000 classes in timm's format, with random weights; its config.json is that of timm:resnet18.a1_in1k."""
    random = np.random.default_rng(0)
    network = find_network("resnet18")
    tensors = {
        each.name: random.uniform(0.5, 1, each.shape).astype(np.float32)
        if "running_var" in each.name or (each.name.endswith("weight") and len(each.shape) == 1)
        else (random.normal(size=each.shape) * (2 / max(1, np.prod(each.shape[1:]))) ** 0.5).astype(np.float32)
        / (1 + 9 * (len(each.shape) == 1))
        for each in tensors_of(network, 1000)
    }
    tensors["fc.weight"] *= 8
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((TIMM / "basic" / "config.json").read_text())
    told = {**config["pretrained_cfg"], "input_size": [3, 64, 64], "test_input_size": [3, 96, 96], "num_classes": 1000}
    del told["label_names"]
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": told}))
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_resnet18(tmp_path_factory.mktemp("timm") / "resnet18")


@pytest.fixture
def in_cache(resnet18: Path, hugging_face: Path, offline: list[str]) -> list[str]:
    """The file in Hugging Face's cache as that library lays it out; the hosts that somebody tries to reach."""
    place = hugging_face / "models--timm--resnet18.a1_in1k"
    snapshot = place / "snapshots" / COMMIT
    for folder in (place / "refs", place / "blobs", snapshot):
        folder.mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    for path in (resnet18, resnet18.with_name("config.json")):
        blob = place / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.symlink_to(path)
        shutil.copy(path, snapshot / path.name)
    return offline


@pytest.mark.slow
def test_predict_and_evaluate_answer_with_the_1000_classes(
    in_cache: list[str], run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = make_dataset(tmp_path / "birds", ("jay", "magpie"), count=3)
    said = run_cli("predict", data / "jay", "--run", NAME, "--json", "--top", "3")
    assert said.exit_code == 0, said.stderr
    rows = json.loads(said.stdout)
    assert len(rows) == 3 and all(len(row["predictions"]) == 3 and row["runs"] == [NAME] for row in rows)
    again = run_cli("predict", data / "jay", "--run", NAME, "--json", "--top", "3", "--quiet")
    assert (again.stdout, again.stderr) == (said.stdout, "")
    measured = run_cli("evaluate", data, "--run", NAME, "--json")
    assert measured.exit_code == 0, measured.stderr
    document = json.loads(measured.stdout)
    assert document["run"] == NAME and document["count"] == 6
    output = Path(document["output"])
    assert output.parent == Path("runs") and output.name.startswith("timm-resnet18.a1_in1k-")
    assert {"predictions.csv", "confusion.csv", "report.html"} <= {path.name for path in output.iterdir()}
    # ImageNet's own folders have WordNet's numbers of these classes.
    for name, number in (("jay", "n01580077"), ("magpie", "n01582220")):
        (data / name).rename(data / number)
    again = run_cli("evaluate", data, "--run", NAME, "--json")
    assert json.loads(again.stdout)["confusion"] == document["confusion"], again.stderr
    without = run_cli("evaluate", "--run", NAME)
    assert without.exit_code == 1
    assert f"error: {NAME} has no held-out images: it was not trained here" in without.stderr.replace("\n", " ")
    assert in_cache == []


@pytest.mark.parametrize(
    "command",
    [
        ("predict", "a.jpg", "--run"),
        ("evaluate", "--run"),
        ("finetune", "photos", "--weights"),
        ("export", "--format", "openvino", "--output", "out", "--run"),
    ],
)
def test_a_missing_file_is_named_without_an_option_that_nobody_gave(
    command: tuple[str, ...], run_cli: RunCli, tmp_path: Path, make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = make_dataset(tmp_path / "photos", ("jay", "magpie"), count=3) / "jay"
    shutil.copy(next(photo.iterdir()), "a.jpg")
    said = run_cli(*command, "x.safetensors")
    assert said.exit_code == 1 and "error: x.safetensors: there is no such file\n" in said.stderr
    assert "--weights" not in said.stderr
    Path("hub").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(TIMM / "basic" / name, "hub")
    said = run_cli(*command, "hub")
    assert said.exit_code == 1 and "error: hub is a folder of published weights, not a run\n" in said.stderr
    assert "hint: name hub/model.safetensors" in said.stderr


def test_the_config_that_should_name_the_classes_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    source = WeightsSource("file", path, "0" * 64, head=10)
    monkeypatch.setattr(published, "published_file", lambda words, progress: (find_network("resnet18"), source))
    with pytest.raises(ResnetError) as caught:
        published.published_run(path, Silent())
    assert caught.value.hint == f'add "label_names" to {tmp_path / "config.json"}'


@pytest.mark.slow
def test_a_damaged_conversion_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = WeightsSource("file", TIMM / "basic" / "model.safetensors", "0" * 64, classes=tuple(TEN), head=10)
    monkeypatch.setattr(published, "published_file", lambda words, progress: (narrow("basic")[0], source))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def opened() -> tuple[Path, int]:
        listener = Listener()
        return published.published_run(Path("model.safetensors"), listener).folder, len(listener.lines)

    folder, conversions = opened()
    assert conversions == 1 and opened() == (folder, 0)
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"run.json", "model.weights.h5", "model.xml", "model.bin"} <= set(content)
    for name, left in (("model.bin", None), ("model.bin", 99), ("model.xml", None), ("run.json", 99), ("model.weights.h5", 99)):
        (folder / name).unlink() if left is None else (folder / name).write_bytes(content[name][:left])
        assert opened() == (folder, 1), (name, left)
        assert {path.name for path in folder.iterdir()} == set(content) and opened() == (folder, 0)


@pytest.mark.parametrize("missing", [".xml", ".bin", ".txt"])
def test_a_damaged_conversion_of_keras_weights_is_made_again(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(classifier: object, model: Path) -> None:
        model.write_text("new")
        model.with_suffix(".bin").write_text("new")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(predict, "_read_imagenet", lambda files: (None, ("jay", "magpie")))
    monkeypatch.setattr(predict, "_convert", convert)
    files = ImagenetClassifier(find_network("resnet50"), tmp_path / "a.h5", tmp_path / "a.json")
    model = predict._imagenet(files, "openvino").model
    model.with_suffix(missing).unlink()
    assert predict._imagenet(files, "openvino").classes == ("jay", "magpie")
    assert all(model.with_suffix(ending).exists() for ending in (".xml", ".bin", ".txt"))


@pytest.mark.slow
def test_a_run_trained_from_published_weights_keeps_their_input(
    in_cache: list[str], run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    data = make_dataset(tmp_path / "fruit", ("apple", "berry"), count=6)
    options = ("--weights", NAME, "--unfreeze", "none", "--set", "views=1", "--seed", "4", "--json")
    said = run_cli("finetune", data, *options, "--output", tmp_path / "run")
    assert said.exit_code == 0, said.stderr
    run = load_run(tmp_path / "run")
    record: dict[str, Any] = run.record
    assert record["network"] == {
        "name": "resnet18",
        "shortcut": "B",
        "preprocessing": "torch",
        "epsilon": 1e-5,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.229, 0.224, 0.225],
    }
    assert record["image_size"] == 64
    assert record["input"] == {"resize": "crop", "fraction": 0.95, "interpolation": "bicubic", "steps": "two"}
    assert (record["weights"]["source"], record["weights"]["name"], record["weights"]["revision"]) == ("timm", NAME, COMMIT)
    assert run_geometry(run) == Geometry(64, "crop", 0.95, interpolation="bicubic", steps="two")
    network, source = choose_backbone("auto", str(tmp_path / "run"), Silent())
    assert network.geometry(64) == run_geometry(run) and network.mean == (0.5, 0.4, 0.3) and source.kind == "file"
    assert in_cache == []


def test_arch_may_be_left_at_auto_or_must_agree(in_cache: list[str], tmp_path: Path) -> None:
    for arch in ("auto", "resnet18"):
        network, source = choose_backbone(arch, NAME, Silent())
        assert (network.name, network.image_size, network.epsilon) == ("resnet18", 64, 1e-5)
        assert (source.kind, source.name, source.head, len(source.classes)) == ("timm", NAME, 1000, 1000)
    with pytest.raises(ResnetError, match=f"{NAME} holds resnet18, not resnet50") as caught:
        choose_backbone("resnet50", NAME, Silent())
    assert caught.value.hint == "add --arch resnet18"


@pytest.mark.parametrize("weights", ["imagenet", "auto"])
def test_imagenet_weights_of_resnet18_are_torchvisions(weights: str, hugging_face: Path, offline: list[str]) -> None:
    with pytest.raises(ResnetError, match=r"the weights torchvision:resnet18\.imagenet1k_v1 are not in Hugging Face's cache"):
        choose_backbone("resnet18", weights, Silent())
    assert offline == ["huggingface.co"]


def test_without_a_config_what_is_assumed_is_said(resnet18: Path, tmp_path: Path) -> None:
    shutil.copy(resnet18, tmp_path / "mine.safetensors")
    listener = Listener()
    network, source = choose_backbone("auto", str(tmp_path / "mine.safetensors"), listener)
    assert (network.name, network.geometry(224)) == ("resnet18", Geometry(224, "crop", 0.875, steps="two"))
    assert (source.kind, len(source.classes)) == ("file", 1000)
    assert (
        len(listener.notices) == 1 and "has no config.json beside it. Assumed from its tensors: resnet18" in listener.notices[0]
    )
    shutil.copy(TIMM / "basic" / "model.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(ResnetError, match=r"does not fit resnet18 with its 102 tensors: 40 missing \(layer1\.1\.bn1\.bias, "):
        choose_backbone("auto", str(tmp_path / "other.safetensors"), listener)
    assert len(listener.notices) == 1


@pytest.mark.parametrize("columns", ["60", "80", "100"])
def test_models_lists_published_weights_in_any_width(columns: str, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = run_cli("models", "--weights").stdout.splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(("timm:", "torchvision:"))}
    assert set(table) == set(CHECKPOINTS)
    assert table["timm:resnet50.a1_in1k"] == ["288", "81.24", "apache-2.0"]
    assert table["torchvision:resnet18.imagenet1k_v1"] == ["224", "69.75", "bsd-3-clause"]
    assert table["timm:resnet18.fb_swsl_ig1b_ft_in1k"] == ["224", "73.29", "cc-by-nc-4.0"]
    rows = json.loads(run_cli("models", "--weights", "--json").stdout)
    assert [row["name"] for row in rows] == list(CHECKPOINTS)
    assert list(rows[0]) == ["name", "network", "input", "top1", "licence", "repository"]
