"""A folder scored: `resnet evaluate` against Keras' `model.evaluate`, and OpenVINO's own limit, in turns.

    python benchmarks/bulk_evaluate.py FOLDER [--images 1000] [--repeats 3]

FOLDER has a folder of photos per class. Both get links to the same images of it, and a ResNet50 at 224 pixels with random
weights: `resnet evaluate LINKS`, which also writes the CSV files and the report, and Keras' `model.evaluate` over
`image_dataset_from_directory` in float32 (bulk_keras.py). Rates without start come from what the images past the first 16
take in addition.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from bulk import HERE, Answered, Folders, answer, lay_out_twice, limit, report
from common import RANDOM, RESNET, fresh, in_turns, positive, print_notes, random_run, workplace

_OURS, _LIMIT = "resnet evaluate", "raw OpenVINO"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=positive, default=1000)
    parser.add_argument("--repeats", type=positive, default=3)
    options = parser.parse_args()
    with workplace() as place:
        cache = place / "cache"
        folders = lay_out_twice(options.folder, place, options.images)
        run = random_run(place / "run", options.folder)
        keras = [sys.executable, HERE / "bulk_keras.py", "evaluate", run / "model.keras"]
        contenders = {
            _OURS: partial(_ours, run, folders, place),
            _LIMIT: partial(limit, run / "model.xml", folders, cache),
            "Keras evaluate, fp32": lambda: answer(lambda folder: [*keras, folder], folders, cache),
        }
        results = in_turns(contenders, options.repeats)
    report(results, {_OURS: _LIMIT}, folders.count)
    print_notes(options.repeats, RANDOM)


def _ours(run: Path, folders: Folders, place: Path) -> Answered:
    with fresh(place) as output:
        words = ["--run", run, "--output", output / "scored", "--json"]
        return answer(lambda folder: [RESNET, "evaluate", folder, *words], folders, place / "cache")


if __name__ == "__main__":
    main()
