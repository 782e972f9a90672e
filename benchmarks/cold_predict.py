"""One picture, cold: `resnet predict` against the Keras script that the tutorials show, in turns, whole processes.

    python benchmarks/cold_predict.py [--rounds 5]

Both load a ResNet50 of two classes at 224 pixels with random weights (only time and memory are measured) and predict the same
picture. Prints medians of wall time and peak memory, and the ratios round by round.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_PICTURE = next((Path(__file__).parents[1] / "sample_data" / "cars_vs_trucks" / "cars").glob("*.jpg"))
_KERAS_SCRIPT = """
import sys
import keras
import numpy as np
from PIL import Image

model = keras.models.load_model(sys.argv[1])
picture = Image.open(sys.argv[2]).convert("RGB").resize((224, 224))
print(model.predict(np.asarray(picture)[None], verbose=0))
"""
_MAKE_RUN = """
import sys
from pathlib import Path
import keras
from resnet_cli.engines.portable import write_classifier
from resnet_cli.networks.catalogue import find_network
from resnet_cli.networks.classifier import build_logits
from resnet_cli.networks.spec import ClassifierSpec
from resnet_cli.runs import finish_run

folder = Path(sys.argv[1])
spec = ClassifierSpec(find_network("resnet50"), 2, 224)
classifier = write_classifier(folder, build_logits(spec), spec)
classifier.save(folder / "model.keras")
finish_run(folder, {"classes": ["cars", "trucks"], **spec.to_record(), "input": {"resize": "crop", "fraction": 0.875}})
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", _MAKE_RUN, folder], check=True, stderr=subprocess.DEVNULL)
        resnet = str(Path(sys.executable).with_name("resnet"))
        ours = [resnet, "predict", str(_PICTURE), "--run", folder]
        theirs = [sys.executable, "-c", _KERAS_SCRIPT, f"{folder}/model.keras", str(_PICTURE)]
        rows = [(_measured(ours), _measured(theirs)) for _ in range(rounds + 1)][1:]  # the first round warms the disk cache
    for name, column in (("resnet predict", 0), ("Keras script", 1)):
        seconds = statistics.median(row[column][0] for row in rows)
        megabytes = statistics.median(row[column][1] for row in rows)
        print(f"{name:15} {seconds:6.2f} s  {megabytes:6.0f} MB")
    faster = sorted(theirs[0] / ours[0] for ours, theirs in rows)
    smaller = statistics.median(theirs[1] / ours[1] for ours, theirs in rows)
    spread = f"{faster[0]:.1f} to {faster[-1]:.1f}"
    print(f"ratio           {statistics.median(faster):.1f} times faster ({spread}), {smaller:.1f} times less memory")


def _measured(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident megabytes of a process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[:2])} failed")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
