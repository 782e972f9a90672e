"""How a run begins: in a folder made only when all that can be wrong before training is known, or in an interrupted one.

In: names and options. Out: a folder, with the configuration beside its checkpoints, locked by one process at a time (light).
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_cli.errors import ResnetError
from resnet_cli.files import at_home, write_text
from resnet_cli.networks.catalogue import Shortcut
from resnet_cli.progress import Progress
from resnet_cli.runs.folder import RUNS, is_run_like, read_history, unfinished_runs
from resnet_cli.training.config import FinetuneConfig, TrainConfig

if TYPE_CHECKING:
    from resnet_cli.data.decode import Resize


@dataclass(frozen=True)
class TrainRequest:
    """What the command line asks for beside the recipe; `limit` in seconds."""

    dataset: Path
    arch: str
    shortcut: Shortcut | None
    image_size: int | None
    weights: str
    teacher: Path | None
    recipe: str
    limit: float | None
    lr_find: str | None
    output: Path | None
    force: bool
    resume: bool
    strict: bool
    tensorboard: bool
    command: str


@dataclass(frozen=True)
class FinetuneRequest:
    """What the command line asks for beside how to train."""

    dataset: Path
    arch: str
    weights: str
    image_size: str
    resize: "Resize"
    output: Path | None
    force: bool
    resume: bool
    strict: bool
    lr_find: str | None
    tensorboard: bool
    command: str


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LOCK = Path("checkpoint", "lock")
_HELD: list[int] = []  # open files, each the lock of a run


def hold(folder: Path) -> bool:
    """Keep other processes from an unfinished run until this one ends, or lets go; False where another one is at it."""
    if fcntl is None:  # Windows
        return True
    try:
        _HELD.append(os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT))
        fcntl.lockf(_HELD[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no unfinished run, a file system without locks, or one that cannot be written, which will be told
        return True
    return True


def let_go() -> None:
    """Let other processes at the runs that this one held: a command ends instead, a call of the Python API does not."""
    while _HELD:
        os.close(_HELD.pop())


def is_held(folder: Path) -> bool:
    """Whether another process is at an unfinished run, which this one does not hold."""
    try:
        with (folder / _LOCK).open("r+") as lock:
            if fcntl is not None:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def hold_first(folders: Sequence[Path]) -> Path:
    """Hold the first of some runs, one at least, that no other process is at.

    Raises:
        ResnetError: there are others at all of them; the first is named.
    """
    for folder in folders:
        if hold(folder):
            return folder
    raise ResnetError(f"the run {folders[0]} is still going on in another process", "wait for it, or stop it")


_CONFIG, _COMMAND = Path("checkpoint", "config.json"), "command"
PRECISION = "precision"
# Kept as fingerprints, which say nothing to a reader.
_UNNAMED = {"weights": "weights", "data": "images", "teacher": "teachers"}


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


def place_of_run(
    name: str, output: Path | None, force: bool, resume: Mapping[str, Any] | None = None, begins_with: Sequence[str] = ()
) -> Place:
    """The folder of a run that is about to begin, or to go on; nothing is written yet.

    Args:
        name: what it is called where nobody named a folder.
        output: the folder that was named.
        force: an older run there is replaced.
        resume: options; of interrupted runs the one goes on that began with most of them, of several the newest that no other
            process is at.
        begins_with: the weights and the teacher that the run needs, as they were typed.

    Raises:
        ResnetError: it is taken, cannot be written, holds what the run begins with, or there is nothing to resume.
    """
    if resume is not None:
        return Place(_begun_likewise(unfinished_runs(name, output), resume))
    needed = [at_home(word) for word in begins_with if word and os.path.lexists(at_home(word))]  # and not "none"
    if output and force and any(path.resolve().is_relative_to(output.resolve()) for path in needed):
        raise ResnetError(f"--force would replace {output}, which the new run begins with", "choose another --output")
    return Place(choose_run_folder(name, output, force), "" if output else name, force)


def tell_interrupted(place: Place, progress: Progress) -> None:
    """Say where a run of the same name stopped half-way that nobody goes on with: it need not begin anew."""
    with suppress(ResnetError):  # there is none
        stopped = [folder for folder in unfinished_runs(place.name) if not is_held(folder)] if place.name else []
        if stopped:
            progress.notice(f"{stopped[0]} was interrupted, and this is a new run: --resume would go on with that one")


def _begun_likewise(folders: Sequence[Path], options: Mapping[str, Any]) -> Path:
    """The first of some unfinished runs that began with most of the options and is free; it is held from here on."""
    agreeing = {folder: _agreement(folder, options) for folder in folders}
    most = max(agreeing.values())
    return hold_first([folder for folder, count in agreeing.items() if count == most])


def _agreement(folder: Path, options: Mapping[str, Any]) -> int:
    """How many of some options an unfinished run began with."""
    try:
        before = begun_with(folder)
    except ResnetError:
        return 0
    return sum(before.get(name) == value for name, value in json.loads(json.dumps(options)).items())


def begin_run(place: Place, config: dict[str, Any], command: str) -> Path:
    """Make the folder of a new run and keep its configuration there; where another run took it meanwhile, the next free one.

    Raises:
        ResnetError: it cannot be written, or was taken and has been named by the user.
    """
    folder = make_run_folder(place)
    path = folder / _CONFIG
    path.parent.mkdir()
    hold(folder)
    write_text(path, json.dumps({**config, _COMMAND: command}))
    return folder


def choose_run_folder(name: str, output: Path | None = None, force: bool = False) -> Path:
    """Decide where a new run goes: `output` itself, or the first free runs/<name>[-N]. Nothing is written yet.

    Raises:
        ResnetError: the folder exists and holds something (without `force`), or cannot be written.
    """
    folder = output or _first_free(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not force:
            if (folder / _CONFIG).exists() and not (folder / "run.json").exists():
                raise ResnetError(
                    f"{folder} holds an interrupted run", "add --resume to go on with it, or --force to replace it"
                )
            raise ResnetError(f"{folder} exists already", "choose another --output, or add --force to replace it")
        if not is_run_like(folder):
            raise ResnetError(f"{folder} is not a run folder, so --force does not replace it", "choose another --output")
        hold_first([folder])
    require_writable(folder)
    return folder


def require_writable(folder: Path) -> None:
    """Refuse a folder that can neither be written nor made; nothing is written yet.

    Raises:
        ResnetError: a file is in the way, or what is there may not be written.
    """
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not above.exists():
        raise ResnetError(f"cannot write to {folder}: {above} is a link to what is not there", "mend it, or remove it")
    if not above.is_dir():
        raise ResnetError(f"cannot write to {folder}: {above} is a file", "choose another --output")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ResnetError(f"cannot write to {folder}: {above} is read-only", "choose another --output")


def make_run_folder(place: Place) -> Path:
    """Make the folder of a place, which may have been chosen a while ago; see `begin_run`."""
    folder = place.folder
    try:
        if place.force and folder.exists():
            hold_first([folder])
            _empty(folder)  # and not removed: it may be a link, or where somebody stands
        while not _made(folder, take_empty=not place.name):
            if not place.name:
                raise ResnetError(f"another run has begun in {folder} meanwhile", "choose another --output")
            folder = _first_free(place.name)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ResnetError(f"cannot write to {folder}: {error.strerror or error}", "choose another --output") from error
    return folder


def begun_with(folder: Path) -> dict[str, Any]:
    """The configuration that an unfinished run began with; keys that did not exist then have their defaults.

    Raises:
        ResnetError: it cannot be read.
    """
    path = folder / _CONFIG
    try:
        before: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ResnetError(f"{path} cannot be read, so the run cannot be resumed", "begin a new run") from error
    for key, config in (("unfreeze", FinetuneConfig()), ("schedule", TrainConfig())):
        if key in before:
            return {**asdict(config), **before}
    return before


def remember(folder: Path, name: str, value: Any) -> None:
    """Keep a fact beside the configuration that an unfinished run began with, for when it goes on."""
    write_text(folder / _CONFIG, json.dumps({**begun_with(folder), name: value}))


def begun_by(folder: Path) -> tuple[str, float]:
    """The command that began a run, and the seconds that earlier processes trained it.

    Raises:
        ResnetError: it cannot be read.
    """
    return begun_with(folder).get(_COMMAND, ""), sum(each.seconds for each in read_history(folder / "metrics.jsonl"))


def require_same(folder: Path, config: dict[str, Any]) -> None:
    """Refuse to go on with other options or images than the run began with.

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
        f"the run {folder} began with {key} {before.get(key)}, not {plain[key]}",
        "resume with the options and keys it began with",
    )


def tell_other_precision(folder: Path, precision: str, progress: Progress) -> None:
    """Say where a run goes on in another precision than it began in, as on another machine."""
    before = begun_with(folder).get(PRECISION, precision)
    if before != precision:
        progress.notice(f"the run began in {before} and goes on in {precision}: it will end a little otherwise")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _made(folder: Path, take_empty: bool) -> bool:
    """Make a folder, or take one that is there and empty; False where it is another's."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return take_empty and folder.is_dir() and not any(folder.iterdir())
    return True


def _first_free(name: str) -> Path:
    folder, number = RUNS / name, 1
    while os.path.lexists(folder):
        number += 1
        folder = RUNS / f"{name}-{number}"
    return folder
