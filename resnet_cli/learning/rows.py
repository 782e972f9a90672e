"""The rows that a frozen network sees: every view of every picture of a split, each known by its content.

In: pictures. Out: `Rows`, which name and decode them; a picture that cannot be read is found when it is decoded.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_cli.data.augment import Augmentation, augment, generator
from resnet_cli.data.decode import Geometry, Pixels
from resnet_cli.data.pictures import Pictures
from resnet_cli.data.threads import items_ahead, map_in_order
from resnet_cli.errors import ResnetError
from resnet_cli.files import digest
from resnet_cli.learning.feature_cache import KEY
from resnet_cli.learning.material import AS_IT_IS
from resnet_cli.progress import Progress, stop_if_asked

NOT_YET = "type the same command with --resume; nothing was trained yet"
_VIEW = 3  # purpose of the generators that draw views


@dataclass(frozen=True)
class Rows:
    """Every view of every picture of a split, picture after picture.

    Attributes:
        title: of the progress bar, and of the files.
        pictures: what is seen, as `reader_for_training` gives it for the augmentation.
        geometry: input size.
        augmentation: what happens to each view.
        views: of an image; one where the augmentation leaves it as prediction sees it.
        seed: of the views.
        identities: SHA-256 of each picture's file, hexadecimal.
    """

    title: str
    pictures: Pictures
    geometry: Geometry
    augmentation: Augmentation
    views: int
    seed: int
    identities: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pictures) * self.views

    def keys(self) -> list[bytes]:
        """What tells the rows apart, whatever their order: the image's content and how it is seen."""
        # How large images are read decides how sharp a random part of them is.
        how = f"{self.augmentation} {self.pictures.read} {self.seed}"
        seen = ["square"] if self.augmentation == AS_IT_IS else [f"{how} {view}" for view in range(self.views)]
        return [hashlib.sha256(f"{each} {how}".encode()).digest()[:KEY] for each in self.identities for how in seen]

    def readable(self, rows: Iterable[int], damaged: Mapping[int, str]) -> list[int]:
        """Those of some rows whose pictures are not damaged, which are given by their indices."""
        return [row for row in rows if row // self.views not in damaged]

    def squares(self, rows: Sequence[int], damaged: dict[int, str]) -> Iterator[Pixels]:
        """uint8 (size, size, 3) of some rows, given in order; all views of a picture together, so that it is decoded once.

        A picture that cannot be read has none; its index and the reason are put into `damaged`.
        """
        together = itertools.groupby(rows, key=lambda row: row // self.views)
        groups = ((index, list(each)) for index, each in together)
        for index, squares in map_in_order(self._squares_of_one, groups, items_ahead(16)):
            if isinstance(squares, ResnetError):
                damaged[index] = squares.message
            else:
                yield from squares

    def _squares_of_one(self, group: tuple[int, list[int]]) -> tuple[int, list[Pixels] | ResnetError]:
        index, rows = group
        try:
            return index, self._views_of(index, rows)
        except ResnetError as error:
            return index, error

    def _views_of(self, index: int, rows: Sequence[int]) -> list[Pixels]:
        picture = self.pictures[index]
        # Drawn from the content, so that a picture looks the same whatever else is in the folder.
        number = int(self.identities[index][:14], 16)
        draw = (generator(self.seed, row % self.views, number, _VIEW) for row in rows)
        return [augment(picture, self.geometry, self.augmentation, random) for random in draw]


def rows_of(
    title: str,
    pictures: Pictures,
    geometry: Geometry,
    augmentation: Augmentation,
    views: int,
    seed: int,
    progress: Progress,
) -> Rows:
    """Name every image by the content of its file; the arguments are the attributes of `Rows`.

    Raises:
        Interrupted: a signal asked to stop.
    """
    identities: list[str] = []
    for identity in map_in_order(_identity, [sample.path for sample in pictures.samples]):
        stop_if_asked(progress, NOT_YET)
        identities.append(identity)
    return Rows(title, pictures, geometry, augmentation, views, seed, tuple(identities))


def _identity(path: Path) -> str:
    try:
        return digest(path)
    except OSError:  # whoever decodes it will say why
        return hashlib.sha256(os.fsencode(path)).hexdigest()


def batched(squares: Iterator[Pixels], size: int) -> Iterator[NDArray[np.uint8]]:
    """Squares of one size as uint8 (up to `size`, H, W, 3)."""
    while batch := list(itertools.islice(squares, size)):
        yield np.stack(batch)
