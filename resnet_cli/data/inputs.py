"""What a person may name on the command line as pictures: files, folders, patterns, and `-` for paths on stdin (light).

In: words. Out: paths, in the order given; files of a folder sorted.
"""

import glob
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from resnet_cli.data.folders import list_pictures
from resnet_cli.errors import ResnetError


def picture_paths(words: Sequence[str], lines: Iterable[str]) -> Iterator[Path]:
    """Paths of pictures, one after another, so that endless stdin works.

    Args:
        words: files (any name; whether it is a picture shows when it is read), folders, patterns such as "*.jpg", or "-".
        lines: what `-` stands for: a path a line.

    Raises:
        ResnetError: a folder holds no pictures, or a pattern fits nothing.
    """
    # Folders and patterns are listed before the first path goes out: a wrong one stops the command, not half its output.
    return itertools.chain.from_iterable([_named(word, lines) for word in words])


def _named(word: str, lines: Iterable[str]) -> Iterable[Path]:
    path = Path(word).expanduser()
    if word == "-":
        return (Path(line.rstrip("\r\n")) for line in lines if line.strip())
    if path.is_dir():
        pictures, _, _ = list_pictures(path)
        if not pictures:
            raise ResnetError(f"the folder {path} holds no pictures", "give a folder with JPEG, PNG or WebP files")
        return pictures
    if not path.exists() and glob.has_magic(word):
        fitting = sorted(glob.iglob(str(path), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        if not fitting:
            raise ResnetError(f"no file fits the pattern {word}")
        return map(Path, fitting)
    return [path]
