"""A new head on a frozen ResNet50: `resnet finetune --unfreeze none` against the tutorials' script, in turns, whole processes.

    python benchmarks/head_finetune.py FOLDER [--images N] [--tutorial-epochs 10] [--repeats 1]

FOLDER has a folder of photos per class. Both get links to the same images (of its training split where it has one; --images
takes fewer, every class by its share), hold a fifth of them out and work at 224 pixels with random weights.

tutorial    10 epochs of finetune_keras.py: the frozen base is run for every image in every epoch. Frozen epochs all cost the
            same: with fewer --tutorial-epochs the rest is added as the mean of those after the first.
plain       `--set views=1 --set hidden=2048 --set dropout=0 --epochs 10`: no augmentation, the tutorial's head, as many epochs
defaults    our own defaults: several augmented views of every image

Ours also write a run with its report and measure it through the file that they wrote; the tutorial is spared that.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common import (
    RANDOM,
    Process,
    fresh,
    in_turns,
    lay_out,
    positive,
    print_notes,
    print_table,
    random_run,
    ratio,
    run,
    spread,
    workplace,
)
from heads import Trained, print_phases, train_head


def _set(*keys: str) -> list[str]:
    return [word for key in keys for word in ("--set", key)]


_EPOCHS = 10
_TUTORIAL = "tutorial script, 10 epochs"
_OURS = {
    "`resnet finetune`, the tutorial's head": [*_set("views=1", "hidden=2048", "dropout=0"), "--epochs", "10"],
    "`resnet finetune`, defaults": [],
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=positive, help="default: all")
    parser.add_argument(
        "--tutorial-epochs", type=int, choices=range(2, _EPOCHS + 1), default=_EPOCHS, metavar="K", help="2 to 10"
    )
    parser.add_argument("--repeats", type=positive, default=1)
    options = parser.parse_args()
    epochs: int = options.tutorial_epochs
    with workplace() as place:
        data = place / "pictures"
        count = lay_out(options.folder, data, options.images)
        weights = random_run(place / "run", data)
        tutorial = [sys.executable, Path(__file__).with_name("finetune_keras.py"), "head", data, str(epochs)]
        contenders = {name: partial(_ours, words, data, weights, place) for name, words in _OURS.items()}
        contenders[_TUTORIAL] = lambda: Trained(run(tutorial, place / "cache"), ())
        results = in_turns(contenders, options.repeats)
    seconds = {name: [each.process.seconds for each in rounds] for name, rounds in results.items()}
    seconds[_TUTORIAL] = [_ten_epochs(each.process, epochs) for each in results[_TUTORIAL]]
    megabytes = {name: [each.process.megabytes for each in rounds] for name, rounds in results.items()}
    rows = [
        [name, spread(seconds[name], ".1f"), ratio(seconds[_TUTORIAL], seconds[name]), spread(megabytes[name], ".0f")]
        for name in results
    ]
    print_table([f"{count} images", "seconds", "times faster", "peak MB"], rows)
    print_phases({name: results[name] for name in _OURS})
    how = f"The tutorial: {epochs} epochs measured" + (", the others added." if epochs < _EPOCHS else ".")
    trained = results[_TUTORIAL][0].process.result
    rate = trained["pictures"] / statistics.mean(trained["training"][1:])
    print_notes(options.repeats, RANDOM, how, f"It trains at {rate:.1f} images/s.")


def _ours(words: Sequence[str], data: Path, weights: Path, place: Path) -> Trained:
    """One run with an empty cache: nothing is known of the images."""
    with fresh(place) as turn:
        return train_head(data, weights, turn / "out", turn / "cache", words)


def _ten_epochs(process: Process, epochs: int) -> float:
    return process.seconds + (_EPOCHS - epochs) * float(statistics.mean(process.result["epochs"][1:]))


if __name__ == "__main__":
    main()
