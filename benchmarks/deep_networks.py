"""The deepest networks of the papers: do they build, run forward and learn, in how much memory and time?

    python benchmarks/deep_networks.py [--batch-size 16] [--stochastic-depth 0.5] [NETWORK ...]

Each network (resnet1202 and resnet1001v2 where none is named) has a process of its own, with 32-pixel images of random
numbers: the network is built, answers a batch twice and takes two training steps (the first time each traces a graph). Prints a
Markdown table: seconds on the clock (and of all processors), and the peak resident memory of the whole process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

_COLUMNS = ("build", "first forward", "forward", "first step", "step")
_ONE = """
import json
import sys
import time

import keras
import numpy as np

from resnet_cli.networks.precision import prepare
from resnet_cli.networks.catalogue import find_network
from resnet_cli.networks.classifier import build_logits
from resnet_cli.networks.catalogue import ClassifierSpec

name, batch_size, stochastic_depth = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
times = []

def timed(function, *arguments):
    began = time.perf_counter(), time.process_time()
    result = function(*arguments)
    times.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return result

precision = prepare(0)
spec = ClassifierSpec(find_network(name), 10, 32)
model = timed(lambda: build_logits(spec, stochastic_depth=stochastic_depth))
random = np.random.default_rng(0)
images = random.integers(0, 256, (batch_size, 32, 32, 3), dtype=np.uint8)
labels = np.arange(batch_size) % 10
timed(model.predict_on_batch, images)
timed(model.predict_on_batch, images)
optimizer = keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=1e-4)
model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
losses = [float(timed(model.train_on_batch, images, labels)) for _ in range(2)]
assert np.all(np.isfinite(losses)), losses
print(json.dumps({"times": times, "losses": losses, "precision": precision}))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--stochastic-depth", type=float, default=0.0)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=["resnet1202", "resnet1001v2"])
    options = parser.parse_args()
    print(f"| network | batch | precision | {', s | '.join(_COLUMNS)}, s | peak MB | losses |")
    print("|" + "---|" * (len(_COLUMNS) + 5))
    for name in options.networks:
        print(_row(name, options.batch_size, options.stochastic_depth), flush=True)


def _row(name: str, batch_size: int, stochastic_depth: float) -> str:
    command = [sys.executable, "-c", _ONE, name, str(batch_size), str(stochastic_depth)]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(command, stdout=output, stderr=complaints)
        _, status, usage = os.wait4(process.pid, 0)
        output.seek(0)
        complaints.seek(0)
        if status:
            raise SystemExit(f"{name} ended with {os.waitstatus_to_exitcode(status)}:\n{complaints.read()[-2000:]}")
        measured = json.loads(output.read().splitlines()[-1])
    times = " | ".join(f"{wall:.1f} ({processors:.1f})" for wall, processors in measured["times"])
    losses = ", ".join(f"{loss:.2f}" for loss in measured["losses"])
    megabytes = usage.ru_maxrss / 1024
    return f"| {name} | {batch_size} | {measured['precision']} | {times} | {megabytes:.0f} | {losses} |"


if __name__ == "__main__":
    main()
