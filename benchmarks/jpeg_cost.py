"""What JPEG takes from images of 32 pixels: the same photos, scaled down, as PNG and as JPEG of quality 75.

    python benchmarks/jpeg_cost.py FOLDER [--arch resnet20] [--epochs 60] [--folds 5]

The photos of FOLDER are cut square and scaled to 32 pixels, which hides what their own compression did, and written twice:
without loss, and as CIFAR-10's JPEG copy is (Pillow's default: quality 75, half the resolution in colour). `resnet train`
learns both from scratch in the same way, side by side, a core each where there are two (Linux). In each fold another part of
the photos is the test.
"""

import argparse
import json
import math
import os
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import RESNET, images_by_class, machine, positive, print_table, run, workplace
from PIL import Image, ImageOps

_SIDE = 32
_KINDS = {"PNG": {}, "JPEG": {"quality": 75}}
_RECIPE = "--recipe fast --optimizer sgd --set cutout=0 --val-split 0 --json"


def main() -> None:
    """Write, train, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arch", default="resnet20")
    parser.add_argument("--epochs", type=positive, default=60)
    parser.add_argument("--folds", type=positive, default=5)
    options = parser.parse_args()
    if options.folds < 2:
        parser.error("--folds begins at 2: what is not tested is trained on")
    wrong: dict[str, list[int]] = {kind: [] for kind in _KINDS}
    tested: list[int] = []
    with workplace() as place:
        _shrink(options.folder, place)
        for fold in range(options.folds):
            with ThreadPoolExecutor(len(_KINDS)) as pool:
                answers = list(pool.map(lambda kind, fold=fold: _train(kind, place, fold, options), _KINDS))
            tested.append(answers[0]["count"])
            for kind, answer in zip(_KINDS, answers, strict=True):
                wrong[kind].append(round((1 - answer["top1"]) * answer["count"]))
            print(f"fold {fold + 1} of {options.folds}: {wrong} of {tested}", file=sys.stderr, flush=True)
    _report(options, wrong, tested)


def _shrink(folder: Path, place: Path) -> None:
    """Both copies of the photos, a folder per class in a folder each."""
    for name, photos in images_by_class(folder).items():
        for kind in _KINDS:
            (place / kind / name).mkdir(parents=True)
        for number, path in enumerate(photos):
            with Image.open(path) as photo:
                small = ImageOps.fit(photo.convert("RGB"), (_SIDE, _SIDE), Image.Resampling.LANCZOS)
            for kind, options in _KINDS.items():
                small.save(place / kind / name / f"{number:06}.{kind.lower()}", kind, **options)


def _train(kind: str, place: Path, fold: int, options: argparse.Namespace) -> dict[str, Any]:
    """The test figures of the network that learned this copy without this fold."""
    data, output = place / f"{kind}-{fold}", place / f"{kind}-{fold}-run"
    for name, images in images_by_class(place / kind).items():
        for number, path in enumerate(images):
            part = data / ("test" if number % options.folds == fold else "train") / name
            part.mkdir(parents=True, exist_ok=True)
            (part / path.name).symlink_to(path)
    cores = sorted(os.sched_getaffinity(0))
    core = cores[list(_KINDS).index(kind) % len(cores)]
    fixed = ["--arch", options.arch, "--image-size", _SIDE, "--epochs", options.epochs, "--seed", fold, "--output", output]
    command = ["taskset", "--cpu-list", core, RESNET, "train", data, *fixed, *_RECIPE.split()]
    answer: dict[str, Any] = json.loads(run([str(word) for word in command], place / "cache").output)
    return dict(answer["test"])


def _report(options: argparse.Namespace, wrong: dict[str, list[int]], tested: list[int]) -> None:
    rows = []
    for kind, counts in wrong.items():
        rates = [100 * count / total for count, total in zip(counts, tested, strict=True)]
        rows.append([kind, f"{100 * sum(counts) / sum(tested):.2f} %", f"{min(rates):.1f} to {max(rates):.1f} %"])
    print_table(["pictures", "test error", "in single folds"], rows)
    plain, compressed = wrong.values()
    differences = [100 * (worse - better) / total for better, worse, total in zip(plain, compressed, tested, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    print(f"\nJPEG costs {statistics.mean(differences):.2f} points (standard error over the folds {error:.2f}),", end=" ")
    print(f"{sum(compressed) / sum(plain):.2f} times the errors.")
    photos = f"{sum(tested)} photos of {options.folder.name}, each tested once in {options.folds} folds"
    print(f"\n{options.arch}, {options.epochs} epochs of `{_RECIPE}`; {photos}.\n\n{machine()}")


if __name__ == "__main__":
    main()
