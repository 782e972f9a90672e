"""One image, cold: `resnet predict` against the Keras script that the tutorials show, in turns, whole processes.

    python benchmarks/cold_predict.py [--repeats 5]

Both load a ResNet50 of two classes at 224 pixels with random weights and predict the same image. Prints wall time and peak
memory, the ratios round by round, and what `python -X importtime` says of our command: the packages that take longest, and that
no package of training is among them.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from functools import partial

from common import (
    RANDOM,
    RESNET,
    SAMPLE_DATA,
    in_turns,
    positive,
    print_notes,
    print_table,
    random_run,
    ratio,
    run,
    spread,
    workplace,
)

_KERAS_SCRIPT = """
import sys
import keras
import numpy as np
from PIL import Image

model = keras.models.load_model(sys.argv[1])
image = Image.open(sys.argv[2]).convert("RGB").resize((224, 224))
print(model.predict(np.asarray(image)[None], verbose=0))
"""
_OURS, _THEIRS = "`resnet predict`", "a Keras script"
_UNWANTED = ("tensorflow", "keras", "matplotlib", "sklearn")
_SHOWN = 8  # packages


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=positive, default=5)
    repeats = parser.parse_args().repeats
    image = next((SAMPLE_DATA / "cars").glob("*.jpg"))
    with workplace() as place:
        folder = random_run(place / "run", SAMPLE_DATA)
        ours = [RESNET, "predict", image, "--run", folder]
        theirs = [sys.executable, "-c", _KERAS_SCRIPT, folder / "model.keras", image]
        commands = {name: partial(run, words, place / "cache") for name, words in ((_OURS, ours), (_THEIRS, theirs))}
        results = in_turns(commands, repeats, warm_up=True)
        imported = _imported([sys.executable, "-X", "importtime", *map(str, ours)])
    seconds = {name: [each.seconds for each in rounds] for name, rounds in results.items()}
    memory = {name: [each.megabytes for each in rounds] for name, rounds in results.items()}
    rows = [[name, spread(seconds[name], ".2f"), spread(memory[name], ".0f")] for name in results]
    rows.append(["ratio", ratio(seconds[_THEIRS], seconds[_OURS]), ratio(memory[_THEIRS], memory[_OURS])])
    print_table(["", "seconds", "peak memory, MB"], rows)
    heaviest = ", ".join(f"{name} {took / 1000:.0f} ms" for name, took in imported.most_common(_SHOWN))
    print(f"\nImported by {_OURS} (`python -X importtime`, {imported.total() / 1000:.0f} ms in all): {heaviest}.")
    print(f"Not imported: {', '.join(_UNWANTED)}.")
    print_notes(repeats, RANDOM)


def _imported(command: list[str]) -> Counter[str]:
    """Microseconds that a process spends in the modules of each package, those of other packages that they import left out."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    packages: Counter[str] = Counter()
    for own, name in re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)", done.stderr, re.MULTILINE):
        packages[name.partition(".")[0]] += int(own)
    unwanted = [name for name in _UNWANTED if name in packages]
    if unwanted:
        raise SystemExit(f"resnet predict imports {', '.join(unwanted)}")
    return packages


if __name__ == "__main__":
    main()
