"""Draw docs/report.png: the report of a classifier of the sample data, as a browser shows it.

    python scripts/make_report_image.py

Trains on 60 % of the sample data, so that there are mistakes to show, and lets headless Chromium draw the page, 1280 pixels
wide.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

_ROOT = Path(__file__).parents[1]
_WIDTH, _HEIGHT = 1280, 1970
_COMMAND = (
    "train cars_vs_trucks --arch resnet18-slim --weights bundled --learning-rate 0.005 --batch-size 16 --epochs 12"
    " --val-split 0.4 --seed 2 --output run --quiet"
)


def main() -> None:
    """Run the command and draw its report."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("install Chromium first: it draws the page")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        shutil.copytree(_ROOT / "sample_data" / "cars_vs_trucks", place / "cars_vs_trucks")
        environment = os.environ | {"XDG_CACHE_HOME": str(place / "cache")}
        subprocess.run([sys.executable, "-m", "resnet_cli", *_COMMAND.split()], cwd=place, env=environment, check=True)
        drawn, page = place / "report.png", place / "run" / "report.html"
        how = ["--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={_WIDTH},{_HEIGHT}"]
        words = [browser, *how, f"--screenshot={drawn}", f"--user-data-dir={place / 'browser'}", page.as_uri()]
        subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
        with Image.open(drawn) as image:
            # The page has few colours beside its photos: a palette halves the file.
            image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT).save(_ROOT / "docs" / "report.png", optimize=True)


if __name__ == "__main__":
    main()
