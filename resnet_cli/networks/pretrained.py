"""Where a backbone's weights come from: `--arch` and `--weights` to a network and a file (light: the standard library only).

In: two words of the command line. Out: a `Network` and a `WeightsSource`, which `loading.py` puts into a model. What was asked
for by name never falls back; `auto` does, and says so.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from resnet_cli.data.inputs import at_home
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.files import digest
from resnet_cli.networks.catalogue import CATALOGUE, Network, Shortcut, find_network
from resnet_cli.networks.imagenet_files import class_index_file, is_cached, network_of_file, obtain, weights_file
from resnet_cli.networks.spec import spec_from_record
from resnet_cli.progress import Progress
from resnet_cli.runs import Run, load_run

PREFERRED = "resnet50"
BUNDLED = "resnet18-slim"
_BUNDLED_FILE = Path(__file__).parent / "bundled" / "model.weights.h5"


@dataclass(frozen=True)
class WeightsSource:
    """Where weights come from.

    Attributes:
        kind: imagenet = published by keras.applications; bundled = part of this package; file = of the user, or of a run; none.
        path: the weights file; None for none.
        sha256: of that file, hexadecimal; "" for none.
        fallback: why the bundled backbone stands in for ImageNet weights; "" where it does not.
        classes: of the linear head in a run's weights; none where there is no such head. See `classes_of`.
    """

    kind: Literal["imagenet", "bundled", "none", "file"]
    path: Path | None
    sha256: str
    fallback: str = ""
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImagenetClassifier:
    """A published network with its 1000 classes, both files checked and in Keras' cache."""

    network: Network
    weights: Path
    class_index: Path


def choose_backbone(
    arch: str, weights: str, progress: Progress, shortcut: Shortcut | None = None
) -> tuple[Network, WeightsSource]:
    """Decide on a network and its weights.

    Args:
        arch: a network's name, or "auto".
        weights: auto, imagenet, bundled, none, or the path of a run folder, of a weights file of ours, or of a legacy
            .h5 file of keras.applications.
        progress: hears of a download, and gets the notice when `auto` falls back.
        shortcut: replaces the network's usual shortcut option; published weights then no longer fit.

    Raises:
        ResnetError: the two contradict each other, or what was asked for by name cannot be had.
    """
    wanted = weights.strip().lower()
    if wanted == "auto" and arch == "auto":
        return _best_at_hand(progress, shortcut)
    if wanted not in ("auto", "imagenet", "bundled", "none"):
        return _from_path(arch, weights, shortcut)
    usual = PREFERRED if wanted == "imagenet" else BUNDLED
    network = find_network(usual if arch == "auto" else arch, shortcut)
    if wanted == "none":
        return network, WeightsSource("none", None, "")
    _require_pretrained(network, wanted)
    return network, _bundled() if network.pretrained == "bundled" else _imagenet(network, progress)


def require_size(network: Network, source: WeightsSource, size: int) -> None:
    """Refuse another input size than that of the mean picture which weights subtract.

    Raises:
        ResnetError: the two differ.
    """
    if source.path is not None and network.preprocessing == "pixel-mean" and size != network.image_size:
        side = network.image_size
        raise ResnetError(
            f"the weights {source.path} subtract a mean picture of {side} pixels, not {size}", f"use --image-size {side}"
        )


def cached_imagenet_classifier() -> ImagenetClassifier | None:
    """The first network of the catalogue whose whole ImageNet weights lie in Keras' cache with the names of the classes.

    Raises:
        ResnetError: a file of that name is there, but damaged.
    """
    index = class_index_file()
    for network in CATALOGUE.values():
        if network.pretrained == "imagenet" and index.path.is_file():
            file = weights_file(network.name, top=True)
            if is_cached(file) and is_cached(index):
                return ImagenetClassifier(network, file.path, index.path)
    return None


def classes_of(source: WeightsSource) -> tuple[str, ...]:
    """The classes of the linear head that comes with weights; none where there is no such head, or nobody knows them."""
    return bundled_run().classes if source.kind == "bundled" else source.classes


def bundled_run() -> Run:
    """The bundled network as a run: its weights, its 1000 classes and its input.

    Raises:
        ResnetError: the installation is incomplete.
    """
    _bundled()
    return load_run(_BUNDLED_FILE.parent)


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
            f"The bundled backbone {BUNDLED} stands in for {PREFERRED}. It is smaller, so expect a lower accuracy.\n"
            f"Why: {error.message}.\nTo use {PREFERRED}, connect to the network and repeat the command, or {error.hint}.\n"
            "To choose the bundled backbone without this notice: --weights bundled."
        )
        progress.warnings.append(f"the bundled backbone stands in for {PREFERRED} with ImageNet weights")  # the notice said why
        return find_network(BUNDLED), bundled


def _require_pretrained(network: Network, wanted: str) -> None:
    if network.pretrained == wanted or (wanted == "auto" and network.pretrained):
        return
    kinds = {"imagenet": "ImageNet weights", "bundled": "bundled weights", "auto": "pretrained weights"}
    usual = find_network(network.name)
    option = f" with shortcut {network.shortcut}" if network.shortcut != usual.shortcut else ""
    having = [
        name for name, other in CATALOGUE.items() if other.pretrained == wanted or (wanted == "auto" and other.pretrained)
    ]
    raise ResnetError(
        f"there are no {kinds[wanted]} for {network.name}{option}",
        f"--weights none starts from random ones; networks with {kinds[wanted]}: {', '.join(having)}",
    )


def _imagenet(network: Network, progress: Progress) -> WeightsSource:
    path = obtain(weights_file(network.name), network.name, progress)
    return WeightsSource("imagenet", path, digest(path))


def _bundled(fallback: str = "") -> WeightsSource:
    if not _BUNDLED_FILE.is_file():
        raise ResnetError(
            f"the installation is incomplete: the bundled weights {_BUNDLED_FILE} are missing",
            "install the package again: pip install --force-reinstall resnet-cli",
        )
    return WeightsSource("bundled", _BUNDLED_FILE, digest(_BUNDLED_FILE), fallback)


def _from_path(arch: str, weights: str, shortcut: Shortcut | None) -> tuple[Network, WeightsSource]:
    path = at_home(weights)
    if path.name == "model.weights.h5" and (path.parent / "run.json").exists():
        path = path.parent
    if path.is_dir():
        return _from_run(path, arch, shortcut)
    if not path.is_file():
        raise ResnetError(
            f"--weights {weights}: there is no such file or run folder",
            "give auto, imagenet, bundled, none, a run folder or a weights file",
        )
    name = network_of_file(path.name) if arch == "auto" else arch
    if not name:
        raise ResnetError(f"a weights file does not tell its network: {path}", "name the network with --arch")
    return find_network(name, shortcut), _file(path)


def _from_run(folder: Path, arch: str, shortcut: Shortcut | None) -> tuple[Network, WeightsSource]:
    run = load_run(folder)
    spec = spec_from_record(run.record)
    network = spec.network
    if network.preprocessing == "pixel-mean":  # a picture of one size
        network = replace(network, image_size=spec.image_size or network.image_size)
    asked = network.name if arch == "auto" else find_network(arch).name
    if asked != network.name:
        raise ResnetError(
            f"the run {folder} holds {network.name}, not {asked}", f"add --arch {network.name}, or name another run"
        )
    if shortcut is not None and shortcut != network.shortcut:
        raise ResnetError(f"the run {folder} has shortcut {network.shortcut}, not {shortcut}", "leave --shortcut out")
    return network, replace(_file(run.weights), classes=() if spec.hidden else run.classes)


def _file(path: Path) -> WeightsSource:
    try:
        return WeightsSource("file", path, digest(path))
    except OSError as error:
        raise ResnetError(f"the weights {path} cannot be read: {error.strerror}") from error
