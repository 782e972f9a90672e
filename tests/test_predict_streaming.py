"""`resnet predict -` answers as paths come, whatever writes the list, and ends as a command in a pipe does."""

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeDataset, MakeImage, MakeRun, RunCli

from resnet_cli.cli.console import bytes_of_stdin
from resnet_cli.data.decode import run_geometry
from resnet_cli.data.inputs import listed_paths
from resnet_cli.data.threads import PAUSE, Pause, map_arriving
from resnet_cli.engines.base import Images, Outputs
from resnet_cli.engines.openvino import OpenVinoEngine
from resnet_cli.errors import ResnetError
from resnet_cli.inference.classify import Classified, Member, classify
from resnet_cli.runs.folder import load_run

PROGRAM = (sys.executable, "-c", "from resnet_cli.cli.app import main; main()")


@pytest.fixture(scope="module")
def root(make_run: MakeRun, make_dataset: MakeDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set `fruit` and a run `run`."""
    folder = tmp_path_factory.mktemp("streaming")
    make_run(folder / "run", make_dataset(folder / "fruit", count=4), arch="resnet8")
    return folder


@pytest.fixture
def images(root: Path) -> list[Path]:
    return sorted((root / "fruit").rglob("*.png"))


def started(root: Path, *words: object) -> subprocess.Popen[bytes]:
    command = [*PROGRAM, "predict", "-", "--run", str(root / "run"), "--top", "1", "--quiet", *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)


def told(child: subprocess.Popen[bytes], line: bytes) -> None:
    assert child.stdin is not None
    child.stdin.write(line)


def answered(child: subprocess.Popen[bytes], words: bytes) -> bytes:
    """What the program writes until `words` have come; it gives up after a minute without any output."""
    assert child.stdout is not None
    seen = b""
    while (
        words not in seen and select.select([child.stdout], [], [], 60)[0] and (piece := os.read(child.stdout.fileno(), 65536))
    ):
        seen += piece
    return seen


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_a_path_is_answered_while_stdin_stays_open(form: list[str], root: Path, images: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.touch()
    with started(root, *form) as child:
        for path in images[:3]:
            told(child, f"{path}\n".encode())
            assert str(path).encode() in answered(child, str(path).encode())
        if form:
            told(child, f"{broken}\n".encode())
            assert b"is empty" in answered(child, b"is empty")
        assert child.stdin is not None and child.stdout is not None
        child.stdin.close()
        child.stdout.read()
    assert child.returncode == bool(form)


def test_every_result_before_a_pause_goes_out_before_the_next_path_is_asked_for(root: Path, images: list[Path]) -> None:
    run = load_run(root / "run")
    members = [Member(OpenVinoEngine(run.openvino, "many"), run_geometry(run)) for _ in range(2)]
    out: list[Classified] = []
    bursts = [images[:1], images[1:8], [], images[8:9], [root / "missing.png"], images[9:]]

    def arriving() -> Iterator[Path | Pause]:
        asked: list[Path] = []
        for burst in bursts:
            asked += burst
            yield from burst
            yield PAUSE
            assert [each.image for each in out] == asked

    for result in classify(arriving(), members, views=2, batch=6):
        out.append(result)
    assert [each.image for each in out if each.error is None] == images
    expected = list(classify(images, members, views=2, batch=6))
    for each, other in zip([each for each in out if each.error is None], expected, strict=True):
        assert each.probabilities is not None and other.probabilities is not None
        np.testing.assert_allclose(each.probabilities, other.probabilities, atol=2e-2)


class Counting:
    """An engine that keeps how many images each batch had."""

    name, precision, pixels = "counting", "f32", 1

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, images: Images | Outputs) -> tuple[Outputs, ...]:
        self.sizes.append(len(images))
        return (np.ones((len(images), 2), np.float32),)

    def run_many(self, batches: Iterable[Images | Pause]) -> Iterator[tuple[Outputs, ...]]:
        return (self.run(batch) for batch in batches if not isinstance(batch, Pause))


def test_batches_are_full_as_long_as_paths_are_waiting_and_no_larger_than_what_has_come(root: Path, images: list[Path]) -> None:
    engine = Counting()
    member = Member(engine, run_geometry(load_run(root / "run")))
    assert len(list(classify(images, [member], batch=5))) == 12
    assert engine.sizes == [5, 5, 2]
    engine.sizes.clear()
    paths = [*images[:3], PAUSE, images[3], PAUSE, PAUSE, *images[4:]]
    assert len(list(classify(paths, [member], batch=4))) == 12
    assert engine.sizes == [3, 1, 4, 4]


def test_an_engine_hands_out_what_is_ready_while_more_is_decoded(root: Path) -> None:
    engine = OpenVinoEngine(load_run(root / "run").openvino, "many")
    seen: list[int] = []
    batch = np.zeros((1, 32, 32, 3), np.uint8)

    def slowly() -> Iterator[Images | Pause]:
        yield batch
        time.sleep(1)  # a thousand times what the batch takes
        yield batch
        assert len(seen) == 1, "the first batch was ready and is held back"

    for _ in engine.run_many(slowly()):
        seen.append(1)
    assert len(seen) == 2


def test_work_on_items_that_come_one_by_one_is_handed_out_at_a_pause() -> None:
    out: list[int | Pause] = []

    def items() -> Iterator[int | Pause]:
        for start in (0, 3, 5):
            yield from range(start, start + 2)
            yield PAUSE
            assert out[-1] is PAUSE and out[-2] == -start - 1

    for result in map_arriving(lambda item: -item, items(), ahead=5):
        out.append(result)
    assert out == [0, -1, PAUSE, -3, -4, PAUSE, -5, -6, PAUSE]


NAMES = ["a b.png", "caf\u00e9/\u732b\U0001f600.png", "it's.png", "c.png"]
TEXT = f"{NAMES[0]}\r\n\r\n\"{NAMES[1]}\"\n  \n{NAMES[2]}\r\n'{NAMES[3]}'"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_lists_of_every_system_are_read(encoding: str, piece: int) -> None:
    mark = "\ufeff" if encoding.endswith("-be") else ""
    content = (mark + TEXT).encode(encoding)
    chunks = [content[start : start + piece] for start in range(0, len(content), piece)]
    assert list(listed_paths(chunks, null=False)) == [Path(name) for name in NAMES]


def test_the_path_of_a_line_that_has_ended_does_not_wait_for_the_next_one() -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        chunks = [*(bytes([byte]) for byte in "a.png\r\nb".encode(encoding)), PAUSE]
        assert list(listed_paths(chunks, null=False)) == [Path("a.png"), PAUSE, Path("b")]


def test_names_that_end_with_nul_are_taken_as_they_are() -> None:
    content = b"a\nb.png\0\"c\".png\0'd'\0 \0\0caf\xe9.png\0e\r"
    expected = ["a\nb.png", '"c".png', "'d'", " ", os.fsdecode(b"caf\xe9.png"), "e\r"]
    for size in (1, 100):
        chunks = [content[start : start + size] for start in range(0, len(content), size)]
        assert list(listed_paths(chunks, null=True)) == [Path(name) for name in expected]


def test_quotes_that_belong_to_the_name_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path('"a.png"').touch()
    found = listed_paths([b'"a.png"\n"b.png"\n\'\n"c.png\n"d.png\'\n""\n'], null=False)
    assert list(map(str, found)) == ['"a.png"', "b.png", "'", '"c.png', "\"d.png'", '""']


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\0\0"])
def test_a_list_without_a_path_is_an_error(content: bytes) -> None:
    if content == b"\xff":  # no mark after all, but a name
        assert list(listed_paths([content], null=False)) == [Path(os.fsdecode(content))]
        return
    with pytest.raises(ResnetError, match="stdin names no images"):
        list(listed_paths([content], null=content.startswith(b"\0")))


def test_find_print0_works_with_null(root: Path, make_image: MakeImage, tmp_path: Path) -> None:
    for number, name in enumerate(("one.png", "two\nlines.png", '"three".png')):
        make_image(tmp_path / "odd" / name, seed=number)
    command = ["predict", "-", "--run", root / "run", "--json", "-q"]
    for option in ("-0", "--null"):
        line = ["bash", "-c", 'find "$0" -name "*.png" -print0 | "$@"', str(tmp_path / "odd"), *PROGRAM, *command, option]
        done = subprocess.run([*map(str, line)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert {Path(row["path"]).name for row in json.loads(done.stdout)} == {"one.png", "two\nlines.png", '"three".png'}


def test_null_without_a_list_is_a_usage_error(root: Path, images: list[Path], run_cli: RunCli) -> None:
    result = run_cli("predict", images[0], "--run", root / "run", "-0")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--null is about paths on stdin: give - as well" in result.stderr


def test_ctrl_c_ends_a_wait_for_stdin_at_once(root: Path, images: list[Path]) -> None:
    with started(root, "--csv") as child:
        told(child, f"{images[0]}\n".encode())
        answered(child, b"000.png,1,")
        child.send_signal(signal.SIGINT)
        assert (child.wait(60), child.stderr and child.stderr.read()) == (130, b"")


def test_a_reader_that_went_away_ends_it_though_stdin_is_open(root: Path, images: list[Path]) -> None:
    with started(root, "--csv") as child:
        told(child, f"{images[0]}\n".encode())
        answered(child, b"000.png,1,")
        assert child.stdout is not None
        child.stdout.close()
        told(child, f"{images[1]}\n".encode())
        assert (child.wait(60), child.stderr and child.stderr.read()) == (141, b"")


def test_a_stdin_that_cannot_be_read_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/proc/self/mem") as unreadable:  # noqa: PTH123 -- nothing is mapped at its beginning
        monkeypatch.setattr(sys, "stdin", unreadable)
        found = bytes_of_stdin()
        assert found is not None
        with pytest.raises(ResnetError, match="stdin cannot be read: Input/output error"):
            list(itertools.islice(found, 5))
