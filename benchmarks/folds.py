"""Cross-validation: `resnet finetune --unfreeze none --folds K` against the same command without --folds, in turns.

    python benchmarks/folds.py FOLDER [--folds 5] [--weights bundled] [--repeats 1]

FOLDER is a data set as `finetune` reads it. Every process begins with an empty cache: the frozen layers see every image. Both
write a run with its report; with --folds the frozen layers see the validation images as in training and the training images as
in prediction too, and K more heads are solved.
"""

import argparse
from functools import partial
from pathlib import Path

from common import RESNET, Process, fresh, in_turns, positive, print_notes, print_table, ratio, run, spread, workplace


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--folds", type=positive, default=5)
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--repeats", type=positive, default=1)
    options = parser.parse_args()
    head = [RESNET, "finetune", options.folder, "--weights", options.weights, "--unfreeze", "none", "--quiet"]
    folded = f"`--folds {options.folds}`"
    with workplace() as place:
        contenders = {"one head": partial(_run, head, place), folded: partial(_run, [*head, "--folds", options.folds], place)}
        results = in_turns(contenders, options.repeats)
    seconds = {name: [each.seconds for each in rounds] for name, rounds in results.items()}
    rows = [[name, spread(seconds[name], ".1f"), ratio(seconds[name], seconds["one head"], ".2f")] for name in results]
    print_table([options.folder.name, "seconds", "times one head"], rows)
    print_notes(options.repeats, f"{options.weights} weights; seconds of whole processes, with the import of TensorFlow.")


def _run(words: list[object], place: Path) -> Process:
    with fresh(place) as turn:
        return run([*map(str, words), "--output", turn / "out"], turn / "cache")


if __name__ == "__main__":
    main()
