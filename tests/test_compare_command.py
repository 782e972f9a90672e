"""`resnet compare`: the figures of runs side by side, seeds together, never over unequal data; metrics.csv in every run."""

import csv
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import Finetuned, MakeDataset, RunCli
from PIL import Image

from resnet_cli.data.dataset import scan_dataset
from resnet_cli.data.decode import Geometry
from resnet_cli.data.split import hold_out
from resnet_cli.jobs.record import run_record, split_rows
from resnet_cli.networks.catalogue import ClassifierSpec, Shortcut, find_network, parameter_count
from resnet_cli.networks.classifier import build_logits
from resnet_cli.networks.pretrained import WeightsSource
from resnet_cli.reports.curves import Curve, error_limits
from resnet_cli.runs.folder import EpochRecord, finish_run, write_splits
from resnet_cli.training.config import FinetuneConfig, TrainConfig

# Errors by epoch, training and held out.
SLOW = ([0.9, 0.5, 0.40, 0.30], [0.8, 0.6, 0.35, 0.45])
FAST = ([0.8, 0.3, 0.10, 0.05], [0.7, 0.4, 0.20, 0.15])


@dataclass(frozen=True)
class Written:
    """What a run of the test's own is to say."""

    arch: str = "resnet20"
    shortcut: Shortcut | None = None
    seed: int = 0
    val_split: float = 0.25
    test_error: float | None = None
    seconds: float = 100.0


WriteRun = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteRun:
    """`write_run("runs/a", data, (training, held-out errors), Written(...))`: a run by the program's own writers, untrained."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, data: Path, errors: tuple[Sequence[float], Sequence[float]], say: Written | None = None) -> Path:
        say = say or Written()
        folder = Path(name)
        folder.mkdir(parents=True)
        network = find_network(say.arch, say.shortcut)
        dataset = hold_out(scan_dataset(data), say.val_split, say.seed)
        spec = ClassifierSpec(network, len(dataset.classes), 32)
        config = asdict(replace(TrainConfig(), epochs=len(errors[0]), seed=say.seed, val_split=say.val_split))
        record = run_record("resnet train", config, dataset, spec, Geometry(32), WeightsSource("none", None, ""), "float32")
        results = {"seconds": say.seconds} | ({} if say.test_error is None else {"test": {"top1": 1 - say.test_error}})
        records = [
            EpochRecord("train", epoch, 1.0, 1 - train, 1.0, 1 - held_out, 0.1, 50.0 * epoch, 10.0)
            for epoch, (train, held_out) in enumerate(zip(*errors, strict=True), 1)
        ]
        (folder / "metrics.jsonl").write_text("".join(each.to_line() for each in records))
        (folder / "model.weights.h5").touch()
        write_splits(folder, split_rows(dataset))
        finish_run(folder, {**record, "results": results})
        return folder

    return write


def compared(run_cli: RunCli, *arguments: object) -> dict[str, Any]:
    result = run_cli("compare", *arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def lines_of(svg: Path) -> list[tuple[str, bool]]:
    """Every curve of a figure: its colour, and whether it is dashed."""
    root = ElementTree.parse(svg).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    axes = next(group for group in root.iter("{http://www.w3.org/2000/svg}g") if group.get("id") == "axes_1")
    styles = [
        path.get("style", "")
        for group in axes
        if group.get("id", "").startswith("line2d")
        for path in group
        if path.get("clip-path")
    ]
    return [(style.split("stroke: ")[1][:7], "stroke-dasharray" in style) for style in styles]


def test_a_table_and_one_figure(write_run: WriteRun, tiny_dataset: Path, run_cli: RunCli) -> None:
    plain = write_run("runs/plain", tiny_dataset, SLOW, Written("plain20", seconds=3725))
    residual = write_run("runs/residual", tiny_dataset, FAST)
    result = run_cli("compare", plain, residual)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["plain20", "0.27", "4", "30.00", "30.00", "35.00", "45.00", "125", "1:02:05"] in lines
    assert ["resnet20", "0.27", "4", "5.00", "5.00", "15.00", "15.00", "125", "0:01:40"] in lines
    assert "fruit: training and validation error" in result.stdout
    assert "measured while learning" in " ".join(result.stdout.split())
    assert "figure: compare.png" in result.stdout
    with Image.open("compare.png") as figure:
        assert (figure.format, figure.size) == ("PNG", (840, 600))
        colours = {colour for _, colour in figure.convert("RGB").getcolors(1 << 20) or []}
    assert {(31, 119, 180), (255, 127, 14)} <= colours
    assert len(compared(run_cli, plain, plain)["rows"]) == 1


def test_what_rows_differ_in_is_told(write_run: WriteRun, tiny_dataset: Path, run_cli: RunCli) -> None:
    runs = [
        write_run("runs/one", tiny_dataset, SLOW, Written("resnet32")),
        write_run("runs/two", tiny_dataset, FAST, Written("resnet32")),
    ]
    path = Path(runs[1]) / "run.json"
    record = json.loads(path.read_text())
    record["config"] |= {"optimizer": "muon", "learning_rate": 0.03, "cutout": 0.5}
    path.write_text(json.dumps(record))
    note = "the rows differ in optimizer sgd / muon, learning_rate 0.1 / 0.03, cutout 0.0 / 0.5"
    assert compared(run_cli, *runs)["notes"] == [note]


def test_a_fine_tuning_of_an_older_program_shares_a_row_with_one_that_has_more_keys(
    write_run: WriteRun, tiny_dataset: Path, run_cli: RunCli
) -> None:
    runs = [write_run(f"runs/{name}", tiny_dataset, FAST, Written("resnet32")) for name in ("older", "newer", "other")]
    newer = asdict(FinetuneConfig(unfreeze="none", seed=1, cache=False))
    configs = ({"unfreeze": "none", "seed": 0}, newer, {**newer, "cutout": 0.2, "seed": 2})
    for run, config in zip(runs, configs, strict=True):
        record = json.loads((Path(run) / "run.json").read_text())
        (Path(run) / "run.json").write_text(json.dumps({**record, "config": config, "seed": config["seed"]}))
    document = compared(run_cli, *runs)
    assert [row["runs"] for row in document["rows"]] == [["runs/older", "runs/newer"], ["runs/other"]]
    assert "the rows differ in cutout auto / 0.2" in document["notes"]


def test_options_that_one_command_alone_has_are_no_difference_but_weights_are(
    write_run: WriteRun, tiny_dataset: Path, run_cli: RunCli
) -> None:
    runs = [write_run(f"runs/{name}", tiny_dataset, FAST, Written("resnet32")) for name in ("scratch", "bundled")]
    path = Path(runs[1]) / "run.json"
    record = json.loads(path.read_text())
    both = {field.name for field in fields(FinetuneConfig)} & record["config"].keys()
    record["config"] = {name: record["config"][name] for name in both} | {"unfreeze": "last", "hidden": 8}
    record["weights"]["source"] = "bundled"
    path.write_text(json.dumps(record))
    assert compared(run_cli, *runs)["notes"] == ["the rows differ in weights none / bundled"]


def test_the_json_document_keeps_its_contract(write_run: WriteRun, tiny_dataset: Path, run_cli: RunCli) -> None:
    run = write_run("runs/one", tiny_dataset, SLOW, Written("resnet32", "B", seed=7))
    document = compared(run_cli, run, "--output", "figures/one.svg")
    assert {**document, "rows": []} == {"figure": "figures/one.svg", "dataset": "fruit", "rows": [], "notes": []}
    (row,) = document["rows"]
    assert row == {
        "label": "resnet32",
        "network": "resnet32",
        "shortcut": "B",
        # By hand, as table 6 of He et al. 2015 draws it, for three classes: convolutions, batch-norm, option B's two, head.
        "parameters": (432 + 10 * 2304 + 4608 + 9 * 9216 + 18432 + 9 * 36864)
        + 4 * (16 * 11 + 32 * 10 + 64 * 10)
        + (512 + 4 * 32 + 2048 + 4 * 64)
        + 65 * 3,
        "stage": "train",
        "held_out": "validation",
        "runs": ["runs/one"],
        "seeds": [7],
        "epochs": [4],
        "train_error": {"best": {"mean": pytest.approx(0.3), "sd": None}, "final": {"mean": pytest.approx(0.3), "sd": None}},
        "held_out_error": {
            "best": {"mean": pytest.approx(0.35), "sd": None},
            "final": {"mean": pytest.approx(0.45), "sd": None},
        },
        "test_error": None,
        "images_per_second": 125.0,
        "seconds": 100.0,
    }
    ((solid, solid_dashed), (dashed, dashed_dashed)) = sorted(lines_of(Path("figures/one.svg")), key=lambda line: line[1])
    assert solid == dashed and (solid_dashed, dashed_dashed) == (False, True)


def test_seeds_share_a_row_with_their_mean_and_spread(write_run: WriteRun, tiny_dataset: Path, run_cli: RunCli) -> None:
    shifts = {0: 0.0, 1: 0.01, 2: 0.05}
    runs = [
        write_run(f"runs/{seed}", tiny_dataset, (SLOW[0], [error + shift for error in SLOW[1]]), Written(seed=seed))
        for seed, shift in shifts.items()
    ]
    other = write_run("runs/other", tiny_dataset, FAST, Written("plain20"))
    document = compared(run_cli, *runs, other, "--output", "seeds.svg")
    row, single = document["rows"]
    assert (row["seeds"], row["runs"]) == ([0, 1, 2], [str(run) for run in runs])
    final = np.array([0.45, 0.46, 0.50])
    assert row["held_out_error"]["final"] == {"mean": pytest.approx(final.mean()), "sd": pytest.approx(final.std(ddof=1))}
    assert row["train_error"]["final"] == {"mean": pytest.approx(0.3), "sd": pytest.approx(0.0, abs=1e-9)}
    assert single["held_out_error"]["final"]["sd"] is None
    # Each seed held out other images of the same data set: that is said, and no reason to refuse.
    assert any("hold out different images" in note for note in document["notes"])
    assert Counter(dashed for _, dashed in lines_of(Path("seeds.svg"))) == {True: 2, False: 2}
    table = run_cli("compare", *runs, other, "--output", "seeds.svg")
    assert f"{100 * final.mean():.2f}" in table.stdout and f"± {100 * final.std(ddof=1):.2f}" in table.stdout
    assert "standard deviation" in table.stdout
    # The same seed again is a repetition, which says nothing of the spread over seeds.
    again = compared(run_cli, runs[0], runs[1], shutil.copytree(runs[0], "runs/again"))
    assert [row["label"] for row in again["rows"]] == ["resnet20 (runs/0)", "resnet20 (runs/again)"]


def test_rows_are_told_apart_by_what_differs(write_run: WriteRun, tiny_dataset: Path, run_cli: RunCli) -> None:
    runs = [write_run(f"runs/{option}", tiny_dataset, SLOW, Written(shortcut=option)) for option in ("A", "B", "C")]  # type: ignore[arg-type]
    runs.append(write_run("runs/fifth", tiny_dataset, FAST, Written(shortcut="C", val_split=0.5)))
    labels = [row["label"] for row in compared(run_cli, *runs)["rows"]]
    assert labels == [
        "resnet20, shortcut A",
        "resnet20, shortcut B",
        "resnet20, shortcut C (runs/C)",
        "resnet20, shortcut C (runs/fifth)",
    ]


def test_what_was_held_out_is_said_and_a_test_that_chose_is_no_test(
    write_run: WriteRun, make_dataset: MakeDataset, tmp_path: Path, run_cli: RunCli
) -> None:
    data = tmp_path / "pets"
    make_dataset(data / "train", ("cat", "dog"), count=8)
    make_dataset(data / "test", ("cat", "dog"), count=3, first=8)
    papers = write_run("runs/papers", data, SLOW, Written("plain20", val_split=0, test_error=0.35))
    careful = write_run("runs/careful", data, FAST, Written(test_error=0.21))
    rows = compared(run_cli, papers, careful)["rows"]
    assert [(row["label"], row["held_out"]) for row in rows] == [
        ("plain20, test", "test"),
        ("resnet20, validation", "validation"),
    ]
    assert [row["test_error"] for row in rows] == [None, {"mean": pytest.approx(0.21), "sd": None}]
    alone = run_cli("compare", papers)
    assert "pets: training and test error" in alone.stdout and "validation" not in alone.stdout


@pytest.mark.parametrize("change", ["another image", "another name"])
def test_runs_of_unequal_data_are_refused(change: str, write_run: WriteRun, tiny_dataset: Path, run_cli: RunCli) -> None:
    first = write_run("runs/first", tiny_dataset, SLOW)
    image = tiny_dataset / "apple" / "000.png"
    if change == "another image":
        Image.new("RGB", (90, 90), "red").save(image)
    else:
        image.rename(image.with_name("other.png"))
    second = write_run("runs/second", tiny_dataset, FAST, Written(seed=1))
    result = run_cli("compare", first, second)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: runs/first and runs/second were trained on different images (fruit, fruit)\n")
    assert not Path("compare.png").exists()


def test_other_files_are_never_replaced_and_earlier_comparisons_are(
    write_run: WriteRun, tiny_dataset: Path, run_cli: RunCli
) -> None:
    run = write_run("runs/one", tiny_dataset, SLOW)
    for name in ("figure.png", "figure.svg"):
        for _ in range(2):
            assert compared(run_cli, run, "--output", name)["figure"] == name
    first = Path("figure.svg").read_bytes()
    assert compared(run_cli, run, "--output", "figure.svg") and Path("figure.svg").read_bytes() == first
    Path("mine.png").write_bytes((tiny_dataset / "apple" / "000.png").read_bytes())
    Path("folder.svg").mkdir()
    for name, words in {
        "mine.png": "exists and is not a figure of",
        "folder.svg": "exists and is not a figure of",
        "figure.pdf": "neither .png nor .svg",
        "mine.png/figure.png": "cannot write to",
    }.items():
        before = Path("mine.png").read_bytes()
        result = run_cli("compare", run, "--output", name)
        assert (result.exit_code, result.stdout) == (1, "") and words in result.stderr.splitlines()[0], result.stderr
        assert Path("mine.png").read_bytes() == before


def test_incomplete_and_damaged_runs_are_one_sentence(write_run: WriteRun, tiny_dataset: Path, run_cli: RunCli) -> None:
    good = write_run("runs/good", tiny_dataset, SLOW)
    damages: dict[str, Callable[[Path], object]] = {
        "the run runs/0 is not complete": lambda run: (run / "run.json").unlink(),
        "runs/1/metrics.jsonl has no epoch": lambda run: (run / "metrics.jsonl").unlink(),
        "runs/2/metrics.jsonl cannot be read": lambda run: (run / "metrics.jsonl").write_text('{"stage": "train"}\n'),
        "runs/3/run.json does not describe a training": lambda run: (run / "run.json").write_text(
            '{"format": 1, "classes": ["a"]}'
        ),
        "there is no run folder runs/4": shutil.rmtree,
    }
    for number, (words, damage) in enumerate(damages.items()):
        damage(shutil.copytree(good, Path("runs") / str(number)))
        result = run_cli("compare", good, f"runs/{number}")
        assert (result.exit_code, result.stdout) == (1, "") and f"error: {words}" in result.stderr, result.stderr
    assert not Path("compare.png").exists()


@pytest.mark.slow
def test_real_trainings_of_every_kind(
    finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # A name that matplotlib would read as a formula, in letters that its font lacks.
    trained = tmp_path / "$x^$ 猫"
    options = "--arch resnet8 --epochs 2 --batch-size 16 --val-split 0.5 --seed 4 --quiet"
    result = run_cli("train", finetuned_run.data, *options.split(), "--output", trained)
    assert result.exit_code == 0, result.stderr
    scratch, tuned = compared(run_cli, trained, finetuned_run.folder, "--output", "both.svg")["rows"]
    assert (scratch["label"], scratch["stage"]) == ("resnet8", "train")
    assert (tuned["label"], tuned["stage"]) == ("resnet18-slim, fine-tuned", finetuned_run.result["kept"])
    assert tuned["epochs"] == [finetuned_run.result["epochs"]]
    for row, run in ((scratch, trained), (tuned, finetuned_run.folder)):
        with (run / "metrics.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        written = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        # Every value is the same, and an absent one is an empty cell.
        assert [{name: "" if value is None else str(value) for name, value in line.items()} for line in written] == lines
        errors = [1 - float(line["val_accuracy"]) for line in lines if line["stage"] == row["stage"]]
        assert row["held_out_error"]["best"]["mean"] == pytest.approx(min(errors))
        assert row["held_out_error"]["final"]["mean"] == pytest.approx(errors[-1])
        results = json.loads((run / "run.json").read_text())["results"]
        assert row["seconds"] >= results["seconds"] and math.isfinite(row["images_per_second"])
    # A label with a folder's name in it.
    again = shutil.copytree(trained, tmp_path / "again")
    assert len(compared(run_cli, trained, again, "--output", "again.png")["rows"]) == 2
    for row in (scratch, tuned):
        spec = ClassifierSpec(find_network(row["network"]), 7, 32)
        assert build_logits(spec, fused=False).count_params() == row["parameters"]
    hidden = ClassifierSpec(find_network("resnet8"), 7, 32, hidden=30)
    assert build_logits(hidden, fused=False).count_params() == parameter_count(hidden.network, 7, 30)


@pytest.mark.parametrize(
    ("errors", "limits"),
    [
        ([0.9, 0.5, 0.2, 0.1], (0, 26)),  # the paper's way: from 0 to a little above the last epochs
        ([0.5, 0.3, 0.22, 0.2], (19.14, 28.6)),  # nothing lies below 20 %
        ([0.9, 0.85], (83.5, 100)),
        ([0.0], (0, 1.3)),
    ],
)
def test_the_axis_shows_where_the_last_epochs_are(errors: list[float], limits: tuple[float, float]) -> None:
    assert error_limits([Curve("resnet20", [errors], [errors])]) == pytest.approx(limits)


def test_images_of_two_runs_are_matched_however_their_data_set_was_named(
    write_run: WriteRun, tiny_dataset: Path, run_cli: RunCli
) -> None:
    first, second = write_run("runs/a", tiny_dataset, SLOW), write_run("runs/b", tiny_dataset, FAST, Written("resnet32"))
    Path("link").symlink_to(tiny_dataset)
    with (first / "splits.csv").open() as file:
        held_out = [(row["path"], row["class"]) for row in csv.DictReader(file) if row["split"] == "val"]
    classes = sorted({label for _, label in held_out})

    def predict(run: Path, root: Path, wrong: int) -> None:
        """Predictions of a run that is wrong on the first images."""
        with (run / "predictions.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["path", "true", "predicted", "probability", "loss"])
            for place, (path, label) in enumerate(held_out):
                guess = classes[(classes.index(label) + (place < wrong)) % len(classes)]
                lines.writerow([root / path, label, guess, 0.75, 0.5])

    predict(first, Path("link"), 3)
    predict(second, tiny_dataset, 1)
    result = run_cli("compare", first, second, "--report", "compare.html")
    assert (result.exit_code, result.stderr) == (0, "")
    page = Path("compare.html").read_text()
    counts = re.findall(r"<tr><td>(?:both|only).*?</td><td>(\d+)</td></tr>", page)
    assert counts == [str(len(held_out) - 3), "0", "2", "1"]
    assert page.count('<img src="data:image/jpeg') == 2

    (second / "predictions.csv").unlink()
    result = run_cli("compare", first, second, "--report", "compare.html")
    said = "note: runs/a and runs/b have no measured image in common: the report cannot show what changed"
    assert said in " ".join(result.stdout.split())
