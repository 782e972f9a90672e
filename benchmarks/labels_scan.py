"""How long a table of labels takes to be read: a CSV file of a million rows in no order, and the same images as class folders.

    python benchmarks/labels_scan.py [--rows 1000000] [--repeats 3]

Both begin with paths on the disk and end with samples by split; no image is opened. The files are empty, as what is measured is
the look-up of names. They are read in turns, in processes of their own. "Lookups" is `os.stat` of every path of the table, one
by one, and nothing else. Processor seconds tell more where other programs run.
"""

import argparse
import csv
import random
import sys
from functools import partial
from pathlib import Path

from common import Process, in_turns, positive, print_notes, print_table, run, spread, workplace

_CLASSES = 1000
_SCAN = """
import sys, time
from pathlib import Path
table, root = map(Path, sys.argv[1:])
if str(table) == "folders":
    from resnet_cli.data.dataset import scan_dataset
    found = scan_dataset(root)
else:
    from resnet_cli.data.labels import scan_labels
    found = scan_labels(table, root)
assert sum(map(len, found.splits.values()))
print(time.process_time())
"""
_LOOK = """
import csv, os, sys, time
with open(sys.argv[1], newline="") as file:
    rows = csv.reader(file)
    next(rows)
    assert sum(os.stat(os.path.join(sys.argv[2], row[0])).st_size == 0 for row in rows)
print(time.process_time())
"""


def lay_out(place: Path, rows: int) -> tuple[Path, Path]:
    """Empty files root/<class>/<number>.jpg, and their table in no order."""
    root, table = place / "images", place / "labels.csv"
    lines = []
    for number in range(rows):
        name = f"class {number % _CLASSES:04d}"
        folder = root / name
        if number < _CLASSES:
            folder.mkdir(parents=True)
        (folder / f"{number:07d}.jpg").touch()
        lines.append([f"{name}/{number:07d}.jpg", name])
    random.Random(0).shuffle(lines)
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *lines])
    return root, table


def _figures(rounds: list[Process]) -> list[tuple[list[float], str]]:
    """Seconds, processor seconds and megabytes of the rounds, and how they are written."""
    return [
        ([each.seconds for each in rounds], ".1f"),
        ([float(each.result) for each in rounds], ".1f"),
        ([each.megabytes for each in rounds], ".0f"),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=positive, default=1_000_000)
    parser.add_argument("--repeats", type=positive, default=3)
    asked = parser.parse_args()
    with workplace() as place:
        root, table = lay_out(place, asked.rows)
        commands = {
            "table": [sys.executable, "-c", _SCAN, table, root],
            "class folders": [sys.executable, "-c", _SCAN, "folders", root],
            "lookups": [sys.executable, "-c", _LOOK, table, root],
        }
        runs = {name: partial(run, words, place / "cache") for name, words in commands.items()}
        results = in_turns(runs, asked.repeats, warm_up=True)
    rows = [[name, *(spread(values, form) for values, form in _figures(rounds))] for name, rounds in results.items()]
    print_table([f"{asked.rows:,} images", "seconds", "processor seconds", "peak memory, MB"], rows)
    print_notes(asked.repeats)


if __name__ == "__main__":
    main()
