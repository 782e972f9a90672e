"""Peak memory over the number of images: it must not grow with them.

    python benchmarks/memory.py [FOLDER] [--small 1000] [--large 20000]

Copies the images of FOLDER (the sample data where none is named; a folder of photos per class) as often as it takes, each
copy with another last byte, so that no two files are the same; then runs `finetune` (the bundled network, one epoch of the last
stage), `evaluate` and `predict` (a ResNet50 at 224 pixels with random weights) on both sets as whole processes. Prints their
peak resident memory and the ratio. Needs disk for the copies, and for what `finetune` stores of them.
"""

import argparse
import itertools
import sys
from pathlib import Path

from common import (
    RANDOM,
    RESNET,
    SAMPLE_DATA,
    Process,
    drawn_by_share,
    fresh,
    positive,
    print_notes,
    print_table,
    random_run,
    run,
    workplace,
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=SAMPLE_DATA)
    parser.add_argument("--small", type=positive, default=1000)
    parser.add_argument("--large", type=positive, default=20000)
    options = parser.parse_args()
    counts = (options.small, options.large)
    with workplace() as place:
        classifier = random_run(place / "run", options.folder)
        measured = []
        for count in counts:
            with fresh(place) as turn:  # the copies of one set are gone before those of the next are made
                _copy(options.folder, turn / "data", count)
                measured.append(_processes(turn, classifier, count))
    print_table(
        ["command", *(f"{count} images, MB" for count in counts), "ratio", *(f"{count} images, s" for count in counts)],
        [
            [name, *(f"{each[name].megabytes:.0f}" for each in measured)]
            + [f"{measured[1][name].megabytes / measured[0][name].megabytes:.2f}"]
            + [f"{each[name].seconds:.0f}" for each in measured]
            for name in measured[0]
        ],
    )
    print_notes(1, f"evaluate and predict: {RANDOM}")


def _processes(turn: Path, classifier: Path, count: int) -> dict[str, Process]:
    data = turn / "data"
    quick = ["--weights", "bundled", "--unfreeze", "last", "--set", "views=2", "--epochs", "1"]
    commands = {
        "finetune": [*quick, "--output", turn / "finetuned"],
        "evaluate": ["--run", classifier, "--output", turn / "scored"],
        "predict": ["--run", classifier, "--csv"],
    }
    results = {}
    for name, words in commands.items():
        print(f"{count} images: {name}", file=sys.stderr, flush=True)
        results[name] = run([RESNET, name, data, *words], turn / "cache")
    return results


def _copy(folder: Path, target: Path, count: int) -> None:
    """`count` files, no two the same: decoders stop at an image's own end and read nothing of what comes after it."""
    for number, (name, path) in zip(range(count), itertools.cycle(drawn_by_share(folder)), strict=False):
        (target / name).mkdir(parents=True, exist_ok=True)
        (target / name / f"{number:06}{path.suffix.lower()}").write_bytes(path.read_bytes() + number.to_bytes(4, "big"))


if __name__ == "__main__":
    main()
