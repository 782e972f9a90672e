"""Files become pixels: every kind of image upright, in RGB, 0..255; every kind of damage a sentence that names the file."""

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeImage
from PIL import Image

from resnet_cli.data.decode import Geometry, Pixels, decode, decode_square, read_header, to_square
from resnet_cli.errors import ResnetError

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (20, 30, 3), np.uint8)
ALPHA = RANDOM.integers(0, 256, (20, 30), np.uint8)


def smooth(height: int, width: int) -> Pixels:
    """An image without fine detail, which JPEG and scaling keep."""
    blocks = np.random.default_rng(height * width).integers(40, 216, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC))


def on_white(colour: Pixels, alpha: Pixels) -> np.ndarray:
    """The 'over' of Porter and Duff 1984, on white."""
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "webp"])
def test_pixels_of_lossless_files_are_what_was_saved(tmp_path: Path, ending: str) -> None:
    Image.fromarray(RGB).save(tmp_path / f"a.{ending}", lossless=True)
    pixels = decode(tmp_path / f"a.{ending}")
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, RGB)


def test_a_jpeg_is_close_to_what_was_saved(tmp_path: Path) -> None:
    image = smooth(64, 96)
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(decode(tmp_path / "a.jpg").astype(int) - image).mean() < 2


def test_the_content_counts_and_not_the_ending(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(decode(tmp_path / "a.jpg"), RGB)


# The stored image, seen as each orientation tag says (EXIF 2.32, table 6), by numpy.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("tag", UPRIGHT)
@pytest.mark.parametrize("ending", ["png", "jpg", "tiff", "webp", "avif"])
def test_orientation_tags_are_applied(tmp_path: Path, tag: int, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    image = smooth(48, 80)
    Image.fromarray(image).save(tmp_path / f"a.{ending}", exif=exif)
    expected = UPRIGHT[tag](image)
    pixels = decode(tmp_path / f"a.{ending}")
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 4


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([RGB, ALPHA])).save(tmp_path / "rgba.png")
    np.testing.assert_allclose(decode(tmp_path / "rgba.png"), on_white(RGB, ALPHA), atol=1)
    grey = RGB[..., :1]
    Image.fromarray(np.dstack([grey, ALPHA])).save(tmp_path / "la.png")
    np.testing.assert_allclose(decode(tmp_path / "la.png"), on_white(np.repeat(grey, 3, 2), ALPHA), atol=1)


def test_a_palette_is_looked_up_and_its_transparent_colours_are_white(tmp_path: Path) -> None:
    indices = RANDOM.integers(0, 4, (20, 30), np.uint8)
    palette = np.array([[255, 0, 0], [0, 200, 0], [0, 0, 90], [7, 8, 9]], np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), palette[indices])
    image.save(tmp_path / "b.png", transparency=bytes([255, 0, 128, 255]))
    expected = on_white(palette[indices], np.array([255, 0, 128, 255], np.uint8)[indices])
    np.testing.assert_allclose(decode(tmp_path / "b.png"), expected, atol=1)
    image.save(tmp_path / "c.gif", transparency=1)
    np.testing.assert_array_equal(decode(tmp_path / "c.gif")[indices == 1], 255)


def test_grey_and_black_and_white_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(ALPHA).save(tmp_path / "l.png")
    np.testing.assert_array_equal(decode(tmp_path / "l.png"), np.repeat(ALPHA[..., None], 3, 2))
    Image.fromarray(ALPHA > 127).save(tmp_path / "1.png")
    np.testing.assert_array_equal(decode(tmp_path / "1.png")[..., 0], np.where(ALPHA > 127, 255, 0))


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_16_bits_are_scaled_and_not_cut_off(tmp_path: Path, ending: str) -> None:
    values = RANDOM.integers(0, 65536, (20, 30), np.uint16)
    values[0, :2] = 0, 65535
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    np.testing.assert_allclose(decode(tmp_path / f"a.{ending}")[..., 0], values / 257, atol=0.5001)
    dark = values // 512
    Image.fromarray(dark).save(tmp_path / f"dark.{ending}")
    assert decode(tmp_path / f"dark.{ending}").max() == 0


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_fractions_in_a_tiff_are_scaled_to_the_range_that_they_use(tmp_path: Path, top: float) -> None:
    values = np.linspace(0, top, 600, dtype=np.float32).reshape(20, 30)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tiff")
    np.testing.assert_allclose(decode(tmp_path / "a.tiff")[..., 0], np.nan_to_num(values) / top * 255, atol=0.501)


def test_ink_becomes_light(tmp_path: Path) -> None:
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[:, 8:] = (0, 255, 255, 0)  # no cyan, full magenta and yellow: red
    for ending in ("tiff", "jpg"):
        Image.fromarray(ink, "CMYK").save(tmp_path / f"a.{ending}")
        pixels = decode(tmp_path / f"a.{ending}").astype(int)
        assert np.abs(pixels[:, :6] - 255).max() < 8 and np.abs(pixels[:, 10:] - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tiff"])
def test_the_first_image_of_an_animation_is_taken(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    assert np.abs(decode(tmp_path / f"a.{ending}").astype(int) - (255, 0, 0)).max() < 8


def test_a_large_jpeg_is_decoded_small_but_never_below_what_is_needed(tmp_path: Path) -> None:
    image = smooth(800, 1203)
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=95)
    assert decode(tmp_path / "a.jpg", short_side=99).shape == (100, 151, 3)
    assert decode(tmp_path / "a.jpg", short_side=101).shape == (200, 301, 3)
    assert decode(tmp_path / "a.jpg", short_side=2000).shape == (800, 1203, 3)
    image = image[:, :1200]
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=95)
    for resize in ("crop", "pad", "squash"):
        geometry = Geometry(64, resize)
        whole = to_square(Image.fromarray(image), geometry)
        assert np.abs(decode_square(tmp_path / "a.jpg", geometry).astype(int) - whole).mean() < 1


@pytest.mark.parametrize("shape", [(100, 160), (160, 100), (37, 41), (8, 300), (64, 64)])
def test_geometry_is_the_centre_the_whole_or_stretched(shape: tuple[int, int]) -> None:
    """Against resize-then-crop as the literature describes it, done by separate steps."""
    height, width = shape
    image = Image.fromarray(smooth(height, width))
    scale = 64 / min(shape)
    whole = np.asarray(image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)).astype(int)
    top, left = (whole.shape[0] - 56) // 2, (whole.shape[1] - 56) // 2
    cropped = to_square(image, Geometry(56, "crop"))
    assert np.abs(cropped - whole[top : top + 56, left : left + 56]).mean() < 2.5
    stretched = image.resize((56, 56), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(to_square(image, Geometry(56, "squash")), np.asarray(stretched))
    padded = to_square(image, Geometry(56, "pad"))
    inner = (round(width * 56 / max(shape)), round(height * 56 / max(shape)))
    grey = np.all(padded == (124, 116, 104), axis=2)
    assert abs(int((~grey).sum()) - inner[0] * inner[1]) <= 8
    assert padded.shape == cropped.shape == (56, 56, 3)


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_no_shape_is_too_odd(tmp_path: Path, resize: str, size: tuple[int, int], make_image: MakeImage) -> None:
    path = make_image(tmp_path / "a.png", size=size)
    assert decode_square(path, Geometry(32, resize)).shape == (32, 32, 3)  # type: ignore[arg-type]


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims any number of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


def jpeg(path: Path) -> bytes:
    Image.fromarray(RGB.repeat(8, 0).repeat(8, 1)).save(path, "JPEG")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda path: b"", "is empty (0 bytes)"),
        (lambda path: b"The quick brown fox" * 50, "is not an image (JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC)"),
        (lambda path: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
        (lambda path: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        (lambda path: jpeg(path)[:700], "is damaged"),
        (lambda path: jpeg(path)[:-2000], "is damaged"),
        (lambda path: bomb(50_000, 50_000), "has more than 200 million pixels"),
        (lambda path: bomb(30_000, 9_000), "has more than 200 million pixels"),
    ],
)
def test_what_cannot_be_decoded_is_named(tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content(path))  # type: ignore[operator]
    for read in (decode, lambda path: decode(path, 32), lambda path: decode_square(path, Geometry(32))):
        with pytest.raises(ResnetError) as caught:
            read(path)
        assert caught.value.message.startswith(f"{path} ") and words in caught.value.message


def test_a_path_that_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResnetError, match=r"gone.png cannot be read: No such file"):
        decode(tmp_path / "gone.png")
    with pytest.raises(ResnetError, match="is not a file"):
        decode(tmp_path)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "tiff", "webp", "bmp", "avif"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # the program sets this filter itself; pytest puts its own before it
def test_any_damage_is_an_error_of_ours_or_still_an_image(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(RGB).save(path, exif=Image.Exif())
    whole = path.read_bytes()
    random = np.random.default_rng(1)
    for _ in range(150):
        content = bytearray(whole[: random.integers(1, len(whole) + 1)])
        for place in random.integers(0, len(content), 3):
            content[place] = random.integers(256)
        path.write_bytes(bytes(content))
        read_header(path)
        try:
            assert decode(path, 16).shape[2] == 3
        except ResnetError as error:
            assert str(path) in error.message


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_damaged_orientation_tag_costs_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif.tobytes()[:14] + b"\xff" * 9)
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), RGB)


def test_threads_see_the_same_pixels(sample_data: Path) -> None:
    paths = sorted(sample_data.glob("*/*.jpg"))[:24]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(pool.map(decode, paths), map(decode, paths), strict=True):
            np.testing.assert_array_equal(one, other)


def test_twin_images_of_a_camera_are_decoded(tmp_path: Path) -> None:
    Image.fromarray(smooth(60, 80)).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (80, 60))])
    with Image.open(tmp_path / "a.jpg") as stored:
        assert stored.format == "MPO"
    assert np.abs(decode(tmp_path / "a.jpg").astype(int) - smooth(60, 80)).mean() < 4
    assert read_header(tmp_path / "a.jpg").format == "JPEG"  # type: ignore[union-attr]


def test_a_header_tells_format_and_size(tmp_path: Path, make_image: MakeImage) -> None:
    kinds = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "tif": "TIFF", "avif": "AVIF"}
    for ending, kind in kinds.items():
        header = read_header(make_image(tmp_path / f"a.{ending}", size=(31, 17)))
        assert header is not None and (header.format, header.width, header.height) == (kind, 31, 17)
    (tmp_path / "a.txt").write_text("no image")
    assert read_header(tmp_path / "a.txt") is None
