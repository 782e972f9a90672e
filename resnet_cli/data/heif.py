"""HEIC images, as phones take them: recognised by their first bytes, opened by an optional package.

In: the first bytes of a file, or an open file. Out: an image.
"""

from functools import cache
from typing import IO

from PIL import Image

HEAD = 64  # first bytes of a file, which contain its brands
_HEVC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_ANY_CODEC = {b"mif1", b"msf1"}
_AVIF = {b"avif", b"avis"}


def is_heif(head: bytes) -> bool:
    """Whether a file with these first bytes is HEIC: a brand (ISO/IEC 23008-12, annex B) is HEVC's, or none names a codec."""
    if head[4:8] != b"ftyp":
        return False
    box = head[8 : min(int.from_bytes(head[:4]), HEAD)]
    brands = {box[place : place + 4] for place in range(0, len(box), 4) if place != 4}  # there, the version of the first one
    if box[:4] in _AVIF:
        return False
    return bool(brands & _HEVC) or (bool(brands & _ANY_CODEC) and not brands & _AVIF)


def open_heif(file: IO[bytes]) -> Image.Image:
    """Open a HEIC file with Pillow: its primary image, rotated as the file says; EXIF orientation is ignored.

    Raises:
        ImportError: the extra is not installed.
        UnidentifiedImageError: the file is damaged.
    """
    register_heif()
    return Image.open(file, formats=("HEIF",))


@cache
def register_heif() -> None:
    """Let Pillow open HEIC files.

    Raises:
        ImportError: the extra is not installed.
    """
    import pillow_heif

    # An embedded thumbnail may be older than the image, and would give different pixels for different sizes requested.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
