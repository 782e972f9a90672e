"""How soon the program answers where nothing is computed: `resnet --help` and `resnet models`, in turns, whole processes.

    python benchmarks/startup.py [--repeats 20]

Python itself, doing nothing, is measured beside them: what no program in Python can go below.
"""

import argparse
import sys
from functools import partial

from common import RESNET, in_turns, positive, print_notes, print_table, run, spread, workplace

_COMMANDS = {
    "`resnet --help`": [RESNET, "--help"],
    "`resnet models`": [RESNET, "models"],
    "`python -c pass`": [sys.executable, "-c", "pass"],
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=positive, default=20)
    repeats = parser.parse_args().repeats
    with workplace() as place:
        commands = {name: partial(run, words, place / "cache") for name, words in _COMMANDS.items()}
        results = in_turns(commands, repeats, warm_up=True)
    rows = [
        [name, spread([each.seconds for each in rounds], ".3f"), spread([each.megabytes for each in rounds], ".0f")]
        for name, rounds in results.items()
    ]
    print_table(["", "seconds", "peak memory, MB"], rows)
    print_notes(repeats)


if __name__ == "__main__":
    main()
