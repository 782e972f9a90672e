"""`resnet predict`: an answer for every image that is named, in order, in three forms, without TensorFlow."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finetuned, MakeDataset, MakeImage, RunCli
from PIL import Image

from resnet_cli.data.decode import Geometry, decode_square
from resnet_cli.engines.frozen import read_classifier
from resnet_cli.engines.openvino import OpenVinoEngine
from resnet_cli.inference.classify import Member, classify
from resnet_cli.networks.catalogue import spec_from_record
from resnet_cli.runs.folder import load_run

UNWANTED = ("tensorflow", "keras", "sklearn", "matplotlib", "scipy", "h5py")


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset) -> Path:
    """Six images that the run never saw, in two folders."""
    return make_dataset(tmp_path_factory.mktemp("album"), ("apple", "cherry"), count=3, first=80)


def predicted(run_cli: RunCli, finetuned_run: Finetuned, *arguments: object, stdin: str = "") -> list[dict[str, Any]]:
    result = run_cli("predict", *arguments, "--run", finetuned_run.folder, "--json", stdin=stdin)
    assert result.exit_code == 0, result.stderr
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def test_the_most_probable_classes_come_first(finetuned_run: Finetuned, run_cli: RunCli, album: Path) -> None:
    (row,) = predicted(run_cli, finetuned_run, album / "apple" / "080.png")
    assert list(row) == ["path", "error", "predictions", "unsure", "unlike_training", "distance", "runs"]
    assert row["runs"] == [str(finetuned_run.folder)]
    assert (row["path"], row["error"]) == (str(album / "apple" / "080.png"), None)
    assert len(row["predictions"]) == 5
    probabilities = [each["probability"] for each in row["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True)
    (whole,) = predicted(run_cli, finetuned_run, album / "apple" / "080.png", "--top", 100)
    assert {each["class"] for each in whole["predictions"]} == set(load_run(finetuned_run.folder).classes)
    assert sum(each["probability"] for each in whole["predictions"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_a_list_of_no_images_is_an_error(form: list[str], run_cli: RunCli, finetuned_run: Finetuned) -> None:
    result = run_cli("predict", "-", "--run", finetuned_run.folder, *form, stdin="\n")
    assert result.exit_code == 1
    assert "error: stdin names no images\n" in result.stderr


def test_an_address_is_no_file_that_went_missing(run_cli: RunCli, finetuned_run: Finetuned) -> None:
    result = run_cli("predict", "https://example.org/cat.jpg", "--run", finetuned_run.folder)
    assert result.exit_code == 1
    assert "error: https://example.org/cat.jpg is a URL, and images are not downloaded\n" in result.stderr


def test_files_folders_patterns_and_stdin_mix_and_keep_their_order(
    finetuned_run: Finetuned, run_cli: RunCli, album: Path
) -> None:
    (album / "notes.txt").write_text("no image")
    named = [album / "cherry" / "082.png", album / "apple", f"{album}/cherry/08[01].png", "-"]
    listed = f"{album}/apple/081.png\n\n{album}/cherry/080.png\r\n"
    rows = predicted(run_cli, finetuned_run, *named, stdin=listed)
    expected = ["cherry/082", "apple/080", "apple/081", "apple/082", "cherry/080", "cherry/081", "apple/081", "cherry/080"]
    assert [row["path"] for row in rows] == [f"{album}/{name}.png" for name in expected]
    by_path: dict[str, Any] = {}
    for row in rows:
        # The same image gets the same answer wherever it stands.
        first = by_path.setdefault(row["path"], row["predictions"])[0]["probability"]
        assert row["predictions"][0]["probability"] == pytest.approx(first, abs=1e-3)


def test_a_damaged_image_disturbs_no_other(finetuned_run: Finetuned, run_cli: RunCli, album: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes((album / "apple" / "080.png").read_bytes()[:90])
    missing = tmp_path / "missing.jpg"
    names = [album / "apple" / "080.png", broken, album / "cherry" / "080.png", missing, album / "apple" / "081.png"]
    result = run_cli("predict", *names, "--run", finetuned_run.folder, "--json")
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert [row["path"] for row in rows] == [str(name) for name in names]
    for row in (rows[1], rows[3]):
        assert row["path"] in row["error"] and row["predictions"] == []
    alone = predicted(run_cli, finetuned_run, names[0], names[2], names[4])
    for row, other in zip([rows[0], rows[2], rows[4]], alone, strict=True):
        assert row["error"] is None
        assert row["predictions"][0]["class"] == other["predictions"][0]["class"]
    told = run_cli("predict", *names, "--run", finetuned_run.folder)
    assert told.exit_code == 1
    assert [line for line in told.stderr.splitlines() if line.startswith("error:")] == [
        f"error: {row['error']}" for row in (rows[1], rows[3])
    ]
    assert told.stdout.count("%") == 3 * 5
    only = run_cli("predict", broken, missing, "--run", finetuned_run.folder, "--csv")
    assert only.exit_code == 1
    assert [row["path"] for row in csv.DictReader(io.StringIO(only.stdout))] == [str(broken), str(missing)]


def test_odd_names_are_errors_of_their_own_images(
    finetuned_run: Finetuned, run_cli: RunCli, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(album / "apple" / "080.png", tmp_path / "~nobody.png")
    (row,) = predicted(run_cli, finetuned_run, "~nobody.png")
    assert (row["path"], row["error"]) == ("~nobody.png", None)
    listed = f"{album}/apple/080.png\0{album}/apple/081.png\0\n{album}/cherry/080.png\n"
    command = ("--run", finetuned_run.folder, "--json")
    for words, stdin, wrong in (
        (
            ["-"],
            listed,
            "is not a valid path: embedded null byte; where paths are separated by NUL, as by find -print0",
        ),
        (["x" * 300 + ".png", "-"], listed, "File name too long"),
    ):
        result = run_cli("predict", *words, *command, stdin=stdin)
        rows = json.loads(result.stdout)
        assert result.exit_code == 1 and wrong in rows[0]["error"] and rows[-1]["error"] is None


def test_files_of_a_folder_that_are_passed_over_are_told(
    finetuned_run: Finetuned, run_cli: RunCli, album: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(album / "apple", tmp_path / "holiday")
    for name in ("beach.jxl", "hill.jxl", "notes.txt"):
        (folder / name).write_bytes(b"x")
    command = ("predict", folder, "--run", finetuned_run.folder, "--json")
    result = run_cli(*command)
    assert result.exit_code == 0 and len(json.loads(result.stdout)) == 3
    assert f"skipped 1 file of {folder} (first: notes.txt: not an image)\n" in result.stderr
    # Images without an answer are a warning, which --quiet does not silence.
    warning = f"warning: skipped 2 files of {folder} (first: beach.jxl: JXL images are not read; convert it to JPEG)\n"
    assert warning in result.stderr
    assert run_cli(*command, "--quiet").stderr == warning


def test_folders_that_a_pattern_fits_are_listed_as_if_the_shell_had_named_them(
    finetuned_run: Finetuned, run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    album = make_dataset(tmp_path / "album", ("apple", "cherry"), count=3)
    named = [row["path"] for row in predicted(run_cli, finetuned_run, album / "apple", album / "cherry")]
    assert len(named) == 6
    for pattern in ("*", "[ac]*y*", "**"):
        expected = named[3:] if pattern == "[ac]*y*" else named
        assert [row["path"] for row in predicted(run_cli, finetuned_run, f"{album}/{pattern}")] == expected


def test_csv_has_a_line_for_every_image_and_class(finetuned_run: Finetuned, run_cli: RunCli, album: Path) -> None:
    result = run_cli("predict", album / "apple", "--run", finetuned_run.folder, "--csv", "--top", 2)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert list(rows[0]) == ["path", "rank", "class", "probability", "error", "runs", "unsure", "unlike_training"]
    assert {row["runs"] for row in rows} == {str(finetuned_run.folder)}
    assert [(row["path"], row["rank"]) for row in rows] == [
        (f"{album}/apple/{number:03d}.png", str(rank)) for number in (80, 81, 82) for rank in (1, 2)
    ]
    document = predicted(run_cli, finetuned_run, album / "apple", "--top", 2)
    assert [(row["class"], float(row["probability"])) for row in rows] == [
        (each["class"], pytest.approx(each["probability"], abs=1e-6)) for row in document for each in row["predictions"]
    ]


def test_json_and_csv_exclude_each_other(finetuned_run: Finetuned, run_cli: RunCli, album: Path) -> None:
    result = run_cli("predict", album, "--run", finetuned_run.folder, "--json", "--csv")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--json and --csv exclude each other" in result.stderr


def test_the_answer_is_what_keras_says_of_the_same_pixels(finetuned_run: Finetuned, run_cli: RunCli, album: Path) -> None:
    run = load_run(finetuned_run.folder)
    classifier = read_classifier(run.weights, spec_from_record(run.record))
    paths = sorted(album.rglob("*.png"))
    pixels = np.stack([decode_square(path, Geometry(32, "crop", 1.0)) for path in paths])
    expected = np.asarray(classifier.predict_on_batch(pixels))
    rows = predicted(run_cli, finetuned_run, *paths, "--top", 7)
    clear = 0
    for row, probabilities in zip(rows, expected, strict=True):
        # In bf16 probabilities move by up to a few hundredths; what must not move is an answer that is clearer than that.
        second, first = np.sort(probabilities)[-2:]
        if first - second > 0.1:
            clear += 1
            assert row["predictions"][0]["class"] == run.classes[probabilities.argmax()]
    assert clear >= 2  # of six: enough to say something
    exact = OpenVinoEngine(run.openvino, "many", exact=True).run(pixels)[0]
    np.testing.assert_allclose(exact, expected, atol=5e-3)
    np.testing.assert_array_equal(exact.argmax(axis=1), expected.argmax(axis=1))


def test_one_image_or_many_at_a_time_is_the_same(finetuned_run: Finetuned, album: Path, make_image: MakeImage) -> None:
    paths = [make_image(album.parent / "more" / f"{number:02d}.png", seed=number) for number in range(21)]
    run = load_run(finetuned_run.folder)
    geometry = Geometry(32, "crop", 1.0)
    one = list(classify(paths, [Member(OpenVinoEngine(run.openvino, "one", exact=True), geometry)], batch=1))
    many = list(classify(paths, [Member(OpenVinoEngine(run.openvino, "many", exact=True), geometry)], batch=8))
    assert [row.image for row in one] == [row.image for row in many] == paths
    for row, other in zip(one, many, strict=True):
        assert row.probabilities is not None and other.probabilities is not None
        np.testing.assert_allclose(row.probabilities, other.probabilities, atol=1e-4)


def test_tensorflow_is_never_imported(finetuned_run: Finetuned, album: Path) -> None:
    script = f"""
import sys
from resnet_cli.cli.app import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
sys.stderr.write(" ".join(name for name in {UNWANTED!r} if name in sys.modules))
"""
    words = ["predict", str(album), "--run", str(finetuned_run.folder), "--json", "--quiet"]
    result = subprocess.run([sys.executable, "-W", "error", "-c", script, *words], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(json.loads(result.stdout)) == 6


def test_a_named_run_that_is_not_there_is_not_replaced_by_another(run_cli: RunCli, album: Path, tmp_path: Path) -> None:
    result = run_cli("predict", album, "--run", tmp_path / "nowhere")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: there is no run folder {tmp_path / 'nowhere'}\n")


def test_a_heat_map_is_written_for_every_image_that_can_be_read(
    finetuned_run: Finetuned, run_cli: RunCli, album: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    maps = tmp_path / "maps"
    names = [album / "apple" / "080.png", tmp_path / "broken.jpg", album / "apple" / "081.png"]
    result = run_cli("predict", *names, "--run", finetuned_run.folder, "--explain", maps, "--json")
    rows = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [row.get("explanation") for row in rows] == [
        str(maps / f"080-{rows[0]['predictions'][0]['class']}.jpg"),
        None,
        str(maps / f"081-{rows[2]['predictions'][0]['class']}.jpg"),
    ]
    for place in (0, 2):
        with Image.open(names[place]) as image, Image.open(rows[place]["explanation"]) as shown:
            assert shown.size == image.size
    assert "heat map:" in run_cli("predict", names[0], "--run", finetuned_run.folder, "--explain", maps).stdout


def test_an_ensemble_is_not_explained(finetuned_run: Finetuned, run_cli: RunCli, album: Path, tmp_path: Path) -> None:
    other = shutil.copytree(finetuned_run.folder, tmp_path / "other")
    result = run_cli("predict", album, "--run", finetuned_run.folder, "--run", other, "--explain", tmp_path / "maps")
    assert result.exit_code == 1 and "--explain needs one run" in result.stderr and not (tmp_path / "maps").exists()


def test_a_prediction_below_the_threshold_is_unsure(finetuned_run: Finetuned, run_cli: RunCli, album: Path) -> None:
    rows = predicted(run_cli, finetuned_run, album)
    middle = sorted(row["predictions"][0]["probability"] for row in rows)[len(rows) // 2]
    again = predicted(run_cli, finetuned_run, album, "--threshold", middle)
    assert [row["unsure"] for row in again] == [row["predictions"][0]["probability"] < middle for row in rows]
    assert not any(row["unsure"] for row in rows)
    printed = run_cli("predict", album, "--run", finetuned_run.folder, "--threshold", middle).stdout
    assert printed.count("  unsure\n") == sum(row["unsure"] for row in again)
