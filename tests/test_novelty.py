"""Images unlike the training images are flagged, by the distance of their features, at no cost for known ones."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finetuned, MakeDataset, MakeRun, RunCli
from numpy.typing import NDArray
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from resnet_cli.data.decode import decode_square, run_geometry
from resnet_cli.engines.frozen import and_features, read_classifier
from resnet_cli.engines.openvino import OpenVinoEngine, features_file, with_features
from resnet_cli.errors import ResnetError
from resnet_cli.inference.novelty import Novelty, fit_novelty, read_novelty, with_threshold, write_novelty
from resnet_cli.networks.catalogue import spec_from_record
from resnet_cli.runs.folder import load_run, read_splits

SAID = "  unlike the training images\n"


def drawn(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Features, 0 or above, of which some are more frequent and some depend on each other."""
    generator = np.random.default_rng(seed)
    values = generator.gamma(2.0, np.linspace(0.1, 3.0, 24), (count, 24))
    values[:, 1] += values[:, 0]
    return values.astype(np.float32)


def fitted(features: NDArray[np.float32]) -> Novelty:
    found = fit_novelty(features)
    assert found is not None
    return found


def rooted(features: NDArray[np.float32]) -> NDArray[np.float64]:
    values = features.astype(np.float64)
    return np.sqrt(values / values.sum(1, keepdims=True))


def test_the_distance_is_that_of_mahalanobis() -> None:
    known, others = drawn(200), drawn(40, seed=1)
    reference = LedoitWolf().fit(rooted(known))
    expected = [mahalanobis(row, reference.location_, reference.precision_) / np.sqrt(24) for row in rooted(others)]
    np.testing.assert_allclose(fitted(known).distances(others), expected, rtol=2e-3)


def test_1_in_100_validation_images_exceeds_the_threshold() -> None:
    novelty, validation = fitted(drawn(500)), drawn(1999, seed=1)
    found = with_threshold(novelty, novelty.distances(validation))
    assert found is not None and (found.images, found.validation_images) == (500, 1999)
    # The 1,980th of 1,999: for one more image, the chance to be beyond it is 20 in 2,000.
    assert np.sort(found.distances(validation))[1979] == pytest.approx(1.0, rel=1e-6)
    assert int((found.distances(validation) > 1.000001).sum()) == 19


@pytest.mark.parametrize("count", [5, 10, 30, 98])
def test_with_few_validation_images_about_1_in_100_known_images_is_flagged(count: int) -> None:
    novelty = fitted(drawn(500))
    distances = novelty.distances(drawn(6000, seed=1))
    flagged = []
    for part in np.split(distances[: 40 * count], 40):
        found = with_threshold(novelty, part)
        assert found is not None
        flagged.append(float((distances > found.threshold).mean()))
    assert 0.004 < np.mean(flagged) < 0.025


def test_too_little_to_go_by_gives_no_distance() -> None:
    known = drawn(50)
    assert fit_novelty(known[:9]) is None
    assert fit_novelty(np.repeat(known[:1], 50, axis=0)) is None
    assert fit_novelty(np.where(known > 9, np.nan, known)) is None
    assert with_threshold(fitted(known), np.ones(4, np.float32)) is None


def test_fewer_images_than_features_are_enough() -> None:
    known = fitted(drawn(12))
    found = with_threshold(known, known.distances(drawn(50, seed=1)))
    assert found is not None
    assert (found.distances(drawn(100, seed=2)[:, ::-1]) > 1).mean() > 0.9
    assert (found.distances(drawn(100, seed=2)) > 1).mean() < 0.1
    assert np.isfinite(found.distances(np.zeros((1, 24), np.float32))).all()


def test_the_file_gives_the_same_distances(tmp_path: Path) -> None:
    novelty, path = with_threshold(fitted(drawn(50)), np.linspace(1, 2, 200, dtype=np.float32)), tmp_path / "novelty.npz"
    assert novelty is not None
    write_novelty(path, novelty)
    again = read_novelty(path)
    assert again is not None and (again.images, again.validation_images) == (50, 200)
    np.testing.assert_array_equal(again.distances(drawn(9)), novelty.distances(drawn(9)))
    assert read_novelty(tmp_path / "missing.npz") is None


def test_files_of_other_versions_are_read_or_left_alone(tmp_path: Path) -> None:
    write_novelty(tmp_path / "a.npz", fitted(drawn(50)))
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "more.npz", **arrays, added=np.zeros(3))
    assert read_novelty(tmp_path / "more.npz") is not None
    np.savez(tmp_path / "newer.npz", **{**arrays, "format": np.int64(2)})
    assert read_novelty(tmp_path / "newer.npz") is None


def test_features_of_another_network_are_one_sentence() -> None:
    with pytest.raises(ResnetError, match=r"novelty\.npz is of another network: it has 24 features, the network 8"):
        fitted(drawn(50)).distances(np.zeros((3, 8), np.float32))


def other_compression(content: bytes) -> bytes:
    """The same archive, its first file said to be compressed in another way."""
    entry = content.index(b"PK\x01\x02")
    return content[: entry + 10] + b"\x63" + content[entry + 11 :]


@pytest.mark.parametrize(
    "damage", [lambda content: content[:200], lambda content: b"no archive", lambda content: b"", other_compression]
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "novelty.npz"
    write_novelty(path, fitted(drawn(50)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ResnetError, match=r"novelty\.npz is damaged"):
        read_novelty(path)


@pytest.fixture(scope="module")
def seen(finetuned_run: Finetuned) -> list[Path]:
    """Training images, then validation images."""
    rows = sorted(read_splits(load_run(finetuned_run.folder)), key=lambda row: row.split)
    return [finetuned_run.data / row.path for row in rows]


def rows_of(run_cli: RunCli, run: Path, *words: object) -> list[dict[str, Any]]:
    result = run_cli("predict", *words, "--run", run, "--json")
    assert result.exit_code == 0, result.stderr
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def test_a_photo_is_unlike_painted_squares(
    finetuned_run: Finetuned, run_cli: RunCli, seen: list[Path], sample_data: Path
) -> None:
    photo = sample_data / "cars" / "car_001.jpg"
    known, other = rows_of(run_cli, finetuned_run.folder, seen[0], photo)
    assert (known["unlike_training"], other["unlike_training"]) == (False, True)
    assert known["distance"] < 1 < other["distance"]
    printed = run_cli("predict", seen[0], photo, "--run", finetuned_run.folder).stdout
    assert f"{photo}{SAID}" in printed and printed.count(SAID) == 1
    lines = run_cli("predict", seen[0], photo, "--run", finetuned_run.folder, "--csv", "--top", 1).stdout.splitlines()
    assert [line.rsplit(",", 1)[1] for line in lines] == ["unlike_training", "false", "true"]


def test_the_features_are_those_of_keras(finetuned_run: Finetuned, run_cli: RunCli, seen: list[Path]) -> None:
    run = load_run(finetuned_run.folder)
    squares = np.stack([decode_square(path, run_geometry(run)) for path in seen])
    _, features = and_features(read_classifier(run.weights, spec_from_record(run.record)))(squares)
    novelty = read_novelty(run.folder / "novelty.npz")
    assert novelty is not None
    assert (novelty.images, novelty.validation_images) == (finetuned_run.trained, finetuned_run.held)
    expected = novelty.distances(np.asarray(features))
    # The engine may multiply in bf16.
    found = [row["distance"] for row in rows_of(run_cli, run.folder, *seen)]
    np.testing.assert_allclose(found, expected, rtol=0.05)
    assert sum(distance > 1 for distance in found[finetuned_run.trained :]) <= 2


def test_runs_without_the_file_flag_nothing_and_answer_as_before(
    finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path, sample_data: Path
) -> None:
    older = shutil.copytree(finetuned_run.folder, tmp_path / "older")
    (older / "novelty.npz").unlink()
    photo = sample_data / "cars" / "car_001.jpg"
    (row,) = rows_of(run_cli, older, photo)
    assert (row["unlike_training"], row["distance"]) == (None, None)
    (now,) = rows_of(run_cli, finetuned_run.folder, photo)
    assert [each["class"] for each in row["predictions"]] == [each["class"] for each in now["predictions"]]
    assert [each["probability"] for each in row["predictions"]] == pytest.approx(
        [each["probability"] for each in now["predictions"]], abs=1e-3
    )
    assert SAID not in run_cli("predict", photo, "--run", older).stdout
    result = run_cli("evaluate", finetuned_run.data, "--run", older, "--json", "--no-report", "--output", tmp_path / "scored")
    assert json.loads(result.stdout)["unlike_training"] is None
    (older / "novelty.npz").write_bytes(b"PK")
    damaged = run_cli("predict", photo, "--run", older)
    assert (damaged.exit_code, damaged.stdout) == (1, "") and "novelty.npz is damaged" in damaged.stderr


def test_an_ensemble_takes_the_mean_distance_of_its_members(
    finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path, seen: list[Path]
) -> None:
    other, older = (shutil.copytree(finetuned_run.folder, tmp_path / name) for name in ("other", "older"))
    (older / "novelty.npz").unlink()
    with np.load(other / "novelty.npz") as file:
        arrays = dict(file)
    np.savez(other / "novelty.npz", **{**arrays, "threshold": arrays["threshold"] / 3})
    (alone,) = rows_of(run_cli, finetuned_run.folder, seen[0])
    (row,) = rows_of(run_cli, finetuned_run.folder, seen[0], "--run", other, "--run", older)
    assert row["distance"] == pytest.approx(2 * alone["distance"], rel=1e-4)


def test_views_take_the_mean_distance_of_an_image(finetuned_run: Finetuned, run_cli: RunCli, sample_data: Path) -> None:
    photo = sample_data / "cars" / "car_001.jpg"
    (one,) = rows_of(run_cli, finetuned_run.folder, photo)
    (two,) = rows_of(run_cli, finetuned_run.folder, photo, "--views", 2)
    assert two["distance"] == pytest.approx(one["distance"], rel=0.5) and two["distance"] != one["distance"]


def test_evaluate_tells_the_share_and_names_the_images(
    finetuned_run: Finetuned, run_cli: RunCli, tmp_path: Path, seen: list[Path], make_dataset: MakeDataset, sample_data: Path
) -> None:
    data = tmp_path / "fruit"
    make_dataset(data, ("apple", "berry"), count=3, first=40)
    photos = [shutil.copy(path, data / "apple" / path.name) for path in sorted((sample_data / "cars").iterdir())[:2]]
    words = ("evaluate", data, "--run", finetuned_run.folder, "--no-report", "--output", tmp_path / "scored")
    result = run_cli(*words, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)["unlike_training"]
    rows = {row["path"]: row["distance"] for row in rows_of(run_cli, finetuned_run.folder, data)}
    flagged = sorted((path for path in rows if rows[path] > 1), key=lambda path: -rows[path])
    assert {str(photo) for photo in photos} <= set(flagged)
    assert [each["path"] for each in told["images"]] == flagged
    assert [each["distance"] for each in told["images"]] == pytest.approx([rows[path] for path in flagged], rel=0.02)
    assert (told["count"], told["share"]) == (len(flagged), len(flagged) / 8)
    assert f"unlike the training images: {len(flagged)} of 8 ({len(flagged) / 8:.1%})\n" in run_cli(*words).stdout


def test_a_cached_model_has_the_same_features(make_run: MakeRun, tiny_dataset: Path, tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", tiny_dataset))
    cached = features_file(run.openvino, tmp_path / "cache")
    assert cached is not None and features_file(run.openvino, tmp_path / "cache") == cached
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    again = OpenVinoEngine(cached, "one", exact=True, cache=tmp_path / "cache").run(images)
    for found, expected in zip(again, OpenVinoEngine(with_features(run.openvino), "one", exact=True).run(images), strict=True):
        np.testing.assert_array_equal(found, expected)
    (tmp_path / "file").write_text("")
    assert features_file(run.openvino, tmp_path / "file") is None
