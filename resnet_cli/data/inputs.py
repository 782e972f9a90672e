"""What a person may name on the command line as pictures: files, folders, patterns, and `-` for paths on stdin (light).

In: words. Out: paths, in the order given; files of a folder sorted.
"""

import glob
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from resnet_cli.data.folders import list_folder
from resnet_cli.errors import ResnetError


def picture_paths(words: Sequence[str], lines: Iterable[str], notice: Callable[[str], None]) -> Iterator[Path]:
    """Paths of pictures, one after another, so that endless stdin works.

    Args:
        words: files (any name; whether it is a picture shows when it is read), folders, patterns such as "*.jpg", or "-".
        lines: what `-` stands for: a path a line.
        notice: is told of files in folders that are passed over, and why.

    Raises:
        ResnetError: a folder holds no pictures, a pattern fits nothing, or stdin was empty.
    """
    # Folders and patterns are listed before the first path goes out: a wrong one stops the command, not half its output.
    return itertools.chain.from_iterable([_named(word, lines, notice) for word in words])


def is_one_file(words: Sequence[str]) -> bool:
    """Whether all that was named is one file."""
    return len(words) == 1 and words[0] != "-" and _is(Path.is_file, at_home(words[0]))


def count_named(words: Sequence[str]) -> int:
    """How many images files, folders and patterns stand for; how many paths come on stdin, nobody knows beforehand.

    Raises:
        ResnetError: as `picture_paths`.
    """
    return sum(1 for _ in picture_paths([word for word in words if word != "-"], (), lambda _: None))


def _named(word: str, lines: Iterable[str], notice: Callable[[str], None]) -> Iterable[Path]:
    if word == "-":
        return _listed(lines)
    if not word:
        raise ResnetError("a picture without a name was given", "is a variable of the shell empty?")
    if "://" in word:
        raise ResnetError(f"{word} is an address, and nothing is fetched from the network", "download it, and name the file")
    path = at_home(word)
    if glob.has_magic(word) and not _is(Path.exists, path):
        fitting = sorted(glob.iglob(str(path), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        # `**` fits folders as well as what is in them, and one without pictures is no mistake.
        found = dict.fromkeys(itertools.chain.from_iterable(_found(Path(each), notice) for each in fitting))
        if not found:
            raise ResnetError(f"no picture fits the pattern {word}" if fitting else f"no file fits the pattern {word}")
        return found
    pictures = _found(path, notice)
    if not pictures:
        raise ResnetError(f"the folder {path} holds no pictures", "give a folder with JPEG, PNG or WebP files")
    return pictures


def _listed(lines: Iterable[str]) -> Iterator[Path]:
    """The paths on stdin; a list without any is a search that went wrong."""
    line = None
    for line in filter(str.strip, lines):
        yield Path(line.rstrip("\r\n"))
    if line is None:
        raise ResnetError("stdin names no pictures", "is what writes to it looking in the right place?")


def _found(path: Path, notice: Callable[[str], None]) -> Sequence[Path]:
    """The pictures of a folder, or a file, whatever it is."""
    if not _is(Path.is_dir, path):
        return [path]
    listing = list_folder(path)
    if passed := listing.left_out:
        notice(f"passed over {len(passed)} file(s) of {path}, such as {passed[0].path.name}: {passed[0].reason}")
    return listing.pictures


def at_home(word: str) -> Path:
    """`~/cat.jpg` in the user's home; `~cat.jpg`, where nobody is called so, is a file's name."""
    try:
        return Path(word).expanduser()
    except RuntimeError:
        return Path(word)


def _is(what: Callable[[Path], bool], path: Path) -> bool:
    """Whether a path is something; one that may not be looked at is nothing, and reading it tells why."""
    try:
        return what(path)
    except (OSError, ValueError):
        return False
