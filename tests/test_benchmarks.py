"""The benchmarks: each says how it is used, quickly, and all contenders get the same images."""

import importlib
import runpy
import sys
from pathlib import Path

import pytest
from conftest import MakeDataset

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# The others are started by these.
SCRIPTS = [path for path in sorted(BENCHMARKS.glob("*.py")) if "ArgumentParser(" in path.read_text(encoding="utf-8")]


@pytest.fixture(autouse=True)
def beside_their_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_benchmark_says_how_it_is_used(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 0
    assert f"python benchmarks/{script.name}" in capsys.readouterr().out


def test_fewer_images_keep_every_class_by_its_share(tmp_path: Path, make_dataset: MakeDataset) -> None:
    data = make_dataset(tmp_path / "data" / "train", classes=("few",), count=4)
    make_dataset(data, classes=("many",), count=12)
    links = tmp_path / "links"
    assert importlib.import_module("common").lay_out(tmp_path / "data", links, 8) == 8
    assert {name: len(list((links / name).iterdir())) for name in ("few", "many")} == {"few": 2, "many": 6}
    assert all(link.resolve().is_relative_to(data.resolve()) for link in links.rglob("*.png"))
