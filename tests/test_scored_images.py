"""`resnet evaluate` scores the images that it says, warns of every one that it leaves out, and writes into no export."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Finetuned, MakeDataset, MakeImage, MakeRun, RunCli

from resnet_cli.data.scoring import VAL_CHOSE, VAL_CHOSE_TOO
from resnet_cli.runs.folder import load_run, read_splits, write_splits


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def evaluated(run_cli: RunCli, *arguments: object) -> dict[str, Any]:
    result = run_cli("evaluate", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    assert document["notes"] == document["warnings"]
    assert [line.removeprefix("warning: ") for line in result.stderr.splitlines()] == document["warnings"]
    return document


def scored_by(document: dict[str, Any]) -> set[str]:
    return {row["path"] for row in rows_of(Path(document["output"], "predictions.csv"))}


def notes_in_report(folder: Path) -> int:
    return (folder / "report.html").read_text(encoding="utf-8").count('class="note"')


@pytest.fixture
def run_folder(make_run: MakeRun, tiny_dataset: Path, tmp_path: Path) -> Path:
    """An untrained run of 27 training and 9 validation images in `tiny_dataset`."""
    run = make_run(tmp_path / "run", tiny_dataset, arch="resnet8")
    rows = [replace(row, split="val" if row.path < f"{row.label}/003" else "train") for row in read_splits(load_run(run))]
    write_splits(run, rows)
    return run


@pytest.fixture
def split_folder(make_dataset: MakeDataset, tmp_path: Path) -> Path:
    """train, val and test of 12, 9 and 6 images."""
    for place, (split, count) in enumerate((("train", 4), ("val", 3), ("test", 2))):
        make_dataset(tmp_path / "divided" / split, count=count, first=20 * place)
    return tmp_path / "divided"


def of_split(run: Path, data: Path, split: str) -> set[str]:
    return {str(data / row["path"]) for row in rows_of(run / "splits.csv") if row["split"] == split}


# --- changed since training ---------------------------------------------------------------------------------------------------


def test_a_held_out_image_that_has_changed_is_named_and_left_out(
    run_folder: Path, run_cli: RunCli, make_image: MakeImage, tiny_dataset: Path
) -> None:
    everything = evaluated(run_cli, "--run", run_folder)
    held = sorted(of_split(run_folder, tiny_dataset, "val"))
    make_image(Path(held[4]), seed=1000, label=1)
    named = f"1 of 9 held-out images in {tiny_dataset} has changed since training, and is"
    image = Path(held[4]).relative_to(tiny_dataset).as_posix()
    document = evaluated(run_cli, "--run", run_folder)
    assert document["warnings"] == [f"{named} left out (--allow-changed scores them): {image}", VAL_CHOSE]
    assert (document["count"], scored_by(document)) == (8, {*held} - {held[4]})
    others = {each["class"]: each["count"] for each in everything["classes"]}
    assert sum(others.values()) == 9
    assert image in (run_folder / "report.html").read_text(encoding="utf-8")
    allowed = evaluated(run_cli, "--run", run_folder, "--allow-changed")
    assert allowed["warnings"] == [f"{named} scored as it is now: {image}", VAL_CHOSE]
    assert (allowed["count"], scored_by(allowed)) == (9, {*held})
    # Where damage is an error, a change is one.
    strict = run_cli("evaluate", "--run", run_folder, "--strict")
    assert (strict.exit_code, strict.stdout) == (1, "")
    assert strict.told == f"error: {held[4]} has changed since training\nhint: put it back, or add --allow-changed\n"


def test_of_many_changed_images_five_are_named_and_of_all_nothing_is_left(
    run_folder: Path, run_cli: RunCli, tiny_dataset: Path
) -> None:
    held = sorted(of_split(run_folder, tiny_dataset, "val"))
    for path in held[:7]:
        Path(path).write_bytes(Path(path).read_bytes() + b"more")
    document = evaluated(run_cli, "--run", run_folder)
    assert document["count"] == 2
    names = ", ".join(str(Path(path).relative_to(tiny_dataset)) for path in held[:5])
    assert document["warnings"][0].startswith(f"7 of 9 held-out images in {tiny_dataset} have changed")
    assert document["warnings"][0].endswith(f": {names} and 2 more")
    for path in held[7:]:
        Path(path).write_bytes(Path(path).read_bytes() + b"more")
    refused = run_cli("evaluate", "--run", run_folder)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.told.startswith(f"error: all 9 held-out images of {tiny_dataset} have changed since training\n")
    assert evaluated(run_cli, "--run", run_folder, "--allow-changed")["count"] == 9


def test_a_folder_has_no_images_that_could_have_changed(run_folder: Path, run_cli: RunCli, tiny_dataset: Path) -> None:
    refused = run_cli("evaluate", tiny_dataset, "--run", run_folder, "--allow-changed")
    assert refused.exit_code == 2 and "leave it out with a DATASET" in " ".join(refused.stderr.replace("│", "").split())


# --- which split --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "count", "kind"), [("train", 12, "training"), ("val", 9, "held-out"), ("test", 6, "test")])
def test_a_split_of_the_run_is_scored_where_it_is_asked_for(
    split: str, count: int, kind: str, make_run: MakeRun, split_folder: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", split_folder, arch="resnet8")
    document = evaluated(run_cli, "--run", run, "--split", split)
    assert (document["split"], document["count"]) == (split, count)
    assert scored_by(document) == of_split(run, split_folder, split)
    own = run if split == "test" else run / "evaluations" / f"divided-{split}"
    assert document["output"] == str(own)
    said = {
        "train": ["these 12 images were trained on, so the figures do not show how well new images are classified"],
        "val": [VAL_CHOSE_TOO],
        "test": [],
    }
    assert document["warnings"] == said[split]
    first = Path(sorted(of_split(run, split_folder, split))[0])
    first.write_bytes(first.read_bytes() + b"more")
    warned = evaluated(run_cli, "--run", run, "--split", split)["warnings"]
    assert warned[0].startswith(f"1 of {count} {kind} images in {split_folder} has changed since training, and is left out")
    first.unlink()
    gone = run_cli("evaluate", "--run", run, "--split", split)
    assert gone.told.startswith(f"error: 1 of {count} {kind} images is no longer there, such as {first}\n")


def test_without_a_split_the_headline_is_the_test_folder(
    make_run: MakeRun, split_folder: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", split_folder, arch="resnet8")
    document = evaluated(run_cli, "--run", run)
    assert (document["split"], document["count"], document["output"]) == ("test", 6, str(run))


@pytest.mark.parametrize(("split", "count"), [("train", 12), ("val", 9), ("test", 6), (None, 6)])
def test_a_split_of_a_folder_is_scored_where_it_is_asked_for(
    split: str | None, count: int, run_folder: Path, split_folder: Path, run_cli: RunCli
) -> None:
    # None of them was seen by the run, which was trained on other images of the same classes.
    for path in split_folder.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"another")
    document = evaluated(run_cli, split_folder, "--run", run_folder, *(("--split", split) if split else ()))
    assert (document["split"], document["count"], document["warnings"]) == (split or "test", count, [])


def test_training_images_of_a_folder_are_scored_only_by_their_name(
    make_run: MakeRun, split_folder: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", split_folder, arch="resnet8")
    copy = shutil.copytree(split_folder, tmp_path / "copy")
    document = evaluated(run_cli, copy, "--run", run, "--split", "train")
    assert document["count"] == 12
    assert document["warnings"] == [
        "the run was trained on 12 of these 12 images, so the figures do not show how well new images are classified"
    ]
    # The same images in a folder called val are not scored.
    shutil.rmtree(copy / "val")
    shutil.copytree(copy / "train", copy / "val")
    refused = run_cli("evaluate", copy, "--run", run, "--split", "val")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.told.startswith(f"error: the run was trained on every image of {copy}\n")


def test_a_split_that_is_not_there_is_one_sentence(
    run_folder: Path, run_cli: RunCli, tiny_dataset: Path, split_folder: Path
) -> None:
    shutil.rmtree(split_folder / "val")
    said = {
        ("--split", "test"): f"error: the run {run_folder} has no test images\nhint: it has 27 train, 9 val\n",
        (tiny_dataset, "--split", "val"): f"error: {tiny_dataset} has no val folder\n"
        "hint: it has class folders and no splits: leave --split out\n",
        (split_folder, "--split", "val"): f"error: {split_folder} has no val folder\nhint: it has train, test\n",
    }
    for arguments, words in said.items():
        result = run_cli("evaluate", *arguments, "--run", run_folder)
        assert (result.exit_code, result.stdout, result.told) == (1, "", words)
    unknown = run_cli("evaluate", "--split", "all", "--run", run_folder)
    assert unknown.exit_code == 2 and "'val', 'test', 'train'" in unknown.stderr


# --- a folder that is not a data set ------------------------------------------------------------------------------------------


def test_a_class_folder_gets_the_hint_to_give_the_folder_above(
    run_folder: Path, run_cli: RunCli, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given, above in (("fruit/apple", "fruit"), (str(tiny_dataset / "apple"), str(tiny_dataset))):
        result = run_cli("evaluate", given, "--run", run_folder)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.told == (
            f"error: {given} is the folder of one class, and has no class folders in it\n"
            f"hint: give the folder above: resnet evaluate {above}\n"
        )
    monkeypatch.chdir(tiny_dataset / "apple")
    assert run_cli("evaluate", ".", "--run", run_folder).stderr.endswith("hint: give the folder above: resnet evaluate ..\n")
    monkeypatch.chdir(tiny_dataset)
    assert run_cli("evaluate", "apple", "--run", run_folder).stderr.endswith("hint: give the folder above: resnet evaluate .\n")


def test_images_without_class_folders_are_one_sentence_and_beside_them_a_warning(
    run_folder: Path, run_cli: RunCli, make_image: MakeImage, tmp_path: Path
) -> None:
    make_image(tmp_path / "inbox" / "new.png", seed=50)
    alone = run_cli("evaluate", tmp_path / "inbox", "--run", run_folder)
    assert alone.told == (
        f"error: {tmp_path / 'inbox'} holds images and no class folders\n"
        "hint: put each image into a folder of its class: apple, berry and cherry\n"
    )
    make_image(tmp_path / "inbox" / "apple" / "1.png", seed=51)
    document = evaluated(run_cli, tmp_path / "inbox", "--run", run_folder)
    assert document["count"] == 1
    assert document["warnings"] == [
        "the folder has no images of: berry and cherry",
        f"skipped 1 file (first: {tmp_path / 'inbox' / 'new.png'}: in no class folder)",
    ]


# --- one list of warnings -----------------------------------------------------------------------------------------------------


def test_the_warnings_of_the_training_stay_in_the_report_and_in_the_result(
    finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path
) -> None:
    run = shutil.copytree(finetuned_run.folder, tmp_path / "run")
    warned = finetuned_run.result["warnings"]
    assert notes_in_report(run) == len(warned) > 1
    document = evaluated(run_cli, "--run", run)
    assert document["warnings"] == warned, "none twice: the training and the evaluation both know what chose the epoch"
    assert notes_in_report(run) == len(warned)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("<h2>Warnings</h2>") == 1
    # Where an image has changed, the figures are others, and what was said of the old ones is not repeated.
    of_figures = finetuned_run.result["figure_warnings"]
    record = json.loads((run / "run.json").read_text())
    record["results"]["figure_warnings"] = [*of_figures, warned[0]]
    (run / "run.json").write_text(json.dumps(record))
    changed = next(row for row in read_splits(load_run(run)) if row.split == "val")
    data = shutil.copytree(finetuned_run.data, tmp_path / "data")
    (data / changed.path).write_bytes((data / changed.path).read_bytes() + b"more")
    record["data"]["path"] = str(data)
    (run / "run.json").write_text(json.dumps(record))
    again = evaluated(run_cli, "--run", run)["warnings"]
    assert any("has changed since training" in each for each in again) and not {*again} & {*of_figures, warned[0]}
    # They are about what was held out, and about nothing else.
    (told,) = evaluated(run_cli, "--run", run, "--split", "train")["warnings"]
    assert told.startswith(f"these {finetuned_run.trained} images were trained on")


@pytest.mark.parametrize("quiet", [True, False])
def test_a_warning_is_told_once_on_stderr_and_not_among_the_results(quiet: bool, run_folder: Path, run_cli: RunCli) -> None:
    result = run_cli("evaluate", "--run", run_folder, *(["--quiet"] if quiet else []))
    assert result.exit_code == 0
    assert result.stderr.splitlines().count(f"warning: {VAL_CHOSE}") == 1
    assert VAL_CHOSE not in result.stdout and "note:" not in result.stdout
    assert len(result.told.splitlines()) == (1 if quiet else 2)


def test_unreadable_images_are_one_warning_that_counts_them(
    run_folder: Path, run_cli: RunCli, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    folder = make_dataset(tmp_path / "market", count=3, first=40)
    broken = sorted(folder.rglob("*.png"))[:7]
    for path in broken:
        path.write_bytes(path.read_bytes()[:100])
    document = evaluated(run_cli, folder, "--run", run_folder)
    (warning,) = document["warnings"]
    assert document["count"] == 2
    assert warning.startswith("left out 7 unreadable images: ") and warning.endswith("; and 2 more, which `resnet check` lists")
    assert [str(path) in warning for path in broken] == [True] * 5 + [False] * 2
    assert notes_in_report(Path(document["output"])) == 1


def test_the_report_tells_what_was_scored_apart_from_what_was_trained_on(
    run_folder: Path, run_cli: RunCli, make_dataset: MakeDataset, tiny_dataset: Path, tmp_path: Path
) -> None:
    market = make_dataset(tmp_path / "market", count=2, first=40)
    page = Path(evaluated(run_cli, market, "--run", run_folder)["output"], "report.html").read_text(encoding="utf-8")
    assert f"<td>{market} (all)</td>" in page and f"<td>{tiny_dataset}</td>" in page


# --- exports ------------------------------------------------------------------------------------------------------------------


def test_an_export_of_an_older_version_still_finds_its_images(
    run_folder: Path, run_cli: RunCli, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    old = tmp_path / "old"
    old.mkdir()
    for name in ("model.xml", "model.bin", "splits.csv"):
        shutil.copy(run_folder / name, old)
    record = json.loads((run_folder / "run.json").read_text())
    made = {"format": "openvino", "precision": "float", "run": str(run_folder)}
    (old / "export.json").write_text(json.dumps({**record, "export": made}))
    document = evaluated(run_cli, "--run", old)
    assert (document["split"], document["count"]) == ("val", 9)
    assert document["output"] == "runs/old-fruit-val"
    assert scored_by(document) == of_split(run_folder, tiny_dataset, "val")
    assert evaluated(run_cli, tiny_dataset, "--run", old)["count"] == 9


def test_training_images_of_an_export_are_scored_only_by_their_name(
    make_run: MakeRun, split_folder: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run", split_folder, arch="resnet8")
    assert run_cli("export", "--format", "openvino", "--run", run, "--output", tmp_path / "out").exit_code == 0
    shutil.rmtree(run)
    assert evaluated(run_cli, split_folder, "--run", "out", "--split", "val")["count"] == 9
    assert evaluated(run_cli, split_folder, "--run", "out", "--split", "train")["warnings"] == [
        "the run was trained on 12 of these 12 images, so the figures do not show how well new images are classified"
    ]
    refused = run_cli("evaluate", split_folder / "train", "--run", "out")
    assert refused.told == (
        f"error: the run was trained on every image of {split_folder / 'train'}\nhint: give a folder of other images\n"
    )
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["out-divided-train", "out-divided-val"]
