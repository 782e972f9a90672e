"""Archives of a data set's folder, .zip and .tar: unpacked into the user's cache, once (light: the standard library only).

In: a file, and a folder of the cache. Out: CACHE/<key>/<name of the archive>/..., complete or absent, where the key depends on
the archive's name, size, time and content. Nothing is written outside of it: names that lead elsewhere are refused, links and
devices are left out, and no more is written than the archive declares and the disk has room for.
"""

import hashlib
import json
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from lzma import LZMAError
from pathlib import Path
from tarfile import HeaderError, ReadError, TarInfo
from typing import IO

from resnet_cli.data.contents import sketches
from resnet_cli.data.folders import all_folder_names, has_control_characters, has_ending, printable
from resnet_cli.data.layout import some_names, split_of
from resnet_cli.errors import ResnetError
from resnet_cli.files import unfinished, write_text
from resnet_cli.progress import Progress, how_many, stop_if_asked

ARCHIVES = "archives"  # folder of the cache
_ENDING = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_SOURCE = "source.json"  # beside an unpacked folder: its archive, and what was left out
_PIECE = 1 << 20  # bytes that are copied at once
# Images are compressed already: what grows by more than this is no data set (deflate reaches a factor of 1,032).
_GROWTH, _SMALL = 100, 1 << 30
_PADDING = 64  # pieces that are read behind the last file
_BLOCK = 4096  # bytes that the smallest file takes
_RESERVE = 200_000_000  # bytes of the disk that stay free
_JUNK = ("__MACOSX", ".DS_Store")
_NAMES = (tarfile.SOLARIS_XHDTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_LONGEST_NAME = 1 << 20  # bytes
_EndOfTar = tarfile.EOFHeaderError  # type: ignore[attr-defined]
_UNPACK = "unpack it yourself, and give the folder"


@dataclass(frozen=True)
class _Member:
    """A file or folder of an archive.

    Attributes:
        name: as the archive has it.
        size: declared size, bytes.
        kind: "file", "folder", "link" for the repetition of an earlier file, or "other".
        content: opens its bytes; for a link, None.
        target: the earlier file that a link repeats.
    """

    name: str
    size: int
    kind: str
    content: Callable[[], IO[bytes] | None]
    target: str = ""


def is_archive(path: Path) -> bool:
    """Whether a path is a file with the ending of an archive that can be unpacked."""
    return _ENDING.search(path.name) is not None and path.is_file()


def unpacked(archive: Path, cache: Path, progress: Progress) -> Path:
    """The folder with an archive's files, named like the archive; it is unpacked only if it is new or has changed.

    A single folder that holds all other folders is left out.

    Args:
        archive: a .zip or .tar file.
        cache: the user's cache of this program.
        progress: where to report, and to warn of what was left out.

    Raises:
        ResnetError: it is damaged, encrypted, too large, or has names that lead out of its folder.
        Interrupted: a signal requested a stop.
    """
    name = _ENDING.sub("", archive.name) or "archive"
    place = cache / ARCHIVES / _key(archive)
    if not place.is_dir():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with unfinished(place) as new:
                (new / name).mkdir(parents=True)
                left_out = _Unpacking(archive, new / name, progress).all_members()
                _lift(new / name)
                source = {"archive": str(archive.resolve()), "left_out": left_out}
                write_text(new / _SOURCE, json.dumps(source))
                if not place.is_dir():  # another process may have been faster
                    new.rename(place)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, LZMAError, UnicodeError) as error:
            why = str(error).partition("\n")[0].rstrip(":")
            raise ResnetError(f"the archive {archive} is damaged or incomplete: {why}", "get it again") from error
        except (NotImplementedError, RuntimeError) as error:  # Deflate64, and passwords
            raise ResnetError(f"the archive {archive} cannot be unpacked: {error}", _UNPACK) from error
        except OSError as error:
            if error.errno is None:  # from gzip and bz2
                raise ResnetError(f"the archive {archive} is damaged or incomplete: {error}", "get it again") from error
            hint = "set XDG_CACHE_HOME to a folder with room"
            raise ResnetError(f"cannot unpack {archive} to {place.parent}: {error.strerror}", hint) from error
        progress.line(f"{archive} is unpacked in {place / name}")
    if left_out := json.loads((place / _SOURCE).read_text(encoding="utf-8"))["left_out"]:
        progress.warn(f"left out of {archive}, as they are links, devices or have no printable name: {some_names(left_out)}")
    return place / name


def archive_of(folder: Path) -> Path | None:
    """The archive that a folder of the cache was unpacked from; None for any other folder."""
    if folder.parent.parent.name != ARCHIVES:
        return None
    try:
        return Path(json.loads((folder.parent / _SOURCE).read_text(encoding="utf-8"))["archive"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _key(archive: Path) -> str:
    try:
        status = archive.stat()
    except OSError as error:
        raise ResnetError(f"{archive} cannot be read: {error.strerror}", "mind its permissions") from error
    (sketch,) = sketches([archive])
    if sketch is None:
        raise ResnetError(f"the archive {archive} is empty or cannot be read", "get it again")
    known = f"{archive.name}/{status.st_size}/{status.st_mtime_ns}/{sketch.hex()}"
    return hashlib.sha256(known.encode(errors="surrogateescape")).hexdigest()[:16]


@dataclass(frozen=True)
class _Unpacking:
    """An archive that is being written to a new folder."""

    archive: Path
    folder: Path
    progress: Progress

    def all_members(self) -> list[str]:
        """Write every file; returns the names of those that were left out."""
        is_zip = self.archive.name.lower().endswith(".zip")
        if is_zip:
            declared, members = _require_open(self.archive)
            self._require_room(declared, declared, members)
        left_out: list[str] = []
        written = count = 0
        task = self.progress.start(f"unpacking {self.archive.name}, MB", None)
        try:
            with closing(_zip_members(self.archive) if is_zip else _tar_members(self.archive)) as found:
                for member in found:
                    stop_if_asked(self.progress, "the next run unpacks it again")
                    path = self._path_of(member.name)
                    if path is None or any(part in _JUNK or part.startswith("._") for part in path.parts):
                        continue
                    count += 1
                    before = written
                    written += max(member.size, _BLOCK)
                    self._require_room(member.size, written, count)
                    if member.kind == "other" or has_control_characters(str(path)) or not self._write(member, path):
                        left_out.append(str(printable(path)))
                        written = before
                    task.advance(written // 10**6 - before // 10**6)
        finally:
            task.finish()
        return left_out

    def _path_of(self, name: str) -> Path | None:
        """The relative path of a member; None for the archive's own folder."""
        plain = name.replace("\\", "/")
        parts = [part for part in plain.split("/") if part not in ("", ".")]
        if plain.startswith("/") or ".." in parts or re.match("[A-Za-z]:", plain):
            what = f"the archive {self.archive} has a file outside of its own folder: {printable(Path(name))}"
            raise ResnetError(what, "do not trust it, or make it again with relative names")
        return Path(*parts) if parts else None

    def _require_room(self, size: int, written: int, count: int) -> None:
        """Refuse a bomb, and what does not fit on the disk."""
        if written > _SMALL and written > _GROWTH * self.archive.stat().st_size:
            what = f"the archive {self.archive} grows to more than {_GROWTH} times its size, which images do not"
            raise ResnetError(what, f"if you trust it, {_UNPACK}")
        if size > shutil.disk_usage(self.folder).free - _RESERVE:
            need = f"{how_many(count, 'file')} {'needs' if count == 1 else 'need'} {written / 1e6:.1f} MB"
            what = f"the disk has no room to unpack {self.archive} to {self.folder.parent.parent}: {need}"
            raise ResnetError(what, "set XDG_CACHE_HOME to a folder with room")

    def _write(self, member: _Member, path: Path) -> bool:
        """Write a file or folder; False if it is a link to something that is not in the archive."""
        target = self.folder / path
        try:
            if member.kind == "folder":
                target.mkdir(parents=True, exist_ok=True)
                return True
            target.parent.mkdir(parents=True, exist_ok=True)
            if member.kind == "link":
                first = self._path_of(member.target)
                if first is None or not (self.folder / first).is_file():
                    return False
                with (self.folder / first).open("rb") as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file, _PIECE)
                return True
            with target.open("xb") as file:
                self._copy(member, file)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise ResnetError(f"the archive {self.archive} has {printable(path)} twice", _UNPACK) from error
        return True

    def _copy(self, member: _Member, file: IO[bytes]) -> None:
        source = member.content()
        if source is None:
            raise EOFError(f"{printable(Path(member.name))} has no content")
        count = 0
        with source:
            while piece := source.read(_PIECE):
                count += len(piece)
                if count > member.size:
                    break
                file.write(piece)
        if count != member.size:
            raise EOFError(f"{printable(Path(member.name))} is not of its declared size")


def _require_open(archive: Path) -> tuple[int, int]:
    """Declared bytes and number of the members of a .zip; an encrypted one is refused."""
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
    locked = next((each for each in members if each.flag_bits & 1), None)
    if locked is not None:
        what = f"the archive {archive} is encrypted, such as {printable(Path(locked.filename))}"
        raise ResnetError(what, _UNPACK)
    return sum(each.file_size for each in members), len(members)


def _zip_members(archive: Path) -> Generator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for each in opened.infolist():
            form = stat.S_IFMT(each.external_attr >> 16)
            kind = "folder" if each.is_dir() else "file" if form in (0, stat.S_IFREG) else "other"
            yield _Member(each.filename, each.file_size, kind, partial(opened.open, each))


class _Header(tarfile.TarInfo):
    """A header of a tar file. A damaged one, or a missing end, is an error, which `tarfile` takes for the end."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "_Header":
        """The next header."""
        try:
            return super().fromtarfile(tarfile)
        except _EndOfTar:
            raise
        except HeaderError as error:
            raise ReadError(str(error)) from error

    def _proc_member(self, tarfile: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _NAMES and self.size > _LONGEST_NAME:  # which is read into memory
            raise ReadError(f"a name has {self.size} bytes")
        found: TarInfo = super()._proc_member(tarfile)  # type: ignore[misc]
        return found


def _tar_members(archive: Path) -> Generator[_Member]:
    with tarfile.open(archive, "r:*", tarinfo=_Header) as opened:
        while (each := opened.next()) is not None:
            kind = "folder" if each.isdir() else "link" if each.islnk() else "file" if each.isreg() else "other"
            yield _Member(each.name, each.size, kind, partial(opened.extractfile, each), each.linkname)
            opened.members.clear()  # type: ignore[attr-defined]  # a million of them take a gigabyte
        for _ in range(_PADDING):  # the checksum of a compressed file is at its end
            if opened.fileobj is None or not opened.fileobj.read(_PIECE):
                break


def _lift(folder: Path) -> None:
    """Move the content of a single folder that holds all others up, as long as there is one; a split stays."""
    while True:
        names = all_folder_names(folder)
        inner = folder / names[0] if len(names) == 1 else None
        if inner is None or split_of(inner.name) or _has_images(folder) or _has_images(inner) or not all_folder_names(inner):
            return
        above = folder.with_name(f"{folder.name}.inner")
        inner.rename(above)
        shutil.rmtree(folder)
        above.rename(folder)


def _has_images(folder: Path) -> bool:
    return any(has_ending(path) for path in folder.iterdir() if path.is_file())
