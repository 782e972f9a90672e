"""A ResNet-50 distilled into a small network for a phone: accuracy, size and speed of both, and of the small one by itself.

    python benchmarks/distilled.py FOLDER [--epochs 40] [--image-size 64] [--small resnet18-slim] [--output FOLDER]

Trains three runs of FOLDER (which has a test folder) from scratch, as a user would: the large network, the small one, and the
small one with the large one as its teacher. Each is exported to TFLite in float and in int8; the export measures both on one
machine. Prints a Markdown table. A run that is finished in --output is not trained again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from common import RESNET, machine, print_table, run

_HEADER = (
    "network",
    "learns from",
    "test accuracy",
    "95 % interval",
    "minutes",
    "TFLite, MB",
    "int8, MB",
    "int8",
    "int8, images/s",
)


def main() -> None:
    """Train, export, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--large", default="resnet50")
    parser.add_argument("--small", default="resnet18-slim")
    parser.add_argument("--output", type=Path, default=Path("runs/distilled"))
    asked = parser.parse_args()
    recipe = ["--epochs", str(asked.epochs), "--image-size", str(asked.image_size), "--set", "crop=resized"]
    teacher, cache = asked.output / "large", asked.output / "cache"
    rows = []
    for name, arch, more, source in (
        ("large", asked.large, [], "labels"),
        ("small", asked.small, [], "labels"),
        ("taught", asked.small, ["--teacher", str(teacher)], f"labels and {asked.large}"),
    ):
        folder = asked.output / name
        if not (folder / "run.json").exists():
            begun = ["--resume"] if folder.exists() else []
            run([RESNET, "train", asked.folder, "--arch", arch, *recipe, *more, "--output", folder, *begun], cache)
        rows.append(_row(arch, source, folder, cache))
    print_table(_HEADER, rows)
    print(
        f"\n{asked.folder.name}; {asked.image_size} pixels, {asked.epochs} epochs from scratch, otherwise defaults. {machine()}"
    )


def _row(arch: str, source: str, folder: Path, cache: Path) -> list[str]:
    result = json.loads((folder / "run.json").read_text())["results"]
    words = ["--format", "tflite", "--quantize", "int8", "--force", "--json"]
    export: dict[str, Any] = json.loads(run([RESNET, "export", "--run", folder, *words], cache).output)
    before, after = export["int8"]["before"], export["int8"]["after"]
    low, high = result["test"]["top1_interval"]
    return [
        arch,
        source,
        f"{result['test']['top1']:.1%}",
        f"{low:.1%} to {high:.1%}",
        f"{result['seconds'] / 60:.0f}",
        f"{before['bytes'] / 1e6:.1f}",
        f"{after['bytes'] / 1e6:.1f}",
        f"{after['top1']:.1%} ({export['int8']['split']})",
        f"{after['pictures_per_second']:.0f}",
    ]


if __name__ == "__main__":
    main()
