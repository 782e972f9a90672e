"""HEIC, the format of phones' photos: known by its first bytes, and decoded where pillow-heif is installed (light).

pillow-heif is an extra and no dependency for its licence alone: its wheel (5.7 MB, 27 MB on disk, 0.04 s to import; for Linux,
macOS and Windows) holds the encoder x265, which is under the GPL.

In: the first bytes of a file, or an open file. Out: whether it is HEIC, or a Pillow image.
"""

import importlib.util
from functools import cache
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = frozenset({".heic", ".heif", ".hif"})
INSTALL = "pip install 'resnet-cli[heif]'"
HEAD = 64  # bytes in which the brands of a file stand
_HEVC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_ANY_CODEC = {b"mif1", b"msf1"}
_AVIF = {b"avif", b"avis"}


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so is HEIC: a brand (ISO/IEC 23008-12, annex B) is one of HEVC's, or none tells the codec."""
    if head[4:8] != b"ftyp":
        return False
    box = head[8 : min(int.from_bytes(head[:4]), HEAD)]
    brands = {box[place : place + 4] for place in range(0, len(box), 4) if place != 4}  # there, the version of the first one
    if box[:4] in _AVIF:
        return False
    return bool(brands & _HEVC) or (bool(brands & _ANY_CODEC) and not brands & _AVIF)


@cache
def is_installed() -> bool:
    """Whether the extra is there, without importing it."""
    return importlib.util.find_spec("pillow_heif") is not None


def open_heif(file: IO[bytes]) -> "Image.Image":
    """Open a HEIC file with Pillow: its primary image, turned as the file says, whatever its EXIF says besides.

    Raises:
        ImportError: the extra is not installed.
        UnidentifiedImageError: the file is damaged.
    """
    from PIL import Image

    _register()
    return Image.open(file, formats=("HEIF",))


@cache
def _register() -> None:
    import pillow_heif

    # An embedded thumbnail may be older than the image, and would make other pixels of the same photo by the size asked for.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
