"""How much of `resnet evaluate` is the report, and how large is it with many classes?

    python benchmarks/report.py RUN FOLDER [--repeats 5]

The folder is scored with and without the report, in turns, each in a process of its own. Then the page of 10,000 made-up
predictions in 200 classes is written, with the folder's images as mistakes.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from common import RESNET, fresh, in_turns, positive, print_notes, print_table, ratio, run, spread, workplace

from resnet_cli.data.folders import list_folder
from resnet_cli.inference.metrics import measure, precision_recall, reliability
from resnet_cli.reports.page import Report, Shown, write_report

_NONE = "none"
IMAGES, CLASSES = 10_000, 200


def evaluated(run_folder: Path, folder: Path, place: Path, *options: str) -> float:
    """Seconds of an evaluation, in a process of its own."""
    with fresh(place) as output:
        words = [RESNET, "evaluate", folder, "--run", run_folder, "--output", output / "out", "--quiet", *options]
        return run(words, place / "cache").seconds


def bytes_of_page(folder: Path) -> int:
    """Size of a report about 10,000 predictions in 200 classes."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, IMAGES)
    logits = generator.normal(size=(IMAGES, CLASSES)) + 4 * np.eye(CLASSES)[labels]
    probabilities = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    names = tuple(f"class {i:03}" for i in range(CLASSES))
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    paths = list_folder(folder).images
    wrong = np.flatnonzero(predicted != labels)

    def shown(i: int, place: int) -> Shown:
        path = paths[place % len(paths)]
        return Shown(path, names[labels[i]], names[predicted[i]], confidence[i], probabilities[i, labels[i]])

    bins = [(each.low, each.high, each.confidence, each.accuracy) for each in reliability(confidence, predicted == labels)]
    curves = [(each.name, each.average_precision, each.points) for each in precision_recall(probabilities, labels, names, 8)]
    report = Report(
        "200 classes",
        [],
        measure(probabilities, labels, names).to_json(),
        [shown(i, place) for place, i in enumerate(wrong[:24])],
        unsure=[shown(i, place) for place, i in enumerate(confidence.argsort()[:12])],
        reliability=bins,
        precision_recall=curves,
    )
    with tempfile.TemporaryDirectory() as output:
        path = Path(output, "report.html")
        write_report(path, report)
        return path.stat().st_size


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=positive, default=5)
    asked = parser.parse_args()
    ways = {_NONE: ("--no-report",), "without heat maps": ("--explain", "0"), "with 24 heat maps": ()}
    with workplace() as place:
        tries = {name: partial(evaluated, asked.run, asked.folder, place, *words) for name, words in ways.items()}
        found = in_turns(tries, asked.repeats, warm_up=True)
    print_table(
        ["report", "s", "of the time without"],
        [[name, spread(each, ".2f"), ratio(each, found[_NONE], ".2f")] for name, each in found.items()],
    )
    print(f"\nPage of {IMAGES:,} images in {CLASSES} classes: {bytes_of_page(asked.folder) / 1e6:.2f} MB.")
    print_notes(asked.repeats)


if __name__ == "__main__":
    main()
