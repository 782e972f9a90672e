"""Names of files, folders and classes that are odd, and what lies about in folders: told, shown and written as they are."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeDataset, MakeImage, MakeRun, RunCli

from resnet_cli.cli import console
from resnet_cli.data.dataset import Sample, scan_dataset
from resnet_cli.data.folders import list_folder
from resnet_cli.data.images import suitable_size
from resnet_cli.files import csv_line, path_text, write_text
from resnet_cli.inference.scoring import Rows, first_image, write_predictions
from resnet_cli.runs.folder import Run, SplitRow, read_splits, write_splits


@pytest.fixture
def run_folder(make_run: MakeRun, make_dataset: MakeDataset, tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", make_dataset(tmp_path / "fruit"), arch="resnet8")


@pytest.mark.parametrize("name", ["a\rb.jpg", "a\r\nb.jpg", "a\nb.jpg", 'a"b,c.jpg', "ü é.jpg"])
def test_every_name_comes_back_from_splits_csv(name: str, tmp_path: Path) -> None:
    rows = [SplitRow(f"cars/{name}", "cars", "train", (7, "ab")), SplitRow("cars/other.jpg", "cars", "val")]
    write_splits(tmp_path, rows)
    assert read_splits(Run(tmp_path, {})) == rows


def test_lines_of_csv_end_in_a_line_feed() -> None:
    assert csv_line(["a", 1, "b c"]) == "a,1,b c\n"


FORMULAS = ["=cmd.png", "+x.png", "-x.png", "@x.png", "\tx.png", "\rx.png", "\nx.png", "\uff1dx.png"]


@pytest.mark.parametrize("name", FORMULAS)
def test_a_path_in_a_table_never_begins_as_a_formula(name: str) -> None:
    (cells,) = csv.reader([csv_line([Path(name), "=label", -1, Path("/", name), f"{name}.png"])])
    assert cells == [f"./{name}", "=label", "-1", f"/{name}", f"{name}.png"]
    assert path_text(f"{name} is empty") == f"./{name} is empty"
    assert Path(cells[0]) == Path(name)


def test_predict_finds_files_named_as_formulas_and_writes_them_harmless(
    run_folder: Path, make_image: MakeImage, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["=a.png", "+a.png", "@a.png", "./-a.png", "./=gone.png"]
    for number, word in enumerate(words[:4]):
        make_image(Path(word), seed=number)
    run_folder.rename("=run")
    expected = ["./=a.png", "./+a.png", "./@a.png", "./-a.png", "./=gone.png"]
    for arguments, stdin in ((words, ""), (["-"], "\n".join(Path(word).name for word in words))):
        result = run_cli("predict", *arguments, "--run", "=run", "--csv", "--top", 1, "-q", stdin=stdin)
        rows = list(csv.DictReader(result.stdout.splitlines()))
        assert [row["path"] for row in rows] == expected
        assert [row["error"] for row in rows] == [*[""] * 4, "./=gone.png cannot be read: No such file or directory"]
        assert {row["runs"] for row in rows} == {"./=run"}
    document = json.loads(run_cli("predict", *words, "--run", "=run", "--json").stdout)
    assert [row["path"] for row in document] == expected
    assert document[-1]["error"] == "./=gone.png cannot be read: No such file or directory"
    assert {name for row in document for name in row["runs"]} == {"./=run"}


def test_tables_of_a_run_hold_no_formulas_as_paths_and_are_read_back(
    make_dataset: MakeDataset, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(Path("run"), make_dataset(Path("=data"), ("=a", "@b")), arch="resnet8")
    written = (run / "splits.csv").read_text().splitlines()[1:]
    assert len(written) == 24 and all(line.startswith(("./=a/", "./@b/")) for line in written)
    rows = read_splits(Run(run, {}))
    assert {row.path.split("/")[0] for row in rows} == {"=a", "@b"} == {row.label for row in rows}
    # As earlier versions wrote it.
    (run / "splits.csv").write_text((run / "splits.csv").read_text().replace("./", ""))
    assert read_splits(Run(run, {})) == rows
    scored = Rows((Sample(Path("=a/x.png"), 0),), np.array([[0.75, 0.25]], np.float32), np.array([0]), ())
    write_predictions(Path("predictions.csv"), scored, ("=a", "@b"))
    assert Path("predictions.csv").read_text().splitlines()[1] == "./=a/x.png,=a,=a,0.750000,0.287682"
    assert first_image(Path("predictions.csv")) == Path("=a/x.png")


def test_classes_with_a_line_break_are_refused(tiny_dataset: Path, run_cli: RunCli) -> None:
    (tiny_dataset / "apple").rename(tiny_dataset / "ap\nple")
    found = json.loads(run_cli("check", tiny_dataset, "--json").stdout)["problems"]
    assert [each["kind"] for each in found if "line break" in each["detail"]] == ["bad-name"]
    result = run_cli("train", tiny_dataset, "--arch", "resnet8")
    assert result.exit_code == 1 and "ap\\nple holds a line break" in result.stderr


def test_a_folder_whose_name_is_no_text_is_left_out(tiny_dataset: Path) -> None:
    inside = tiny_dataset / "apple" / os.fsdecode(b"sub\xff")
    inside.mkdir()
    (tiny_dataset / "apple" / "000.png").rename(inside / "000.png")
    listing = list_folder(tiny_dataset / "apple")
    assert len(listing.images) == 11
    assert [(each.path.name, each.reason) for each in listing.left_out] == [
        ("sub\\udcff", "its name is not valid UTF-8; rename it")
    ]


def test_names_are_shown_as_they_are(run_folder: Path, make_image: MakeImage, tmp_path: Path, run_cli: RunCli) -> None:
    for name in ("scan:a:1.png", "[bold]x.png", "red\x1b[31m.png"):
        make_image(tmp_path / "odd" / name)
    shown = run_cli("predict", tmp_path / "odd", "--run", run_folder, "--top", 1).stdout
    assert "scan:a:1.png" in shown and "[bold]x.png" in shown and "red\\x1b[31m.png" in shown
    assert console.escape("a\tb\nc\rd") == "a\tb\nc\\rd"
    assert console.escape("\u202eabc\u2066") == "\\u202eabc\\u2066"


def test_what_is_no_text_is_written_with_escapes(tmp_path: Path) -> None:
    write_text(tmp_path / "report.html", "r\udcff")
    assert (tmp_path / "report.html").read_bytes() == b"r\\udcff"


@pytest.mark.parametrize(
    "words",
    [("predict", "x.jpg", "--run", "LONG"), ("evaluate", "--run", "RUN", "--output", "LONG"), ("compare", "LONG")],
    ids=lambda words: words[0],
)
def test_too_long_a_name_is_one_sentence(words: tuple[str, ...], run_folder: Path, run_cli: RunCli) -> None:
    names = {"LONG": "l" * 300, "RUN": str(run_folder)}
    result = run_cli(*(names.get(word, word) for word in words))
    assert result.exit_code == 1
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ") and "File name too long" in line]


def test_a_closed_stderr_stops_nothing() -> None:
    code = (
        "from resnet_cli.cli.console import results_to_stdout\nfrom resnet_cli.jobs.environment import without_chatter\n"
        "with results_to_stdout(), without_chatter():\n    print('done')"
    )
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_a_pattern_may_fit_empty_folders(run_folder: Path, make_image: MakeImage, tmp_path: Path, run_cli: RunCli) -> None:
    make_image(tmp_path / "deep" / "full" / "x.png")
    (tmp_path / "deep" / "empty").mkdir()
    result = run_cli("predict", tmp_path / "deep" / "*", "--run", run_folder, "--csv", "--top", 1)
    assert result.exit_code == 0
    assert [Path(row["path"]).name for row in csv.DictReader(result.stdout.splitlines())] == ["x.png"]
    (tmp_path / "deep" / "full" / "x.png").unlink()
    result = run_cli("predict", tmp_path / "deep" / "*", "--run", run_folder)
    assert result.exit_code == 1 and "no image matches the pattern" in result.stderr


def test_what_this_program_wrote_is_no_image_and_no_class(
    tiny_dataset: Path, make_run: MakeRun, make_image: MakeImage, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_dataset)
    for name in ("a", "b"):
        run = make_run(Path("runs", name), tiny_dataset, arch="resnet8")
        make_image(run / "curves.png")
    assert run_cli("evaluate", "--run", "runs/a", "--run", "runs/b").exit_code == 0
    assert Path("runs/ensemble/predictions.csv").exists()
    Path("runs/.DS_Store").touch()
    assert scan_dataset(Path()).classes == ("apple", "berry", "cherry")
    rows = list(csv.DictReader(run_cli("predict", ".", "--run", "runs/a", "--csv", "--top", 1).stdout.splitlines()))
    assert len(rows) == 36 and not any("runs" in row["path"] for row in rows)


def test_figures_of_two_data_sets_of_one_name_stay_apart(
    run_folder: Path, make_dataset: MakeDataset, tmp_path: Path, run_cli: RunCli
) -> None:
    folders = [make_dataset(tmp_path / place / "new", count=count, first=50) for place, count in (("p", 2), ("q", 3))]

    def evaluated(folder: Path) -> tuple[str, int]:
        document = json.loads(run_cli("evaluate", folder, "--run", run_folder, "--json").stdout)
        return Path(document["output"]).name, document["count"]

    assert [evaluated(folder) for folder in (*folders, *folders)] == [("new-all", 6), ("new-all-2", 9)] * 2


def test_two_ensembles_at_a_time_write_apart(
    tiny_dataset: Path, make_run: MakeRun, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnet_cli.jobs import evaluate as measuring

    monkeypatch.chdir(tmp_path)
    runs = [make_run(tmp_path / name, tiny_dataset, arch="resnet8") for name in ("a", "b")]
    measure = measuring.measure_together

    def slowly(*arguments: object) -> object:
        Path("runs/ensemble").mkdir(parents=True)  # another process comes first
        return measure(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(measuring, "measure_together", slowly)
    document = json.loads(run_cli("evaluate", "--run", runs[0], "--run", runs[1], "--json").stdout)
    assert document["output"] == "runs/ensemble-2" and not any(Path("runs/ensemble").iterdir())


def test_a_class_that_was_renamed_in_the_record_alone_is_one_sentence(run_folder: Path, run_cli: RunCli) -> None:
    record = json.loads((run_folder / "run.json").read_text())
    (run_folder / "run.json").write_text(json.dumps({**record, "classes": ["Apple", *record["classes"][1:]]}))
    result = run_cli("evaluate", "--run", run_folder)
    assert result.exit_code == 1 and "has a class that run.json does not know: apple" in result.stderr


def test_two_splits_may_differ_in_their_capitals(tmp_path: Path, make_dataset: MakeDataset, run_cli: RunCli) -> None:
    for name in ("train", "Train"):
        make_dataset(tmp_path / "data" / name, count=2)
    if len(list((tmp_path / "data").iterdir())) == 2:  # not so where capitals do not count
        found = json.loads(run_cli("check", tmp_path / "data", "--json").stdout)["problems"]
        assert "two-splits" in {each["kind"] for each in found}


def test_a_file_of_another_format_has_no_say_in_the_input_size(tiny_dataset: Path) -> None:
    samples = scan_dataset(tiny_dataset).splits["all"]
    samples[0].path.write_bytes(b"DDS \x7c\x00\x00\x00" + bytes(120))
    assert suitable_size(samples, (40, 48, 64)) == 40


def test_a_home_that_nobody_has_is_a_folder_like_any_other(tiny_dataset: Path, run_cli: RunCli) -> None:
    result = run_cli("train", tiny_dataset, "--arch", "resnet8", "--weights", "~nobody-is-called-so/w.h5")
    assert result.exit_code == 1 and "there is no such file or run folder" in result.stderr
