"""Privacy: training, measuring, predicting and exporting open no connection; OpenVINO's telemetry, which is NNCF's as well, is
not even loaded. What is exported says nothing about the machine and the images that it was made with.

Every command runs in a process of its own, guarded before the first import: sockets, name look-ups, and other programs that
might be sent out instead.
"""

import csv
import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Finetuned, MakeDataset, MakeRun, RunCli

from resnet_cli.export.formats import FORMATS
from resnet_cli.export.quantizers import QUANTIZERS

GUARD = """
import json, sys

attempts = []

def watch(event, arguments):
    # Python's own record of what is done, below every library: sockets, names, other programs.
    if event in WATCHED and not (event == "subprocess.Popen" and arguments[0] in LOCAL):
        attempts.append([event, repr(arguments[1:] if event.startswith("socket.") else arguments)])
        raise ConnectionRefusedError(event)

WATCHED = {
    "socket.connect", "socket.connect_ex", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
    "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo", "urllib.Request", "http.client.connect",
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn",
}
# numpy asks for the processor's name, matplotlib for the machine's fonts.
LOCAL = {"uname", "fc-list"}
sys.addaudithook(watch)

code = 0
try:
    from resnet_cli.cli.app import main
    main()
except SystemExit as stop:
    code = stop.code or 0
modules = sys.modules
print(json.dumps({
    "code": code,
    "attempts": attempts,
    "telemetry is blocked": modules.get("openvino_telemetry", "absent") is None,
    "its stub stands in": "openvino.tools.ovc.telemetry_stub" in modules,
}), file=sys.stderr)
"""


MAIN = "from resnet_cli.cli.app import main\n    main()"
CLASSIFY = "import runpy\n    runpy.run_path('exported/classify.py', run_name='__main__')"


def guarded(home: Path, *arguments: object, body: str = MAIN) -> dict[str, object]:
    """Run a command, or another body, behind the guard, as a user whose home is empty; the guard's report."""
    command = [sys.executable, "-c", GUARD.replace(MAIN, body), *map(str, arguments)]
    environment = {"HOME": str(home), "PATH": "", "TMPDIR": str(home), "KERAS_HOME": str(home / "keras")}
    result = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    report: dict[str, object] = json.loads(result.stderr.splitlines()[-1])
    assert report["code"] == 0, result.stderr
    return report


def assert_silent(report: dict[str, object]) -> None:
    assert report["attempts"] == []
    assert report["telemetry is blocked"] and report["its stub stands in"]


def test_the_guard_sees_what_it_is_to_see(tmp_path: Path) -> None:
    script = GUARD.replace(MAIN, "CALLS")
    calls = "import socket, urllib.request\n    for call in ({}):\n        try: call()\n        except OSError: pass".format(
        "lambda: socket.create_connection(('192.0.2.1', 80)), lambda: socket.getaddrinfo('example.org', 80),"
        " lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 53)),"
        " lambda: urllib.request.urlopen('http://192.0.2.1'),"
    )
    result = subprocess.run([sys.executable, "-c", script.replace("CALLS", calls)], capture_output=True, text=True, check=False)
    events = [event for event, _ in json.loads(result.stderr.splitlines()[-1])["attempts"]]
    assert events == ["socket.getaddrinfo", "socket.getaddrinfo", "socket.sendto", "urllib.Request"]


@pytest.mark.slow
def test_fine_tuning_is_private(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=6)
    options = ["--weights", "bundled", "--set", "views=2", "--epochs", "1", "--image-size", "32", "--output", "run"]
    assert_silent(guarded(tmp_path, "finetune", data, *options))
    assert (tmp_path / "run" / "run.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "--output", "figures"],
        ["predict", "DATA"],
        ["export", "--format", "openvino", "--quantize", "int8", "--output", "exported"],
    ],
)
def test_using_a_run_is_private(arguments: list[str], finetuned_run: Finetuned, tmp_path: Path) -> None:
    words = [finetuned_run.data if word == "DATA" else word for word in arguments]
    assert_silent(guarded(tmp_path, *words, "--run", finetuned_run.folder))


@pytest.mark.slow
def test_the_program_beside_an_export_is_private(finetuned_run: Finetuned, tmp_path: Path) -> None:
    guarded(tmp_path, "export", "--format", "openvino", "--output", "exported", "--run", finetuned_run.folder)
    assert_silent(guarded(tmp_path, next(finetuned_run.data.rglob("*.png")), body=CLASSIFY))


# --- what an export says ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def named_run(make_dataset: MakeDataset, make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose data set, images, weights and command have names that occur nowhere else."""
    data = make_dataset(tmp_path_factory.mktemp("secret-place") / "pets", ("cat", "dog"), count=12)
    for path in sorted(data.rglob("*.png")):
        path.rename(path.with_name(f"patient-{path.parent.name}-{path.name}"))
    run = make_run(tmp_path_factory.mktemp("secret-runs") / "mine", data, arch="resnet8")
    record = json.loads((run / "run.json").read_text())
    record["weights"] |= {"source": "file", "path": str(run.parent / "older" / "model.weights.h5"), "fallback": f"no {run}"}
    record["config"] |= {"recipe": str(data.parent / "fast.toml")}
    (run / "run.json").write_text(json.dumps(record))
    return run


def contents_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file by its name, and what is packed in it."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield str(path.relative_to(folder)), path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                yield from ((f"{path.name}/{name}", packed.read(name)) for name in packed.namelist())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "quantize"), [*((name, ()) for name in FORMATS), *((name, ("--quantize", "int8")) for name in QUANTIZERS)]
)
def test_an_export_names_no_place_and_no_image(
    name: str, quantize: tuple[str, ...], named_run: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run_cli("export", "--format", name, *quantize, "--run", named_run, "--output", out, "--force")
    assert result.exit_code == 0, result.stderr
    data = Path(json.loads((named_run / "run.json").read_text())["data"]["path"])
    with (named_run / "splits.csv").open(newline="") as file:
        images = {Path(row["path"]).name for row in csv.DictReader(file)}
    assert len(images) == 24 and all(image.startswith("patient-") for image in images)
    program = Path(__file__).parents[1]
    places = {data.parent, named_run.parent, tmp_path, Path.home(), Path(sys.prefix), program, Path.cwd()}
    words = ["secret-", "patient-", *(f"{place}/" for place in places if place != Path("/"))]
    seen = dict(contents_of(out))
    assert len(seen) >= 3
    for encoding in ("utf-8", "utf-16-le"):
        told = {(file, word) for file, content in seen.items() for word in words if word.encode(encoding) in content}
        assert told == set()


def test_an_openvino_export_knows_its_images_by_their_hashes(named_run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_cli("export", "--format", "openvino", "--run", named_run, "--output", out).exit_code == 0
    with (named_run / "splits.csv").open(newline="") as file:
        known = [(row["split"], row["bytes"], row["sha256"]) for row in csv.DictReader(file)]
    lines = (out / "splits.csv").read_text().splitlines()
    assert lines[0] == "split,bytes,sha256"
    assert sorted(lines[1:]) == sorted(map(",".join, known))
    record = json.loads((out / "export.json").read_text())
    kept = json.loads((named_run / "run.json").read_text())
    about = {name: value for name, value in record["export"].items() if name != "parity"}
    hashes = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in ("model.bin", "model.xml")}
    assert about == {"format": "openvino", "precision": "float", "run": "mine", "with_resize": False, "sha256": hashes}
    assert record["data"] == {key: value for key, value in kept["data"].items() if key != "path"}
    assert record["weights"] == {"source": "file", "path": "", "sha256": kept["weights"]["sha256"], "fallback": ""}
    assert record["config"] == {**kept["config"], "recipe": "fast.toml"}
    assert (record["classes"], record["command"]) == (["cat", "dog"], "")
