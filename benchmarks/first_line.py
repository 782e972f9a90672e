"""How soon a terminal shows the first line of every command, and where TensorFlow's import is still to come.

    python benchmarks/first_line.py [--repeats 5] [--data FOLDER]

Each command runs in a pseudo-terminal until its first visible character, and is then ended. --data is a large data set, such as
60,000 files: its scan begins after the first line. A run of the sample data is made before, by two epochs of a small network.
"""

import argparse
import os
import pty
import re
import signal
import time
from functools import partial
from pathlib import Path

from common import RESNET, SAMPLE_DATA, in_turns, positive, print_notes, print_table, run, spread, workplace

_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]|\s")
_SMALL = ("--arch", "resnet8", "--epochs", "2", "--image-size", "32")


def first_line(words: list[str], place: Path) -> float:
    """Seconds until a command shows something in a terminal of 80 columns."""
    began = time.perf_counter()
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(place)
        os.environ.update({"COLUMNS": "80", "CUDA_VISIBLE_DEVICES": "-1", "XDG_CACHE_HOME": str(place / "cache")})
        os.execv(RESNET, [RESNET, *words])
    shown = b""
    while not _CONTROL.sub(b"", shown):
        shown += os.read(terminal, 4096)
    seconds = time.perf_counter() - began
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    os.close(terminal)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--data", type=Path, default=SAMPLE_DATA)
    given = parser.parse_args()
    data, image = str(given.data.resolve()), str(next((SAMPLE_DATA / "cars").iterdir()))
    with workplace() as place:
        os.chdir(place)
        run([RESNET, "train", SAMPLE_DATA, *_SMALL, "--output", "run", "--quiet"], place / "cache")
        commands = {
            "finetune": ["finetune", data, "--weights", "bundled", "--output", "other"],
            "train": ["train", data, "--output", "other"],
            "evaluate": ["evaluate", "--run", "run"],
            "predict": ["predict", image, "--run", "run"],
            "export": ["export", "--format", "onnx", "--run", "run"],
            "compare": ["compare", "run"],
            "check": ["check", data],
            "runs": ["runs", "."],
            "models": ["models"],
        }
        contenders = {name: partial(first_line, words, place) for name, words in commands.items()}
        results = in_turns(contenders, given.repeats, warm_up=True)
    print_table(
        ["", "seconds to the first line"], [[f"`resnet {name}`", spread(each, ".2f")] for name, each in results.items()]
    )
    print_notes(given.repeats)


if __name__ == "__main__":
    main()
