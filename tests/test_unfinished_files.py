"""What is being written has a name of its own: processes that write the same file or folder do not disturb each other."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import MakeRun, RunCli

from resnet_cli.data.folders import LABELS
from resnet_cli.errors import ResnetError
from resnet_cli.export.folder import new_folder
from resnet_cli.export.formats import is_export
from resnet_cli.files import unfinished, write_bytes, write_text
from resnet_cli.runs.folder import is_run_like

SAVE = """
import sys
from pathlib import Path
import numpy as np
from resnet_cli.engines.openvino import import_openvino, save
openvino = import_openvino()
number = int(sys.argv[2])
x = openvino.opset13.parameter([1, 300], np.float32)
weights = openvino.opset13.constant(np.full((300, 1000), number, np.float32))
model = openvino.Model([openvino.opset13.matmul(x, weights, False, False)], [x])
for _ in range(10):
    save(model, Path(sys.argv[1]))
"""


def test_processes_that_save_one_openvino_model_leave_a_whole_one(tmp_path: Path) -> None:
    import openvino

    command = [sys.executable, "-c", SAVE, str(tmp_path / "model.xml")]
    started = [subprocess.Popen([*command, str(number)], stderr=subprocess.PIPE) for number in (1, 1, 1)]
    assert [(each.communicate()[1], each.returncode) for each in started] == [(b"", 0)] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    weights = openvino.Core().read_model(tmp_path / "model.xml").get_ops()
    assert any(each.get_type_name() == "Constant" and (each.data == 1).all() for each in weights)


def test_two_that_write_one_file_do_not_meet_and_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with unfinished(path) as one, unfinished(path) as other:
        assert one != other and one.parent == other.parent == tmp_path
        one.write_text("half")
        write_text(path, "whole")
    with pytest.raises(KeyboardInterrupt), unfinished(tmp_path / "folder") as folder:
        (folder / "inside").mkdir(parents=True)
        raise KeyboardInterrupt
    with pytest.raises(ResnetError, match="cannot write"):
        write_bytes(tmp_path / "nowhere" / "run.json", b"")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("run.json", "whole")]


def test_what_a_killed_process_left_is_harmless_and_goes_after_a_day(tmp_path: Path) -> None:
    left = {name: tmp_path / f".partial-{name}-run.json" for name in ("01234567", "89abcdef")}
    for path in left.values():
        path.mkdir()
        (path / "inside").touch()
    other = tmp_path / ".partial-mine"
    other.touch()
    for path in (left["01234567"], other):
        os.utime(path, (0, time.time() - 25 * 60 * 60))
    write_text(tmp_path / "run.json", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".partial-89abcdef-run.json", ".partial-mine", "run.json"]
    assert is_run_like(tmp_path)
    (tmp_path / "run.json").rename(tmp_path / LABELS)
    assert is_export(tmp_path)


# --- exports ------------------------------------------------------------------------------------------------------------------


def write_export(folder: Path, text: str) -> None:
    (folder / LABELS).write_text(text)
    (folder / "model.keras").write_text(text)


@pytest.mark.parametrize("empty", [False, True], ids=["new", "into an empty folder"])
def test_two_exports_at_once_the_first_that_is_finished_stays(empty: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if empty:
        out.mkdir()
    with pytest.raises(ResnetError, match="out exists already"), new_folder(out, False) as slow:
        write_export(slow, "slow")
        with new_folder(out, False) as quick:
            write_export(quick, "quick")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name: path.read_text() for path in out.iterdir()} == {LABELS: "quick", "model.keras": "quick"}
    with new_folder(out, True) as slow:
        write_export(slow, "slow")
        with new_folder(out, True) as quick:
            write_export(quick, "quick")
            (quick / "model.bin").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name: path.read_text() for path in out.iterdir()} == {LABELS: "slow", "model.keras": "slow"}


def test_what_became_something_else_meanwhile_is_not_replaced_with_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ResnetError, match="holds more than an export"), new_folder(out, True) as folder:
        write_export(folder, "export")
        out.mkdir()
        (out / "thesis.tex").touch()
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_force_is_not_kept_from_replacing_by_what_a_killed_export_left(
    make_run: MakeRun, sample_data: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", sample_data, arch="resnet8")
    command = ("export", "--format", "openvino", "--run", run, "--force", "--quiet")
    assert run_cli(*command).exit_code == 0
    for name in (".openvino.old", ".openvino.partial", ".partial-01234567-openvino"):
        (run / "export" / name / "old").mkdir(parents=True)
    result = run_cli(*command)
    assert (result.exit_code, result.stderr) == (0, "")


def test_an_empty_folder_is_filled_and_stays_the_folder_it_is(tmp_path: Path) -> None:
    """As a mounted volume, which can be neither moved nor written beside; what a killed export left in it does not count."""
    out = tmp_path / "out"
    (out / ".partial-01234567-labels.txt" / "new").mkdir(parents=True)
    before = out.stat().st_ino
    with new_folder(out, False) as folder:
        assert folder.is_relative_to(out)
        write_export(folder, "export")
        (folder / "variables").mkdir()
    assert out.stat().st_ino == before and is_export(out)
    assert {path.name for path in out.iterdir()} == {LABELS, "model.keras", "variables", ".partial-01234567-labels.txt"}


def test_an_empty_folder_is_empty_again_where_it_cannot_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    rename = Path.rename

    def full(path: Path, target: Path) -> Path:
        if path.name == LABELS and target.parent == out:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(ResnetError, match=r"cannot write to .*out: No space left"), new_folder(out, False) as folder:
        write_export(folder, "export")
    assert list(out.iterdir()) == []
