"""What every run records beside its results: versions, the data's fingerprint, the configuration (light)."""

import hashlib
import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from resnet_cli import __version__
from resnet_cli.data.scan import Dataset
from resnet_cli.errors import ResnetError
from resnet_cli.runs import write_text


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    names = ("keras", "tensorflow", "numpy", "pillow", "openvino")
    found = {"resnet-cli": __version__, "python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            found[name] = "absent"
    return found


def data_record(dataset: Dataset) -> dict[str, Any]:
    """Where the pictures came from, how many, and a fingerprint of names and sizes."""
    digest = hashlib.sha256()
    for split in sorted(dataset.splits):
        for sample in dataset.splits[split]:
            digest.update(f"{split}/{sample.label}/{sample.path.name}/{sample.path.stat().st_size}\n".encode())
    counts = {split: dataset.counts(split) for split in dataset.splits}
    return {"path": str(dataset.root.resolve()), "name": dataset.name, "fingerprint": digest.hexdigest(), "counts": counts}


def saved_config(folder: Path, config: dict[str, Any], resume: bool) -> None:
    """Keep the configuration beside the checkpoints; on resume, insist that it is the same.

    Raises:
        ResnetError: the run began with other options.
    """
    path = folder / "checkpoint" / "config.json"
    plain = json.loads(json.dumps(config))
    if not resume:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(plain))
        return
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ResnetError(f"{path} cannot be read, so the run cannot be resumed", "begin a new run") from error
    other = sorted(key for key in plain if before.get(key) != plain[key])
    if other:
        key = other[0]
        raise ResnetError(
            f"the run {folder} began with --{key.replace('_', '-')} {before.get(key)}, not {plain[key]}",
            "resume with the options it began with",
        )


def wilson_interval(share: float, count: int) -> list[float]:
    """95 % interval of a measured share (Wilson 1927): [low, high], 0..1."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return [max(0.0, middle - half), min(1.0, middle + half)]
