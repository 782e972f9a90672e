"""What a search gains: `resnet finetune FOLDER --tune 3m` against `resnet finetune FOLDER`, validation and test accuracy.

    python benchmarks/tuning.py FOLDER [--limit 3m] [--weights bundled] [--seeds 1]

FOLDER is a data set as `finetune` reads it; where it has no test folder, every fourth image of a class becomes a test image.
Validation chooses the settings, so the test accuracy is the one to compare.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import RESNET, fresh, images_by_class, positive, print_notes, print_table, run, workplace

_TEST = 4  # every fourth image


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", default="3m")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--seeds", type=positive, default=1)
    options = parser.parse_args()
    tuned = f"`--tune {options.limit}`"
    rows = []
    with workplace() as place:
        data = options.folder if (options.folder / "test").is_dir() else _with_test(options.folder, place / options.folder.name)
        for seed in range(options.seeds):
            command = [RESNET, "finetune", data, "--weights", options.weights, "--seed", seed, "--json"]
            for name, words in (("defaults", []), (tuned, ["--tune", options.limit])):
                rows.append([str(seed), name, *_figures(_run([*command, *words], place))])
    print_table(["seed", options.folder.name, "validation", "test", "seconds", "search", "settings"], rows)
    print_notes(1, f"{options.weights} weights.")


def _run(words: Sequence[object], place: Path) -> dict[str, Any]:
    with fresh(place) as turn:
        return dict(json.loads(run([*map(str, words), "--output", turn / "out"], turn / "cache").output))


def _figures(result: dict[str, Any]) -> list[str]:
    shares = [f"{result[split]['top1']:.1%} of {result[split]['count']}" for split in ("val", "test")]
    found = result.get("tuning")
    if not found or not found["trials"]:
        return [*shares, f"{result['seconds']:.0f}", "-", "-"]
    search = f"{found['default']['top1']:.1%} to {found['best']['top1']:.1%} ({found['phase']}, {found['trials']} trials)"
    return [*shares, f"{result['seconds']:.0f}", search, found["changed"]]


def _with_test(folder: Path, target: Path) -> Path:
    """Links to the images of a data set: every fourth of a class in `test`, the others in `train`."""
    for name, images in images_by_class(folder).items():
        for number, path in enumerate(images):
            link = target / ("train" if number % _TEST else "test") / name / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    return target


if __name__ == "__main__":
    main()
