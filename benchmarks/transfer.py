"""What the bundled backbone is worth: finetune all of it, its last stage or the head alone, and a head on untrained weights.

    python benchmarks/transfer.py FOLDER [FOLDER ...]

Runs `resnet finetune` as a user would, one process a row, and prints a Markdown table: the headline accuracy (the test folder's
where there is one) with its 95 % interval, the input size, and the wall time of the whole command.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_ROWS = (("bundled", "all"), ("bundled", "last"), ("bundled", "none"), ("none", "none"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    print("| data | pixels | weights | unfrozen | accuracy | 95 % interval | images | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in parser.parse_args().folders:
        for weights, unfreeze in _ROWS:
            print(_row(folder.resolve(), weights, unfreeze), flush=True)


def _row(folder: Path, weights: str, unfreeze: str) -> str:
    resnet = str(Path(sys.executable).with_name("resnet"))
    options = ["--weights", weights, "--unfreeze", unfreeze, "--set", "cache=false", "--json"]
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        command = [resnet, "finetune", str(folder), "--output", f"{place}/run", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(done.stderr)
        result = json.loads(done.stdout)
        pixels = json.loads((Path(place) / "run" / "run.json").read_text())["image_size"]
    split = "test" if "test" in result else "val"
    figures = result[split]
    low, high = figures["top1_interval"]
    return (
        f"| {folder.name}, {split} | {pixels} | {weights} | {unfreeze} | {figures['top1']:.1%} | {low:.1%} to {high:.1%}"
        f" | {figures['count']} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    main()
