"""Downloads: whether a host can be reached, whether data still arrives, and published weights from the Hugging Face hub (light:
huggingface_hub is imported where it is used).

Keras' own downloads wait for the operating system's timeout, which can be minutes; with these checks they fail within seconds.
The hub's files come through its own library and cache: files that are there already are used without any connection.
"""

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.files import digest
from resnet_cli.progress import Progress

_PATIENCE = 3.0  # seconds for name lookup and connection together
_STALLED = 30.0  # seconds without a byte after which a download is aborted


def answers(url: str) -> bool:
    """Whether the host, or the proxy for it, accepts a connection. Runs in a thread, as a name lookup can hang."""
    from urllib.request import getproxies, proxy_bypass  # with http and ssl, which no command needs at its start

    target = urlsplit(url)
    proxy = getproxies().get(target.scheme)
    if proxy and not proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    address = (target.hostname or "", target.port or (443 if target.scheme == "https" else 80))
    answered, done = threading.Event(), threading.Event()

    def connect() -> None:
        try:
            with suppress(OSError), socket.create_connection(address, timeout=_PATIENCE):
                answered.set()
        finally:
            done.set()

    threading.Thread(target=connect, daemon=True).start()
    done.wait(_PATIENCE)
    return answered.is_set()


def watch(download: Callable[[], None], size: Callable[[], int], progress: Progress, total: int | None = None) -> str:
    """Run a download in a thread and show its progress.

    Args:
        download: the download; an exception becomes the returned reason.
        size: returns the bytes downloaded so far.
        progress: where to report; it also tells when a stop was requested.
        total: bytes of the whole, if known: once they have arrived, there is no timeout for further processing.

    Returns:
        Why it failed, as the end of a sentence, or "".

    Raises:
        Interrupted: a signal requested a stop; the thread ends with the program.
    """
    failures: list[str] = []

    def work() -> None:
        try:
            download()
        except Exception as error:  # Keras' get_file raises bare exceptions
            failures.append(f"its download failed: {error}")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    task = progress.start("fetching, MB", total and total // 10**6)
    megabytes, before, grew = 0, 0, time.monotonic()
    try:
        while thread.is_alive():
            thread.join(0.2)
            now = size()
            if now != before or now == total:
                grew = time.monotonic()
            task.advance(now // 10**6 - megabytes)
            before, megabytes = now, now // 10**6
            if time.monotonic() - grew > _STALLED:
                return f"its download received no data for {_STALLED:.0f} seconds"
            if progress.stop_signal():
                raise Interrupted(progress.stop_signal(), "the next run downloads it again")
    finally:
        task.finish()
    return "".join(failures)


CONFIG = "config.json"
WEIGHTS = "model.safetensors"
HUB_INSTALL = "pip install 'resnet-cli[hub]'"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIMEOUT = 10.0  # seconds for the answer to a request for metadata


@dataclass(frozen=True)
class Repository:
    """A repository of weights on the hub.

    Attributes:
        name: what the user calls it, for messages.
        path: owner/name.
        revision: branch or commit.
        others: a hint, for when the hub does not have it.
        is_listed: whether this program knows it.
    """

    name: str
    path: str
    revision: str
    others: str
    is_listed: bool


@dataclass(frozen=True)
class Fetched:
    """The files of published weights.

    Attributes:
        config: path of config.json.
        weights: path of model.safetensors.
        revision: commit of the repository that both belong to, hexadecimal.
        sha256: SHA-256 of the weights, hexadecimal.
    """

    config: Path
    weights: Path
    revision: str
    sha256: str


def fetch_from_hub(repository: Repository, progress: Progress) -> Fetched:
    """The files of published weights: from Hugging Face's cache, or downloaded into it.

    Raises:
        ResnetError: the extra is not installed, there are no such weights, the hub cannot be reached, or a file is damaged.
        Interrupted: a signal requested a stop during the download.
    """
    if find_spec("huggingface_hub") is None:
        raise ResnetError(f"{repository.name} needs the package huggingface_hub", HUB_INSTALL)
    with _quietly():
        found = _cached(repository)
        if found is None:
            _require_hub(repository)
            for file in (CONFIG, WEIGHTS):
                _download_from_hub(repository, file, progress)
            found = _cached(repository)
    if found is None:
        raise ResnetError(f"{repository.name} was downloaded, but is not in the cache {_cache()}", "set HF_HUB_CACHE")
    config, weights = found
    sha256 = digest(weights)
    # The hub announces the SHA-256 of large files, which its cache takes as their names. Only the first link has it: what is
    # shared by several repositories is a link again, to a name of another kind.
    blob = weights.parent / weights.readlink() if weights.is_symlink() else weights
    announced = blob.name
    if _SHA256.fullmatch(announced) and announced != sha256:
        raise ResnetError(
            f"{Path(os.path.normpath(blob))} is damaged: its SHA-256 is not {announced}, which the hub announced",
            "delete it to have it downloaded again",
        )
    return Fetched(config, weights, weights.parent.name, sha256)


def _cached(repository: Repository) -> tuple[Path, Path] | None:
    """Paths of both files of the same commit; None if one is missing."""
    from huggingface_hub import try_to_load_from_cache

    where = {"cache_dir": _cache(), "revision": repository.revision}
    paths = [try_to_load_from_cache(repository.path, file, **where) for file in (CONFIG, WEIGHTS)]
    config, weights = (Path(path) if isinstance(path, str) else None for path in paths)
    return (config, weights) if config and weights else None


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _require_hub(repository: Repository) -> None:
    """Fail within seconds if the hub cannot be reached, or must not be."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        _raise_missing(repository, "HF_HUB_OFFLINE forbids to fetch it")
    if not answers(constants.ENDPOINT):
        _raise_missing(repository, f"{urlsplit(constants.ENDPOINT).hostname} cannot be reached")


def _raise_missing(repository: Repository, reason: str) -> NoReturn:
    if not repository.is_listed:
        # It may be newer than the list, but a misspelt name is more likely.
        what = f"{repository.name} is not in the list of published weights, nor in Hugging Face's cache, and {reason}"
        raise ResnetError(what, repository.others)
    raise ResnetError(
        f"the weights {repository.name} are not in Hugging Face's cache {_cache()}, and {reason}",
        f"with a network: `hf download {repository.path} {CONFIG} {WEIGHTS}`, and copy that cache to this machine; or"
        f" copy both files into a folder and name its {WEIGHTS} instead",
    )


def _download_from_hub(repository: Repository, file: str, progress: Progress) -> None:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    where: dict[str, Any] = {"revision": repository.revision, "endpoint": constants.ENDPOINT}
    url = hf_hub_url(repository.path, file, **where)
    try:
        announced = get_hf_file_metadata(url, timeout=_TIMEOUT, endpoint=constants.ENDPOINT)
    except HfHubHTTPError as error:
        _raise_refused(repository, file, error.response.status_code)
    except Exception as error:  # whatever its HTTP library raises for broken connections
        _raise_missing(repository, f"the hub did not answer: {error}")
    blobs = Path(_cache()) / f"models--{repository.path.replace('/', '--')}" / "blobs"

    def received() -> int:
        return max((part.stat().st_size for part in blobs.glob(f"{announced.etag}*")), default=0)

    def download() -> None:
        hf_hub_download(repository.path, file, cache_dir=_cache(), etag_timeout=_TIMEOUT, **where)

    if file == WEIGHTS:
        size = f", {announced.size / 1e6:.0f} MB" if announced.size else ""
        progress.line(f"downloading {repository.name} from {url}{size}")
    if reason := watch(download, received, progress, announced.size):
        _raise_missing(repository, reason)


def _raise_refused(repository: Repository, file: str, status: int) -> NoReturn:
    # The hub says 401 for a repository that does not exist, as it does for one that is private.
    if status in (401, 403, 404):
        raise ResnetError(
            f"the hub has no {repository.name}: it answers {status} for {file} of {repository.path}",
            repository.others,
        )
    _raise_missing(repository, f"the hub answers {status}")


@contextmanager
def _quietly() -> Iterator[None]:
    """Hugging Face's library without telemetry, without its progress bars, and by plain HTTP, whose progress can be seen."""
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    names = ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_XET")
    before = {name: getattr(constants, name) for name in names}
    bars, level = not are_progress_bars_disabled(), logging.get_verbosity()
    for name in names:
        setattr(constants, name, True)
    disable_progress_bars()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(constants, name, value)
        logging.set_verbosity(level)
        if bars:
            enable_progress_bars()
