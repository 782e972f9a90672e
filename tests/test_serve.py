"""`resnet serve`: real requests to a real server; what it answers, refuses and survives."""

import base64
import http.client
import io
import json
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import CHROMIUM, Browser
from conftest import RunCli
from numpy.typing import NDArray
from PIL import Image

from resnet_cli.data.decode import Geometry
from resnet_cli.data.threads import Pause, workers
from resnet_cli.inference.classify import Member
from resnet_cli.inference.explain import explain, overlay
from resnet_cli.jobs.predict import explainable, run_classifier
from resnet_cli.jobs.serve import Limits, ServeRequest, Service, listen_on, run_server, url_of
from resnet_cli.jobs.serve_http import serve
from resnet_cli.networks.pretrained import bundled_run
from resnet_cli.progress import Silent
from resnet_cli.runs.folder import load_run

BUNDLED = bundled_run().folder
BOUNDARY = "a-boundary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


class Notes(Silent):
    """A progress that keeps what it is told, and can be given a signal."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.signal = 0

    def line(self, text: str) -> None:
        self.lines.append(text)

    def stop_signal(self) -> int:
        return self.signal


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Running:
    """A server in a thread of this process."""

    address: str
    notes: Notes

    def ask(self, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str = "") -> Answer:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        host, _, port = self.address.partition(":")
        return socket.create_connection((host, int(port)), timeout=30)

    def metric(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.ask("/metrics").body.decode(), re.MULTILINE)
        return float(found.group(1)) if found else 0.0


@contextmanager
def running(work: Any, notes: Notes, ready: int) -> Iterator[Running]:
    """Start `work` in a thread, and stop it at the end; it is ready after so many lines."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        while len(notes.lines) < ready and not done.done():
            time.sleep(0.01)
        try:
            if done.done():
                done.result()
            yield Running(notes.lines[0].split()[-1].removeprefix("http://"), notes)
        finally:
            notes.signal = signal.SIGTERM
            done.result(60)


@contextmanager
def serving(runs: Sequence[Path] = (BUNDLED,), threshold: float = 0.0, **limits: Any) -> Iterator[Running]:
    notes = Notes()
    request = ServeRequest(runs, port=0, threshold=threshold, limits=Limits(**limits))
    with running(lambda: run_server(request, notes), notes, 2) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def photos(sample_data: Path) -> list[Path]:
    return sorted(sample_data.rglob("*.jpg"))[::8]


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def form(*files: tuple[str, bytes]) -> bytes:
    """A form with files, as a browser sends it."""
    parts = []
    for name, content in files:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
        parts += [head.encode(), content, b"\r\n"]
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def predicted(run_cli: RunCli, *arguments: object) -> list[dict[str, Any]]:
    result = run_cli("predict", *arguments, "--json")
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def same(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """The same answers but for the rounding of bf16, which depends on the images that are computed together."""
    for row, other in zip(rows, others, strict=True):
        assert list(row) == list(other)
        assert [row[name] for name in ("error", "unsure", "runs")] == [other[name] for name in ("error", "unsure", "runs")]
        values, expected = ({each["class"]: each["probability"] for each in it["predictions"]} for it in (row, other))
        assert values == pytest.approx(expected, abs=5e-3)


def test_one_image_is_the_body_and_many_are_a_form_and_both_are_answered_as_by_predict(
    server: Running, photos: list[Path], run_cli: RunCli
) -> None:
    expected = predicted(run_cli, *photos, "--run", BUNDLED, "--top", 1000)
    together = server.ask("/predict?top=1000", form(*((path.name, path.read_bytes()) for path in photos)), FORM)
    assert together.status == 200 and together.headers["content-type"] == "application/json"
    same(together.json, expected)
    assert [row["path"] for row in together.json] == [path.name for path in photos]
    for kind in ("image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded"):
        alone = server.ask("/predict?top=1000", photos[0].read_bytes(), {"Content-Type": kind})
        same(alone.json, expected[:1])
    assert alone.json[0]["path"] == "upload"
    assert [len(server.ask(f"/predict{words}", photos[0].read_bytes()).json[0]["predictions"]) for words in ("", "?top=3")] == [
        5,
        3,
    ]


def test_many_clients_get_the_answers_to_their_own_images(server: Running, photos: list[Path], run_cli: RunCli) -> None:
    expected = predicted(run_cli, *photos, "--run", BUNDLED, "--top", 1000)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda path: server.ask("/predict?top=1000", path.read_bytes()), photos * 8))
    assert {answer.status for answer in answers} == {200}
    same([answer.json[0] for answer in answers], expected * 8)


def test_an_upload_that_is_no_image_is_an_error_of_its_own(server: Running, photos: list[Path]) -> None:
    good = photos[0].read_bytes()
    answer = server.ask("/predict", form(("a.jpg", good), ("=b.jpg", b"words"), ("c.jpg", good[:2000]), ("d.jpg", b"")), FORM)
    assert answer.status == 200
    rows = answer.json
    assert [row["error"] is None for row in rows] == [True, False, False, False]
    assert rows[1]["error"] == "./=b.jpg is not an image (JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC)"
    assert rows[2]["error"].startswith("c.jpg is damaged: ") and rows[3]["error"] == "d.jpg is empty (0 bytes)"
    alone = server.ask("/predict", form(("d.jpg", b"")), FORM)
    assert (alone.status, alone.json[0]["error"]) == (422, "d.jpg is empty (0 bytes)")
    alone = server.ask("/predict", b"words")
    assert alone.status == 422 and alone.json[0]["error"].startswith("upload is not an image")


def test_an_image_that_unpacks_to_too_many_pixels_is_not_unpacked(server: Running) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    answer = server.ask("/predict", bomb)
    assert (answer.status, answer.json[0]["error"]) == (422, "upload has more than 200 million pixels")


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "error"),
    [
        ("/predict", b"", {}, 400, "no image: send one as the body"),
        ("/predict", form(), FORM, 400, "no image: send one as the body"),
        ("/predict", form(("", b"")), FORM, 400, "no image: send one as the body"),
        ("/predict", b"no form", FORM, 400, "the form cannot be read: "),
        ("/predict", b"x", {"Content-Type": "multipart/form-data"}, 400, "the form cannot be read: Missing boundary"),
        ("/predict", form(("a.jpg", b"x"))[:-8], FORM, 400, "the form cannot be read: its end is missing"),
        ("/predict?top=0", b"x", {}, 400, "top=0 is no number of classes, 1 or more"),
        ("/predict?explain=yes", b"x", {}, 400, "explain=yes is neither 0 nor 1"),
        ("/predict?crop=1", b"x", {}, 400, "unknown parameter crop: there are top and explain"),
        ("/predict", None, {}, 405, "Method Not Allowed"),
        ("/other", b"x", {}, 404, "Not Found"),
        ("/predict/", b"x", {}, 404, "Not Found"),
        ("/predict", b"x", {"Host": "attacker.example"}, 403, "this server answers requests to localhost only"),
        ("/predict", b"x", {"Host": "127.0.0.1.attacker.example"}, 403, "this server answers requests to localhost only"),
        ("/predict", b"x", {"Origin": "https://attacker.example"}, 403, "this server does not answer pages of other sites"),
        ("/predict", b"x", {"Host": "attacker.example@localhost"}, 403, "this server answers requests to localhost only"),
        ("/predict", b"x", {"Origin": "http://[::1"}, 403, "this server does not answer pages of other sites"),
        ("/predict", b"x", {"Origin": "null"}, 403, "this server does not answer pages of other sites"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why(
    server: Running, path: str, body: bytes | None, headers: dict[str, str], status: int, error: str
) -> None:
    answer = server.ask(path, body, headers)
    assert answer.status == status and answer.json["error"].startswith(error)
    assert "access-control-allow-origin" not in answer.headers and answer.headers["x-content-type-options"] == "nosniff"


def test_the_server_answers_to_every_name_of_this_machine_and_to_its_own_page(server: Running, photos: list[Path]) -> None:
    for host in ("localhost", "localhost:1", "127.0.0.1", "127.0.0.2:80", "[::1]:8000"):
        assert server.ask("/health", headers={"Host": host}).status == 200
    own = {"Origin": f"http://{server.address}"}
    assert server.ask("/predict", photos[0].read_bytes(), own).status == 200


def test_a_body_that_is_too_large_is_refused_and_its_sender_reads_why(photos: list[Path]) -> None:
    content = photos[0].read_bytes()
    with serving(body=1_000_000, images=3) as server:
        for body in (bytes(30_000_000), iter([bytes(100_000)] * 100)):  # of a known length, and in chunks
            answer = server.ask("/predict", body)
            assert (answer.status, answer.json["error"]) == (413, "the body has more than 1,000,000 bytes")
        answer = server.ask("/predict", form(*[("a.jpg", content)] * 4), FORM)
        assert (answer.status, answer.json["error"]) == (413, "more than 3 images in a request")
        assert server.ask("/predict", content).status == 200


def test_what_is_sent_is_not_written_to_disk(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")  # where Python's own parser of forms would put large files
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3)).astype(np.uint8)
    Image.fromarray(noise).save(content, "PNG")
    assert len(content.getvalue()) > 2_000_000
    answer = server.ask("/predict", form(("noise.png", content.getvalue())), FORM)
    assert (answer.status, answer.json[0]["error"]) == (200, None)


def test_bodies_of_all_requests_share_a_limit(photos: list[Path]) -> None:
    content = photos[0].read_bytes()
    with serving(bodies=len(content) + 1000) as server:
        with server.connect() as slow:
            slow.sendall(f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode())
            slow.sendall(content[:2000])
            until(lambda: server.ask("/predict", content).status == 503)
            answer = server.ask("/predict", content)
            assert (answer.status, answer.json["error"]) == (503, "too many images are being received")
            assert answer.headers["retry-after"] == "1"
        until(lambda: server.ask("/predict", content).status == 200)  # the client has gone, and what it sent is forgotten


def test_an_upload_that_is_too_slow_is_ended(photos: list[Path]) -> None:
    with serving(seconds=1.0) as server:
        with server.connect() as body, server.connect() as head, server.connect() as silent:
            body.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")
            head.sendall(b"POST /predict HTTP/1.1\r\nHost: local")
            told = b"".join(iter(lambda: body.recv(65536), b""))
            assert told.startswith(b"HTTP/1.1 408 ") and b'{"error":"the upload took longer than 1 s"}' in told
            assert (head.recv(1), silent.recv(1)) == (b"", b"")  # closed without an answer: there was no request
        assert server.ask("/predict", photos[0].read_bytes()).status == 200


def test_a_second_request_on_a_connection_that_is_not_finished_is_ended_too() -> None:
    with serving(seconds=1.0) as server, server.connect() as kept:
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
        kept.sendall(b"GET /health HT")
        while kept.recv(65536):
            pass


def test_a_client_that_goes_away_in_mid_upload_is_forgotten(server: Running, photos: list[Path]) -> None:
    name = 'resnet_requests_total{path="/predict",status="400"}'
    before = server.metric(name)
    with server.connect() as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")
    until(lambda: server.metric(name) == before + 1)
    assert server.metric("resnet_queue_depth") == 0
    assert server.ask("/predict", photos[0].read_bytes()).status == 200


class Held:
    """An engine that computes only once it is let go, and remembers its batches."""

    name, precision, pixels = "held", "f32", 8 * 32 * 32

    def __init__(self) -> None:
        self.go, self.batches = threading.Event(), list[int]()
        self.fails = False

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        self.batches.append(len(images))
        assert self.go.wait(60)
        if self.fails:
            raise RuntimeError("out of order")
        return (np.full((len(images), 2), 0.5, np.float32),)

    def run_many(self, batches: Iterable[NDArray[np.uint8] | Pause]) -> Iterator[tuple[NDArray[np.float32], ...]]:
        return (self.run(images) for images in batches if not isinstance(images, Pause))


@contextmanager
def held(limit: int) -> Iterator[tuple[Running, Held]]:
    engine, notes, listening = Held(), Notes(), listen_on("127.0.0.1", 0)
    service = Service(["held"], ["a", "b"], lambda: [Member(engine, Geometry(32))], None, limit)
    notes.line(url_of(listening))
    with running(lambda: serve(service, listening, Limits(waiting=limit), 0.0, notes), notes, 2) as server:
        try:
            yield server, engine
        finally:
            engine.go.set()


def wait_for_depth(server: Running, depth: int) -> None:
    until(lambda: server.metric("resnet_queue_depth") == depth)


def test_a_full_queue_says_when_to_come_back_and_loses_nothing(photos: list[Path]) -> None:
    content = photos[0].read_bytes()
    with held(limit=4) as (server, engine), ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(server.ask, "/predict", content) for _ in range(3)]
        wait_for_depth(server, 3)
        answer = server.ask("/predict", form(("a", content), ("b", content)), FORM)
        assert (answer.status, answer.json, answer.headers["retry-after"]) == (
            503,
            {"error": "too many images are waiting"},
            "1",
        )
        asked.append(pool.submit(server.ask, "/predict", content))  # there is room for one
        wait_for_depth(server, 4)
        engine.go.set()
        assert [each.result().status for each in asked] == [200] * 4
        assert server.ask("/predict", form(("a", content), ("b", content)), FORM).status == 200


def test_what_waits_is_classified_together_whoever_sent_it(photos: list[Path]) -> None:
    content = photos[0].read_bytes()
    most = 5 * workers()
    with held(limit=256) as (server, engine), ThreadPoolExecutor(most) as pool:
        asked = [pool.submit(server.ask, "/predict", content) for _ in range(most)]  # more than all workers take at once
        wait_for_depth(server, most)
        until(lambda: bool(engine.batches))
        assert len(engine.batches) == 1  # of engines, only OpenVINO is given several at a time
        engine.go.set()
        assert {each.result().status for each in asked} == {200}
        assert sum(engine.batches) == most and 1 < max(engine.batches) <= 8
        assert server.metric("resnet_batch_images_sum") == most
        assert server.metric("resnet_batch_images_count") == len(engine.batches)


def test_a_failing_engine_is_one_failed_request_and_not_the_end(photos: list[Path]) -> None:
    content = photos[0].read_bytes()
    with held(limit=4) as (server, engine):
        engine.fails = True
        engine.go.set()
        answer = server.ask("/predict", content)
        assert (answer.status, answer.json) == (500, {"error": "the server failed: RuntimeError"})
        until(lambda: server.notes.lines[-1] == "/predict failed: RuntimeError('out of order')")
        engine.fails = False
        assert server.ask("/predict", content).status == 200
        assert server.metric("resnet_queue_depth") == 0


def test_health_tells_what_is_served_and_whether_it_is_loaded() -> None:
    loaded, notes, listening = threading.Event(), Notes(), listen_on("127.0.0.1", 0)

    def load() -> Sequence[Member]:
        assert loaded.wait(60)
        return [Member(Held(), Geometry(32))]

    service = Service(["runs/a"], ["x", "y"], load, None, 4)
    notes.line(url_of(listening))
    with running(lambda: serve(service, listening, Limits(), 0.0, notes), notes, 1) as server:
        try:
            answer = server.ask("/health")
            assert (answer.status, answer.json) == (503, {"ready": False, "runs": ["runs/a"], "classes": ["x", "y"]})
            early = server.ask("/predict", b"x")
            assert (early.status, early.json["error"]) == (503, "the classifier is not ready yet")
        finally:
            loaded.set()
        until(lambda: len(notes.lines) == 2)
        answer = server.ask("/health")
        assert (answer.status, answer.json["ready"]) == (200, True)


def test_metrics_count_what_was_asked(photos: list[Path]) -> None:
    with serving() as server:
        content = photos[0].read_bytes()
        assert server.ask("/predict", form(("a", content), ("b", b"words")), FORM).status == 200
        assert server.ask("/predict", content).status == 200
        assert server.ask("/predict", b"").status == 400
        assert server.ask("/anything/else").status == 404
        text = server.ask("/metrics")
        assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        expected = {
            'resnet_requests_total{path="/predict",status="200"}': 2,
            'resnet_requests_total{path="/predict",status="400"}': 1,
            'resnet_requests_total{path="other",status="404"}': 1,
            "resnet_images_total": 3,
            "resnet_image_errors_total": 1,
            "resnet_queue_depth": 0,
            "resnet_batch_images_sum": 3,
            'resnet_predict_seconds_bucket{le="+Inf"}': 3,
            "resnet_predict_seconds_count": 3,
        }
        assert {name: server.metric(name) for name in expected} == expected
        # Every line is a comment or a sample, every histogram grows from bound to bound.
        sample = r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+'
        lines = text.body.decode().splitlines()
        assert [line for line in lines if not re.fullmatch(rf"# (HELP|TYPE) .*|{sample}", line)] == []
        for name in ("resnet_batch_images", "resnet_predict_seconds"):
            counts = [int(line.split()[-1]) for line in lines if line.startswith(f"{name}_bucket")]
            assert counts == sorted(counts) and counts[-1] == server.metric(f"{name}_count")


def test_the_map_is_that_of_explain_and_lies_on_the_whole_image(server: Running, photos: list[Path]) -> None:
    (row,) = server.ask("/predict?explain=1", photos[0].read_bytes()).json
    kind, _, content = row["explanation"].partition(",")
    assert kind == "data:image/png;base64"
    map_ = Image.open(io.BytesIO(base64.b64decode(content)))
    with Image.open(photos[0]) as photo:
        assert map_.mode == "RGBA" and max(map_.size) == 320
        assert map_.width / map_.height == pytest.approx(photo.width / photo.height, rel=0.01)
    classifier = explainable(run_classifier(load_run(BUNDLED)), "openvino", Silent())
    expected = overlay(photos[0], explain(classifier, photos[0], row["predictions"][0]["class"]))
    assert base64.b64decode(content) == expected


def test_an_ensemble_answers_without_a_map(photos: list[Path], tmp_path: Path, run_cli: RunCli) -> None:
    shutil.copytree(BUNDLED, tmp_path / "other")
    runs = (BUNDLED, tmp_path / "other")
    with serving(runs) as server:
        expected = predicted(run_cli, photos[0], "--run", runs[0], "--run", runs[1], "--top", 1000)
        same(server.ask("/predict?top=1000", photos[0].read_bytes()).json, expected)
        refused = server.ask("/predict?explain=1", photos[0].read_bytes())
        words = "explain=1 needs one run or OpenVINO export, and something else answers here"
        assert (refused.status, refused.json["error"]) == (400, words)
        assert b'id="heat"' not in server.ask("/").body


def test_the_page_needs_nothing_from_elsewhere_and_runs_no_other_script(server: Running) -> None:
    page = server.ask("/")
    assert page.status == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    assert re.findall(rb"(?:src|href)=\"?(?!data:)[^\" >]+", page.body) == [] and b"//" not in page.body.replace(b"  // ", b"")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert server.ask("/", method="HEAD").body == b""


HOSTILE = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "a name without a space " * 12, "{{ 7 * 7 }}")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_shows_classes_and_the_map_of_a_chosen_image_in_a_browser(
    width: int, dark: bool, photos: list[Path], tmp_path: Path
) -> None:
    run = tmp_path / "<b>run"
    shutil.copytree(BUNDLED, run)
    record = json.loads((run / "run.json").read_text())
    record["classes"] = [f"{HOSTILE[i % len(HOSTILE)]} {i}" for i in range(1000)]
    (run / "run.json").write_text(json.dumps(record))
    with serving((run,), threshold=0.999) as server, Browser(tmp_path / "profile", width, dark=dark) as browser:
        browser.open(f"http://{server.address}/")
        assert browser.evaluate("document.querySelector('h1').textContent") == str(run)
        browser.choose("#file", *photos[:2])
        browser.wait_for("document.querySelectorAll('.heat').length === 2")
        shown = browser.evaluate(
            "[...document.querySelectorAll('.result')].map(card => [...card.querySelectorAll('.class')].map(line =>"
            " [line.children[0].textContent, line.children[1].textContent, line.querySelector('.bar div').style.width]))"
        )
        for path, card in zip(photos[1::-1], shown, strict=True):  # the latest on top
            (row,) = server.ask("/predict", path.read_bytes()).json
            assert [line[0] for line in card] == [each["class"] for each in row["predictions"]]
            for line, each in zip(card, row["predictions"], strict=True):
                assert float(line[1].removesuffix(" %")) == pytest.approx(100 * each["probability"], abs=0.6)
                assert float(line[2].removesuffix("%")) == pytest.approx(100 * each["probability"], abs=0.6)
        assert browser.evaluate("document.querySelector('.unsure').textContent") == "unsure: below 99.9 %"
        # The map covers the image, and nothing is wider than the page.
        assert browser.wait_for(
            "(([image, heat]) => heat.naturalWidth && image.width === heat.width && image.height === heat.height)"
            "(document.querySelectorAll('.shown img'))"
        )
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        dark_now = browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
        assert dark_now == dark
        browser.evaluate("document.getElementById('heat').click()")
        assert browser.evaluate("getComputedStyle(document.querySelector('.heat')).display") == "none"
        assert browser.evaluate("document.scripts.length") == 1 and browser.messages == []
        broken = tmp_path / "broken.jpg"
        broken.write_bytes(b"words")
        browser.choose("#file", broken)
        told = browser.wait_for("document.querySelector('[role=alert]')?.textContent")
        assert told.startswith("broken.jpg is not an image")


MAIN = """
import sys
from resnet_cli.cli.app import main
sys.argv = ["resnet", "serve", *sys.argv[1:]]
try:
    main()
finally:
    print([name for name in ("tensorflow", "keras", "torch", "matplotlib", "sklearn") if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_after_the_running_requests(number: signal.Signals, photos: list[Path]) -> None:
    command = [sys.executable, "-c", MAIN, "--run", str(BUNDLED), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = process.stderr.readline()
    told = re.fullmatch(rf"serving {re.escape(str(BUNDLED))} \(1,000 classes\) at (http://127\.0\.0\.1:\d+)\n", first)
    assert told, first
    assert re.fullmatch(r"ready after \d+\.\d s; Ctrl-C ends it\n", process.stderr.readline())
    server = Running(told.group(1).removeprefix("http://"), Notes())
    body = form(*[("a.jpg", photos[0].read_bytes())] * 64)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.ask, "/predict", body, FORM)
        until(lambda: server.metric("resnet_queue_depth") > 0 or asked.done())
        process.send_signal(number)
        answer = asked.result(60)
    assert answer.status == 200 and len(answer.json) == 64
    assert process.stderr.read() == "stopping after the running requests; press Ctrl-C again to stop at once\n[]\n"
    process.stderr.close()
    assert process.wait(60) == 128 + number


def test_a_half_sent_upload_does_not_hold_up_the_end() -> None:
    with serving(seconds=600.0, end=1.0) as server, server.connect() as half:
        half.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        assert half.recv(65536).startswith(b"HTTP/1.1 100 ")
        half.sendall(b"half")
        server.notes.signal = signal.SIGTERM
        assert b"".join(iter(lambda: half.recv(65536), b"")).startswith(b"HTTP/1.1 500 ")


def test_a_port_that_is_in_use_and_a_host_of_another_machine_are_one_sentence(run_cli: RunCli) -> None:
    with listen_on("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        result = run_cli("serve", "--run", BUNDLED, "--port", port)
        assert (result.exit_code, result.stderr) == (
            1,
            f"error: port {port} is in use\nhint: choose another --port; 0 takes a free one\n",
        )
    result = run_cli("serve", "--run", BUNDLED, "--host", "192.0.2.1", "--port", 0)
    assert result.exit_code == 1 and result.stderr.startswith("error: --host 192.0.2.1 is no address of this machine: ")
    for name in ("a..b", f"{'a' * 64}.example"):
        result = run_cli("serve", "--run", BUNDLED, "--host", name, "--port", 0)
        assert (result.exit_code, result.stderr) == (
            1,
            f"error: --host {name} is no address of this machine: it is no host name\n",
        )
    assert run_cli("serve", "--port", 70000).exit_code == 2


@pytest.mark.slow
def test_verbose_shows_every_request() -> None:
    command = [sys.executable, "-m", "resnet_cli", "serve", "--run", str(BUNDLED), "--port", "0", "--verbose"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    address = next(line for line in lines if " serving " in line).split()[-1].removeprefix("http://")
    next(line for line in lines if " ready " in line)
    server = Running(address, Notes())
    assert server.ask("/predict", b"words").status == 422 and server.ask("/a%0a%1bb").status == 404
    process.send_signal(signal.SIGTERM)
    told = [line.partition(" s  ")[2] for line in lines if " after " in line]
    assert re.fullmatch(r"POST /predict: 422 after \d+\.\d ms\n", told[0])
    assert told[1].startswith("GET /a%0a%1bb: 404 after ")  # as it was sent, on one line
    process.stderr.close()
    assert process.wait(60) == 143


@pytest.mark.parametrize("name", ["starlette", "uvicorn", "python_multipart"])
def test_without_its_packages_the_command_says_what_to_install(
    name: str, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    result = run_cli("serve", "--run", BUNDLED)
    package = name.replace("_", "-")
    expected = f"error: resnet serve needs the package {package}\nhint: pip install 'resnet-cli[serve]'\n"
    assert (result.exit_code, result.stderr) == (1, expected)


def test_other_machines_are_let_in_with_a_warning_and_under_any_name(photos: list[Path]) -> None:
    notes = Notes()
    request = replace(ServeRequest((BUNDLED,), port=0), host="0.0.0.0")
    with running(lambda: run_server(request, notes), notes, 2) as server:
        assert notes.warnings == ["there is no authentication: everyone who can reach 0.0.0.0 can use this server"]
        assert server.ask("/predict", photos[0].read_bytes(), {"Host": "cars.example"}).status == 200
        foreign = {"Host": "cars.example", "Origin": "https://attacker.example"}
        assert server.ask("/predict", photos[0].read_bytes(), foreign).status == 403


def test_a_damaged_run_is_the_error_of_predict(tmp_path: Path) -> None:
    shutil.copytree(BUNDLED, tmp_path / "run")
    (tmp_path / "run" / "model.xml").write_text("no model")
    from resnet_cli.errors import ResnetError

    notes = Notes()
    with pytest.raises(ResnetError, match=r"OpenVINO cannot load .*model\.xml"):
        run_server(ServeRequest((tmp_path / "run",), port=0), notes)
