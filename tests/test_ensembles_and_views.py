"""Several runs and several views of an image answer together: what comes out is the plain mean, class by class."""

import csv
import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeDataset, MakeImage, MakeRun, RunCli
from numpy.typing import NDArray
from PIL import Image

from resnet_cli.data.decode import Geometry, Pixels, decode_square, run_geometry
from resnet_cli.data.scoring import VAL_CHOSE
from resnet_cli.engines.openvino import OpenVinoEngine
from resnet_cli.inference.classify import Member, classify, decode_views
from resnet_cli.runs.folder import Run, load_run
from resnet_cli.training.config import TrainConfig

CLASSES = ("apple", "berry", "cherry")
PRECISION = 0.01  # of probabilities, where the CPU multiplies in bf16


@pytest.fixture(scope="module")
def fruit(tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "fruit", CLASSES)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun, fruit: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "residual", fruit, "resnet20", 32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun, fruit: Path) -> Path:
    """A run of another network with another input size and crop, and the same classes in another order."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "plain", fruit, "plain20", 28)
    return change_record(folder, classes=CLASSES[::-1], input={"resize": "crop", "fraction": 0.875})


def change_record(folder: Path, **fields: Any) -> Path:
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, **fields}))
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@cache
def engine_of(folder: Path) -> OpenVinoEngine:
    return OpenVinoEngine(load_run(folder).openvino, "one")


def answers(folder: Path, pixels: Pixels) -> dict[str, float]:
    """Probabilities of one image by class, straight from the run's file."""
    probabilities = engine_of(folder).run(pixels[None])[0][0]
    return dict(zip(load_run(folder).classes, map(float, probabilities), strict=True))


def mean_answers(folders: list[Path], image: Path) -> dict[str, float]:
    each = [answers(folder, decode_square(image, run_geometry(load_run(folder)))) for folder in folders]
    return {name: float(np.mean([answer[name] for answer in each])) for name in CLASSES}


def test_the_answer_of_several_runs_is_the_mean_of_their_answers(
    residual: Path, plain: Path, run_cli: RunCli, make_image: MakeImage, tmp_path: Path
) -> None:
    images = [make_image(tmp_path / f"{number}.png", seed=number, label=number % 3, size=(60, 45)) for number in range(5)]
    images.insert(2, tmp_path / "missing.png")
    table = run_cli("predict", images[0], "--run", residual, "--run", plain, "--csv", "--top", 1)
    assert next(csv.DictReader(table.stdout.splitlines()))["runs"] == f"{residual};{plain}"
    result = run_cli("predict", *images, "--run", residual, "--run", plain, "--json")
    rows = json.loads(result.stdout)
    assert result.exit_code == 1 and [row["path"] for row in rows] == list(map(str, images))
    assert "missing.png" in rows.pop(2)["error"]
    for row in rows:
        expected = mean_answers([residual, plain], Path(row["path"]))
        got = {each["class"]: each["probability"] for each in row["predictions"]}
        assert got == pytest.approx(expected, abs=PRECISION)
        assert list(got.values()) == sorted(got.values(), reverse=True)


def test_evaluate_scores_the_mean_and_leaves_the_runs_own_files_alone(
    residual: Path, plain: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {folder: set(folder.iterdir()) for folder in (residual, plain)}
    result = run_cli("evaluate", "--run", residual, "--run", plain, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["run"], document["runs"], document["views"]) == (str(residual), [str(residual), str(plain)], 1)
    assert (document["count"], document["notes"]) == (held_by(residual), [VAL_CHOSE])
    rows = rows_of(tmp_path / "runs" / "ensemble" / "predictions.csv")
    for row in rows:
        expected = mean_answers([residual, plain], Path(row["path"]))
        assert float(row["probability"]) == pytest.approx(max(expected.values()), abs=PRECISION)
    report = (tmp_path / "runs" / "ensemble" / "report.html").read_text()
    assert "resnet20, 32 pixels" in report and "plain20, 28 pixels" in report
    told = run_cli("evaluate", "--run", residual, "--run", plain, "--views", 2)
    assert "ensemble of 2 runs, 2 views" in told.stdout
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"ensemble", "ensemble-2"}
    assert {folder: set(folder.iterdir()) for folder in names} == names


def test_no_image_is_scored_that_one_of_the_runs_was_trained_on(
    residual: Path, plain: Path, fruit: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    other = shutil.copytree(plain, tmp_path / "other")
    rows = rows_of(other / "splits.csv")
    apples = [row for row in rows if row["class"] == "apple" and row["split"] == "val"]
    write_splits(other, [{**row, "split": "train"} if row in apples else row for row in rows])
    together = ("--run", residual, "--run", other, "--output", tmp_path / "figures", "--json")
    document = json.loads(run_cli("evaluate", *together).stdout)
    assert document["count"] == held_by(residual) - len(apples)
    assert document["notes"] == [
        f"{len(apples)} held-out images of {residual} that another run was trained on are not scored",
        VAL_CHOSE,
    ]
    document = json.loads(run_cli("evaluate", fruit, *together).stdout)
    assert document["count"] == held_by(residual) - len(apples)
    assert f"{36 - document['count']} images that the runs were trained on are not scored" in document["notes"]
    write_splits(other, [{**row, "split": "train"} for row in rows])
    for arguments, words in (([], f"all of {residual}'s held-out images"), ([fruit], f"trained on every image of {fruit}")):
        refused = run_cli("evaluate", *arguments, *together)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert words in refused.stderr


def held_by(run: Path) -> int:
    return sum(row["split"] == "val" for row in rows_of(run / "splits.csv"))


def write_splits(run: Path, rows: list[dict[str, str]]) -> None:
    (run / "splits.csv").write_text("".join(",".join(row) + "\n" for row in [rows[0], *(row.values() for row in rows)]))


def test_what_cannot_answer_together_is_refused(
    residual: Path, plain: Path, run_cli: RunCli, fruit: Path, tmp_path: Path
) -> None:
    image = fruit / "apple" / "000.png"
    other = change_record(shutil.copytree(plain, tmp_path / "other"), classes=["apple", "berry", "citron"])
    (tmp_path / "same").symlink_to(residual)
    for command in (["predict", image], ["evaluate"]):
        for second, words in (
            (other, f"their classes differ: only {residual} knows cherry; only {other} knows citron"),
            (tmp_path / "same", f"the run {tmp_path / 'same'} is named twice"),
        ):
            refused = run_cli(*command, "--run", residual, "--run", second)
            assert (refused.exit_code, refused.stdout) == (1, "")
            assert words in refused.stderr
        assert run_cli(*command, "--run", residual, "--views", 3).exit_code == 2


def hand_made(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """Corners and centre of an image, and their mirror images, cut by Pillow."""
    right, low = image.width - side, image.height - side
    corners = [(0, 0), (right, 0), (0, low), (right, low), (right // 2, low // 2)]
    crops = [image.crop((x, y, x + side, y + side)) for x, y in corners]
    return np.stack([*crops, *(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for crop in crops)])


@pytest.mark.parametrize("fraction", [0.875, 1.0])
def test_ten_crops_are_the_corners_and_the_centre_of_the_scaled_image(
    fraction: float, plain: Path, make_image: MakeImage, tmp_path: Path
) -> None:
    path = make_image(tmp_path / "wide.png", size=(256, 128), seed=5)
    scaled = Image.open(path).resize((64, 32), Image.Resampling.BILINEAR)
    crops = hand_made(scaled, 28)
    views = decode_views(path, Geometry(28, fraction=fraction), 10)
    assert np.abs(views.astype(int) - crops).max() <= 1
    engine = OpenVinoEngine(load_run(plain).openvino, "many", exact=True)
    (result,) = classify([path], [Member(engine, Geometry(28, fraction=fraction))], views=10)
    np.testing.assert_allclose(result.probabilities, engine.run(crops)[0].mean(0), atol=1e-3)


def test_ten_crops_of_whole_images(make_image: MakeImage, tmp_path: Path) -> None:
    path = make_image(tmp_path / "wide.png", size=(256, 128), seed=5)
    squashed = Image.open(path).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode_views(path, Geometry(28, "squash"), 10), hand_made(squashed, 28))
    whole = Image.fromarray(decode_square(path, Geometry(32, "pad")))
    np.testing.assert_array_equal(decode_views(path, Geometry(28, "pad"), 10), hand_made(whole, 28))


def test_a_network_trained_on_padded_crops_is_given_padded_crops(residual: Path, make_image: MakeImage, tmp_path: Path) -> None:
    record = {**load_run(residual).record, "config": asdict(TrainConfig(crop="pad"))}
    geometry = run_geometry(Run(residual, record))
    path = make_image(tmp_path / "small.png", size=(32, 32))
    framed = Image.new("RGB", (40, 40))  # 4 pixels of black around 32: He et al. 2015, section 4.2
    framed.paste(Image.open(path), (4, 4))
    np.testing.assert_array_equal(decode_views(path, geometry, 10), hand_made(framed, 32))


def test_an_image_and_its_mirror_image_get_one_answer_from_two_views(
    residual: Path, make_image: MakeImage, tmp_path: Path
) -> None:
    path = make_image(tmp_path / "left.png", size=(44, 32), seed=3)
    mirrored = tmp_path / "right.png"
    Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored)
    engine, geometry = OpenVinoEngine(load_run(residual).openvino, "many", exact=True), Geometry(32, fraction=1.0)
    member = Member(engine, geometry)
    one, other = (result.probabilities for result in classify([path, mirrored], [member], views=2))
    assert one is not None and other is not None
    np.testing.assert_allclose(one, other, atol=1e-5)
    pixels = decode_square(path, geometry)
    np.testing.assert_allclose(one, engine.run(np.stack([pixels, pixels[:, ::-1]]))[0].mean(0), atol=1e-5)
    plain_one, plain_other = (result.probabilities for result in classify([path, mirrored], [member]))
    assert plain_one is not None and plain_other is not None
    assert np.abs(plain_one - plain_other).max() > 1e-3, "a network that does not care would prove nothing"


@pytest.mark.parametrize("views", [1, 10])
def test_images_are_read_no_further_ahead_than_the_engines_need(
    views: int, residual: Path, plain: Path, fruit: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    names = [tmp_path / "broken.png", fruit / "apple" / "000.png", fruit / "berry" / "000.png"]
    taken = itertools.count()

    def endless() -> Iterator[Path]:
        for name in itertools.cycle(names):
            next(taken)
            yield name

    runs = [load_run(folder) for folder in (residual, plain)]
    members = [Member(OpenVinoEngine(run.openvino, "many"), run_geometry(run)) for run in runs]
    results = list(itertools.islice(classify(endless(), members, views, batch=2), 60))
    assert [result.image for result in results] == names * 20
    assert [result.error is None for result in results] == [False, True, True] * 20
    assert next(taken) < 60 + 300, "a few requests of two images for every core, and no more"
