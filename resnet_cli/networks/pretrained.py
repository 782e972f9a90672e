"""Choose network and pretrained weights from `--arch` and `--weights` (light: the standard library only).

In: the values of both options. Out: a `Network` and a `WeightsSource`, which `classifier.load_backbone` loads into a model.
Weights chosen by name have no fallback; `auto` has one, and says so. Published ImageNet weights are read from Keras' cache, or
downloaded into it; those of timm and torchvision from Hugging Face's.
"""

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from resnet_cli.downloads import CONFIG, answers, fetch_from_hub, watch
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.files import at_home, digest
from resnet_cli.networks.catalogue import CATALOGUE, Network, Shortcut, find_network, spec_from_record
from resnet_cli.networks.description import describe
from resnet_cli.networks.published import find_checkpoint, is_published, refuse_pickle, require_fitting
from resnet_cli.progress import Progress
from resnet_cli.runs.folder import Run, load_run

IMAGENET_BASE = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
CLASS_INDEX = "https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json"
# MD5 of the files with and without the top layer: WEIGHTS_HASHES in keras/src/applications/resnet.py.
IMAGENET_MD5 = {
    "resnet50": ("2cb95161c43110f7111970584f804107", "4d473c1dd8becc155b73f8504c6f6626"),
    "resnet101": ("f1aeb4b969a6efcfb50fad2f0c20cfc5", "88cf7a10940856eca736dc7b7e228a21"),
    "resnet152": ("100835be76be38e30d865e96f2aaae62", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    "resnet50v2": ("3ef43a0b657b3be2300d5770ece849e0", "fac2f116257151a9d068a22e544a4917"),
    "resnet101v2": ("6343647c601c52e1368623803854d971", "c0ed64b8031c3730f411d2eb4eea35b5"),
    "resnet152v2": ("a49b44d1979771252814e80f8ec446f9", "ed17cf2e0169df9d443503ef94b23b33"),
}


@dataclass(frozen=True)
class PublishedFile:
    """A file of keras.applications: its URL and its MD5."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        """The file's name, the last part of its URL."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def path(self) -> Path:
        """Its path in the cache of keras.applications."""
        return keras_cache() / self.name


def weights_file(network: str, top: bool = False) -> PublishedFile:
    """The weights of one of the six networks, with or without the head of 1000 classes."""
    name = f"{network}_weights_tf_dim_ordering_tf_kernels{'' if top else '_notop'}.h5"
    return PublishedFile(IMAGENET_BASE + name, IMAGENET_MD5[network][0 if top else 1])


def class_index_file() -> PublishedFile:
    """The names of the 1000 classes: keras/src/applications/imagenet_utils.py."""
    return PublishedFile(CLASS_INDEX, "c2c37ea517e94d9795004a39431a14cb")


def network_of_file(name: str) -> str:
    """The network that a published file name belongs to, or ""."""
    return next((network for network in IMAGENET_MD5 if name.startswith(f"{network}_weights_tf_dim_ordering_tf_kernels")), "")


def keras_cache() -> Path:
    """Keras' folder of downloaded weights: $KERAS_HOME/models, usually ~/.keras/models."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "models"


def is_cached(file: PublishedFile) -> bool:
    """Whether the file lies in Keras' cache.

    Raises:
        ResnetError: it does, but differs from the published file.
    """
    if not file.path.is_file():
        return False
    if digest(file.path, "md5") != file.md5:
        raise ResnetError(
            f"{file.path} is damaged: its MD5 is not the published {file.md5}",
            f"delete it to have it downloaded again, or replace it by {file.url}",
        )
    return True


def obtain(file: PublishedFile, network: str, progress: Progress) -> Path:
    """The path of a weights file in Keras' cache, downloaded if necessary. Without a network this fails after 3 seconds.

    Raises:
        ResnetError: it cannot be downloaded; the message names the missing file, the hint says how to copy it into the cache.
        Interrupted: a signal requested a stop during the download.
    """
    if is_cached(file):
        return file.path
    host = urlsplit(file.url).hostname
    reason = _download(file, progress) if answers(file.url) else f"{host} cannot be reached"
    if reason:
        raise ResnetError(
            f"the ImageNet weights of {network} are missing: {file.name} is not in {file.path.parent}, and {reason}",
            f"download {file.url} on a machine with a network and copy it to {file.path}",
        )
    return file.path


def _download(file: PublishedFile, progress: Progress) -> str:
    """Download a file through Keras, first next to the cache so that it gets no partial file; return why it failed, or ""."""
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        holder = tempfile.TemporaryDirectory(prefix=".download-", dir=file.path.parent, ignore_cleanup_errors=True)
    except OSError as error:
        return f"that folder cannot be written: {error.strerror}"
    progress.line(f"downloading {file.url}")
    with holder as folder:
        failure = _fetch(file, Path(folder), progress)
        if not failure:
            (Path(folder) / file.name).replace(file.path)
    return failure


def _fetch(file: PublishedFile, folder: Path, progress: Progress) -> str:
    import keras

    def download() -> None:
        # Keras' progress bar goes to stdout, which is for results; the setting is local to this thread.
        keras.config.disable_interactive_logging()
        keras.utils.get_file(file.name, file.url, cache_subdir=str(folder), file_hash=file.md5)

    return watch(download, lambda: sum(part.stat().st_size for part in folder.iterdir()), progress)


PREFERRED = "resnet50"
BUNDLED = "resnet18-slim"
BUNDLED_FILE = Path(__file__).parent / "bundled" / "model.weights.h5"
SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class WeightsSource:
    """Where weights come from.

    Attributes:
        kind: imagenet = published by keras.applications; timm, torchvision = published on the hub; bundled = part of this
            package; file = of the user or of a run; none.
        path: the weights file; None for none.
        sha256: SHA-256 of that file, hexadecimal; "" for none.
        fallback: why the bundled backbone is used instead of ImageNet weights; "" if it is not.
        classes: classes of the linear head in the file; empty if there is no such head, or its classes are unknown. See
            `classes_of`.
        name: name of published weights.
        revision: commit of the hub's repository that the file belongs to, hexadecimal.
        head: number of classes of the head in a .safetensors file.
    """

    kind: Literal["imagenet", "timm", "torchvision", "bundled", "none", "file"]
    path: Path | None
    sha256: str
    fallback: str = ""
    classes: tuple[str, ...] = ()
    name: str = ""
    revision: str = ""
    head: int = 0


@dataclass(frozen=True)
class ImagenetClassifier:
    """A published network with its 1000 classes; both files are in Keras' cache and have been checked."""

    network: Network
    weights: Path
    class_index: Path


def choose_backbone(
    arch: str, weights: str, progress: Progress, shortcut: Shortcut | None = None
) -> tuple[Network, WeightsSource]:
    """Decide on a network and its weights.

    Args:
        arch: a network's name, or "auto".
        weights: auto, imagenet, bundled, none, the name of published weights, or the path of a run folder, of a weights file
            of ours, of a .safetensors file of timm, or of a legacy .h5 file of keras.applications.
        progress: where to report downloads, and the notice when `auto` falls back.
        shortcut: replaces the network's usual shortcut option; published weights then no longer fit.

    Raises:
        ResnetError: the two contradict each other, or weights chosen by name are not available.
    """
    wanted = weights.strip().lower()
    if wanted == "auto" and arch == "auto":
        return _best_at_hand(progress, shortcut)
    if is_published(wanted) or wanted.endswith(SAFETENSORS):
        return _from_published(arch, weights, shortcut, progress)
    if wanted not in ("auto", "imagenet", "bundled", "none"):
        return _from_path(arch, weights, shortcut)
    usual = PREFERRED if wanted == "imagenet" else BUNDLED
    network = find_network(usual if arch == "auto" else arch, shortcut)
    if wanted == "none":
        return network, WeightsSource("none", None, "")
    _require_pretrained(network, wanted)
    if network.pretrained == "hub":
        return _from_published(arch, f"torchvision:{network.name.removesuffix('v1.5')}", shortcut, progress)
    return network, _bundled() if network.pretrained == "bundled" else _imagenet(network, progress)


def require_size(network: Network, source: WeightsSource, size: int) -> None:
    """Refuse an input size other than that of the mean image stored with the weights.

    Raises:
        ResnetError: the two differ.
    """
    if source.path is not None and network.preprocessing == "pixel-mean" and size != network.image_size:
        side = network.image_size
        raise ResnetError(
            f"the weights {source.path} subtract a mean image of {side} pixels, not {size}", f"use --image-size {side}"
        )


def cached_imagenet_classifier() -> ImagenetClassifier | None:
    """The first network of the catalogue with ImageNet weights, head and class names in Keras' cache.

    Raises:
        ResnetError: one of these files is damaged.
    """
    index = class_index_file()
    for network in CATALOGUE.values():
        if network.pretrained == "imagenet" and index.path.is_file():
            file = weights_file(network.name, top=True)
            if is_cached(file) and is_cached(index):
                return ImagenetClassifier(network, file.path, index.path)
    return None


def classes_of(source: WeightsSource) -> tuple[str, ...]:
    """The classes of the linear head in a weights file; empty if there is no such head or its classes are unknown."""
    return bundled_run().classes if source.kind == "bundled" else source.classes


def bundled_run() -> Run:
    """The bundled network as a run: its weights, its 1000 classes and its input.

    Raises:
        ResnetError: the installation is incomplete.
    """
    _bundled()
    return load_run(BUNDLED_FILE.parent)


def wordnet_numbers() -> list[str]:
    """WordNet's numbers of ImageNet's 1000 classes ("n01440764"), in the order of `bundled_run().classes`."""
    return (BUNDLED_FILE.parent / "wordnet.txt").read_text("utf-8").split()


def _best_at_hand(progress: Progress, shortcut: Shortcut | None) -> tuple[Network, WeightsSource]:
    network = find_network(PREFERRED, shortcut)
    _require_pretrained(network, "auto")
    try:
        return network, _imagenet(network, progress)
    except Interrupted:
        raise
    except ResnetError as error:
        bundled = _bundled(fallback=error.message)
        progress.notice(
            f"The bundled backbone {BUNDLED} is used instead of {PREFERRED}. It is smaller, so expect a lower accuracy.\n"
            f"Why: {error.message}.\nTo use {PREFERRED}, connect to the network and repeat the command, or {error.hint}.\n"
            "To choose the bundled backbone without this notice: --weights bundled."
        )
        progress.warnings.append(f"the bundled backbone is used instead of {PREFERRED} with ImageNet weights")  # see the notice
        return find_network(BUNDLED), bundled


def _require_pretrained(network: Network, wanted: str) -> None:
    of_imagenet = ("imagenet", "hub") if wanted == "imagenet" else (wanted,)
    if network.pretrained in of_imagenet or (wanted == "auto" and network.pretrained):
        return
    kinds = {"imagenet": "ImageNet weights", "bundled": "bundled weights", "auto": "pretrained weights"}
    usual = find_network(network.name)
    option = f" with shortcut {network.shortcut}" if network.shortcut != usual.shortcut else ""
    having = [
        name for name, other in CATALOGUE.items() if other.pretrained in of_imagenet or (wanted == "auto" and other.pretrained)
    ]
    raise ResnetError(
        f"there are no {kinds[wanted]} for {network.name}{option}",
        f"--weights none starts from random weights; networks with {kinds[wanted]}: {', '.join(having)}",
    )


def _imagenet(network: Network, progress: Progress) -> WeightsSource:
    path = obtain(weights_file(network.name), network.name, progress)
    return WeightsSource("imagenet", path, digest(path))


def _bundled(fallback: str = "") -> WeightsSource:
    if not BUNDLED_FILE.is_file():
        raise ResnetError(
            f"the installation is incomplete: the bundled weights {BUNDLED_FILE} are missing",
            "install the package again: pip install --force-reinstall resnet-cli",
        )
    return WeightsSource("bundled", BUNDLED_FILE, digest(BUNDLED_FILE), fallback)


def _from_path(arch: str, weights: str, shortcut: Shortcut | None) -> tuple[Network, WeightsSource]:
    path = at_home(weights)
    if path.name == "model.weights.h5" and (path.parent / "run.json").exists():
        path = path.parent
    if path.is_dir():
        return _from_run(path, arch, shortcut)
    if not path.is_file():
        raise ResnetError(
            f"--weights {weights}: there is no such file or run folder",
            "give auto, imagenet, bundled, none, a name as timm:resnet50.a1_in1k, a run folder or a weights file",
        )
    with path.open("rb") as file:
        refuse_pickle(path, file.read(9))
    name = network_of_file(path.name) if arch == "auto" else arch
    if not name:
        raise ResnetError(f"the weights file {path} does not say which network it is for", "name the network with --arch")
    return find_network(name, shortcut), _file(path)


def published_file(words: str, progress: Progress) -> tuple[Network, WeightsSource]:
    """Published weights, or a .safetensors file, with the network that they belong to.

    Args:
        words: such as timm:resnet50.a1_in1k, or the path of a file.
        progress: where to report the download, and what is assumed about a file without a config.json.

    Raises:
        ResnetError: there are no such weights, they cannot be had, or belong to another kind of network.
    """
    if is_published(words):
        checkpoint = find_checkpoint(words)
        fetched = fetch_from_hub(checkpoint.on_hub, progress)
        found = describe(fetched.weights, fetched.config, bundled_run().classes)
        kind: Literal["timm", "torchvision"] = "timm" if checkpoint.name.startswith("timm:") else "torchvision"
        source = WeightsSource(kind, fetched.weights, fetched.sha256, name=checkpoint.name, revision=fetched.revision)
    else:
        path = at_home(words)
        if not path.is_file():
            raise ResnetError(f"{words}: there is no such file", "name a .safetensors file, or timm:resnet50.a1_in1k")
        found = describe(path, path.parent / CONFIG, bundled_run().classes)
        source = _file(path)
    assert source.path is not None
    require_fitting(source.path, found.network, found.head)
    if found.assumed:
        progress.notice(found.assumed)
    return found.network, replace(source, classes=found.classes, head=found.head)


def _from_published(arch: str, words: str, shortcut: Shortcut | None, progress: Progress) -> tuple[Network, WeightsSource]:
    network, source = published_file(words, progress)
    asked = network.name if arch == "auto" else find_network(arch).name
    if asked != network.name:
        keras = f"; {asked} is Keras' network, with the stride in the 1x1 convolution" if f"{asked}v1.5" == network.name else ""
        raise ResnetError(f"{words} holds {network.name}, not {asked}", f"add --arch {network.name}{keras}")
    if shortcut is not None and shortcut != network.shortcut:
        raise ResnetError(f"{words} has shortcut {network.shortcut}, not {shortcut}", "leave --shortcut out")
    return network, source


def _from_run(folder: Path, arch: str, shortcut: Shortcut | None) -> tuple[Network, WeightsSource]:
    run = load_run(folder)
    spec = spec_from_record(run.record)
    network = spec.network
    if network.preprocessing == "pixel-mean":  # the mean image has one size
        network = replace(network, image_size=spec.image_size or network.image_size)
    network = _with_geometry(network, run)
    asked = network.name if arch == "auto" else find_network(arch).name
    if asked != network.name:
        raise ResnetError(
            f"the run {folder} holds {network.name}, not {asked}", f"add --arch {network.name}, or name another run"
        )
    if shortcut is not None and shortcut != network.shortcut:
        raise ResnetError(f"the run {folder} has shortcut {network.shortcut}, not {shortcut}", "leave --shortcut out")
    return network, replace(_file(run.weights), classes=() if spec.hidden else run.classes)


def _with_geometry(network: Network, run: Run) -> Network:
    """The network with the crop of a run that began with published weights."""
    words = run.record.get("input", {})
    if words.get("steps", "one") == "one":
        return network
    crops = ((int(run.record["image_size"]), float(words["fraction"])),)
    return replace(network, interpolation=words["interpolation"], steps="two", crops=crops, image_size=crops[0][0])


def _file(path: Path) -> WeightsSource:
    try:
        return WeightsSource("file", path, digest(path))
    except OSError as error:
        raise ResnetError(f"the weights {path} cannot be read: {error.strerror}") from error
