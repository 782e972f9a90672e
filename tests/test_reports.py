"""Curves and report show what was measured, however little or much it is."""

from pathlib import Path

import numpy as np
from PIL import Image

from resnet_cli.history import EpochRecord
from resnet_cli.reports.curves import draw_curves

BLUE = (31, 119, 180)


def test_one_epoch_is_a_mark_in_both_curves(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(EpochRecord("train", 1, 2.0, 0.3, 1.5, 0.5, 0.1, 100.0, 1.0).to_line())
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", "one epoch")
    with Image.open(tmp_path / "curves.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), np.int16)
    for half in np.split(pixels, 2, axis=1):
        blue = (np.abs(half - BLUE).sum(2) < 30).any(0)
        # What is blue in the legend stands in one place; the marks stand in another.
        assert np.count_nonzero(np.diff(blue.astype(int)) == 1) == 2
