"""Images and results on any file system: listed in a fixed order, read and written alike."""

import http.server
import importlib
import threading
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from conftest import MakeImage

from resnet_cli.data.decode import Geometry, Remote, decode, decode_square
from resnet_cli.data.folders import list_folder, walk_images
from resnet_cli.data.storage import (
    Place,
    Sources,
    children,
    exists,
    find_place,
    images_of,
    is_directory,
    read_bytes,
    remove_folder,
    write_whole,
)
from resnet_cli.errors import ResnetError


@pytest.fixture
def tree(tmp_path: Path, make_image: MakeImage) -> Path:
    """Folders whose names and order are awkward, a link back, and files that are no images."""
    for number, name in enumerate(
        ("b/2.png", "b/10.png", "a/x.png", "a.b/y.png", "a.png", "c/deep/er/z.png", "c/.hidden/h.png")
    ):
        make_image(tmp_path / "tree" / name, number)
    (tmp_path / "tree" / "c" / "back").symlink_to(tmp_path / "tree")
    (tmp_path / "tree" / "notes.txt").write_text("text")
    return tmp_path / "tree"


def listed(word: str) -> list[str]:
    return list(images_of(word, find_place(word), lambda name: None))


def test_images_come_one_by_one_in_the_order_of_the_whole_list(tree: Path) -> None:
    left_out: list[Path] = []
    walked = list(walk_images(tree, lambda file: left_out.append(file.path)))
    assert tuple(walked) == list_folder(tree).images
    assert left_out == [tree / "notes.txt"]
    assert listed(str(tree)) == [str(path) for path in walked]


def test_names_are_as_typed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.parent)
    assert listed("tree/a") == ["tree/a/x.png"]
    assert listed("tree/a.png") == ["tree/a.png"]
    assert listed("tree/*/*.png") == ["tree/a/x.png", "tree/a.b/y.png", "tree/b/10.png", "tree/b/2.png"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.png", ["a.png"]),
        ("[ab]", ["a/x.png", "b/10.png", "b/2.png"]),
        ("?/?.png", ["a/x.png", "b/2.png"]),
        ("**/z.png", ["c/deep/er/z.png"]),
        ("c/**", ["c/deep/er/z.png"]),
        ("*.jpg", []),
    ],
)
def test_patterns_match_here_and_elsewhere_alike(pattern: str, names: list[str], tree: Path) -> None:
    (tree / "c" / "back").unlink()
    assert listed(f"{tree}/{pattern}") == [f"{tree}/{name}" for name in names]
    assert listed(f"local://{tree}/{pattern}") == [f"local://{tree}/{name}" for name in names]


def test_a_folder_elsewhere_is_listed_alike(tree: Path) -> None:
    (tree / "c" / "back").unlink()
    assert listed(f"local://{tree}") == [f"local://{path}" for path in list_folder(tree).images]


def test_files_in_memory_of_fsspec_are_written_whole_and_read() -> None:
    folder = find_place("memory://results/of/today")
    write_whole(folder.inside("a", "b.bin"), b"content")
    assert (read_bytes(folder.inside("a", "b.bin")), children(folder), is_directory(folder)) == (
        b"content",
        [("a", True)],
        True,
    )
    assert children(folder.inside("a")) == [("b.bin", False)]
    assert folder.inside("a").name == "memory://results/of/today/a"
    remove_folder(folder.inside("a"))
    assert not exists(folder.inside("a", "b.bin"))
    with pytest.raises(ResnetError, match="there is no memory://results"):
        read_bytes(folder.inside("a", "b.bin"))


def test_names_of_a_list_are_found_from_where_it_lies(tmp_path: Path) -> None:
    here = Sources(find_place(str(tmp_path)))
    assert (here.find("a/b.png"), here.find("/c.png")) == (tmp_path / "a/b.png", Path("/c.png"))
    assert here.find(f"file://{tmp_path}/d.png") == tmp_path / "d.png"
    there = Sources(find_place("memory://bucket/folder"))
    names = [place.name for place in map(there.find, ("a.png", "memory://bucket/b%20b?.png")) if isinstance(place, Place)]
    assert names == ["memory://bucket/folder/a.png", "memory://bucket/b%20b?.png"]


class _OfUrls(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """As fsspec's http, whose package may be missing here: the paths are whole URLs."""

    protocol = "web"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path

    def info(self, path: str, **more: Any) -> dict[str, Any]:
        return {"name": path, "size": len(self._content(path)), "type": "file"}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        return self._content(path)[start:end]

    def _open(self, path: str, mode: str = "rb", **more: Any) -> Any:
        from io import BytesIO

        return BytesIO(self._content(path))

    def _content(self, path: str) -> bytes:
        with urllib.request.urlopen("http" + path.removeprefix("web")) as answer:
            content: bytes = answer.read()
            return content


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of `tmp_path`, in a scheme whose paths are URLs."""
    fsspec.register_implementation("web", _OfUrls, clobber=True)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"web://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_every_url_of_a_host_gives_its_own_file_where_paths_are_urls(tmp_path: Path, served: str) -> None:
    (tmp_path / "a").write_bytes(b"first")
    (tmp_path / "b").write_bytes(b"second")
    for sources in (Sources(find_place(".")), Sources(find_place(served))):
        for name, content in (("a", b"first"), ("b", b"second"), ("a?size=3", b"first")):
            place = sources.find(f"{served}/{name}")
            assert isinstance(place, Place)
            assert (place.name, place.is_local, read_bytes(place)) == (f"{served}/{name}", False, content)
    relative = Sources(find_place(f"{served}/list.parquet").parent).find("b")
    assert isinstance(relative, Place) and read_bytes(relative) == b"second"
    with pytest.raises(ResnetError, match=r"^there is no ") as caught:
        read_bytes(find_place(f"{served}/missing.png"))
    assert f"{served}/missing.png" in caught.value.message


def test_a_package_that_a_url_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"class": "far_away.FarFileSystem", "err": "far needs the package far-away"}
    monkeypatch.setitem(importlib.import_module("fsspec.registry").known_implementations, "far", known)
    with pytest.raises(ResnetError) as caught:
        find_place("far://host/a.png")
    assert caught.value.message == "far://host/a.png needs a package that is missing: far needs the package far-away"


def test_an_image_elsewhere_has_the_pixels_and_the_errors_of_a_file(tmp_path: Path, make_image: MakeImage) -> None:
    path = make_image(tmp_path / "a.png", size=(90, 70))
    remote = Remote("there/a.png", path.read_bytes)
    assert np.array_equal(decode(remote), decode(path))
    assert np.array_equal(decode_square(remote, Geometry(32)), decode_square(path, Geometry(32)))
    for content, reason in ((b"", "is empty (0 bytes)"), (b"text", "is not an image"), (path.read_bytes()[:200], "is damaged")):
        with pytest.raises(ResnetError) as caught:
            decode(Remote("there/a.png", lambda content=content: content))
        assert caught.value.message.startswith(f"there/a.png {reason}")
