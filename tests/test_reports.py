"""Curves and report show what was measured, however little or much it is."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeImage
from PIL import Image

from resnet_cli.inference.metrics import measure
from resnet_cli.reports.curves import curves, draw_curves
from resnet_cli.reports.page import Mistake, Report, write_report
from resnet_cli.runs.folder import EpochRecord

BLUE = (31, 119, 180)


class Rows(HTMLParser):
    """The rows of all tables of a page, as the texts of their cells; `names` are those that keep their width."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.names: set[str] = set()
        self._cell: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = dict(attrs).get("class") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.names |= {self.rows[-1][-1]} if self._cell == "name" else set()
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self.rows[-1][-1] += data


def write_page(folder: Path, names: list[str], guesses: list[int], image: Path | None = None) -> str:
    """A report of one image a class, each taken for `guesses`."""
    probabilities = np.eye(len(names), dtype=np.float32)[guesses]
    figures = measure(probabilities, np.arange(len(guesses)) % len(names), tuple(names)).to_json()
    mistakes = [Mistake(image, names[0], names[1], 0.9)] if image else []
    write_report(folder / "report.html", Report("toys: val", [("network", "resnet20")], figures, mistakes, None))
    return (folder / "report.html").read_text(encoding="utf-8")


def test_one_epoch_is_a_mark_in_both_curves(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(EpochRecord("train", 1, 2.0, 0.3, 1.5, 0.5, 0.1, 100.0, 1.0).to_line())
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", "one epoch", 0.0)
    with Image.open(tmp_path / "curves.png") as image:
        pixels = np.asarray(image.convert("RGB"), np.int16)
    for half in np.split(pixels, 2, axis=1):
        blue = (np.abs(half - BLUE).sum(2) < 30).any(0)
        # What is blue in the legend stands in one place; the marks stand in another.
        assert np.count_nonzero(np.diff(blue.astype(int)) == 1) == 2


def test_the_curves_say_which_losses_carry_label_smoothing() -> None:
    records = [EpochRecord(stage, epoch, 2.0, 0.3, 1.5, 0.5, 0.1, 100.0, 1.0) for stage in ("head", "tail") for epoch in (1, 2)]
    loss, accuracy = (
        [text.get_text() for text in axes.get_legend().get_texts()] for axes in curves(records, "two stages", 0.1).axes
    )
    assert loss == ["head, training", "head, validation", "tail, training (label smoothing 0.1)", "tail, validation"]
    assert accuracy == ["head, training", "head, validation", "tail, training", "tail, validation"]


@pytest.mark.parametrize("count", [2, 30, 31])
def test_every_class_is_named_as_it_is_in_a_column_that_keeps_its_width(count: int, tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "y" * 200, *(f"a class & its 'number' {i}" for i in range(count - 2))]
    page = write_page(tmp_path, names, list(range(count)))
    assert "<script" not in page
    assert set(names) <= Rows(page).names
    assert ("Confusion: " in page) == (count <= 30)


def test_of_many_classes_the_most_frequent_confusions_are_listed(tmp_path: Path) -> None:
    names = [f"class {i:02}" for i in range(40)]
    guesses = [*range(40)] * 3
    guesses[7] = guesses[47] = guesses[87] = 8
    guesses[5] = guesses[45] = 30
    page = write_page(tmp_path, names, guesses)
    listed = [row for row in Rows(page).rows if len(row) == 3]
    assert listed == [["true", "taken for", "images"], ["class 07", "class 08", "3"], ["class 05", "class 30", "2"]]


def test_a_page_without_mistakes_lists_no_confusions(tmp_path: Path) -> None:
    assert "onfusion" not in re.sub(
        r"<style>.*</style>", "", write_page(tmp_path, list("abcdefgh" * 4), [*range(32)]), flags=re.S
    )


def test_small_images_are_shown_enlarged_pixel_by_pixel(tmp_path: Path, make_image: MakeImage) -> None:
    page = write_page(tmp_path, ["cat", "dog"], [1, 1], make_image(tmp_path / "small.png", size=(32, 32)))
    assert 'src="data:image/jpeg' in page
    style = re.search(r"\.mistakes img \{(.*?)\}", page)
    assert style is not None and "width: 160px" in style.group(1) and "image-rendering: pixelated" in style.group(1)
