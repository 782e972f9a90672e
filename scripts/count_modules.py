"""How many modules of this package a command runs through: those in which it calls a function.

    python scripts/count_modules.py [--names]

Fine-tunes the sample data once and predicts one of its images, each in a process of its own, and prints a line for each command
with the modules by room; `--names` lists them. Modules that are only imported, for a constant, a type or a table, are not
counted.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_SAMPLE = _ROOT / "sample_data" / "cars_vs_trucks"
_RUN = """
import atexit, json, os, sys, threading

package, called = os.environ["COUNTED_PACKAGE"], set()

def watch(frame, event, _):
    code = frame.f_code
    # CO_OPTIMIZED (1) marks functions; bodies of modules and classes run where a file is imported.
    if event == "call" and code.co_flags & 1 and code.co_filename not in called and code.co_filename.startswith(package):
        while frame is not None and not (frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(package)):
            frame = frame.f_back
        if frame is None and code.co_filename.endswith(".py"):  # and not while a module is imported
            called.add(code.co_filename)

def tell():
    sys.setprofile(None)
    with open(os.environ["COUNTED_FILE"], "w") as file:
        json.dump(sorted(os.path.relpath(each, package) for each in called), file)

atexit.register(tell)
sys.setprofile(watch)
threading.setprofile(watch)
from resnet_cli.__main__ import main
main()
"""


def main() -> None:
    """Count and print."""
    everything = [path for path in (_ROOT / "resnet_cli").rglob("*.py") if path.name != "__init__.py"]
    print(f"resnet_cli: {len(everything)} modules")
    with tempfile.TemporaryDirectory() as place:
        run = str(Path(place) / "run")
        image = str(min(_SAMPLE.rglob("*.jpg")))
        for words in (
            ["finetune", str(_SAMPLE), "--weights", "bundled", "--epochs", "1", "--output", run, "--quiet"],
            ["predict", image, "--run", run],
        ):
            counted = Path(place) / "counted.json"
            environment = os.environ | {"COUNTED_FILE": str(counted), "COUNTED_PACKAGE": str(_ROOT / "resnet_cli")}
            subprocess.run([sys.executable, "-c", _RUN, *words], capture_output=True, check=True, env=environment)
            names = json.loads(counted.read_text())
            rooms = Counter(name.partition("/")[0] for name in names)
            print(f"{words[0]}: {len(names)} modules ({', '.join(f'{room} {count}' for room, count in rooms.items())})")
            if "--names" in sys.argv:
                print("".join(f"    {name}\n" for name in names), end="")


if __name__ == "__main__":
    main()
