"""`predict --embeddings`: the pooled features of images in one file, equal to those of Keras, in little memory."""

import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finetuned, MakeDataset, MakeImage, RunCli, room_for
from numpy.typing import NDArray

from resnet_cli.data.decode import decode_square, run_geometry
from resnet_cli.engines.frozen import and_features, read_classifier
from resnet_cli.engines.openvino import OpenVinoEngine, usual_precision, with_features
from resnet_cli.errors import ResnetError
from resnet_cli.inference.classify import Classified
from resnet_cli.inference.scoring import with_embeddings
from resnet_cli.networks.catalogue import spec_from_record
from resnet_cli.runs.folder import load_run


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset) -> Path:
    """Five images, and one that cannot be read."""
    root = make_dataset(tmp_path_factory.mktemp("embeddings") / "album", ("apple", "cherry"), count=3, first=50)
    (root / "apple" / "051.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def expected(finetuned_run: Finetuned, album: Path) -> NDArray[np.float32]:
    """The features that Keras computes in float32."""
    run = load_run(finetuned_run.folder)
    squares = [decode_square(path, run_geometry(run)) for path in readable(album)]
    _, features = and_features(read_classifier(run.weights, spec_from_record(run.record)))(np.stack(squares))
    return np.asarray(features)


def readable(album: Path) -> list[Path]:
    return [path for path in sorted(album.rglob("*.png")) if path.stat().st_size > 100]


def columns(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name].tolist() if name != "features" else file[name] for name in file}
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    found = {name: table[name].to_pylist() for name in table.column_names}
    return {**found, "features": np.array(found["features"], table["features"].type.value_type.to_pandas_dtype())}


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_the_file_has_a_row_for_every_readable_image(
    finetuned_run: Finetuned, run_cli: RunCli, album: Path, tmp_path: Path, expected: NDArray[np.float32], suffix: str
) -> None:
    target = tmp_path / f"features{suffix}"
    words = ("predict", album, "--run", finetuned_run.folder, "--engine", "keras", "--json")
    result = run_cli(*words, "--embeddings", target)
    assert result.exit_code == 1  # for the image that cannot be read
    rows = json.loads(result.stdout)
    assert [row["path"] for row in rows if row["error"]] == [str(album / "apple" / "051.png")]
    found = columns(target)
    assert sorted(found) == ["features", "label", "path"]
    assert found["path"] == [str(path) for path in readable(album)]
    assert found["label"] == [row["predictions"][0]["class"] for row in rows if not row["error"]]
    assert found["features"].dtype == np.float32
    np.testing.assert_allclose(found["features"], expected, atol=1e-5 * expected.max())
    assert rows == json.loads(run_cli(*words).stdout)
    assert list(tmp_path.iterdir()) == [target]


def test_openvino_gives_the_features_of_keras(
    finetuned_run: Finetuned, run_cli: RunCli, album: Path, tmp_path: Path, expected: NDArray[np.float32]
) -> None:
    run, largest = load_run(finetuned_run.folder), expected.max()
    squares = np.stack([decode_square(path, run_geometry(run)) for path in readable(album)])
    _, exact = OpenVinoEngine(with_features(run.openvino), "many", exact=True).run(squares)
    np.testing.assert_allclose(exact, expected, atol=1e-3 * largest)
    run_cli("predict", album, "--run", run.folder, "--embeddings", tmp_path / "some.npz")
    precision = {"f32": 1e-3, "f16": 5e-3, "bf16": 3e-2}[usual_precision()]
    np.testing.assert_allclose(columns(tmp_path / "some.npz")["features"], expected, atol=precision * largest)


def test_features_of_views_are_averaged(finetuned_run: Finetuned, run_cli: RunCli, album: Path, tmp_path: Path) -> None:
    run, path = load_run(finetuned_run.folder), readable(album)[0]
    square = decode_square(path, run_geometry(run))
    model = and_features(read_classifier(run.weights, spec_from_record(run.record)))
    mean = np.asarray(model(np.stack([square, square[:, ::-1]]))[1]).mean(0)
    words = ("--run", run.folder, "--engine", "keras", "--views", 2, "--embeddings", tmp_path / "two.npz")
    assert run_cli("predict", path, *words).exit_code == 0
    np.testing.assert_allclose(columns(tmp_path / "two.npz")["features"], mean[None], atol=1e-5 * mean.max())


@pytest.mark.slow
def test_they_are_written_without_tensorflow(finetuned_run: Finetuned, album: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from resnet_cli.cli.app import main; sys.argv = ['resnet', *sys.argv[1:]]\n"
        "try: main()\nfinally: assert not {'tensorflow', 'keras', 'sklearn'} & sys.modules.keys()"
    )
    words = ["predict", str(readable(album)[0]), "--run", str(finetuned_run.folder), "--embeddings", str(tmp_path / "one.npz")]
    subprocess.run([sys.executable, "-c", script, *words], check=True, capture_output=True)
    assert columns(tmp_path / "one.npz")["features"].shape[0] == 1


def test_names_that_are_no_text_and_look_like_formulas_are_escaped(
    finetuned_run: Finetuned, run_cli: RunCli, make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_image(Path("=a.png"))
    shutil.copy("=a.png", "b\udcff.png")
    for target in (Path("names.npz"), Path("names.parquet")):
        run_cli("predict", "=a.png", "b\udcff.png", "--run", finetuned_run.folder, "--embeddings", target)
        assert columns(target)["path"] == ["./=a.png", "b\\udcff.png"]


def test_what_cannot_be_written_is_refused_before_any_work(
    finetuned_run: Finetuned, run_cli: RunCli, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(target: Path, *more: object) -> tuple[int, str, str]:
        result = run_cli("predict", album, "--run", finetuned_run.folder, "--embeddings", target, *more)
        return result.exit_code, result.stdout, " ".join(result.stderr.split())

    code, printed, said = refusal(tmp_path / "features.csv")
    assert (code, printed) == (2, "") and "neither .npz nor .parquet" in said.replace("│ ", "")
    there = tmp_path / "there.npz"
    there.write_bytes(b"mine")
    code, printed, said = refusal(there)
    assert (code, printed, there.read_bytes()) == (1, "", b"mine") and f"{there} exists already" in said
    code, printed, said = refusal(tmp_path / "nowhere" / "new.npz")
    assert (code, printed) == (1, "") and f"there is no folder {tmp_path / 'nowhere'}" in said
    code, printed, said = refusal(tmp_path / "new.npz", "--run", shutil.copytree(finetuned_run.folder, tmp_path / "other"))
    assert (code, printed) == (1, "") and "--embeddings needs one run" in said
    code, printed, said = refusal(tmp_path / "new.npz", "--ray", "local")
    assert (code, printed) == (2, "") and "--features" in said
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, printed, said = refusal(tmp_path / "new.parquet")
    assert (code, printed) == (1, "") and "needs the package pyarrow" in said and "resnet-cli[parquet]" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "there.npz"]


def test_without_a_readable_image_there_is_no_file(
    finetuned_run: Finetuned, run_cli: RunCli, album: Path, tmp_path: Path
) -> None:
    result = run_cli("predict", album / "apple" / "051.png", "--run", finetuned_run.folder, "--embeddings", tmp_path / "a.npz")
    assert result.exit_code == 1 and "none of the images can be read" in result.stderr
    assert list(tmp_path.iterdir()) == []


def many(count: int, width: int) -> Iterator[Classified]:
    for number in range(count):
        yield Classified(
            Path(f"{number}.png"), np.eye(2, dtype=np.float32)[number % 2], None, np.full(width, number, np.float32)
        )


def test_memory_does_not_grow_with_the_features(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        for _ in with_embeddings(many(5000, 2048), tmp_path / "many.npz", ("a", "b")):
            pass
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 20e6  # the features have 41 MB
    found = columns(tmp_path / "many.npz")
    assert found["label"][:3] == ["a", "b", "a"]
    np.testing.assert_array_equal(found["features"], np.repeat(np.arange(5000, dtype=np.float32)[:, None], 2048, axis=1))


def test_many_rows_of_parquet_are_in_order(tmp_path: Path) -> None:
    for _ in with_embeddings(many(2500, 2048), tmp_path / "many.parquet", ("a", "b")):
        pass
    found = columns(tmp_path / "many.parquet")
    assert found["path"] == [f"{number}.png" for number in range(2500)]
    assert found["features"][:, -1].tolist() == list(range(2500))


def test_a_full_disk_and_a_consumer_that_stops_leave_nothing(tmp_path: Path) -> None:
    with room_for(100_000), pytest.raises(ResnetError, match=r"cannot write .*full\.npz: File too large"):
        for _ in with_embeddings(many(500, 2048), tmp_path / "full.npz", ("a", "b")):
            pass
    rows = with_embeddings(many(500, 2048), tmp_path / "stopped.npz", ("a", "b"))
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []
