"""Where this program keeps what it can make again, and what is laid out there for whoever names it (light).

In: nothing, or what a command was given as its data set. Out: a folder.
"""

import os
from pathlib import Path

from resnet_cli.cli.quiet import tensorflow_import
from resnet_cli.errors import ResnetError
from resnet_cli.progress import Progress


def cache_folder() -> Path:
    """The user's cache folder of this program ($XDG_CACHE_HOME, or ~/.cache)."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnet-cli"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResnetError(f"cannot write to the cache {folder}: {error.strerror}", "set XDG_CACHE_HOME") from error
    return folder


def kept_in_cache(name: str) -> Path | None:
    """Where something is kept for later commands; nowhere on a machine whose cache cannot be written."""
    try:
        return cache_folder() / name
    except ResnetError:
        return None


def dataset_folder(asked: Path, progress: Progress) -> Path:
    """The folder of a data set: as it was given, or in the cache where it is a known name and no folder here.

    What is not in the cache yet is fetched and laid out there; only that opens a connection and imports Keras.

    Raises:
        ResnetError: it cannot be fetched, or there is no room for it.
        Interrupted: a signal asked to stop.
    """
    from resnet_cli.data.named import NAMED, lay_out, load_splits, require_source

    data = NAMED.get(str(asked))
    if data is None or asked.is_dir():
        return asked
    folder = cache_folder() / "datasets" / data.name
    if not folder.is_dir():
        require_source(data)
        with tensorflow_import():
            import keras  # noqa: F401
        lay_out(data, load_splits(data, progress), folder, progress)
    return folder
