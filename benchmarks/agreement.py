"""Does the engine answer as Keras does? The top-1 class of `resnet predict` against Keras in float32, image by image.

    python benchmarks/agreement.py --run RUN [FOLDER]

RUN is a finished run. Scores the images that it held out (its test split where it has one), or those of FOLDER: once by
`resnet predict` in the precision that its engine chooses, and once by Keras in float32 on the same decoded images. Prints the
share of images with the same class, the accuracy of both, the largest difference in probability of the class that Keras
chose, and every image that differs, with Keras' two best probabilities. Exit status 1 below --share.
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

from common import RESNET, print_notes, print_table, run, workplace

_KERAS = """
import json, sys
from pathlib import Path
import keras
import numpy as np
from resnet_cli.data.decode import decode_square
from resnet_cli.data.scoring import folder, held_out
from resnet_cli.engines.openvino import import_openvino
from resnet_cli.engines.frozen import read_classifier
from resnet_cli.data.decode import run_geometry
from resnet_cli.networks.catalogue import spec_from_record
from resnet_cli.runs.folder import load_run

run = load_run(Path(sys.argv[1]))
scored = folder([run], Path(sys.argv[2])) if len(sys.argv) > 2 else held_out([run])
classifier = read_classifier(run.weights, spec_from_record(run.record))
rows = []
for first in range(0, len(scored.samples), 32):
    samples = scored.samples[first : first + 32]
    images = np.stack([decode_square(sample.path, run_geometry(run)) for sample in samples])
    for sample, row in zip(samples, classifier.predict_on_batch(images).tolist(), strict=True):
        rows.append({"path": str(sample.path), "true": scored.classes[sample.label], "probabilities": row})
compiled = import_openvino().Core().compile_model(run.openvino, "CPU")
precision = str(compiled.get_property("INFERENCE_PRECISION_HINT")).split("'")[1]
print(json.dumps({"classes": run.classes, "split": scored.split, "rows": rows, "precision": precision}))
"""


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="default: what the run held out")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.995, help="of images with the same class that is enough, 0 to 1")
    options = parser.parse_args()
    with workplace() as place:
        folder = [options.folder] if options.folder else []
        keras = run([sys.executable, "-c", _KERAS, options.run, *folder], place / "cache").result
        paths = "".join(f"{row['path']}\n" for row in keras["rows"])
        words = ["--run", options.run, "--csv", "--top", str(len(keras["classes"]))]
        answer = run([RESNET, "predict", "-", *words], place / "cache", given=paths)
    ours: dict[str, dict[str, float]] = {}
    for line in csv.DictReader(answer.output.splitlines()):
        ours.setdefault(line["path"], {})[line["class"]] = float(line["probability"])  # the most probable class first
    same = _compare(keras, ours)
    print_notes(1, f"The engine's precision: {keras['precision']}.")
    if same < options.share:
        raise SystemExit(f"the same class on {same:.2%} of the images, less than {options.share:.2%}")


def _compare(keras: dict[str, Any], ours: dict[str, dict[str, float]]) -> float:
    """Print the table and the images that differ; returns the share that does not."""
    agreed, right, right_in_keras, furthest = 0, 0, 0, 0.0
    differing = []
    for row in keras["rows"]:
        probabilities = dict(zip(keras["classes"], row["probabilities"], strict=True))
        best, second = sorted(probabilities, key=lambda name: -probabilities[name])[:2]
        answered = next(iter(ours[row["path"]]))
        agreed += answered == best
        right += answered == row["true"]
        right_in_keras += best == row["true"]
        furthest = max(furthest, abs(ours[row["path"]][best] - probabilities[best]))
        if answered != best:
            words = f"{best} {probabilities[best]:.3f}, {second} {probabilities[second]:.3f}"
            differing.append(f"{row['path']}: {answered}; Keras: {words}")
    count = len(keras["rows"])
    header = [f"{count} images ({keras['split']})", "same class", "accuracy, ours", "accuracy, Keras fp32"]
    shares = [f"{number / count:.2%}" for number in (agreed, right, right_in_keras)]
    print_table([*header, "largest difference in probability"], [["top-1", *shares, f"{furthest:.4f}"]])
    print("\n".join(["", *differing]) if differing else "")
    return agreed / count


if __name__ == "__main__":
    main()
