"""Published weights from the Hugging Face hub, through its own library and cache (light: huggingface_hub is imported where
it is used).

In: a `Checkpoint`. Out: the paths of its config.json and model.safetensors in that cache, the commit that they belong to, and
the hash of the weights. Files that are there already are used without any connection.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from resnet_cli.downloads import answers, watch
from resnet_cli.errors import ResnetError
from resnet_cli.files import digest
from resnet_cli.networks.published import Checkpoint, nearest
from resnet_cli.progress import Progress

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INSTALL = "pip install 'resnet-cli[hub]'"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIMEOUT = 10.0  # seconds for the answer to a request for metadata


@dataclass(frozen=True)
class Fetched:
    """The files of a checkpoint.

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


def fetch(checkpoint: Checkpoint, progress: Progress) -> Fetched:
    """The files of a checkpoint: from Hugging Face's cache, or downloaded into it.

    Raises:
        ResnetError: the extra is not installed, there is no such checkpoint, the hub cannot be reached, or a file is damaged.
        Interrupted: a signal requested a stop during the download.
    """
    if find_spec("huggingface_hub") is None:
        raise ResnetError(f"{checkpoint.name} needs the package huggingface_hub", INSTALL)
    with _quietly():
        found = _cached(checkpoint)
        if found is None:
            _require_hub(checkpoint)
            for file in (CONFIG, WEIGHTS):
                _download(checkpoint, file, progress)
            found = _cached(checkpoint)
    if found is None:
        raise ResnetError(f"{checkpoint.name} was downloaded, but is not in the cache {_cache()}", "set HF_HUB_CACHE")
    config, weights = found
    sha256 = digest(weights)
    # The hub announces the SHA-256 of large files, which its cache takes as their names.
    announced = weights.resolve().name
    if _SHA256.fullmatch(announced) and announced != sha256:
        raise ResnetError(
            f"{weights.resolve()} is damaged: its SHA-256 is not {announced}, which the hub announced",
            "delete it to have it downloaded again",
        )
    return Fetched(config, weights, weights.parent.name, sha256)


def _cached(checkpoint: Checkpoint) -> tuple[Path, Path] | None:
    """Paths of both files of the same commit; None if one is missing."""
    from huggingface_hub import try_to_load_from_cache

    where = {"cache_dir": _cache(), "revision": checkpoint.revision}
    paths = [try_to_load_from_cache(checkpoint.repository, file, **where) for file in (CONFIG, WEIGHTS)]
    config, weights = (Path(path) if isinstance(path, str) else None for path in paths)
    return (config, weights) if config and weights else None


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _require_hub(checkpoint: Checkpoint) -> None:
    """Fail within seconds if the hub cannot be reached, or must not be."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        _raise_missing(checkpoint, "HF_HUB_OFFLINE forbids to fetch it")
    if not answers(constants.ENDPOINT):
        _raise_missing(checkpoint, f"{urlsplit(constants.ENDPOINT).hostname} cannot be reached")


def _raise_missing(checkpoint: Checkpoint, reason: str) -> NoReturn:
    raise ResnetError(
        f"the weights {checkpoint.name} are not in Hugging Face's cache {_cache()}, and {reason}",
        f"with a network: `hf download {checkpoint.repository} {CONFIG} {WEIGHTS}`, and copy that cache to this machine; or"
        f" copy both files into a folder and name its {WEIGHTS} with --weights",
    )


def _download(checkpoint: Checkpoint, file: str, progress: Progress) -> None:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    where: dict[str, Any] = {"revision": checkpoint.revision, "endpoint": constants.ENDPOINT}
    url = hf_hub_url(checkpoint.repository, file, **where)
    try:
        announced = get_hf_file_metadata(url, timeout=_TIMEOUT, endpoint=constants.ENDPOINT)
    except HfHubHTTPError as error:
        _raise_refused(checkpoint, file, error.response.status_code)
    except Exception as error:  # whatever its HTTP library raises for broken connections
        _raise_missing(checkpoint, f"the hub did not answer: {error}")
    blobs = Path(_cache()) / f"models--{checkpoint.repository.replace('/', '--')}" / "blobs"

    def received() -> int:
        return max((part.stat().st_size for part in blobs.glob(f"{announced.etag}*")), default=0)

    def download() -> None:
        hf_hub_download(checkpoint.repository, file, cache_dir=_cache(), etag_timeout=_TIMEOUT, **where)

    if file == WEIGHTS:
        size = f", {announced.size / 1e6:.0f} MB" if announced.size else ""
        progress.line(f"downloading {checkpoint.name} from {url}{size}")
    if reason := watch(download, received, progress, announced.size):
        _raise_missing(checkpoint, reason)


def _raise_refused(checkpoint: Checkpoint, file: str, status: int) -> NoReturn:
    # The hub says 401 for a repository that does not exist, as it does for one that is private.
    if status in (401, 403, 404):
        raise ResnetError(
            f"the hub has no {checkpoint.name}: it answers {status} for {file} of {checkpoint.repository}",
            f"nearest names: {', '.join(nearest(checkpoint.name))}; `resnet models --weights` lists them",
        )
    _raise_missing(checkpoint, f"the hub answers {status}")


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
