"""The start of a run: in a new folder, created after everything has been checked, or in that of an interrupted run.

In: names and options. Out: a folder with configuration and checkpoints, locked by one process at a time (light).
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from resnet_cli.data import Resize
from resnet_cli.errors import ResnetError
from resnet_cli.files import at_home, write_text
from resnet_cli.networks.catalogue import Shortcut
from resnet_cli.progress import Progress
from resnet_cli.reports import Page
from resnet_cli.runs.folder import RUNS, is_run_like, read_history, unfinished_runs
from resnet_cli.training.config import FinetuneConfig, TrainConfig


@dataclass(frozen=True)
class TrainRequest:
    """The arguments of `train` without the recipe; `limit` in seconds."""

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
    labels: Path | None = None
    fraction: float | None = None
    per_class: int | None = None
    page: Page = field(default_factory=Page)


@dataclass(frozen=True)
class FinetuneRequest:
    """The arguments of `finetune` without the recipe; `tune` in seconds, `fixed` the keys that it does not search."""

    dataset: Path
    arch: str
    weights: str
    image_size: str
    resize: Resize
    output: Path | None
    force: bool
    resume: bool
    strict: bool
    lr_find: str | None
    tensorboard: bool
    command: str
    labels: Path | None = None
    fraction: float | None = None
    per_class: int | None = None
    page: Page = field(default_factory=Page)
    folds: int | None = None
    tune: float | None = None
    fixed: frozenset[str] = frozenset()


def require_folds_to_fit(folds: int | None, lr_find: str | None, time_limit: float) -> None:
    """Refuse a cross-validation where nothing is trained, or beside a time limit, whose plan does not include it.

    Raises:
        ResnetError: there are both.
    """
    if folds and lr_find == "plot":
        raise ResnetError("--lr-find plot trains nothing, so there is nothing to cross-validate", "leave --folds out")
    if folds and time_limit:
        raise ResnetError("--time-limit does not plan the heads of --folds", "leave one of them out")


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LOCK = Path("checkpoint", "lock")
_HELD: list[int] = []  # descriptors of open lock files, one per run


def hold(folder: Path) -> bool:
    """Lock an unfinished run until this process ends or calls `let_go`; False if another process has locked it."""
    if fcntl is None:  # Windows
        return True
    try:
        _HELD.append(os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT))
        fcntl.lockf(_HELD[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no unfinished run, a file system without locks, or a read-only one, which is reported later
        return True
    return True


def let_go() -> None:
    """Release all locks of this process: for calls of the Python API, as a command just exits."""
    while _HELD:
        os.close(_HELD.pop())


def is_held(folder: Path) -> bool:
    """Whether another process has locked an unfinished run that this process has not locked."""
    try:
        with (folder / _LOCK).open("r+") as lock:
            if fcntl is not None:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the file is closed
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def hold_first(folders: Sequence[Path]) -> Path:
    """Lock the first of one or more runs that no other process has locked.

    Raises:
        ResnetError: all are locked by other processes; the message names the first.
    """
    for folder in folders:
        if hold(folder):
            return folder
    raise ResnetError(f"the run {folders[0]} is locked by another process", "wait for it, or stop it")


_CONFIG, _COMMAND = Path("checkpoint", "config.json"), "command"
PRECISION = "precision"
GIVEN = "tune_given"  # settings that the user gave, so that --tune does not search them; missing in runs of older versions
LAUNCH = "RESNET_LAUNCH"  # set by a command that starts processes and starts them again: a word of its own
_LAUNCHED = "launch"
# Settings recorded as hashes, and their names in messages.
_UNNAMED = {"weights": "weights", "data": "images", "teacher": "teachers"}
_SAME = "resume with the options and keys it began with"


@dataclass(frozen=True)
class Place:
    """The folder of a run, and how it was chosen.

    Attributes:
        folder: the run folder.
        name: its base name, if the user did not name the folder.
        force: replace an existing run.
    """

    folder: Path
    name: str = ""
    force: bool = False


def place_of_run(
    name: str, output: Path | None, force: bool, resume: Mapping[str, Any] | None = None, begins_with: Sequence[str] = ()
) -> Place:
    """The folder of a run that is about to be started or resumed; nothing is written yet.

    Args:
        name: its base name, if the user did not name a folder.
        output: the folder named by the user.
        force: replace an existing run.
        resume: options of the command. The interrupted run that began with most of them is resumed; of several, the newest one
            that is not locked.
        begins_with: the weights and the teacher that the run needs, as typed.

    Raises:
        ResnetError: it exists, cannot be written, contains the weights or the teacher, or there is no run to resume.
    """
    if resume is not None:
        return Place(_begun_likewise(unfinished_runs(name, output), resume))
    needed = [at_home(word) for word in begins_with if word and os.path.lexists(at_home(word))]  # and not "none"
    if output and force and any(path.resolve().is_relative_to(output.resolve()) for path in needed):
        raise ResnetError(f"--force would replace {output}, which the new run begins with", "choose another --output")
    return Place(choose_run_folder(name, output, force), "" if output else name, force)


def tell_interrupted(place: Place, progress: Progress) -> None:
    """Tell the user about an interrupted run of the same name, which could be resumed instead."""
    with suppress(ResnetError):  # there is none
        stopped = [folder for folder in unfinished_runs(place.name) if not is_held(folder)] if place.name else []
        if stopped:
            progress.notice(f"{stopped[0]} was interrupted, and this is a new run: --resume would continue that one")


def _begun_likewise(folders: Sequence[Path], options: Mapping[str, Any]) -> Path:
    """Lock and return the unfinished run that began with most of the options and is not locked; the first of several."""
    agreeing = {folder: _agreement(folder, options) for folder in folders}
    most = max(agreeing.values())
    return hold_first([folder for folder, count in agreeing.items() if count == most])


def _agreement(folder: Path, options: Mapping[str, Any]) -> int:
    """Number of options that an unfinished run began with."""
    try:
        before = begun_with(folder)
    except ResnetError:
        return 0
    return sum(before.get(name) == value for name, value in json.loads(json.dumps(options)).items())


def begin_run(place: Place, config: dict[str, Any], command: str) -> Path:
    """Create the folder of a new run and write its configuration; if another run has taken the name, use the next free one.

    Raises:
        ResnetError: it cannot be written, or another run has taken a folder named by the user.
    """
    folder = make_run_folder(place)
    path = folder / _CONFIG
    path.parent.mkdir()
    hold(folder)
    write_text(path, json.dumps({**config, _COMMAND: command}))
    remember_launch(folder)
    return folder


def remember_launch(folder: Path) -> None:
    """Note in an unfinished run by which launch it was begun or resumed, if this process was started by one."""
    if launch := os.environ.get(LAUNCH):
        remember(folder, _LAUNCHED, launch)


def is_of_launch(folder: Path, launch: str) -> bool:
    """Whether a folder contains an unfinished run that processes of this launch have begun or resumed."""
    with suppress(ResnetError):  # there is no unfinished run
        return bool(begun_with(folder).get(_LAUNCHED) == launch)
    return False


def choose_run_folder(name: str, output: Path | None = None, force: bool = False) -> Path:
    """Choose the folder of a new run: `output`, or the first free runs/<name>[-N]. Nothing is written yet.

    Raises:
        ResnetError: the folder exists and is not empty (without `force`), or cannot be written.
    """
    folder = output or _first_free(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not force:
            if (folder / _CONFIG).exists() and not (folder / "run.json").exists():
                raise ResnetError(
                    f"{folder} contains an interrupted run", "add --resume to continue it, or --force to replace it"
                )
            raise ResnetError(f"{folder} exists already", "choose another --output, or add --force to replace it")
        if not is_run_like(folder):
            raise ResnetError(f"{folder} is not a run folder, so --force does not replace it", "choose another --output")
        hold_first([folder])
    require_writable(folder)
    return folder


def require_writable(folder: Path) -> None:
    """Refuse a folder that can be neither written nor created; nothing is written yet.

    Raises:
        ResnetError: there is a file of that name, or the folder is read-only.
    """
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not above.exists():
        raise ResnetError(f"cannot write to {folder}: {above} is a broken link", "correct or remove it")
    if not above.is_dir():
        raise ResnetError(f"cannot write to {folder}: {above} is a file", "choose another --output")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ResnetError(f"cannot write to {folder}: {above} is read-only", "choose another --output")


def make_run_folder(place: Place) -> Path:
    """Create a run folder that was chosen earlier; see `begin_run`."""
    folder = place.folder
    try:
        if place.force and folder.exists():
            hold_first([folder])
            _empty(folder)  # not removed: it may be a link, or someone's working directory
        while not _made(folder, take_empty=not place.name):
            if not place.name:
                raise ResnetError(f"another run has started in {folder} meanwhile", "choose another --output")
            folder = _first_free(place.name)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ResnetError(f"cannot write to {folder}: {error.strerror or error}", "choose another --output") from error
    return folder


def begun_with(folder: Path) -> dict[str, Any]:
    """The configuration that an unfinished run began with; keys that are new since then have their defaults.

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
    """Add a value to the configuration of an unfinished run, for when it is resumed."""
    write_text(folder / _CONFIG, json.dumps({**begun_with(folder), name: value}))


def begun_by(folder: Path) -> tuple[str, float]:
    """The command that started a run, and the seconds that earlier processes trained it.

    Raises:
        ResnetError: it cannot be read.
    """
    return begun_with(folder).get(_COMMAND, ""), sum(each.seconds for each in read_history(folder / "metrics.jsonl"))


def require_same(folder: Path, config: dict[str, Any]) -> None:
    """Refuse to resume with other options or images than the run began with.

    Raises:
        ResnetError: one of them differs; the message names it.
    """
    before = begun_with(folder)
    plain = json.loads(json.dumps(config))
    given, earlier = set(plain.pop(GIVEN, ())), before.get(GIVEN)
    if earlier is not None and "tune" in plain and plain["tune"] == before.get("tune"):
        for key in sorted(given ^ set(earlier)):
            began, now = ("left to --tune", "given") if key in given else ("given", "left to --tune")
            raise ResnetError(f"the run {folder} began with {key} {began}, not {now}", _SAME)
    other = sorted((key for key in plain if before.get(key) != plain[key]), key=lambda key: (key in _UNNAMED, key))
    if not other:
        return
    key = other[0]
    if key in _UNNAMED:
        raise ResnetError(f"the run {folder} began with other {_UNNAMED[key]}", "resume with those, or begin a new run")
    raise ResnetError(
        f"the run {folder} began with {key} {before.get(key)}, not {plain[key]}",
        _SAME,
    )


def tell_other_precision(folder: Path, precision: str, progress: Progress) -> None:
    """Tell the user if a run is resumed in another precision than it began in, as on another machine."""
    before = begun_with(folder).get(PRECISION, precision)
    if before != precision:
        progress.notice(f"the run began in {before} and continues in {precision}: results will differ slightly")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _made(folder: Path, take_empty: bool) -> bool:
    """Create a folder, or take an existing empty one; False if it exists otherwise."""
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
