"""Where weights come from: Keras' cache, a download, the package, a run or a file; and what is said when they cannot be had."""

import functools
import hashlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from conftest import without_proxy

from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.networks import pretrained
from resnet_cli.networks import pretrained as imagenet_files
from resnet_cli.networks.catalogue import ClassifierSpec, find_network, parameter_count
from resnet_cli.networks.classifier import build_logits, load_backbone, load_imagenet_classifier
from resnet_cli.networks.pretrained import WeightsSource, cached_imagenet_classifier, choose_backbone, weights_file
from resnet_cli.networks.weights import named_variables, save_weights
from resnet_cli.progress import Silent

HOST = "storage.googleapis.com"
NOTOP = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"


class Listener(Silent):
    """Keeps the notices."""

    def __init__(self, signal: int = 0) -> None:
        self.notices: list[str] = []
        self.signal = signal

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def stop_signal(self) -> int:
        return self.signal


def write_legacy(model: keras.Model, path: Path) -> None:
    """The layout of the published files: a group a layer, names in attributes, trainable weights before the others."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([layer.name.encode() for layer in model.layers])
        for layer in model.layers:
            group = file.create_group(layer.name)
            weights = [*layer.trainable_weights, *layer.non_trainable_weights]
            names = [f"{layer.name}/{weight.name}:0" for weight in weights]
            group.attrs["weight_names"] = np.array([name.encode() for name in names], dtype="S")
            for name, weight in zip(names, weights, strict=True):
                group.create_dataset(name, data=np.asarray(weight))


def shuffled(model: keras.Model) -> keras.Model:
    """Random batch-norm statistics too, so that a variable that goes astray is seen."""
    random = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.4, 0.9, variable.shape))
        elif variable.name != "kernel":
            variable.assign(random.normal(0, 0.1, variable.shape))
    return model


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def keras_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Keras cache."""
    home = tmp_path / "keras"
    monkeypatch.setenv("KERAS_HOME", str(home))
    (home / "models").mkdir(parents=True)
    return home


@pytest.fixture(scope="module")
def slim_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, Path]:
    """A pretrained network as the package carries it, in half precision."""
    model = shuffled(build_logits(ClassifierSpec(find_network("resnet18-slim"), 1000, 64)))
    path = tmp_path_factory.mktemp("bundled") / "model.weights.h5"
    save_weights(model, path, "float16")
    return model, path


@pytest.fixture
def bundled(slim_file: tuple[keras.Model, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pretrained, "BUNDLED_FILE", slim_file[1])
    return slim_file[1]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, Path]:
    """A folder with ResNet50's two files and the class names, as published, and the network that they came from."""
    folder = tmp_path_factory.mktemp("published")
    whole = shuffled(keras.applications.ResNet50(weights=None))
    write_legacy(whole, folder / NOTOP.replace("_notop", ""))
    write_legacy(keras.Model(whole.input, whole.layers[-3].output), folder / NOTOP)
    names = {str(number): [f"n{number:08d}", "crane" if number in (134, 517) else f"class {number}"] for number in range(1000)}
    (folder / "imagenet_class_index.json").write_text(json.dumps(names))
    return whole, folder


@pytest.fixture
def cached(published: tuple[keras.Model, Path], keras_home: Path, monkeypatch: pytest.MonkeyPatch) -> keras.Model:
    """The published files in Keras' cache, their hashes taken for the right ones; the network."""
    whole, folder = published
    for path in folder.iterdir():
        (keras_home / "models" / path.name).symlink_to(path)
    hashes = (md5(folder / NOTOP.replace("_notop", "")), md5(folder / NOTOP))
    monkeypatch.setitem(imagenet_files.IMAGENET_MD5, "resnet50", hashes)
    index = imagenet_files.PublishedFile(imagenet_files.CLASS_INDEX, md5(folder / "imagenet_class_index.json"))
    monkeypatch.setattr(pretrained, "class_index_file", lambda: index)
    return whole


# --- weights that are at hand -------------------------------------------------------------------------------------------------


def test_the_file_table_is_that_of_keras_applications() -> None:
    from keras.src.applications import resnet

    for name, hashes in imagenet_files.IMAGENET_MD5.items():
        assert hashes == resnet.WEIGHTS_HASHES[name]
        assert weights_file(name).url == f"{resnet.BASE_WEIGHTS_PATH}{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"


def test_auto_takes_resnet50_from_keras_cache_without_a_connection(cached: keras.Model, offline: list[str]) -> None:
    listener = Listener()
    network, source = choose_backbone("auto", "auto", listener)
    assert (network.name, source.kind, source.fallback, listener.notices, offline) == ("resnet50", "imagenet", "", [], [])
    assert source.path is not None and source.sha256 == hashlib.sha256(source.path.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("top", [False, True])
def test_published_weights_give_the_outputs_of_keras_applications(cached: keras.Model, keras_home: Path, top: bool) -> None:
    if top:  # the file with the 1000 classes serves as well, when it is named
        network, source = choose_backbone("auto", str(keras_home / "models" / NOTOP.replace("_notop", "")), Silent())
        assert source.kind == "file"
    else:
        network, source = choose_backbone("resnet50", "auto", Silent())
    model = build_logits(ClassifierSpec(network, 3, 224))
    head = np.asarray(model.get_layer("logits").kernel)
    load_backbone(model, network, source)
    raw = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    features = keras.Model(model.input, model.get_layer("avg_pool").output)
    theirs = keras.Model(cached.input, cached.get_layer("avg_pool").output)
    expected = np.asarray(theirs(keras.applications.resnet.preprocess_input(raw.astype("float32"))))
    assert expected.std() > 0.1
    np.testing.assert_allclose(np.asarray(features(raw)), expected, atol=1e-4 * expected.max())
    np.testing.assert_array_equal(np.asarray(model.get_layer("logits").kernel), head)


@pytest.mark.slow
def test_the_published_classifier_answers_with_its_own_thousand_classes(cached: keras.Model) -> None:
    files = cached_imagenet_classifier()
    assert files is not None
    model, classes = load_imagenet_classifier(files)
    assert len(set(classes)) == 1000
    assert (classes[3], classes[134], classes[517]) == ("class 3", "crane n00000134", "crane n00000517")
    raw = np.random.default_rng(2).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    expected = np.asarray(cached(keras.applications.resnet.preprocess_input(raw.astype("float32"))))
    np.testing.assert_allclose(np.asarray(model(raw)), expected, atol=1e-4)


@pytest.mark.parametrize("missing", [NOTOP.replace("_notop", ""), "imagenet_class_index.json"])
def test_without_one_of_its_files_there_is_no_published_classifier(cached: keras.Model, keras_home: Path, missing: str) -> None:
    (keras_home / "models" / missing).unlink()
    assert cached_imagenet_classifier() is None


def test_bundled_weights_fill_the_backbone_and_leave_the_head(slim_file: tuple[keras.Model, Path], bundled: Path) -> None:
    network, source = choose_backbone("auto", "bundled", Silent())
    assert (network.name, source.kind, source.path, source.fallback) == ("resnet18-slim", "bundled", bundled, "")
    model = build_logits(ClassifierSpec(network, 3, 64, hidden=8))
    load_backbone(model, network, source)
    original = named_variables(slim_file[0])
    for name, variable in named_variables(model).items():
        if not name.startswith(("logits", "hidden")):
            np.testing.assert_allclose(np.asarray(variable), np.asarray(original[name]), rtol=1e-3, atol=1e-6)


def test_the_weights_in_the_package_fit_the_network_and_take_two_bytes_a_parameter() -> None:
    network, source = choose_backbone("auto", "bundled", Silent())
    assert source.path is not None
    assert source.path.stat().st_size == pytest.approx(2 * parameter_count(network, 1000), rel=0.03)
    model = build_logits(ClassifierSpec(network, 3, 64))
    load_backbone(model, network, source)
    assert all(np.isfinite(np.asarray(variable)).all() for variable in model.variables)


def test_none_leaves_the_network_untrained(bundled: Path) -> None:
    network, source = choose_backbone("auto", "none", Silent())
    assert (network.name, source) == ("resnet18-slim", WeightsSource("none", None, ""))
    assert choose_backbone("resnet56", "none", Silent(), "B")[0].shortcut == "B"
    model = build_logits(ClassifierSpec(network, 2, 32))
    before = [np.asarray(value) for value in model.variables]
    load_backbone(model, network, source)
    assert all(np.array_equal(old, np.asarray(new)) for old, new in zip(before, model.variables, strict=True))


# --- no network ---------------------------------------------------------------------------------------------------------------


def hang(monkeypatch: pytest.MonkeyPatch, release: threading.Event) -> None:
    def wait(*arguments: object, **options: object) -> None:
        release.wait(60)
        raise socket.gaierror("too late")

    monkeypatch.setattr(socket, "getaddrinfo", wait)


@pytest.mark.slow
@pytest.mark.parametrize("hanging", [False, True])
def test_without_a_network_auto_takes_the_bundled_backbone_within_five_seconds_and_says_so(
    keras_home: Path, bundled: Path, offline: list[str], monkeypatch: pytest.MonkeyPatch, hanging: bool
) -> None:
    release, listener = threading.Event(), Listener()
    if hanging:  # a name server that never answers
        hang(monkeypatch, release)
    began = time.monotonic()
    network, source = choose_backbone("auto", "auto", listener)
    seconds = time.monotonic() - began
    release.set()
    assert seconds < 5
    assert (network.name, source.kind, source.path) == ("resnet18-slim", "bundled", bundled)
    for text in (source.fallback, *listener.notices):
        assert NOTOP in text and str(keras_home / "models") in text and f"{HOST} cannot be reached" in text
    assert len(listener.notices) == 1 and "resnet18-slim is used instead of resnet50" in listener.notices[0]
    if not hanging:
        assert offline == [HOST]


@pytest.mark.parametrize(("arch", "weights"), [("resnet50", "imagenet"), ("resnet50", "auto"), ("auto", "imagenet")])
def test_what_is_asked_for_by_name_never_falls_back(
    keras_home: Path, bundled: Path, offline: list[str], arch: str, weights: str
) -> None:
    listener = Listener()
    with pytest.raises(ResnetError) as caught:
        choose_backbone(arch, weights, listener)
    folder = keras_home / "models"
    assert caught.value.message == (
        f"the ImageNet weights of resnet50 are missing: {NOTOP} is not in {folder}, and {HOST} cannot be reached"
    )
    assert caught.value.hint == (
        f"download https://{HOST}/tensorflow/keras-applications/resnet/{NOTOP} on a machine with a network"
        f" and copy it to {folder / NOTOP}"
    )
    assert listener.notices == []


def test_a_damaged_file_in_the_cache_is_named_and_auto_falls_back(keras_home: Path, bundled: Path, offline: list[str]) -> None:
    path = keras_home / "models" / NOTOP
    path.write_bytes(b"half a download")
    with pytest.raises(ResnetError) as caught:
        choose_backbone("resnet50", "imagenet", Silent())
    assert caught.value.message == f"{path} is damaged: its MD5 is not the published 4d473c1dd8becc155b73f8504c6f6626"
    assert "delete it" in caught.value.hint
    listener = Listener()
    assert f"{path} is damaged" in choose_backbone("auto", "auto", listener)[1].fallback
    assert f"{path} is damaged" in listener.notices[0] and offline == []


def test_without_its_bundled_weights_the_installation_is_incomplete(
    keras_home: Path, offline: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pretrained, "BUNDLED_FILE", tmp_path / "gone.h5")
    for weights in ("auto", "bundled"):
        with pytest.raises(ResnetError, match="installation is incomplete"):
            choose_backbone("auto", weights, Silent())


# --- downloads, from a server on this machine ---------------------------------------------------------------------------------


Serve = Callable[[bytes, str], None]


@pytest.fixture
def serve(tmp_path: Path, keras_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """`serve(content, md5)`: publish resnet50's file with that content and that published hash."""
    folder = tmp_path / "server"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *values: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    without_proxy(monkeypatch)
    monkeypatch.setattr(imagenet_files, "IMAGENET_BASE", f"http://127.0.0.1:{server.server_port}/")

    def publish(content: bytes, expected: str) -> None:
        (folder / NOTOP).write_bytes(content)
        monkeypatch.setitem(imagenet_files.IMAGENET_MD5, "resnet50", ("", expected))

    yield publish
    server.shutdown()
    server.server_close()


def test_weights_are_downloaded_into_keras_cache_and_nothing_is_printed(
    serve: Serve, keras_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytes(3_000_000)
    serve(content, hashlib.md5(content).hexdigest())
    source = choose_backbone("auto", "auto", Silent())[1]
    assert (source.kind, source.path) == ("imagenet", keras_home / "models" / NOTOP)
    assert [path.name for path in (keras_home / "models").iterdir()] == [NOTOP]
    assert capsys.readouterr().out == ""


def test_a_download_with_another_hash_is_not_kept(serve: Serve, keras_home: Path, bundled: Path) -> None:
    serve(b"something else", "0" * 32)
    with pytest.raises(ResnetError, match="its download failed: Incomplete or corrupted file"):
        choose_backbone("auto", "imagenet", Silent())
    assert choose_backbone("auto", "auto", Silent())[1].kind == "bundled"
    assert list((keras_home / "models").iterdir()) == []


def test_ctrl_c_ends_a_download_and_is_no_reason_to_fall_back(serve: Serve, keras_home: Path, bundled: Path) -> None:
    serve(bytes(1000), "0" * 32)
    with pytest.raises(Interrupted) as caught:
        choose_backbone("auto", "auto", Listener(signal=2))
    assert caught.value.exit_code == 130
    assert list((keras_home / "models").iterdir()) == []


# --- files and runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A complete run of resnet8 with shortcut B and four classes."""
    folder = tmp_path / "run"
    folder.mkdir()
    spec = ClassifierSpec(find_network("resnet8", "B"), 4, 32)
    save_weights(shuffled(build_logits(spec)), folder / "model.weights.h5")
    (folder / "run.json").write_text(json.dumps({"format": 1, "classes": ["a", "b", "c", "d"], **spec.to_record()}))
    return folder


@pytest.mark.parametrize("name", ["", "model.weights.h5"])
def test_a_run_tells_its_network(run_folder: Path, name: str) -> None:
    network, source = choose_backbone("auto", str(run_folder / name), Silent())
    assert (network, source.kind, source.path) == (find_network("resnet8", "B"), "file", run_folder / "model.weights.h5")
    model = build_logits(ClassifierSpec(network, 2, 32))
    load_backbone(model, network, source)
    with h5py.File(run_folder / "model.weights.h5") as file:
        np.testing.assert_array_equal(
            np.asarray(model.get_layer("resnet8").get_layer("conv1_bn").gamma), file["conv1_bn/gamma"]
        )


def test_a_run_of_another_network_is_refused(run_folder: Path) -> None:
    with pytest.raises(ResnetError, match="holds resnet8, not resnet20"):
        choose_backbone("resnet20", str(run_folder), Silent())
    with pytest.raises(ResnetError, match="has shortcut B, not C"):
        choose_backbone("resnet8", str(run_folder), Silent(), "C")
    (run_folder / "run.json").unlink()
    with pytest.raises(ResnetError, match="not complete"):
        choose_backbone("auto", str(run_folder), Silent())


def test_a_weights_file_needs_the_name_of_its_network(run_folder: Path, tmp_path: Path) -> None:
    path = (run_folder / "model.weights.h5").rename(tmp_path / "mine.h5")
    with pytest.raises(ResnetError, match="does not say which network it is for") as caught:
        choose_backbone("auto", str(path), Silent())
    assert "--arch" in caught.value.hint
    network, source = choose_backbone("resnet8", str(path), Silent(), "B")
    load_backbone(build_logits(ClassifierSpec(network, 2, 32)), network, source)
    for arch, shortcut, words in (
        ("resnet20", None, "lack conv2_block2_1_conv/kernel: they belong to another network"),
        ("resnet8", "A", "also have conv3_block1_0_bn/beta: they belong to another network"),
    ):
        other, source = choose_backbone(arch, str(path), Silent(), shortcut)
        with pytest.raises(ResnetError, match=words):
            load_backbone(build_logits(ClassifierSpec(other, 2, 32)), other, source)


def test_a_weights_file_with_a_mean_image_is_refused_as_it_does_not_say_so(tmp_path: Path) -> None:
    network = find_network("resnet8")
    save_weights(build_logits(ClassifierSpec(replace(network, preprocessing="pixel-mean"), 2, 32)), tmp_path / "mean.h5")
    network, source = choose_backbone("resnet8", str(tmp_path / "mean.h5"), Silent())
    with pytest.raises(ResnetError, match="subtract a mean image") as caught:
        load_backbone(build_logits(ClassifierSpec(network, 2, 32)), network, source)
    assert caught.value.hint == "name the run's folder instead"


@pytest.mark.slow
def test_a_file_of_keras_applications_does_not_fit_other_networks(published: tuple[keras.Model, Path]) -> None:
    path = str(published[1] / NOTOP)
    for arch, words in (("resnet18", "no such resnet18"), ("resnet50v2", "do not fit resnet50v2")):
        network, source = choose_backbone(arch, path, Silent())
        with pytest.raises(ResnetError, match=words):
            load_backbone(build_logits(ClassifierSpec(network, 2, 64)), network, source)


def test_a_file_that_is_missing_or_no_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResnetError, match=r"--weights nowhere\.h5: there is no such file") as caught:
        choose_backbone("resnet20", "nowhere.h5", Silent())
    assert "imagenet, bundled, none" in caught.value.hint
    path = tmp_path / "notes.h5"
    path.write_text("no weights")
    network, source = choose_backbone("resnet8", str(path), Silent())
    with pytest.raises(ResnetError, match=r"notes\.h5 cannot be read"):
        load_backbone(build_logits(ClassifierSpec(network, 2, 32)), network, source)


# --- contradictions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "weights", "shortcut", "message"),
    [
        ("resnet56", "auto", None, "there are no pretrained weights for resnet56"),
        ("resnet20", "imagenet", None, "there are no ImageNet weights for resnet20"),
        ("resnet50", "bundled", None, "there are no bundled weights for resnet50"),
        ("resnet18-slim", "imagenet", None, "there are no ImageNet weights for resnet18-slim"),
        ("resnet18-compact", "bundled", None, "there are no bundled weights for resnet18-compact"),
        ("resnet18-compact", "auto", None, "there are no pretrained weights for resnet18-compact"),
        ("resnet50", "imagenet", "C", "there are no ImageNet weights for resnet50 with shortcut C"),
        ("auto", "auto", "A", "there are no pretrained weights for resnet50 with shortcut A"),
        ("resnet5O", "auto", None, "there is no network named 'resnet5O'"),
    ],
)
def test_a_network_and_weights_that_contradict_each_other_get_one_sentence(
    arch: str, weights: str, shortcut: str | None, message: str, offline: list[str]
) -> None:
    with pytest.raises(ResnetError) as caught:
        choose_backbone(arch, weights, Silent(), shortcut)  # type: ignore[arg-type]
    assert caught.value.message == message
    assert ("--weights none" in caught.value.hint) or ("nearest" in caught.value.hint)
    assert offline == []
