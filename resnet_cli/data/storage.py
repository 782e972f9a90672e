"""File systems: local paths, and URLs that pyarrow or fsspec opens, such as s3://, gs:// and hdfs:// (light: pyarrow is
imported when a call needs it).

In: a path, URL or pattern. Out: a `Place`, which is read, written and listed alike everywhere; images are listed one by one and
in a fixed order, so that a list may be longer than memory.
"""

import glob
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from resnet_cli.data.folders import EXTENSIONS, HEIF_ENDINGS, entries, is_folder, is_hidden, is_printable, walk_images
from resnet_cli.errors import ResnetError
from resnet_cli.files import UNFINISHED, at_home, write_bytes

PARQUET = ".parquet"
_WHOLE_WRITES = ("s3", "gcs", "abfs")  # object stores, where a file is there when it is complete
_BUCKETS = ("s3", "gs", "gcs")
_QUERY = re.compile(r"\?(?=[a-z_]+=)")  # options of pyarrow in a URL; in other places, `?` belongs to a pattern
_NOTHING, _FOLDER = 0, 3  # pyarrow.fs.FileType
_SHOWN = 300  # characters of another library's error message


def import_pyarrow(what: str) -> Any:
    """The pyarrow module with its file systems and Parquet.

    Args:
        what: the option that needs it.

    Raises:
        ResnetError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.fs
        import pyarrow.parquet
    except ImportError as error:
        raise ResnetError(f"{what} needs the package pyarrow", "pip install 'resnet-cli[ray]'") from error
    return pyarrow


@dataclass(frozen=True)
class Place:
    """A file or folder.

    Attributes:
        files: the file system, of pyarrow.
        path: its path there.
        prefix: what makes a URL of a path; empty for local paths, and where paths are URLs already.
        of_urls: paths of the file system are URLs, as those of http are.
    """

    files: Any
    path: str
    prefix: str = ""
    of_urls: bool = False

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine, or of storage that is mounted here."""
        return not self.prefix and not self.of_urls

    @property
    def name(self) -> str:
        """Its path or URL."""
        return self.prefix + self.path

    def inside(self, *names: str) -> "Place":
        """A file or folder in this folder."""
        return replace(self, path="/".join((self.path.rstrip("/"), *names)))

    @property
    def parent(self) -> "Place":
        """The folder that it is in."""
        return replace(self, path=self.path.rstrip("/").rpartition("/")[0])


def find_place(word: str) -> Place:
    """The place that a word names: a path, or a URL.

    Raises:
        ResnetError: no library opens such a URL, or the storage does not answer.
    """
    pyarrow = import_pyarrow("--input")
    if "://" not in word:
        return Place(pyarrow.fs.LocalFileSystem(), str(Path(os.path.abspath(at_home(word)))))  # noqa: PTH100 (keeps links)
    scheme, _, rest = word.partition("://")
    with telling(word):
        if scheme in _BUCKETS:
            # As text: a key may contain what a URL may not.
            bare, query = (*_QUERY.split(rest, maxsplit=1), "")[:2]
            bucket = bare.partition("/")[0]
            return Place(pyarrow.fs.FileSystem.from_uri(f"{scheme}://{bucket}?{query}")[0], bare.rstrip("/"), f"{scheme}://")
        # What looks like a pattern, below the host, is not for the libraries, which take `?` for the beginning of a query.
        parts = word.split("/")
        first = next((number for number, part in enumerate(parts) if number > 2 and glob.has_magic(part)), len(parts))
        root = "/".join(parts[:first])
        try:
            files, path = pyarrow.fs.FileSystem.from_uri(root)
        except pyarrow.ArrowInvalid:
            files, path = _by_fsspec(pyarrow, root)
    path = path.rstrip("/")
    if scheme == "file":
        return Place(files, "/".join([path, *parts[first:]]))
    if path.startswith(f"{scheme}://"):
        return Place(files, "/".join([path, *parts[first:]]), of_urls=True)
    bare = root.rstrip("/")
    prefix = bare.removesuffix(path) if bare.endswith(path) else f"{scheme}://"
    return Place(files, "/".join([path, *parts[first:]]).rstrip("/"), prefix)


def _by_fsspec(pyarrow: Any, word: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise ResnetError(f"{word} needs the package fsspec", "pip install 'resnet-cli[ray]'") from error
    try:
        files, path = fsspec.core.url_to_fs(word)
    except ImportError as error:
        raise ResnetError(f"{word} needs a package that is missing: {_reason(error)}", "install it with pip") from error
    except OSError:
        raise
    except Exception as error:  # its file systems raise errors of any type
        raise ResnetError(f"{word}: neither pyarrow nor fsspec opens it: {_reason(error)}") from error
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(files)), path


@contextmanager
def telling(name: str) -> Iterator[None]:
    """Turn an error of a file system into one sentence that names the place."""
    try:
        yield
    except FileNotFoundError as error:
        raise ResnetError(f"there is no {name}") from error
    except OSError as error:
        hint = ""
        if "://" in name:
            hint = (
                "are the credentials set (for s3, AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), and the region?"
            )
        raise ResnetError(f"{name}: {_reason(error)}", hint) from error
    except Exception as error:  # fsspec's file systems raise errors of any type
        if "://" not in name or isinstance(error, ResnetError):
            raise
        raise ResnetError(f"{name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = str(getattr(error, "strerror", None) or error)
    return ((text.strip().splitlines() or [type(error).__name__])[0])[:_SHOWN]


def read_bytes(place: Place) -> bytes:
    """The content of a file.

    Raises:
        ResnetError: it cannot be read.
    """
    with telling(place.name), place.files.open_input_stream(place.path) as file:
        content: bytes = file.read()
        return content


def write_whole(place: Place, content: bytes | memoryview) -> None:
    """Write a file and the folders above it; it is complete or absent, even if the process is killed.

    Raises:
        ResnetError: it cannot be written.
    """
    if place.is_local:
        path = Path(place.path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResnetError(f"cannot write to {path.parent}: {error.strerror}", "choose another --output") from error
        write_bytes(path, content)
        return
    with telling(place.name):
        kind = place.files.type_name
        target = place if kind in _WHOLE_WRITES else place.parent.inside(f"{UNFINISHED}{os.urandom(4).hex()}")
        if kind not in _WHOLE_WRITES:
            place.files.create_dir(place.parent.path, recursive=True)
        with place.files.open_output_stream(target.path) as file:
            file.write(content)
        if target is not place:
            place.files.move(target.path, place.path)


def remove_folder(place: Place) -> None:
    """Delete a folder and its files, if it is there."""
    with telling(place.name):
        if _kind(place) == _FOLDER:
            place.files.delete_dir(place.path)


def exists(place: Place) -> bool:
    """Whether there is such a file or folder.

    Raises:
        ResnetError: the storage does not answer.
    """
    return _kind(place) != _NOTHING


def _kind(place: Place) -> int:
    with telling(place.name):
        return int(place.files.get_file_info(place.path).type)


def is_directory(place: Place) -> bool:
    """Whether it is a folder."""
    return _kind(place) == _FOLDER


def children(place: Place) -> list[tuple[str, bool]]:
    """Names in a folder, sorted, each with whether it is a folder; empty if there is no such folder.

    Raises:
        ResnetError: it cannot be read.
    """
    if place.is_local:
        if not Path(place.path).is_dir():
            return []
        return sorted((entry.name, is_folder(entry)) for entry in entries(Path(place.path)))
    from pyarrow.fs import FileSelector

    with telling(place.name):
        found = place.files.get_file_info(FileSelector(place.path, allow_not_found=True))
    return sorted((info.base_name, int(info.type) == _FOLDER) for info in found)


def matching_files(place: Place) -> Iterator[Place]:
    """The files that a pattern matches, in a fixed order."""
    if glob.has_magic(place.path):
        root, pattern = _parted(place)
        yield from (found for found, is_dir in _fitting(root, pattern) if not is_dir)


def images_of(word: str, place: Place, skipped: Callable[[str], None]) -> Iterator[str]:
    """The names of the images of a file, folder or pattern, in a fixed order, as paths below `word` or URLs.

    Args:
        word: as typed. `*`, `?` and `[...]` match within a folder; `**` matches folders of any depth, and then files only.
        place: what `find_place` says of it.
        skipped: called with each file of a folder that is not an image.
    """
    typed = word if place.is_local else ""
    if glob.has_magic(word) and not exists(place):
        yield from _matching(place, typed, skipped)
    elif is_directory(place):
        yield from _images_below(place, typed, skipped)
    elif exists(place):
        yield typed or place.name
    else:
        raise ResnetError(f"there is no {word}", "--input takes a file, a folder, a pattern or a URL")


def _images_below(folder: Place, typed: str, skipped: Callable[[str], None]) -> Iterator[str]:
    if folder.is_local:
        yield from map(str, walk_images(at_home(typed or folder.path), lambda file: skipped(str(file.path))))
        return
    for name, is_dir in children(folder):
        inner = folder.inside(name)
        if is_hidden(name):
            continue
        if is_dir:
            yield from _images_below(inner, "", skipped)
        elif Path(name).suffix.lower() in EXTENSIONS | HEIF_ENDINGS:
            yield inner.name
        else:
            skipped(inner.name)


def _matching(place: Place, typed: str, skipped: Callable[[str], None]) -> Iterator[str]:
    """The files that match a pattern, and the images of folders that match one without `**`."""
    root, pattern = _parted(place)
    # What was typed may be relative, as the names are then.
    shown = os.path.relpath(root.path) if typed and not Path(typed).is_absolute() and not typed.startswith("~") else ""
    for found, is_dir in _fitting(root, pattern):
        text = os.path.normpath(os.path.join(shown, os.path.relpath(found.path, root.path))) if shown else ""  # noqa: PTH118
        if not is_dir:
            yield text or found.name
        elif "**" not in pattern:
            yield from _images_below(found, text or ("" if not place.is_local else found.path), skipped)


def _parted(place: Place) -> tuple[Place, list[str]]:
    """The folder that a pattern starts from, and the names of the pattern below it."""
    words = place.path.split("/")
    first = next(number for number, word in enumerate(words) if glob.has_magic(word))
    pattern = [word for number, word in enumerate(words) if word != "**" or words[number - 1] != "**"][first:]
    return replace(place, path="/".join(words[:first])), [*pattern, "*"] if pattern[-1] == "**" else pattern


def _fitting(folder: Place, pattern: list[str]) -> Iterator[tuple[Place, bool]]:
    head, rest = pattern[0], pattern[1:]
    if head == "**":
        yield from _fitting(folder, rest)
        for name, is_dir in children(folder):
            if is_dir and not is_hidden(name):
                yield from _fitting(folder.inside(name), pattern)
        return
    for name, is_dir in children(folder):
        if not fnmatchcase(name, head) or (is_hidden(name) and not head.startswith(".")) or not is_printable(Path(name)):
            continue
        if not rest:
            yield folder.inside(name), is_dir
        elif is_dir:
            yield from _fitting(folder.inside(name), rest)


class Sources:
    """Finds the files that a list names: paths, relative ones from a base folder, or URLs."""

    def __init__(self, base: Place) -> None:
        self._base = base
        self._known: dict[str, Place] = {_root_of(base.name): base} if not base.is_local else {}

    def find(self, name: str) -> "Path | Place":
        """The file of a name: a local path, or a place elsewhere.

        Raises:
            ResnetError: as `find_place`.
        """
        if "://" not in name:
            if self._base.is_local or name.startswith("/"):
                return Path(self._base.path) / name
            return self._base.inside(name)
        if name.startswith("file://"):
            return Path(find_place(name).path)
        root = _root_of(name)
        if root in self._known:
            return replace(self._known[root], path=name.removeprefix(self._known[root].prefix))
        found = find_place(name)
        # Only a place that gives its URL again tells what the paths of other URLs are.
        if found.name == name and not found.is_local and "::" not in name:
            self._known[root] = found
        return Path(found.path) if found.is_local else found


def _root_of(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"
