"""`resnet evaluate`: every held-out image exactly once, figures that scikit-learn confirms, training images never."""

import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from conftest import Finetuned, MakeDataset, MakeImage, MakeRun, RunCli

from resnet_cli.inference.metrics import measure, wilson_interval
from resnet_cli.runs.folder import is_run_like


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def evaluated(run_cli: RunCli, *arguments: object) -> dict[str, Any]:
    result = run_cli("evaluate", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.fixture
def run_folder(finetuned_run: Finetuned, tmp_path: Path) -> Path:
    """A copy of the run, which evaluate may write into."""
    return shutil.copytree(finetuned_run.folder, tmp_path / "run")


def held_out_of(run: Path, data: Path) -> set[str]:
    return {str(data / row["path"]) for row in rows_of(run / "splits.csv") if row["split"] == "val"}


def test_every_held_out_image_is_counted_once_and_the_worst_comes_first(
    finetuned_run: Finetuned, run_folder: Path, run_cli: RunCli
) -> None:
    document = evaluated(run_cli, "--run", run_folder)
    rows = rows_of(run_folder / "predictions.csv")
    assert list(rows[0]) == ["path", "true", "predicted", "probability", "loss"]
    assert sorted(row["path"] for row in rows) == sorted(held_out_of(run_folder, finetuned_run.data))
    assert document["count"] == len(rows) == finetuned_run.held > 35
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert all(row["true"] == Path(row["path"]).parent.name for row in rows)


def test_the_figures_are_scikit_learns(finetuned_run: Finetuned, run_folder: Path, run_cli: RunCli) -> None:
    document = evaluated(run_cli, "--run", run_folder)
    names = {
        "run",
        "dataset",
        "split",
        "count",
        "top1",
        "top1_interval",
        "top5",
        "loss",
        "ece",
        "macro",
        "classes",
        "confusion",
    }
    assert names <= document.keys()
    assert (document["run"], document["dataset"], document["split"]) == (str(run_folder), "fruit", "val")
    rows = rows_of(run_folder / "predictions.csv")
    true, predicted = [row["true"] for row in rows], [row["predicted"] for row in rows]
    classes = [each["class"] for each in document["classes"]]
    assert document["top1"] == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
    assert 0 < document["top1"] < 1, "two classes look alike: figures that are all 1 would prove nothing"
    report = sklearn.metrics.classification_report(true, predicted, labels=classes, output_dict=True, zero_division=0)
    for each in document["classes"]:
        expected = report[each["class"]]
        assert each["count"] == expected["support"]
        for name, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert each[name] == pytest.approx(expected[key])
            assert document["macro"][name] == pytest.approx(report["macro avg"][key])
    confusion = sklearn.metrics.confusion_matrix(true, predicted, labels=classes)
    assert document["confusion"] == confusion.tolist()
    written = rows_of(run_folder / "confusion.csv")
    assert [list(row.values()) for row in written] == [
        [name, *map(str, row)] for name, row in zip(classes, confusion.tolist(), strict=True)
    ]
    assert document["loss"] == pytest.approx(np.mean([float(row["loss"]) for row in rows]), abs=1e-5)
    assert document["top1_interval"] == list(wilson_interval(document["top1"], finetuned_run.held))
    assert document["top1"] <= document["top5"] <= 1


def test_every_answer_is_the_one_that_finetune_measured(finetuned_run: Finetuned, run_folder: Path, run_cli: RunCli) -> None:
    measured = {row["path"]: row for row in rows_of(finetuned_run.folder / "predictions.csv")}
    assert evaluated(run_cli, "--run", run_folder)["count"] == finetuned_run.result["val"]["count"] == len(measured)
    # Where the head answered from stored features, probabilities are as near as `classify_pooled` asks for, classes the same.
    for row in rows_of(run_folder / "predictions.csv"):
        assert row["true"] == measured[row["path"]]["true"]
        assert float(row["probability"]) == pytest.approx(float(measured[row["path"]]["probability"]), abs=0.02)
        assert row["predicted"] == measured[row["path"]]["predicted"]


def test_top_five_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(9), 50).astype(np.float32)
    labels = random.integers(0, 9, 50)
    expected = sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=range(9))
    assert measure(probabilities, labels, tuple("abcdefghi")).top5 == pytest.approx(expected)
    assert measure(probabilities[:, :5], labels % 5, tuple("abcde")).top5 is None


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    # Three of fifteen bins (Guo et al. 2017): 4 images at 0.95, two right; 4 at 0.75, all right; 2 at 0.61, one right.
    confidence = np.array([0.95] * 4 + [0.75] * 4 + [0.61] * 2)
    right = np.array([1, 1, 0, 0, 1, 1, 1, 1, 1, 0])
    probabilities = np.stack([confidence, 1 - confidence], axis=1).astype(np.float32)
    evaluation = measure(probabilities, (1 - right).astype(np.int64), ("yes", "no"))
    assert evaluation.ece == pytest.approx(0.4 * 0.45 + 0.4 * 0.25 + 0.2 * 0.11, abs=1e-6)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17: table I, method 3 (Wilson without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_the_published_one(right: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(right / count, count) == pytest.approx((low, high), abs=5e-5)


def test_a_folder_is_matched_by_the_names_of_its_classes(
    run_folder: Path, run_cli: RunCli, make_image: MakeImage, tmp_path: Path
) -> None:
    # Other order, fewer classes and one that the run never saw; classes 0, 2 and 3 of the run by their colours.
    folder = tmp_path / "market"
    for label, name in ((3, "date"), (0, "apple"), (2, "cherry"), (1, "zucchini")):
        for number in range(6):
            make_image(folder / name / f"{number}.png", seed=70 + number, label=label)
    document = evaluated(run_cli, folder, "--run", run_folder)
    counts = {each["class"]: each["count"] for each in document["classes"]}
    assert list(counts) == json.loads((run_folder / "run.json").read_text())["classes"]
    assert {name: count for name, count in counts.items() if count} == {"apple": 6, "cherry": 6, "date": 6}
    assert document["dataset"] == "market" and document["count"] == 18
    assert document["top1"] > 0.6, "matched by position, nearly every answer would be wrong"
    assert any("zucchini" in note for note in document["notes"])
    assert any("berry, elder, fig and grape" in note for note in document["notes"])


def test_a_class_may_be_spelled_as_macos_spells_it(
    run_folder: Path, run_cli: RunCli, make_image: MakeImage, tmp_path: Path
) -> None:
    record = json.loads((run_folder / "run.json").read_text())
    record["classes"][0] = "\u00e9clair"
    (run_folder / "run.json").write_text(json.dumps(record))
    make_image(tmp_path / "cakes" / "e\u0301clair" / "0.png", seed=90)
    assert evaluated(run_cli, tmp_path / "cakes", "--run", run_folder)["classes"][0]["count"] == 1


def test_two_test_folders_are_refused(run_folder: Path, run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path) -> None:
    for name in ("train", "test", "testing"):
        make_dataset(tmp_path / "two" / name, ("apple", "fig"), count=2)
    result = run_cli("evaluate", tmp_path / "two", "--run", run_folder)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "keep one of them" in result.stderr


def test_data_sets_of_one_name_do_not_replace_each_other_s_figures(
    run_folder: Path, run_cli: RunCli, make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []
    for place, name in enumerate(("here", "there")):
        make_image(tmp_path / name / "fresh" / "apple" / "0.png", seed=90 + place)
        monkeypatch.chdir(tmp_path / name)
        folders.append(evaluated(run_cli, "fresh", "--run", run_folder)["output"])
    assert evaluated(run_cli, tmp_path / "there" / "fresh", "--run", run_folder)["output"] == folders[1]
    assert [Path(folder).name for folder in folders] == ["fresh-all", "fresh-all-2"]


def test_a_confusion_table_that_does_not_fit_gives_way_to_a_list(
    run_folder: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns, words in ((200, "true \\ predicted"), (40, "taken for")):
        monkeypatch.setattr("resnet_cli.cli.console.out.width", columns)
        assert words in run_cli("evaluate", "--run", run_folder).stdout


def test_a_folder_of_one_class_is_scored_against_all_that_the_run_knows(
    run_folder: Path, run_cli: RunCli, make_image: MakeImage, tmp_path: Path
) -> None:
    for number in range(6):
        make_image(tmp_path / "wrong" / "apple" / f"{number}.png", seed=70 + number, label=3)  # they look like dates
    (tmp_path / "wrong" / "apple" / "notes.txt").write_text("no image")
    document = evaluated(run_cli, tmp_path / "wrong", "--run", run_folder)
    assert document["top1"] < 0.5 and document["loss"] > 0.5
    assert document["output"] == str(run_folder / "evaluations" / "wrong-all")
    assert {row["true"] for row in rows_of(Path(document["output"], "predictions.csv"))} == {"apple"}
    assert any("skipped 1 file (" in note and "notes.txt: not an image" in note for note in document["notes"])


def test_training_images_are_known_wherever_the_data_set_lies_by_now(
    finetuned_run: Finetuned, run_folder: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    copy = shutil.copytree(finetuned_run.data, tmp_path / "elsewhere")
    (copy / "apple" / "1000.png").write_bytes(next((copy / "fig").iterdir()).read_bytes() + b"another")
    document = evaluated(run_cli, copy, "--run", run_folder)
    known = finetuned_run.held + 1
    assert document["count"] == known, "the held-out images and the new one"
    assert any(
        f"{finetuned_run.trained} images that the run was trained on are not scored" in note for note in document["notes"]
    )
    # They are known by their content, whatever they are called.
    trained = next(row["path"] for row in rows_of(run_folder / "splits.csv") if row["split"] == "train")
    (copy / trained).rename(copy / "apple" / "IMG_1.png")
    assert evaluated(run_cli, copy, "--run", run_folder)["count"] == known
    (copy / "apple" / "IMG_1.png").rename(copy / trained)
    # Another image under the name of one that was trained on is a new image, though it has as many bytes.
    content = (copy / trained).read_bytes()
    (copy / trained).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert evaluated(run_cli, copy, "--run", run_folder)["count"] == known + 1
    # The data set itself may have gone.
    record = json.loads((run_folder / "run.json").read_text())
    record["data"]["path"] = str(tmp_path / "gone")
    (run_folder / "run.json").write_text(json.dumps(record))
    assert evaluated(run_cli, copy.rename(tmp_path / "moved"), "--run", run_folder)["count"] == known + 1


def test_held_out_images_that_are_others_by_now_are_told(
    run_cli: RunCli, make_run: MakeRun, tmp_path: Path, tiny_dataset: Path
) -> None:
    run = make_run(tmp_path / "run", tiny_dataset)
    rows = rows_of(run / "splits.csv")
    trained, held = (next(row for row in rows if row["split"] == split) for split in ("train", "val"))
    (tiny_dataset / held["path"]).write_bytes((tiny_dataset / trained["path"]).read_bytes())
    document = evaluated(run_cli, "--run", run, "--allow-changed")
    count = sum(row["split"] == "val" for row in rows)
    assert f"1 of {count} held-out images are copies of training images" in " ".join(document["notes"])


@pytest.mark.slow
def test_images_that_an_earlier_run_was_trained_on_are_told_and_never_scored_elsewhere(
    run_cli: RunCli, tiny_dataset: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    options = ["--arch", "resnet8", "--epochs", "1", "--json", "--output"]
    first, second = make_run(tmp_path / "first", tiny_dataset, arch="resnet8"), tmp_path / "second"
    result = run_cli("train", tiny_dataset, "--weights", first, "--val-split", "0.5", "--seed", "1", *options, second)
    assert result.exit_code == 0, result.stderr
    held = {row["path"] for row in rows_of(second / "splits.csv") if row["split"] == "val"}
    before = {row["path"] for row in rows_of(first / "splits.csv") if row["split"] == "train"}
    told = f"{len(held & before)} of {len(held)} held-out images are training images of {first}"
    assert told in " ".join(json.loads(result.stdout)["warnings"])
    assert told in " ".join(evaluated(run_cli, "--run", second)["notes"])
    assert held & before and held - before
    everything = evaluated(run_cli, shutil.copytree(tiny_dataset, tmp_path / "copy"), "--run", second)
    assert everything["count"] == len(held - before)
    # So does an export, which knows none of the runs' folders.
    export = ("export", "--format", "openvino", "--run", second, "--output", tmp_path / "out")
    assert run_cli(*export).exit_code == 0
    by_export = evaluated(run_cli, tmp_path / "copy", "--run", tmp_path / "out", "--output", tmp_path / "figures")
    assert by_export["count"] == len(held - before)
    # What became of the earlier run since does not matter: what the training warned of is still so.
    warned = json.loads((second / "run.json").read_text())["results"]["warnings"]
    (first / "splits.csv").write_bytes(b"\xff")
    assert evaluated(run_cli, "--run", second)["notes"] == warned
    shutil.rmtree(first)
    assert evaluated(run_cli, "--run", second)["notes"] == warned


@pytest.mark.slow
def test_test_images_that_are_copies_of_training_images_are_told(
    make_dataset: MakeDataset, run_cli: RunCli, tmp_path: Path
) -> None:
    data = make_dataset(tmp_path / "pets" / "train", ("cat", "dog"), count=10).parent
    for name in ("cat", "dog"):
        (data / "test" / name).mkdir(parents=True)
    for place, (name, number) in enumerate((("cat", 0), ("cat", 1), ("dog", 2))):
        copy = sorted((data / "train" / name).iterdir())[number].read_bytes()
        (data / "test" / name / f"IMG_{place}.png").write_bytes(copy if place else copy + b"another")
    options = ["--arch", "resnet8", "--epochs", "1", "--val-split", "0", "--output", tmp_path / "run", "--json"]
    trained = run_cli("train", data, *options)
    assert trained.exit_code == 0, trained.stderr
    warned = "2 images in test are copies of train images, so the test figures are too good: "
    assert [words.startswith(warned) for words in json.loads(trained.stdout)["warnings"]].count(True) == 1
    notes = evaluated(run_cli, "--run", tmp_path / "run")["notes"]
    assert [words.startswith(warned) for words in notes].count(True) == 1
    assert not any("copies of training images" in words for words in notes)


def test_a_run_s_own_figures_are_those_of_what_it_held_out(
    finetuned_run: Finetuned, run_folder: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    names = ("predictions.csv", "confusion.csv", "report.html")
    before = {name: (run_folder / name).read_bytes() for name in names}
    evaluated(run_cli, finetuned_run.data, "--run", run_folder)
    document = evaluated(run_cli, "--run", run_folder, "--views", 2)
    assert {name: (run_folder / name).read_bytes() for name in names} == before
    assert document["output"] == str(run_folder / "evaluations" / "fruit-val-2-views")
    # Again, over its own figures; but over nobody else's.
    assert evaluated(run_cli, "--run", run_folder, "--views", 2) == document
    theirs = tmp_path / "theirs" / "predictions.csv"
    theirs.parent.mkdir()
    theirs.write_text("my,table\n")
    refused = run_cli("evaluate", "--run", run_folder, "--output", theirs.parent)
    assert refused.exit_code == 1 and f"error: {theirs} exists already, and is not from `resnet evaluate`" in refused.stderr
    assert theirs.read_text() == "my,table\n"
    # With figures of other images in it, it is a run that --force replaces; with anything else, it is not.
    assert is_run_like(run_folder)
    (run_folder / "thesis.tex").touch()
    assert not is_run_like(run_folder)


def test_a_folder_without_a_known_class_is_one_sentence(
    run_folder: Path, run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    result = run_cli("evaluate", make_dataset(tmp_path / "pets", ("cat", "dog"), count=2), "--run", run_folder)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "has no images of a class that the run" in result.stderr and "apple" in result.stderr


def test_training_images_are_never_scored(finetuned_run: Finetuned, run_folder: Path, run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(finetuned_run.data)
    for folder in (finetuned_run.data, tmp_path / "link"):
        document = evaluated(run_cli, folder, "--run", run_folder)
        assert document["count"] == finetuned_run.held
        assert any(
            f"{finetuned_run.trained} images that the run was trained on are not scored" in note for note in document["notes"]
        )
        scored = {str(Path(row["path"]).resolve()) for row in rows_of(Path(document["output"], "predictions.csv"))}
        assert scored == held_out_of(run_folder, finetuned_run.data)


def test_a_folder_of_training_images_alone_is_refused(
    finetuned_run: Finetuned, run_folder: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    record = json.loads((run_folder / "run.json").read_text())
    data = shutil.copytree(finetuned_run.data, tmp_path / "fruit")
    record["data"]["path"] = str(data)
    (run_folder / "run.json").write_text(json.dumps(record))
    for name in held_out_of(run_folder, data):
        Path(name).unlink()
    result = run_cli("evaluate", data, "--run", run_folder)
    assert result.exit_code == 1
    assert f"error: the run was trained on every image of {data}" in result.stderr
    moved = run_cli("evaluate", "--run", run_folder)
    assert moved.exit_code == 1
    assert f"error: {finetuned_run.held} of {finetuned_run.held} held-out images are no longer there, such as" in moved.stderr
    assert "hint: put the data set back, or give a folder" in moved.stderr


def test_a_damaged_image_is_left_out_and_with_strict_an_error(
    run_folder: Path, run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    folder = make_dataset(tmp_path / "market", ("apple", "berry"), count=3, first=40)
    broken = folder / "apple" / "041.png"
    broken.write_bytes(broken.read_bytes()[:100])
    document = evaluated(run_cli, folder, "--run", run_folder)
    assert document["count"] == 5
    assert any(str(broken) in note for note in document["notes"])
    assert str(broken) not in {row["path"] for row in rows_of(Path(document["output"], "predictions.csv"))}
    strict = run_cli("evaluate", folder, "--run", run_folder, "--strict")
    assert strict.exit_code == 1 and f"error: {broken} is damaged" in strict.stderr


def test_a_pipeline_stops_below_the_accuracy_that_it_asks_for(run_folder: Path, run_cli: RunCli) -> None:
    top1 = evaluated(run_cli, "--run", run_folder)["top1"]
    assert run_cli("evaluate", "--run", run_folder, "--min-accuracy", top1).exit_code == 0
    failed = run_cli("evaluate", "--run", run_folder, "--min-accuracy", min(1, top1 + 0.01))
    assert failed.exit_code == 3
    assert f"top-1 accuracy {top1:.4f} is below --min-accuracy" in failed.stderr
    assert (run_folder / "predictions.csv").exists()


def test_tables_for_people_and_files_where_they_are_asked_for(
    finetuned_run: Finetuned, run_folder: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    before = {name: (run_folder / name).stat().st_mtime_ns for name in ("predictions.csv", "confusion.csv", "report.html")}
    result = run_cli("evaluate", "--run", run_folder, "--output", tmp_path / "new" / "figures")
    assert result.exit_code == 0
    for words in (
        "precision",
        "macro average",
        "confusion",
        "top-1",
        "top-5",
        "95 % interval",
        f"{finetuned_run.held} images",
        "calibration error",
    ):
        assert words in result.stdout
    names = {"predictions.csv", "confusion.csv", "report.html"}
    assert {path.name for path in (tmp_path / "new" / "figures").iterdir()} == names
    # The run keeps its own.
    assert {name: (run_folder / name).stat().st_mtime_ns for name in names} == before


def test_where_nothing_can_be_written_nothing_is_measured(
    finetuned_run: Finetuned, run_folder: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    names = {path.name for path in run_folder.iterdir()}
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and not (mode & os.W_OK and path == run_folder))
    for arguments, place, why in (
        (("--output", tmp_path / "file"), tmp_path / "file", f"{tmp_path / 'file'} is a file"),
        (("--output", tmp_path / "file" / "new"), tmp_path / "file" / "new", f"{tmp_path / 'file'} is a file"),
        ((), run_folder, f"{run_folder} is read-only"),
        (("--views", 2), run_folder / "evaluations" / "fruit-val-2-views", f"{run_folder} is read-only"),
    ):
        result = run_cli("evaluate", "--run", run_folder, *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        told = f"evaluating {run_folder}\nerror: cannot write to {place}: {why}\nhint: choose another --output\n"
        assert result.stderr == told
    assert {path.name for path in run_folder.iterdir()} == names
    # What cannot be measured leaves no folder behind.
    (run_folder / "model.xml").write_text("damaged")
    (run_folder / "model.bin").unlink()
    assert run_cli("evaluate", "--run", run_folder, "--output", tmp_path / "new" / "figures").exit_code == 1
    assert not (tmp_path / "new").exists()


def test_the_newest_complete_run_is_taken(
    run_folder: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no run under runs/" in run_cli("evaluate").stderr
    (tmp_path / "runs" / "unfinished" / "checkpoint").mkdir(parents=True)
    run_folder.rename(tmp_path / "runs" / "finished")
    assert evaluated(run_cli)["run"] == "runs/finished"


def test_the_report_goes_where_it_is_wanted_and_no_stale_one_stays(run_folder: Path, run_cli: RunCli, tmp_path: Path) -> None:
    assert evaluated(run_cli, "--run", run_folder)["report"] == str(run_folder / "report.html")
    elsewhere = tmp_path / "page.html"
    for _ in range(2):  # an earlier report is replaced
        assert evaluated(run_cli, "--run", run_folder, "--report", elsewhere)["report"] == str(elsewhere)
    assert "top-1 accuracy on" in elsewhere.read_text() and not (run_folder / "report.html").exists()
    assert evaluated(run_cli, "--run", run_folder)["report"] and (run_folder / "report.html").exists()
    assert evaluated(run_cli, "--run", run_folder, "--no-report")["report"] is None
    assert not (run_folder / "report.html").exists() and (run_folder / "predictions.csv").exists()


def test_a_training_writes_its_report_where_it_is_wanted_or_none(tiny_dataset: Path, run_cli: RunCli, tmp_path: Path) -> None:
    quick = ("--arch", "resnet20", "--weights", "none", "--set", "views=2", "--epochs", 1, "--image-size", 32)
    page, run = tmp_path / "page.html", tmp_path / "run"
    refused = run_cli("finetune", tiny_dataset, *quick, "--output", run, "--report", page, "--no-report")
    assert refused.exit_code == 2 and "exclude each other" in refused.stderr and not run.exists()
    refused = run_cli("finetune", tiny_dataset, *quick, "--output", run, "--report", tmp_path / "page.txt")
    assert refused.exit_code == 1 and "is no .html file" in refused.stderr and not run.exists()
    result = run_cli("finetune", tiny_dataset, *quick, "--output", run, "--report", page)
    assert result.exit_code == 0 and f"report: {page}" in result.stdout.replace("\n", "")
    assert "top-1 accuracy on" in page.read_text() and not (run / "report.html").exists()


def test_the_report_counts_the_images_that_were_used(run_folder: Path, run_cli: RunCli) -> None:
    record = json.loads((run_folder / "run.json").read_text())
    scanned = record["data"]["counts"]["train"]
    used = list(scanned)
    scanned[0] += 2  # images that could not be read, beside a file that is no image
    record["data"]["left_out"] = 1
    (run_folder / "run.json").write_text(json.dumps(record))
    evaluated(run_cli, "--run", run_folder)
    page = re.sub(r"\s+", " ", (run_folder / "report.html").read_text())
    assert "3 files skipped; " in page and f'<td class="name">train</td><td>{sum(used)}</td>' in page
    for name, count in zip(record["classes"], used, strict=True):
        assert f">{name}</div></td><td>{count}</td>" in page


@pytest.mark.slow
def test_test_images_that_also_validate_are_skipped_once(make_dataset: MakeDataset, run_cli: RunCli, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "pets" / "train", ("cat", "dog"), count=6).parent
    tested = make_dataset(data / "test", ("cat", "dog"), count=4, first=20) / "cat" / "020.png"
    tested.write_bytes(tested.read_bytes()[:60])
    run = tmp_path / "run"
    words = ("--arch", "resnet8", "--image-size", "32", "--epochs", "1", "--val-split", "0", "--output", run)
    assert run_cli("train", data, *words).exit_code == 0
    page = (run / "report.html").read_text()
    assert "1 file skipped;" in page and ">cat</div></td><td>6</td><td>3</td><td>3</td>" in page


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("notes.html", "notes.html exists and is no report of this program"),
        ("page.txt", "page.txt is no .html file"),
        ("none/page.html", "there is no folder"),
    ],
)
def test_a_report_replaces_no_other_file(name: str, sentence: str, run_folder: Path, run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "notes.html").write_text("my notes")
    result = run_cli("evaluate", "--run", run_folder, "--report", tmp_path / name)
    assert result.exit_code == 1 and sentence in result.stderr
    assert (tmp_path / "notes.html").read_text() == "my notes" and not (tmp_path / "page.txt").exists()


def test_the_worst_mistakes_have_heat_maps_in_the_report(run_folder: Path, run_cli: RunCli) -> None:
    wrong = round((1 - evaluated(run_cli, "--run", run_folder)["top1"]) * evaluated(run_cli, "--run", run_folder)["count"])
    assert 2 <= wrong <= 24
    for wanted in (24, 1, 0):
        evaluated(run_cli, "--run", run_folder, "--explain", wanted)
        page = (run_folder / "report.html").read_text()
        assert page.count('class="heat"') == min(wanted, wrong)
        assert ("heat maps" in page) == bool(wanted)


def test_coverage_suggests_thresholds_that_predict_takes(finetuned_run: Finetuned, run_folder: Path, run_cli: RunCli) -> None:
    document = evaluated(run_cli, "--run", run_folder, "--coverage")
    assert document["coverage"]["points"][0] | {"threshold": None} == {
        "threshold": None,
        "answered": 1.0,
        "accuracy": document["top1"],
    }
    rows = rows_of(run_folder / "predictions.csv")
    confidence = np.array([float(row["probability"]) for row in rows])
    right = np.array([row["true"] == row["predicted"] for row in rows])
    for point in document["coverage"]["points"]:
        answered = confidence >= point["threshold"] - 1e-6
        assert answered.mean() == pytest.approx(point["answered"])
        assert right[answered].mean() == pytest.approx(point["accuracy"])
    (best, *_) = [each for each in document["coverage"]["wanted"] if each["point"]]
    printed = run_cli("evaluate", "--run", run_folder, "--coverage").stdout
    threshold = f"{best['point']['threshold']:.3f}"
    assert f"{best['accuracy']:.0%} right: predict --threshold {threshold}" in printed
    found = run_cli("predict", *[row["path"] for row in rows], "--run", run_folder, "--threshold", threshold, "--json")
    unsure = np.array([each["unsure"] for each in json.loads(found.stdout)])
    assert abs((~unsure).mean() - best["point"]["answered"]) <= 2 / len(rows)
