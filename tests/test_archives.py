"""A .zip or .tar of a data set's folder: unpacked once into the cache, and nothing outside of it, complete or not at all."""

import gzip
import io
import json
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import MakeDataset, RunCli
from training_material import StopAfter

from resnet_cli.data import archives
from resnet_cli.data.archives import archive_of, is_archive, unpacked
from resnet_cli.data.dataset import scan_dataset
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.progress import Silent

ENDINGS = (".zip", ".tar", ".tar.gz", ".TGZ", ".tar.bz2", ".tar.xz")


def pack(archive: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    """An archive with these names, as they are."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for name, content in files:
                zipped.writestr(name, content)
        return archive
    kind = archive.suffix.lower()[1:].replace("tgz", "gz").replace("tar", "")
    with tarfile.open(archive, f"w:{kind}") as tar:  # type: ignore[call-overload]
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive


def pack_folder(archive: Path, root: Path, above: str = "") -> Path:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return pack(archive, [(f"{above}{path.relative_to(root).as_posix()}", path.read_bytes()) for path in files])


def refusal(archive: Path, cache: Path) -> str:
    """The message for an archive; nothing of it is left in the cache."""
    with pytest.raises(ResnetError) as caught:
        unpacked(archive, cache, Silent())
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert "\n" not in caught.value.message and caught.value.hint
    return caught.value.message


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of its own."""
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_kind_of_archive_is_the_folder_that_was_packed(
    ending: str, tiny_dataset: Path, tmp_path: Path, cache: Path
) -> None:
    archive = pack_folder(tmp_path / f"summer.fruit{ending}", tiny_dataset)
    assert is_archive(archive)
    folder = unpacked(archive, cache, Silent())
    ours, theirs = scan_dataset(folder), scan_dataset(tiny_dataset)
    assert (ours.name, ours.classes) == ("summer.fruit", theirs.classes)
    contents = [[sample.path.read_bytes() for sample in dataset.splits["all"]] for dataset in (ours, theirs)]
    assert contents[0] == contents[1]
    assert archive_of(folder.resolve()) == archive.resolve()
    assert archive_of(tiny_dataset) is None


@pytest.mark.parametrize("above", ["fruit/", "fruit-main/", "data\\fruit\\", "./fruit-main/"])
def test_a_single_folder_around_the_classes_and_junk_of_macos_do_not_matter(
    above: str, tiny_dataset: Path, tmp_path: Path, cache: Path
) -> None:
    files = [(f"{above}{path.relative_to(tiny_dataset)}", path.read_bytes()) for path in sorted(tiny_dataset.glob("*/*.png"))]
    junk = [("__MACOSX/fruit/apple/._000.png", b"x"), (f"{above}.DS_Store", b"x"), (f"{above}apple/._001.png", b"x")]
    folder = unpacked(pack(tmp_path / "download.zip", [*files, *junk, ("LICENSE", b"x")]), cache, Silent())
    found = scan_dataset(folder)
    assert (found.name, found.classes) == ("download", ("apple", "berry", "cherry"))
    assert len(found.splits["all"]) == 36 and found.passed_over == 0


def test_a_single_split_or_class_keeps_its_name(tmp_path: Path, make_dataset: MakeDataset, cache: Path) -> None:
    make_dataset(tmp_path / "one" / "train", count=1)
    assert [path.name for path in unpacked(pack_folder(tmp_path / "a.zip", tmp_path / "one"), cache, Silent()).iterdir()] == [
        "train"
    ]
    pack_folder(tmp_path / "b.zip", tmp_path / "one" / "train" / "apple", "apple/")
    assert [path.name for path in unpacked(tmp_path / "b.zip", cache, Silent()).iterdir()] == ["apple"]


def test_the_same_archive_is_unpacked_once_and_a_changed_one_again(tiny_dataset: Path, tmp_path: Path, cache: Path) -> None:
    archive = pack_folder(tmp_path / "fruit.zip", tiny_dataset)
    first = unpacked(archive, cache, Silent())
    before = (first / "apple" / "000.png").stat().st_mtime_ns
    assert unpacked(archive, cache, Silent()) == first
    assert (first / "apple" / "000.png").stat().st_mtime_ns == before
    shutil.rmtree(tiny_dataset / "apple")
    second = unpacked(pack_folder(archive, tiny_dataset), cache, Silent())
    assert second != first and second.name == "fruit"
    assert sorted(path.name for path in second.iterdir()) == ["berry", "cherry"]


@pytest.mark.parametrize(
    "name", ["../evil.png", "apple/../../evil.png", "/tmp/evil.png", "..\\evil.png", "C:\\evil.png", "a/.."]
)
@pytest.mark.parametrize("ending", [".zip", ".tar"])
def test_names_that_lead_out_of_the_folder_are_refused(name: str, ending: str, tmp_path: Path, cache: Path) -> None:
    archive = pack(tmp_path / f"evil{ending}", [("apple/1.png", b"x"), (name, b"x")])
    assert refusal(archive, cache) == f"the archive {archive} has a file outside of its own folder: {name}"
    assert not list(tmp_path.rglob("evil.png"))


def test_links_and_devices_are_left_out_with_a_warning(tmp_path: Path, cache: Path) -> None:
    archive = tmp_path / "links.tar"
    with tarfile.open(archive, "w") as tar:
        for name, kind, target in (
            ("a/link.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("a/pipe", tarfile.FIFOTYPE, ""),
            ("a/device", tarfile.CHRTYPE, ""),
            ("a/hard.png", tarfile.LNKTYPE, "a/nowhere.png"),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            tar.addfile(entry)
        for name in ("a/1.png", "a/two\nlines.png"):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))
        entry = tarfile.TarInfo("b/again.png")
        entry.type, entry.linkname = tarfile.LNKTYPE, "a/1.png"
        tar.addfile(entry)
    for _ in range(2):  # also from the cache
        told = StopAfter(10**9)
        folder = unpacked(archive, cache, told)
        assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")} == {"a/1.png", "b/again.png"}
        assert told.warnings == [
            f"left out of {archive}, as they are links, devices or have no printable name:"
            " a/link.png, a/pipe, a/device and 2 more"
        ]
    zipped = tmp_path / "links.zip"
    with zipfile.ZipFile(zipped, "w") as made:
        info = zipfile.ZipInfo("a/link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(info, "/etc/passwd")
        made.writestr("a/1.png", "x")
    assert [path.name for path in unpacked(zipped, cache, Silent()).rglob("*.png")] == ["1.png"]


def test_a_hard_link_to_a_file_outside_is_refused(tmp_path: Path, cache: Path) -> None:
    archive = tmp_path / "hard.tar"
    with tarfile.open(archive, "w") as tar:
        entry = tarfile.TarInfo("a/1.png")
        entry.type, entry.linkname = tarfile.LNKTYPE, "../../../etc/passwd"
        tar.addfile(entry)
    assert "has a file outside of its own folder: ../../../etc/passwd" in refusal(archive, cache)


@pytest.mark.parametrize("names", [("a/1.png", "a/1.png"), ("a", "a/1.png"), ("a/1.png", "a")])
def test_a_name_that_is_there_twice_is_refused(names: tuple[str, str], tmp_path: Path, cache: Path) -> None:
    archive = pack(tmp_path / "twice.tar", [(name, b"x") for name in names])
    assert refusal(archive, cache).endswith(f"has {names[1]} twice")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_truncated_archive_is_refused_wherever_it_ends(ending: str, tiny_dataset: Path, tmp_path: Path, cache: Path) -> None:
    whole = pack_folder(tmp_path / f"whole{ending}", tiny_dataset).read_bytes()
    archive = tmp_path / f"cut{ending}"
    # Of a plain tar also at the end of a file and of a header, where nothing but the end marker is missing.
    places = (
        [1, 300, len(whole) // 2, len(whole) - 1] if ending != ".tar" else [1, 300, 512, 1024, len(whole) // 2 // 512 * 512]
    )
    for place in places:
        archive.write_bytes(whole[:place])
        assert refusal(archive, cache).startswith(f"the archive {archive} is damaged or incomplete: ")
    archive.write_bytes(b"")
    assert refusal(archive, cache) == f"the archive {archive} is empty or cannot be read"
    archive.write_bytes(b"<html>404</html>" * 100)
    assert refusal(archive, cache).startswith(f"the archive {archive} is damaged or incomplete: ")


def test_a_damaged_file_in_an_archive_is_refused(tiny_dataset: Path, tmp_path: Path, cache: Path) -> None:
    archive = pack_folder(tmp_path / "fruit.zip", tiny_dataset)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 255
    archive.write_bytes(content)
    assert refusal(archive, cache).startswith(f"the archive {archive} is damaged or incomplete: Bad CRC-32")


def test_an_encrypted_archive_is_refused(tmp_path: Path, cache: Path) -> None:
    archive = pack(tmp_path / "secret.zip", [("a/1.png", b"x")])
    content = bytearray(archive.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1  # the flag of an encrypted file
    archive.write_bytes(content)
    assert refusal(archive, cache) == f"the archive {archive} is encrypted, such as a/1.png"


def _zip_bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made, made.open("a/0.png", "w", force_zip64=True) as file:
        for _ in range(5):
            file.write(bytes(1 << 20))
    return path


def _tar_bomb(path: Path) -> Path:
    with gzip.open(path, "wb") as file, tarfile.open(fileobj=file, mode="w|") as tar:
        entry = tarfile.TarInfo("a/0.png")
        entry.size = 5 << 20
        tar.addfile(entry, io.BytesIO(bytes(5 << 20)))
    return path


def _many_files(path: Path) -> Path:
    return pack(path, [(f"a/{number}.png", b"") for number in range(2000)])


@pytest.mark.parametrize(
    ("make", "name"),
    [(_zip_bomb, "bomb.zip"), (_tar_bomb, "bomb.tar.gz"), (_many_files, "many.tar.gz"), (_many_files, "many.tgz")],
)
def test_an_archive_that_grows_without_measure_is_refused(
    make: Callable[[Path], Path], name: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_SMALL", 4 << 20)  # a gigabyte, so that tests need not write one
    archive = make(tmp_path / name)
    assert refusal(archive, cache) == f"the archive {archive} grows to more than 100 times its size, which images do not"


def test_a_tar_with_a_name_of_megabytes_is_refused(tmp_path: Path, cache: Path) -> None:
    archive = tmp_path / "name.tar"
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("a/1.png"))
        tar.addfile(tarfile.TarInfo("a" * (2 << 20)))
    assert "a name has" in refusal(archive, cache)


def test_a_size_that_is_a_lie_is_refused(tmp_path: Path, cache: Path) -> None:
    archive = _zip_bomb(tmp_path / "lie.zip")
    content = archive.read_bytes()
    real = (5 << 20).to_bytes(4, "little")
    archive.write_bytes(content.replace(real, (1000).to_bytes(4, "little")))
    assert "is damaged or incomplete" in refusal(archive, cache)


def test_an_archive_that_does_not_fit_on_the_disk_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(tmp_path / "big.zip", [("a/1.png", bytes(3_000_000)), ("a/2.png", bytes(3_000_000))])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=205_000_000))
    message = f"the disk has no room to unpack {archive} to {cache / 'archives'}: 2 files need 6.0 MB"
    assert refusal(archive, cache) == message


def test_interrupted_unpacking_leaves_nothing(tiny_dataset: Path, tmp_path: Path, cache: Path) -> None:
    archive = pack_folder(tmp_path / "fruit.tar.gz", tiny_dataset)
    with pytest.raises(Interrupted):
        unpacked(archive, cache, StopAfter(3))
    assert list((cache / "archives").iterdir()) == []


def test_check_reads_an_archive_and_what_is_none_is_named(run_cli: RunCli, tiny_dataset: Path, tmp_path: Path) -> None:
    pack_folder(tmp_path / "fruit.zip", tiny_dataset, "fruit/")
    found = json.loads(run_cli("check", tmp_path / "fruit.zip", "--json").stdout)
    assert (found["images"], found["classes"], found["problems"]) == (36, ["apple", "berry", "cherry"], [])
    assert run_cli("check", tmp_path / "no.zip").stderr.startswith(f"error: there is no folder {tmp_path / 'no.zip'}")
    (tmp_path / "folder.zip").mkdir()
    assert "has no class folders" in run_cli("check", tmp_path / "folder.zip").stdout


@pytest.mark.slow
def test_a_run_finds_the_images_of_its_archive_again(
    run_cli: RunCli, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pack_folder(tmp_path / "fruit.tar.gz", tiny_dataset, "inner/")
    options = ("--weights", "bundled", "--unfreeze", "none", "--augment", "none", "--json")
    done = json.loads(run_cli("finetune", "fruit.tar.gz", *options).stdout)
    assert done["run"] == "runs/fruit-resnet18-slim"
    assert json.loads(Path(done["run"], "run.json").read_text())["data"]["archive"] == str(tmp_path / "fruit.tar.gz")
    shutil.rmtree(tmp_path / "cache")
    again = json.loads(run_cli("evaluate", "--json").stdout)
    assert (again["dataset"], again["count"], again["top1"]) == ("fruit", done["val"]["count"], done["val"]["top1"])
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "fruit.tar.gz").unlink()
    assert f"error: the archive {tmp_path / 'fruit.tar.gz'} is no longer there" in run_cli("evaluate").stderr
