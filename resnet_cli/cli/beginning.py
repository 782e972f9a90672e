"""How a run begins: in a folder made only when all that can be wrong before training is known, or in an interrupted one.

In: names and options. Out: a folder, with the configuration beside its checkpoints (light).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_cli.errors import ResnetError
from resnet_cli.runs import choose_run_folder, make_run_folder, unfinished_run, write_text

_CONFIG = Path("checkpoint", "config.json")
_UNNAMED = {"weights": "weights", "data": "pictures"}  # kept as fingerprints, which say nothing to a reader


@dataclass(frozen=True)
class Place:
    """Where a run goes: a folder, and how it was chosen.

    Attributes:
        folder: the run's.
        name: where nobody named a folder, what it was named after.
        force: an older run there is replaced.
    """

    folder: Path
    name: str = ""
    force: bool = False


def place_of_run(name: str, output: Path | None, force: bool, resume: bool) -> Place:
    """The folder of a run that is about to begin, or to go on; nothing is written yet.

    Raises:
        ResnetError: it is taken, cannot be written, or there is nothing to resume.
    """
    if resume:
        return Place(unfinished_run(name, output))
    return Place(choose_run_folder(name, output, force), "" if output else name, force)


def begin_run(place: Place, config: dict[str, Any]) -> Path:
    """Make the folder of a new run and keep its configuration there; where another run took it meanwhile, the next free one.

    Raises:
        ResnetError: it cannot be written, or was taken and has been named by the user.
    """
    folder = make_run_folder(place.folder, place.name, place.force)
    path = folder / _CONFIG
    path.parent.mkdir()
    write_text(path, json.dumps(config))
    return folder


def begun_with(folder: Path) -> dict[str, Any]:
    """The configuration that an unfinished run began with.

    Raises:
        ResnetError: it cannot be read.
    """
    path = folder / _CONFIG
    try:
        before: dict[str, Any] = json.loads(path.read_text())
        return before
    except (OSError, ValueError) as error:
        raise ResnetError(f"{path} cannot be read, so the run cannot be resumed", "begin a new run") from error


def require_same(folder: Path, config: dict[str, Any]) -> None:
    """Refuse to go on with other options or pictures than the run began with.

    Raises:
        ResnetError: which of them differs.
    """
    before = begun_with(folder)
    plain = json.loads(json.dumps(config))
    other = sorted(key for key in plain if before.get(key) != plain[key])
    if not other:
        return
    key = other[0]
    if key in _UNNAMED:
        raise ResnetError(f"the run {folder} began with other {_UNNAMED[key]}", "resume with those, or begin a new run")
    raise ResnetError(
        f"the run {folder} began with --{key.replace('_', '-')} {before.get(key)}, not {plain[key]}",
        "resume with the options it began with",
    )
