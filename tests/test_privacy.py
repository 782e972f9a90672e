"""Privacy: training, measuring, predicting and exporting open no connection; OpenVINO's telemetry, which is NNCF's as well, is
not even loaded.

Every command runs in a process of its own, guarded before the first import: sockets, name look-ups, and other programs that
might be sent out instead.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Finetuned, MakeDataset

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


def test_fine_tuning_is_private(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "pets", ("cat", "dog"), count=6)
    options = ["--weights", "bundled", "--views", "2", "--epochs", "1", "--image-size", "32", "--output", "run"]
    assert_silent(guarded(tmp_path, "finetune", data, *options))
    assert (tmp_path / "run" / "run.json").exists()


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


def test_the_program_beside_an_export_is_private(finetuned_run: Finetuned, tmp_path: Path) -> None:
    guarded(tmp_path, "export", "--format", "openvino", "--output", "exported", "--run", finetuned_run.folder)
    assert_silent(guarded(tmp_path, next(finetuned_run.data.rglob("*.png")), body=CLASSIFY))
