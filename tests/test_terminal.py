"""What a terminal shows: nothing wider than it, nothing cut off, the headline first; partly in a real pseudo-terminal."""

import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import Finetuned, MakeDataset, MakeRun, RunCli

from resnet_cli.cli import console
from resnet_cli.cli.reporter import curve
from resnet_cli.cli.results import Column, print_table, print_training
from resnet_cli.progress import Epoch, Field

URL = f"https://example.org/{'a-long-address-that-fits-into-no-line/' * 3}weights.h5"
# Four epochs of a training, as the command line reports them, without one.
REPORT = f"""
import time
from resnet_cli.cli.reporter import Reporter
from resnet_cli.progress import Epoch, Field
reporter, accuracies = Reporter(), []
reporter.warn("the download of {URL} has stopped, and begins again where it was")
reporter.notice("downloading {URL} takes a while")
for number in range(1, 5):
    bar = reporter.start(f"epoch {{number}}/4", 40)
    for _ in range(2):
        bar.advance(20, {{"loss": 0.5, "accuracy": 0.7}})
        time.sleep(0.11)  # the display is drawn ten times a second
    bar.finish()
    accuracies.append(number / 10)
    fields = [Field("loss 0.500", 3), Field("accuracy  70.0%", 2), Field("val loss 0.600", 1), Field("val accuracy  60.0%")]
    reporter.epoch(Epoch(f"epoch {{number}}/4", [*fields, Field("2 h 35 min to go")], accuracies, 4, number))
"""
MODELS = "import sys; sys.argv = ['resnet', 'models']; from resnet_cli.cli.app import main; main()"


def in_terminal(code: str, columns: int, **variables: str) -> str:
    """What Python code writes in a terminal of so many columns and 40 lines."""
    process, terminal = pty.fork()
    if process == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            os.environ.pop(name, None)
        os.environ.update({"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **variables})
        os.execv(sys.executable, [sys.executable, "-c", code])
    written = b""
    while True:
        try:
            chunk = os.read(terminal, 1 << 16)
        except OSError:  # the end, on Linux
            break
        if not chunk:
            break
        written += chunk
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, written.decode()
    return written.decode()


def lines_of(written: str) -> list[str]:
    """The lines of a terminal without control sequences, those that were overwritten too."""
    return [line.rstrip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written))]


@pytest.mark.parametrize(
    ("columns", "line", "has_curve"),
    [
        (60, "epoch 3/4  val accuracy  60.0%  2 h 35 min to go", False),
        (80, "epoch 3/4  val loss 0.600  val accuracy  60.0%  2 h 35 min to go", True),
        (100, "epoch 3/4  loss 0.500  accuracy  70.0%  val loss 0.600  val accuracy  60.0%  2 h 35 min to go", True),
    ],
)
def test_a_training_fits_the_terminal_and_has_a_live_curve_in_a_wide_one(columns: int, line: str, has_curve: bool) -> None:
    lines = lines_of(in_terminal(REPORT, columns))
    assert [each for each in lines if len(each) > columns] == [URL, URL]
    assert line in lines and any(each.startswith("epoch 2/4 ━") for each in lines)
    assert ("       └ val accuracy, epoch 3 of 4; best: epoch 3" in lines) == has_curve


def test_where_no_terminal_is_epochs_have_all_fields_and_warnings_are_one_line(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS")
    exec(REPORT, {})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"warning: the download of {URL} has stopped, and begins again where it was"
    assert lines[-1] == "epoch 4/4  loss 0.500  accuracy  70.0%  val loss 0.600  val accuracy  60.0%  2 h 35 min to go"


def test_fields_are_dropped_from_the_least_important_and_the_time_to_go_stays() -> None:
    fields = [Field("loss 0.123", 3), Field("accuracy 97.1%", 2), Field("val loss 0.382", 1), Field("val accuracy 84.6%")]
    epoch = Epoch("epoch 2/9", [*fields, Field("12 min to go")], [0.8, 0.846], 9, 2)
    whole = "epoch 2/9  loss 0.123  accuracy 97.1%  val loss 0.382  val accuracy 84.6%  12 min to go"
    assert epoch.text() == epoch.text(len(whole)) == whole
    assert epoch.text(len(whole) - 1) == "epoch 2/9  accuracy 97.1%  val loss 0.382  val accuracy 84.6%  12 min to go"
    assert epoch.text(60) == "epoch 2/9  val loss 0.382  val accuracy 84.6%  12 min to go"
    assert epoch.text(20) == "epoch 2/9  val accuracy 84.6%  12 min to go"


def test_the_curve_is_drawn_from_the_lowest_to_the_highest_accuracy_and_as_wide_as_the_epochs_done() -> None:
    # 20 columns are 10 of the plot; 4 of 8 epochs fill 5, and 31 steps of height lie between the lowest and the highest.
    assert curve([0.5, 0.75, 1.0, 0.5], 8, 3, 20) == [
        "100.0% │   █ ",
        "       │  ▁█ ",
        "       │  ██ ",
        " 50.0% │▁▁██▁",
        "       └ val accuracy, epoch 4 of 8; best: epoch 3",
    ]


def test_no_color_means_no_colours_and_a_dumb_terminal_gets_plain_lines() -> None:
    colours = re.compile(r"\x1b\[[0-9;]*(?:3[0-7]|9[0-7]|38;)[0-9;]*m")
    assert colours.search(in_terminal(REPORT, 80)) and not colours.search(in_terminal(REPORT, 80, NO_COLOR="1"))
    dumb = in_terminal(REPORT, 80, TERM="dumb")
    assert "\x1b" not in dumb and "━" not in dumb and "epoch 4/4  val loss 0.600" in dumb


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_networks_are_listed_whole_in_a_real_terminal(columns: int) -> None:
    lines = lines_of(in_terminal(MODELS, columns))
    assert max(map(len, lines)) <= columns and not any("…" in line for line in lines)
    row = next(line for line in lines if "resnet152v1.5" in line)
    assert row.replace("│", " ").split() == ["resnet152v1.5", "imagenet", "152", "60,344,232", "224", "hub"]


def test_a_usage_error_is_one_line_however_narrow_the_terminal() -> None:
    code = "import sys; sys.argv = ['resnet', 'finetune', '--' + 'long-path/' * 9]; from resnet_cli.cli.app import main; main()"
    lines = lines_of(in_terminal(f"try:\n    {code}\nexcept SystemExit as stop:\n    assert stop.code == 2", 60))
    assert f"Error: No such option: --{'long-path/' * 9}" in lines


COLUMNS = [
    Column("run", ["runs/photos", "runs/a-longer-name"]),
    Column("images\nper s", ["7", "1,234"], is_number=True, rank=2, name="images/s"),
    Column("network", ["resnet18", "resnet152"], rank=1),
    Column("accuracy", ["97.5%", "100.0%"], is_number=True),
]


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (
            50,
            """
                    images
run                  per s  network    accuracy
runs/photos              7  resnet18      97.5%
runs/a-longer-name   1,234  resnet152    100.0%
""",
        ),
        (
            40,
            """
run                network   accuracy
runs/photos        resnet18     97.5%
runs/a-longer-name resnet152   100.0%
Not shown at this width: images/s.
""",
        ),
        (
            20,
            """
runs/photos
  images/s  7
  network   resnet18
  accuracy  97.5%
runs/a-longer-name
  images/s  1,234
  network   resnet152
  accuracy  100.0%
""",
        ),
    ],
)
def test_a_table_loses_borders_then_columns_and_is_stacked_at_last(
    columns: int, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.out, "_width", columns)
    print_table(COLUMNS)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == shown.strip("\n").splitlines()


def test_a_pipe_gets_every_column(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console.out, "_width", 20)
    monkeypatch.delenv("COLUMNS")
    print_table(COLUMNS, borders=False)
    assert "runs/a-longer-name   1,234  resnet152    100.0%" in capsys.readouterr().out


def test_the_headline_of_a_training_comes_before_its_table(
    finetuned_run: Finetuned, capsys: pytest.CaptureFixture[str]
) -> None:
    print_training(finetuned_run.result, False, False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"held-out accuracy {finetuned_run.result['val']['top1']:.1%}  (95 % interval ")
    assert sum(f" {each} " in line for line in lines for each in ("apple", "berry", "grape")) == 3


@pytest.fixture(scope="module")
def run_of_many(make_run: MakeRun, make_dataset: MakeDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 32 classes."""
    root = tmp_path_factory.mktemp("many")
    return make_run(root / "run", make_dataset(root / "many", tuple(f"kind {number:02d}" for number in range(32)), count=4))


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_of_many_classes_the_headline_and_the_ten_worst_are_shown(
    columns: int, run_of_many: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.out, "_width", columns)
    figures = json.loads(run_cli("evaluate", "--run", run_of_many, "--json", "--split", "train").stdout)
    printed = run_cli("evaluate", "--run", run_of_many, "--no-report", "--split", "train").stdout.splitlines()
    assert printed[0] == "many, train" and printed[1].startswith(f"top-1 {figures['top1']:.1%}  (95 % interval ")
    assert max(map(len, printed[:-1])) <= columns
    end = next(place for place, line in enumerate(printed) if line.startswith("The 10 worst of 32 classes; all are in"))
    rows = [line.replace("│", " ").split() for line in printed[:end] if "kind " in line]
    recalls = sorted(each["recall"] for each in figures["classes"])[:10]
    assert [row[4 if columns > 60 or len(row) == 6 else 3] for row in rows] == [f"{recall:.1%}" for recall in recalls]


def test_a_comparison_says_which_columns_a_narrow_terminal_lacks(
    finetuned_run: Finetuned, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[int, str] = {}
    for columns in (60, 80, 100):
        monkeypatch.setattr(console.out, "_width", columns)
        shown[columns] = run_cli("compare", finetuned_run.folder, "--output", tmp_path / "compare.png").stdout
        table = shown[columns].partition("note:")[0].partition("figure:")[0]
        assert max(map(len, table.splitlines())) <= columns and "resnet18-slim, fine-tuned" in table
    assert "images per s" in shown[60] and "Not shown at this width" in shown[60]
    assert "Not shown at this width" not in shown[100]


def test_the_image_of_a_terminal_loads_nothing_and_shows_no_path_of_a_machine() -> None:
    drawn = (Path(__file__).parents[1] / "docs" / "terminal.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(drawn)
    assert not re.search(r"@font-face|@import|url\((?!#)|<image|href=", drawn)
    lines = ["".join(text.itertext()).replace("\xa0", " ") for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("resnet finetune sample_data/cars_vs_trucks" in line for line in lines)
    assert any(re.match(r"epoch +2/20 .* val accuracy ", line) for line in lines) and any("100.0%" in line for line in lines)
    assert not [line for line in lines if re.search(r"(?:^|\s)/\w|[A-Z]:\\", line)]
    assert max(map(len, lines)) <= 80
