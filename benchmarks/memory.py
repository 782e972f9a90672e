"""Peak memory over the number of pictures: it must not grow with them.

    python benchmarks/memory.py [--small 1000] [--large 10000] [--side 32]

Draws folders of random JPEG files, then runs finetune, evaluate and predict on each as whole processes and prints their peak
resident memory and the ratio.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=1000)
    parser.add_argument("--large", type=int, default=10000)
    parser.add_argument("--side", type=int, default=32, help="of the pictures, in pixels")
    options = parser.parse_args()
    counts = (options.small, options.large)
    with tempfile.TemporaryDirectory() as place:
        peaks = [_peaks(Path(place) / str(count), count, options.side) for count in counts]
    print(f"| command | {counts[0]} pictures, MB | {counts[1]} pictures, MB | ratio |\n|---|---|---|---|")
    for name in peaks[0]:
        small, large = (peak[name] for peak in peaks)
        print(f"| {name} | {small:.0f} | {large:.0f} | {large / small:.2f} |")


def _peaks(root: Path, count: int, side: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        folder = root / "data" / name
        folder.mkdir(parents=True)
        for number in range(count // 2):
            pixels = random.integers(label * 60, 195 + label * 60, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((side, side)).save(folder / f"{number}.jpg")
    data, run = str(root / "data"), str(root / "run")
    finetune = ["finetune", data, "--weights", "bundled", "--views", "2", "--epochs", "1", "--output", run]
    return {
        "finetune": _peak(finetune),
        "evaluate": _peak(["evaluate", "--run", run]),
        "predict": _peak(["predict", data, "--run", run, "--csv"]),
    }


def _peak(arguments: list[str]) -> float:
    resnet = str(Path(sys.executable).with_name("resnet"))
    process = subprocess.Popen([resnet, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"resnet {arguments[0]} failed")
    return usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
