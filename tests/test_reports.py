"""Curves and report show what was measured, however little or much it is."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import CHROMIUM, Browser
from conftest import MakeImage
from PIL import Image
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score

from resnet_cli.inference.metrics import measure, precision_recall, reliability
from resnet_cli.reports.comparison import Comparison, Pair, write_comparison
from resnet_cli.reports.curves import Curve, curves, draw_comparison, draw_curves
from resnet_cli.reports.page import Report, Shown, write_report
from resnet_cli.reports.plots import ticks
from resnet_cli.runs.folder import EpochRecord

BLUE = (31, 119, 180)


class Page(HTMLParser):
    """A page as a browser reads it: the rows of its tables, its elements with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open:
            self.rows[-1][-1] += data

    def of_class(self, name: str) -> list[str]:
        """The table rows that begin with this cell, as texts without surrounding spaces."""
        return next([" ".join(cell.split()) for cell in row] for row in self.rows if row and row[0].strip() == name)


HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "y" * 200,
    "{{7*7}}",
    "a 'b' & \"c\"",
    "\u202eevil",
]


def make_report(names: Sequence[str], guesses: Sequence[int], **more: Any) -> Report:
    """A report on images whose classes take turns, each taken for `guesses`."""
    probabilities = np.eye(len(names), dtype=np.float32)[list(guesses)]
    figures = measure(probabilities, np.arange(len(guesses)) % len(names), tuple(names)).to_json()
    return Report("toys: val", [("network", "resnet20")], figures, **more)


def write_page(folder: Path, report: Report) -> Page:
    write_report(folder / "report.html", report)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_images_unlike_the_training_images_are_shown_with_their_share(make_image: MakeImage, tmp_path: Path) -> None:
    strange = Shown(make_image(tmp_path / "truck.png"), "rose", "rose", 0.9, 0.9, name="rose/truck.png")
    page = write_page(tmp_path, make_report(["rose", "tulip"], [0, 1, 0, 1], unlike=[strange], unlike_count=1))
    assert "1 of 4 images (25.0 %)" in page.text and "rose/truck.png" in page.text
    assert "Unlike the training images" not in write_page(tmp_path, make_report(["rose", "tulip"], [0, 1], unlike_count=0)).text


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


@pytest.mark.parametrize("count", [6, 30, 31])
def test_hostile_names_are_text_and_nothing_is_fetched(count: int, tmp_path: Path, make_image: MakeImage) -> None:
    names = [*HOSTILE, *(f"a class {i}" for i in range(count - len(HOSTILE)))]
    shown = [Shown(make_image(tmp_path / "a.png"), names[1], names[0], 0.9, 0.05)]
    report = make_report(names, [(i + 1) % count for i in range(count)], mistakes=shown, unsure=shown, warnings=HOSTILE)
    page = write_page(tmp_path, report)
    assert {row[0].strip() for row in page.rows} >= set(names)
    assert [attributes.get("type") for tag, attributes in page.elements if tag == "script"] == (
        [None] if count <= 30 else ["application/json", None]
    )
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")


def test_the_class_table_begins_with_the_worst_class_and_gives_wilson_intervals(tmp_path: Path) -> None:
    report = make_report(["good", "bad", "unseen"], [0, 1, 2])
    figures = measure(np.eye(3, dtype=np.float32)[[0, 0, 0, 0, 1, 0]], np.array([0, 1, 0, 1, 1, 0]), ("good", "bad", "unseen"))
    page = write_page(tmp_path, replace(report, figures=figures.to_json()))
    first = [row[0].strip() for row in page.rows if row]
    assert first.index("bad") < first.index("good") < first.index("unseen")
    low, high = binomtest(1, 3).proportion_ci(method="wilson")
    assert page.of_class("bad") == ["bad", "3", "100.0", f"33.3 {100 * low:.0f} to {100 * high:.0f}", "50.0"]
    assert page.of_class("unseen") == ["unseen", "0", "", "", ""]


def test_many_classes_are_a_matrix_for_the_script_and_their_worst_pairs_a_table(tmp_path: Path) -> None:
    names = [f"class {i:02}" for i in range(40)]
    guesses = [*range(40)] * 3
    guesses[7] = guesses[47] = guesses[87] = 8
    guesses[5] = guesses[45] = 30
    report = make_report(names, guesses)
    page = write_page(tmp_path, report)
    assert [row for row in page.rows if len(row) == 3] == [
        ["true", "taken for", "images"],
        ["class 07", "class 08", "3"],
        ["class 05", "class 30", "2"],
    ]
    stored = re.search(r'id="confusion-data">(.*?)</script>', (tmp_path / "report.html").read_text())
    assert stored is not None
    matrix = json.loads(stored[1])
    cells = np.zeros((40, 40), int)
    for row, column, count in matrix["cells"]:
        cells[row, column] = count
    assert matrix["names"] == names
    np.testing.assert_array_equal(cells, report.figures["confusion"])


def test_a_page_without_mistakes_lists_no_confusions(tmp_path: Path) -> None:
    page = write_page(tmp_path, make_report(list("abcdefgh" * 4), [*range(32)]))
    assert "Most frequent confusions" not in page.text and "No image was taken for another class." in page.text


def test_a_mistake_names_both_classes_their_probabilities_and_the_file(tmp_path: Path, make_image: MakeImage) -> None:
    image = make_image(tmp_path / "small.png", size=(32, 16))
    heat = Image.new("RGBA", (4, 4), (255, 0, 0, 90))
    shown = Shown(image, "cat", "dog", 0.9, 0.05, heat, (0.25, 0.0, 0.75, 1.0))
    page = write_page(tmp_path, make_report(["cat", "dog"], [1, 1], mistakes=[shown]))
    assert " ".join(page.text.split()).count(f"cat 5.0 % taken for dog 90.0 % {image}") == 1
    thumbnail, map_of_it = (attributes for tag, attributes in page.elements if tag == "img")
    # A small image is shown enlarged, pixel by pixel.
    assert (thumbnail["width"], thumbnail["height"], thumbnail["class"]) == ("160", "80", "enlarged")
    assert map_of_it["style"] == "left:25.00%;top:0.00%;width:50.00%;height:100.00%"


def test_an_image_that_is_gone_leaves_its_words(tmp_path: Path) -> None:
    page = write_page(tmp_path, make_report(["cat", "dog"], [1, 1], mistakes=[Shown(Path("gone.png"), "cat", "dog", 0.9, 0.1)]))
    assert "gone.png" in page.text and not any(tag == "img" for tag, _ in page.elements)


def test_the_epoch_whose_weights_were_kept_is_marked_in_both_plots(tmp_path: Path) -> None:
    history = [
        EpochRecord(phase, epoch, 2.0, 0.3, 1.5, 0.5, 0.1, 100.0, 1.0) for phase in ("head", "tail") for epoch in (1, 2, 3)
    ]
    page = write_page(tmp_path, make_report(["cat", "dog"], [0, 1], history=history, best=("tail", 2), label_smoothing=0.1))
    marks = [attributes["d"] for tag, attributes in page.elements if tag == "path" and attributes.get("class") == "mark"]
    # The fifth of six epochs on an axis from 0.5 to 6.5 between the edges 48 and 470 of the plot.
    assert marks == [f"M{48 + 422 * 4.5 / 6:.1f} 20V204"] * 2
    assert page.text.count("kept: epoch 2") == 2
    assert "fine-tuning phase: training images (loss with label smoothing 0.1)" in page.text
    assert "head phase: training images (loss" not in page.text


@pytest.mark.parametrize(
    ("low", "high", "most"), [(0, 1, 6), (0.93, 0.97, 6), (1, 12, 8), (-0.02, 2.71, 6), (0.5, 1.5, 8), (3, 90000, 6)]
)
def test_axes_have_a_few_round_ticks(low: float, high: float, most: int) -> None:
    found = ticks(low, high, most)
    steps = np.diff(found)
    assert 2 <= len(found) <= most and low <= found[0] and found[-1] <= high
    np.testing.assert_allclose(steps, steps[0])
    assert f"{steps[0]:e}"[0] in "125"


def test_the_reliability_diagram_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(4), 500).astype(np.float32)
    labels = np.array([generator.choice(4, p=row / row.sum()) for row in probabilities.astype(float)])
    bins = reliability(probabilities.max(1), probabilities.argmax(1) == labels)
    accuracy, confidence = calibration_curve(probabilities.argmax(1) == labels, probabilities.max(1), n_bins=15)
    np.testing.assert_allclose([each.accuracy for each in bins], accuracy)
    np.testing.assert_allclose([each.confidence for each in bins], confidence, rtol=1e-5)
    assert sum(each.count for each in bins) == 500
    gap = sum(each.count * abs(each.accuracy - each.confidence) for each in bins) / 500
    assert measure(probabilities, labels, tuple("abcd")).ece == pytest.approx(gap)


def test_precision_recall_curves_are_those_of_the_classes_with_the_lowest_f1() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 5, 2000)
    scores = generator.normal(size=(2000, 5))
    scores[np.arange(2000), labels] += np.array([3, 0.2, 3, 0.5, 3])[labels]
    probabilities = softmax(scores, axis=1).astype(np.float32)
    curves = precision_recall(probabilities, labels, tuple("abcde"), most=2)
    assert [each.name for each in curves] == ["b", "d"]
    for each, place in zip(curves, (1, 3), strict=True):
        assert each.average_precision == pytest.approx(average_precision_score(labels == place, probabilities[:, place]))
        assert each.points[0][0] == 1 and each.points[-1] == (0, 1) and len(each.points) <= 200


def test_a_long_label_leaves_room_for_the_axes_and_one_epoch_is_a_whole_number(tmp_path: Path) -> None:
    drawn = [Curve(f"resnet20 ({'z' * 250}{end})", [[0.5]], [[0.4]]) for end in "ab"]
    draw_comparison(drawn, "toys", "validation", tmp_path / "compare.svg")  # matplotlib warns of axes without room
    texts = re.findall(r"<!-- (.*?) -->", (tmp_path / "compare.svg").read_text())
    assert texts[0] == "1" and "epoch" in texts[1]
    labels = [text for text in texts if text.startswith("resnet20 (z")]
    assert [len(label) for label in labels] == [71, 71] and labels[0].endswith("za)") and labels[1].endswith("zb)")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 390])
def test_long_names_of_runs_do_not_widen_the_page(width: int, tmp_path: Path) -> None:
    page, curve = tmp_path / "compare.html", Curve("z" * 250, [[0.5, 0.4]], [[0.5, 0.4]])
    pair = Pair("y" * 250, "z" * 250, 5, 3, 2, 1, 1.0, [], [])
    write_comparison(page, Comparison("x" * 250, ["network"], [["z" * 250]], [curve], "validation", [pair], []))
    with Browser(tmp_path / "profile", width) as browser:
        browser.open(page.as_uri())
        assert browser.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_columns_are_sorted_by_their_numbers_and_times(tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    headings = ["network", "test", "images per s", "time"]
    rows = [
        ["plain20", "9.50 ± 0.20", "8,841", "0:10:05"],
        ["resnet20", "-", "38,324", "1 day, 2:00:00"],
        ["resnet56", "10.25 ± 0.10", "950", "3:00:00"],
    ]
    error = [[0.5, 0.4]]
    write_comparison(page, Comparison("toys", headings, rows, [Curve("plain20", error, error)], "validation", [], []))
    with Browser(tmp_path / "profile") as browser:
        browser.open(page.as_uri())

        def pressed(heading: int) -> list[str]:
            browser.evaluate(f"document.querySelectorAll('.sortable button')[{heading}].click()")
            names = browser.evaluate("[...document.querySelectorAll('.sortable td.name')].map((td) => td.textContent)")
            return list(names)

        assert pressed(2) == ["resnet56", "plain20", "resnet20"]
        assert pressed(2) == ["resnet20", "plain20", "resnet56"]
        assert pressed(3) == ["plain20", "resnet56", "resnet20"]
        assert pressed(1) == ["plain20", "resnet56", "resnet20"]
        assert pressed(1) == ["resnet56", "plain20", "resnet20"]
        assert not browser.messages


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_the_wheel_zooms_the_matrix_and_scrolls_the_page_where_all_of_it_is_shown(tmp_path: Path) -> None:
    names = [f"kind {number}" for number in range(40)]
    write_page(tmp_path, make_report(names, [*range(39), 0]))
    with Browser(tmp_path / "profile", height=300) as browser:
        browser.open((tmp_path / "report.html").as_uri())
        browser.evaluate("document.querySelector('#matrix canvas').scrollIntoView()")
        left, top, width, height = browser.evaluate(
            "(({x, y, width, height}) => [x, y, width, height])(document.querySelector('canvas').getBoundingClientRect())"
        )
        corner = {"x": left + 0.5 * width / 40, "y": top + 0.5 * height / 40}

        def turn(wheel: int) -> None:
            browser.call("Input.dispatchMouseEvent", type="mouseWheel", deltaX=0, deltaY=wheel, **corner)

        before = browser.evaluate("scrollY")
        turn(-100)
        across = {"x": left + 1.1 * width / 40, "y": corner["y"]}
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", **across)
        assert browser.evaluate("document.getElementById('cell').textContent") == "kind 0, right: 1 of 1"
        turn(100)
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", **across)
        assert browser.evaluate("document.getElementById('cell').textContent") == "kind 0, taken for kind 1: 0 of 1"
        assert browser.evaluate("scrollY") == before
        turn(100)
        browser.wait_for(f"scrollY > {before}")
