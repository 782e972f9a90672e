"""The images that a user names: on the command line as files, folders, patterns, and `-` for paths on stdin; in Python also
images in memory (light).

In: arguments and stdin, or the images given in Python. Out: paths and images in memory, in the order given; the files of a
folder are sorted.
"""

import codecs
import glob
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_cli.data.folders import NO_IMAGE, list_folder
from resnet_cli.data.threads import Pause
from resnet_cli.errors import ResnetError
from resnet_cli.files import at_home
from resnet_cli.progress import Progress, Silent, how_many

if TYPE_CHECKING:
    from resnet_cli.data.decode import InMemory

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16 does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def image_paths(words: Sequence[str], listed: Iterable[Path | Pause], progress: Progress) -> Iterator[Path | Pause]:
    """Yield the paths of images one by one, so that an endless stdin works.

    Args:
        words: files (of any name; they are checked when they are read), folders, patterns such as "*.jpg", or "-".
        listed: the paths that `-` stands for, see `listed_paths`.
        progress: where skipped files of folders are reported; skipped images are a warning.

    Raises:
        ResnetError: a folder contains no images, a pattern matches nothing, or stdin was empty.
    """
    # Folders and patterns are listed before the first path is yielded: a wrong one fails before there is any output.
    return itertools.chain.from_iterable([listed if word == "-" else _named(word, progress) for word in words])


def listed_paths(chunks: Iterable[bytes | Pause], null: bool) -> Iterator[Path | Pause]:
    """Yield the paths of a list written by another program, each as soon as it is complete.

    The list is in the encoding of file names, or in UTF-8, UTF-16 or UTF-32 with a byte-order mark, as Windows writes it. It
    has one path per line, with any line ends; quotes around a path are removed, unless a file has them in its name.

    Args:
        chunks: the bytes of the list, in pieces; a pause when the next piece has not arrived yet.
        null: paths end with NUL instead, and are taken literally (find -print0, xargs -0).

    Raises:
        ResnetError: there is no path on the list.
    """
    empty = True
    for entry in _entries(chunks, null):
        if isinstance(entry, Pause):
            yield entry
        elif entry if null else entry.strip():
            empty = False
            yield Path(entry if null else _unquoted(entry))
    if empty:
        raise ResnetError("stdin names no images", "check the command that writes to it")


def _entries(chunks: Iterable[bytes | Pause], null: bool) -> Iterator[str | Pause]:
    """The list decoded and cut at its separators."""
    decoder: codecs.IncrementalDecoder | io.IncrementalNewlineDecoder | None = None
    start, rest = b"", ""
    for chunk in itertools.chain(chunks, [b""]):
        if isinstance(chunk, Pause):
            yield chunk
            continue
        if decoder is None:
            start += chunk
            if chunk and any(mark.startswith(start) and mark != start for mark, _ in _MARKS):
                continue  # possibly an incomplete byte-order mark
            decoder, chunk, last = _decoder(start, null), start, not chunk
        else:
            last = not chunk
        *whole, rest = (rest + decoder.decode(chunk, final=last)).split("\0" if null else "\n")
        yield from whole
    yield rest


def _decoder(start: bytes, null: bool) -> codecs.IncrementalDecoder | io.IncrementalNewlineDecoder:
    encoding = next((name for mark, name in _MARKS if start.startswith(mark)), sys.getfilesystemencoding())
    errors = "replace" if encoding in ("utf-16", "utf-32") else sys.getfilesystemencodeerrors()
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    return decoder if null else io.IncrementalNewlineDecoder(decoder, translate=True)


def _unquoted(line: str) -> str:
    quoted = len(line) > 2 and line[0] == line[-1] and line[0] in "\"'"
    return line[1:-1] if quoted and not _is(Path.exists, Path(line)) else line


def is_one_file(words: Sequence[str]) -> bool:
    """Whether the arguments name exactly one file."""
    return len(words) == 1 and words[0] != "-" and _is(Path.is_file, at_home(words[0]))


def count_named(words: Sequence[str]) -> int:
    """The number of images that files, folders and patterns name; the number of paths on stdin is unknown.

    Raises:
        ResnetError: as `image_paths`.
    """
    return sum(1 for _ in image_paths([word for word in words if word != "-"], (), Silent()))


def given_images(images: Any, progress: Progress) -> "tuple[Iterator[Path | InMemory], int | None]":
    """The images given in Python, and their number, if it is known.

    Args:
        images: a file, folder or pattern; a PIL image; an array uint8 (H, W, 3) or (N, H, W, 3); or an iterable of files,
            folders, PIL images and arrays (H, W, 3), where a folder counts as one.
        progress: where skipped files of folders are reported.

    Raises:
        ResnetError: it is none of these, or a folder contains no images; for members of an iterable, raised during iteration.
    """
    if isinstance(images, str | os.PathLike):
        paths = list(_named(os.fspath(images), progress))
        return iter(paths), len(paths)
    if _is_image(images) and not (_is_array(images) and len(images.shape) in (1, 4)):
        return _members([images], ("the image",), progress), 1
    if not isinstance(images, Iterable):
        raise ResnetError(f"images cannot be of type {type(images).__name__}", "give paths, PIL images, or arrays of uint8")
    names = (f"images[{number}]" for number in itertools.count())
    return _members(images, names, progress), len(images) if isinstance(images, Sized) else None


def _members(images: Iterable[Any], names: Iterable[str], progress: Progress) -> "Iterator[Path | InMemory]":
    from resnet_cli.data.decode import in_memory

    for image, name in zip(images, names, strict=False):
        if isinstance(image, str | os.PathLike):
            yield from _named(os.fspath(image), progress)
        elif _is_image(image):
            yield in_memory(image, name)
        else:
            raise ResnetError(f"{name} is a {type(image).__name__}", "give paths, PIL images, or arrays of uint8")


def _is_image(image: Any) -> bool:
    return hasattr(image, "getbands") or _is_array(image)  # known without importing Pillow or numpy


def _is_array(image: Any) -> bool:
    return hasattr(image, "dtype") and hasattr(image, "shape")


def _named(word: str, progress: Progress) -> Iterable[Path]:
    if not word:
        raise ResnetError("an image has an empty name", "a shell variable may be empty")
    if "://" in word:
        raise ResnetError(f"{word} is a URL, and images are not downloaded", "download it, then give the file")
    path = at_home(word)
    if glob.has_magic(word) and not _is(Path.exists, path):
        fitting = sorted(glob.iglob(str(path), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        # `**` matches folders as well as their files; a folder without images is then no error.
        found = dict.fromkeys(itertools.chain.from_iterable(_found(Path(each), progress) for each in fitting))
        if not found:
            raise ResnetError(f"no image matches the pattern {word}" if fitting else f"no file matches the pattern {word}")
        return found
    images = _found(path, progress)
    if not images:
        raise ResnetError(f"the folder {path} contains no images", "give a folder of JPEG, PNG, WebP or HEIC files")
    return images


def _found(path: Path, progress: Progress) -> Sequence[Path]:
    """The images of a folder, or the file itself, of any kind."""
    if not _is(Path.is_dir, path):
        return [path]
    listing = list_folder(path)
    others = [file for file in listing.left_out if file.reason == NO_IMAGE]
    images = [file for file in listing.left_out if file.reason != NO_IMAGE]
    for skipped, tell in ((others, progress.line), (images, progress.warn)):
        if skipped:
            first = f"{skipped[0].path.name}: {skipped[0].reason}"
            tell(f"skipped {how_many(len(skipped), 'file')} of {path} (first: {first})")
    return listing.images


def _is(what: Callable[[Path], bool], path: Path) -> bool:
    """Whether a path passes a test such as `is_file`; no if access is denied, which reading it will report."""
    try:
        return what(path)
    except (OSError, ValueError):
        return False
