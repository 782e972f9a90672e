"""Another head for the same images: the second `resnet finetune --unfreeze none` of a folder against the first.

    python benchmarks/second_finetune.py FOLDER [--images N] [--repeats 3]

FOLDER has a folder of photos per class; --images takes fewer, every class by its share. A ResNet50 at 224 pixels with random
weights. Each round begins with an empty cache: the first command has the program's defaults, the second `--set hidden=2048
--set dropout=0.3`, and features are the same for both. What each head itself costs shows in the table of phases.
"""

import argparse
from pathlib import Path

from common import (
    RANDOM,
    fresh,
    in_turns,
    lay_out,
    positive,
    print_notes,
    print_table,
    random_run,
    ratio,
    spread,
    workplace,
)
from heads import Trained, print_phases, train_head

_FIRST, _SECOND = "first", "second, other head"
_OTHER = ["--set", "hidden=2048", "--set", "dropout=0.3"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=positive, help="default: all")
    parser.add_argument("--repeats", type=positive, default=3)
    options = parser.parse_args()
    with workplace() as place:
        data = place / "pictures"
        count = lay_out(options.folder, data, options.images)
        weights = random_run(place / "run", data)
        rounds = in_turns({"both commands": lambda: _round(data, weights, place)}, options.repeats)["both commands"]
    results = {name: [each[name] for each in rounds] for name in rounds[0]}
    seconds = {name: [each.process.seconds for each in results[name]] for name in results}
    rows = [[name, spread(seconds[name], ".1f"), ratio(seconds[_FIRST], seconds[name])] for name in seconds]
    print_table([f"{count} images", "seconds", "times faster than the first"], rows)
    print_phases(results)
    print_notes(options.repeats, RANDOM)


def _round(data: Path, weights: Path, place: Path) -> dict[str, Trained]:
    with fresh(place) as turn:
        return {
            _FIRST: train_head(data, weights, turn / "first", turn / "cache", []),
            _SECOND: train_head(data, weights, turn / "second", turn / "cache", _OTHER),
        }


if __name__ == "__main__":
    main()
