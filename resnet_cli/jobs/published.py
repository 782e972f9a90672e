"""Published weights as a classifier of their own classes: a run folder in the user's cache, for predict, evaluate and export.

In: a name such as timm:resnet50.a1_in1k, or a .safetensors file. Out: a `Run` with the weights, the classes, and the input of
the published accuracy. The folder is written once, and again if it is damaged; only that imports TensorFlow.
"""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnet_cli.downloads import CONFIG
from resnet_cli.errors import ResnetError
from resnet_cli.files import unfinished
from resnet_cli.jobs.environment import cache_folder, tensorflow_import
from resnet_cli.networks.catalogue import ClassifierSpec, Network
from resnet_cli.networks.pretrained import SAFETENSORS, WeightsSource, bundled_run, published_file, wordnet_numbers
from resnet_cli.networks.published import is_published
from resnet_cli.progress import Progress
from resnet_cli.runs.folder import FORMAT, Run, finish_run, load_run, versions, write_splits

_FOLDER = "published"


def names_published(folder: Path) -> bool:
    """Whether `--run` names published weights or a .safetensors file instead of a run folder."""
    return is_published(str(folder)) or (folder.suffix.lower() == SAFETENSORS and not folder.is_dir())


def published_run(folder: Path, progress: Progress) -> Run:
    """The classifier of published weights, as a run.

    Args:
        folder: their name, or the path of a .safetensors file.
        progress: where to report the download and the conversion.

    Raises:
        ResnetError: see `pretrained.published_file`; or the weights have no head, or nobody says what their classes are.
    """
    words = str(folder)
    network, source = published_file(words, progress)
    name = source.name or words
    if not source.head:
        raise ResnetError(f"{name} has no head: it can be fine-tuned, but not predict", "resnet finetune --weights ...")
    if not source.classes:
        raise ResnetError(
            f"nobody says what the {source.head} classes of {name} are", f'add "label_names" to {_config_of(source)}'
        )
    size = network.crops[-1][0]
    spec = ClassifierSpec(network, source.head, size)
    record = _record(name, spec, network, source, size)
    key = hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]
    label = re.sub(r"[^\w.-]+", "-", name if source.name else Path(words).stem)
    place = cache_folder() / _FOLDER / f"{label}-{key}"
    if not _is_whole(place, record):
        progress.line(f"preparing {name} once, for {size} pixels")
        _write(place, spec, source, record)
    return load_run(place)


def _config_of(source: WeightsSource) -> Path:
    assert source.path is not None
    return source.path.with_name(CONFIG)


def _record(name: str, spec: ClassifierSpec, network: Network, source: WeightsSource, size: int) -> dict[str, Any]:
    geometry = network.geometry(size)
    how = {"fraction": geometry.fraction, "interpolation": geometry.interpolation, "steps": geometry.steps}
    weights = {"source": source.kind, "path": "", "sha256": source.sha256, "fallback": ""}
    return {
        "format": FORMAT,
        "published": name,
        "command": "",
        "classes": list(source.classes),
        **spec.to_record(),
        "input": {"resize": geometry.resize, **how},
        "weights": {**weights, "name": source.name, "revision": source.revision},
        "data": {"name": "published weights"},
        "config": {},
        # ImageNet's folders are named by these numbers.
        **({"wordnet": wordnet_numbers()} if source.classes == bundled_run().classes else {}),
    }


def _write(place: Path, spec: ClassifierSpec, source: WeightsSource, record: dict[str, Any]) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(place) as new:
            new.mkdir()
            with tensorflow_import():
                from resnet_cli.engines.frozen import write_classifier
                from resnet_cli.networks.classifier import build_logits, load_backbone
            model = build_logits(replace(spec, dropout=0.0), fused=False)
            load_backbone(model, spec.network, source, with_head=True)
            write_classifier(new, model, spec)
            write_splits(new, ())
            sizes = {path.name: path.stat().st_size for path in sorted(new.iterdir())}
            finish_run(new, {**record, "versions": versions(), "files": sizes})
            if not _is_whole(place, record):  # another process may have written the same meanwhile
                _remove(place)
                new.replace(place)
    except OSError as error:
        hint = f"delete {place}, or set XDG_CACHE_HOME" if place.exists() else "set XDG_CACHE_HOME"
        raise ResnetError(f"cannot write to {place}: {error.strerror or error}", hint) from error


def _is_whole(place: Path, record: dict[str, Any]) -> bool:
    """Whether the folder has the record and all files with their sizes, as they were written."""
    try:
        held = load_run(place).record
        wanted = json.loads(json.dumps(record))
        return all(held.get(name) == value for name, value in wanted.items()) and all(
            (place / name).stat().st_size == size for name, size in held["files"].items()
        )
    except (ResnetError, OSError, KeyError, AttributeError, RecursionError):
        return False


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
