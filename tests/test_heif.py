"""HEIC, as phones write it: read where its extra is installed, and otherwise refused with the command that installs it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from conftest import MakeDataset, RunCli
from PIL import Image

from resnet_cli.data.decode import Geometry, decode, decode_square, read_header
from resnet_cli.data.folders import list_folder
from resnet_cli.data.heif import is_heif, register_heif
from resnet_cli.errors import ResnetError

INSTALL = "pip install 'resnet-cli[heif]'"


@pytest.fixture
def photo(make_dataset: MakeDataset, tmp_path: Path) -> Image.Image:
    blocks = np.random.default_rng(0).integers(40, 216, (4, 4, 3), np.uint8)
    return Image.fromarray(blocks).resize((96, 64), Image.Resampling.BICUBIC)


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    register_heif.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr("resnet_cli.data.folders.heif_is_installed", lambda: False)
    yield
    register_heif.cache_clear()


def write_heic(path: Path, photo: Image.Image, **options: object) -> Path:
    """Lossless, by pillow-heif itself."""
    register_heif()
    path.parent.mkdir(parents=True, exist_ok=True)
    photo.save(path, "HEIF", quality=-1, chroma=444, **options)
    return path


@pytest.mark.parametrize("name", ["IMG_1.HEIC", "chat.jpg", "scan.heif"])
def test_heic_is_decoded_whatever_it_is_called(name: str, photo: Image.Image, tmp_path: Path) -> None:
    path = write_heic(tmp_path / name, photo)
    np.testing.assert_allclose(decode(path).astype(int), np.asarray(photo).astype(int), atol=3)
    expected = np.asarray(photo.crop((16, 0, 80, 64)).resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    np.testing.assert_allclose(decode_square(path, Geometry(32, fraction=1.0)).astype(int), expected, atol=3)
    header = read_header(path)
    assert header is not None and (header.format, header.width, header.height) == ("HEIC", 96, 64)


@pytest.mark.parametrize(("tag", "turn"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_a_photo_is_turned_once(tag: int, turn: int, photo: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    # Given as bytes, pillow-heif writes them and the format's own rotation too, as phones do.
    pixels = decode(write_heic(tmp_path / "a.heic", photo, exif=exif.tobytes()))
    expected = np.rot90(np.asarray(photo), turn)
    assert pixels.shape == expected.shape
    np.testing.assert_allclose(pixels.astype(int), expected.astype(int), atol=3)
    # The rotation of the format counts; EXIF alone turns no HEIC file.
    alone = decode(write_heic(tmp_path / "b.heic", photo, exif=exif))
    np.testing.assert_allclose(alone.astype(int), np.asarray(photo).astype(int), atol=3)


def test_an_embedded_thumbnail_is_not_taken_for_the_photo(photo: Image.Image, tmp_path: Path) -> None:
    large = photo.resize((960, 640))
    whole = write_heic(tmp_path / "whole.heic", large)
    path = tmp_path / "thumbnail.heic"
    with path.open("wb") as file:
        image = pillow_heif.from_pillow(large)
        image[0].info["thumbnails"] = [96]
        image.save(file, quality=-1, chroma=444)
    assert path.stat().st_size > whole.stat().st_size
    np.testing.assert_array_equal(decode(path, 32), decode(path))
    np.testing.assert_array_equal(decode(path, 32), decode(whole))


def test_brands_tell_heic_from_what_is_like_it(tmp_path: Path, photo: Image.Image) -> None:
    def head(*brands: bytes) -> bytes:
        return (
            (8 + 4 * (len(brands) + 1)).to_bytes(4) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:]) + b"\0\0\0\x08meta"
        )

    assert is_heif(head(b"heic", b"mif1", b"heic")) and is_heif(head(b"mif1", b"mif1", b"heic")) and is_heif(head(b"mif1"))
    assert is_heif(head(b"heix")) and is_heif(head(b"hevc", b"msf1", b"hevc")) and is_heif(head(b"msf1", b"hevc"))
    assert not is_heif(head(b"avif", b"mif1", b"miaf")) and not is_heif(head(b"mif1", b"avif", b"miaf"))
    assert not is_heif(head(b"isom", b"mp42")) and not is_heif(head(b"qt  ")) and not is_heif(b"") and not is_heif(b"heic")
    photo.save(tmp_path / "a.avif")
    assert not is_heif((tmp_path / "a.avif").read_bytes()[:64])


@pytest.mark.parametrize("name", ["IMG_1.HEIC", "chat.jpg"])
@pytest.mark.usefixtures("without_the_extra")
def test_without_the_extra_the_error_of_every_heic_file_says_how_to_install_it(
    name: str, photo: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ResnetError) as told:
        decode(path)
    assert told.value.message == f"{path} is a HEIC image, which needs: {INSTALL}"
    assert read_header(path) is None


@pytest.mark.parametrize("content", [b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"])
def test_a_damaged_heic_file_is_told_as_such(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ResnetError) as told:
        decode(path)
    assert told.value.message == f"{path} is damaged: no image can be read from this HEIC file"


def test_any_damage_to_heic_is_an_error_of_ours_or_still_an_image(photo: Image.Image, tmp_path: Path) -> None:
    whole = write_heic(tmp_path / "whole.heic", photo).read_bytes()
    path = tmp_path / "a.heic"
    random = np.random.default_rng(1)
    for _ in range(100):
        content = bytearray(whole[: random.integers(1, len(whole) + 1)])
        for place in random.integers(0, len(content), 3):
            content[place] = random.integers(256)
        path.write_bytes(bytes(content))
        read_header(path)
        try:
            assert decode(path, 16).shape[2] == 3
        except ResnetError as error:
            assert str(path) in error.message


def test_heic_and_avif_in_folders_are_images(photo: Image.Image, tmp_path: Path) -> None:
    paths = {write_heic(tmp_path / "d" / name, photo) for name in ("IMG_1.HEIC", "a.heif", "b.hif")}
    photo.save(tmp_path / "d" / "c.AVIF")
    assert set(list_folder(tmp_path / "d").images) == {*paths, tmp_path / "d" / "c.AVIF"}


@pytest.mark.usefixtures("without_the_extra")
def test_without_the_extra_heic_in_folders_is_left_out_with_the_command(photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "c.avif")
    (tmp_path / "IMG_1.HEIC").write_bytes(b"x")
    listing = list_folder(tmp_path)
    assert listing.images == (tmp_path / "c.avif",)
    assert [(each.path.name, each.reason) for each in listing.left_out] == [("IMG_1.HEIC", f"HEIC images need: {INSTALL}")]


def test_check_knows_their_endings(make_dataset: MakeDataset, photo: Image.Image, tmp_path: Path, run_cli: RunCli) -> None:
    data = make_dataset(tmp_path / "fruit", count=6)
    for label, name in enumerate(("apple", "berry")):
        other = Image.fromarray(np.roll(np.asarray(photo), 20 * label, axis=1))
        write_heic(data / name / "IMG_1.HEIC", other)
        photo.rotate(90 * (label + 1)).save(data / name / "photo.avif", quality=90)
    photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(data / "cherry" / "chat.jpg", "AVIF")
    document = json.loads(run_cli("check", data, "--json").stdout)
    assert document["images"] == 3 * 6 + 5
    details = [(Path(each["path"]).name, each["detail"]) for each in document["problems"] if each["kind"] == "wrong-extension"]
    assert details == [("chat.jpg", "is in AVIF format")]
