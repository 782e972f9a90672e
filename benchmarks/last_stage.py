"""The last stage and a head: an epoch of `resnet finetune --unfreeze last`, after the first, against one of Keras' `fit`.

    python benchmarks/last_stage.py FOLDER [--images N] [--epochs 4] [--repeats 1]

FOLDER has a folder of photos per class. Both get links to the same images (of its training split where it has one; --images
takes fewer, every class by its share), hold a fifth out, and train the convolutions of conv5 and a head of a ResNet50 at 224
pixels with random weights in batches of 32; batch-norm is frozen. Ours trains on what it stored of the frozen part, Keras
(finetune_keras.py) from pixels, in float32. An epoch is what passes from the end of one to the end of the next: training steps,
validation, and with ours a checkpoint. The first is left out: it has what is done once, such as tracing. Whole processes, in
turns, are printed beside it; ours then stores what it trains on, and writes a run with its report.
"""

import argparse
import json
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from common import (
    RANDOM,
    RESNET,
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

_OURS, _KERAS = "`resnet finetune --unfreeze last`", "Keras `fit`, fp32"


@dataclass(frozen=True)
class Trained:
    """Means over the epochs after the first, and the whole process.

    Attributes:
        epoch: seconds of an epoch.
        rate: images a second of its training steps.
        process: the whole.
    """

    epoch: float
    rate: float
    process: Process


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=positive, help="default: all")
    parser.add_argument("--epochs", type=positive, default=4, help="2 or more")
    parser.add_argument("--repeats", type=positive, default=1)
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs 1: the first one is left out")
    with workplace() as place:
        data = place / "pictures"
        count = lay_out(options.folder, data, options.images)
        weights = random_run(place / "run", data)
        contenders = {
            _OURS: lambda: _ours(data, weights, place, options.epochs),
            _KERAS: lambda: _keras(data, place / "cache", options.epochs),
        }
        results = in_turns(contenders, options.repeats)
    epochs = {name: [each.epoch for each in rounds] for name, rounds in results.items()}
    rates = {name: [each.rate for each in rounds] for name, rounds in results.items()}
    whole = {name: [each.process.seconds for each in rounds] for name, rounds in results.items()}
    rows = [[name, spread(epochs[name], ".1f"), spread(rates[name], ".1f"), spread(whole[name], ".1f")] for name in results]
    pairs = ((epochs[_KERAS], epochs[_OURS]), (rates[_OURS], rates[_KERAS]), (whole[_KERAS], whole[_OURS]))
    rows.append(["ratio", *(ratio(above, below) for above, below in pairs)])
    header = [f"{count} images, {options.epochs} epochs", "seconds an epoch, after the first", "images/s of its steps"]
    print_table([*header, "whole process, s"], rows)
    print_notes(options.repeats, RANDOM)


def _ours(data: Path, weights: Path, place: Path, epochs: int) -> Trained:
    with fresh(place) as turn:
        words = ["--weights", weights, "--unfreeze", "last", "--epochs", str(epochs), "--output", turn / "out"]
        process = run([RESNET, "finetune", data, *words], turn / "cache")
        lines = [json.loads(line) for line in (turn / "out" / "metrics.jsonl").read_text().splitlines()]
    # A line an epoch on stderr, written when all of it is done.
    ends = [seconds for seconds, line in process.log if re.match(r"tail \d+/\d+ ", line)]
    rates = [line["images_per_second"] for line in lines if line["stage"] == "tail"]
    if not len(ends) == len(rates) == epochs:
        raise SystemExit(f"{len(ends)} epochs were announced and {len(rates)} recorded, not {epochs}")
    return Trained((ends[-1] - ends[0]) / (epochs - 1), statistics.mean(rates[1:]), process)


def _keras(data: Path, cache: Path, epochs: int) -> Trained:
    script = Path(__file__).with_name("finetune_keras.py")
    process = run([sys.executable, script, "last", data, str(epochs)], cache)
    times = process.result
    rate = times["pictures"] / statistics.mean(times["training"][1:])
    return Trained(statistics.mean(times["epochs"][1:]), rate, process)


if __name__ == "__main__":
    main()
