"""Does this program answer as timm does? The same weights and photos through both, preprocessing included.

    python benchmarks/timm_equality.py --python PYTHON [IMAGE...]

PYTHON is an interpreter with torch and timm, in an environment of its own. It makes ResNet-18, 34, 50, 101 and 152 with random
weights and statistics (scripts/make_timm_reference.py), saves them as timm does, and answers for every image after timm's own
evaluation transform; the five have different input sizes, crops, filters and means. This program then reads those files:
logits and probabilities by Keras in float32, and what `resnet predict` prints, with Keras and with the engine that it chooses.
Prints the largest differences. Exit status 1 if one of Keras' is above --most. Without images: the first four of either class
of the sample data.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from common import RESNET, SAMPLE_DATA, print_notes, print_table, run, workplace

# Published configurations that differ: crop 1.0 at 288 bicubic; mean 0.5; 232 to 224 bilinear; 256 to 224; 0.95 at 224.
_NETWORKS = (
    "resnet18.a1_in1k",
    "resnet34.ra4_e3600_r224_in1k",
    "resnet50.tv2_in1k",
    "resnet101.tv_in1k",
    "resnet152.a3_in1k",
)
_REFERENCE = Path(__file__).parents[1] / "scripts" / "make_timm_reference.py"
_OURS = """
import json, sys
from pathlib import Path
import keras
import numpy as np
from resnet_cli.data.decode import decode_square
from resnet_cli.networks.catalogue import ClassifierSpec
from resnet_cli.networks.classifier import build_logits, load_backbone
from resnet_cli.networks.pretrained import published_file
from resnet_cli.progress import Silent

network, source = published_file(sys.argv[1], Silent())
size = network.crops[-1][0]
model = build_logits(ClassifierSpec(network, source.head, size), fused=False)
load_backbone(model, network, source, with_head=True)
images = np.stack([decode_square(Path(path), network.geometry(size)) for path in sys.argv[2:]])
logits = keras.ops.cast(model.predict_on_batch(images), "float32")
rows = [np.asarray(each).tolist() for each in (logits, keras.ops.softmax(logits))]
print(json.dumps({"size": size, "network": network.name, "logits": rows[0], "probabilities": rows[1]}))
"""


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="*")
    parser.add_argument("--python", required=True, help="interpreter with torch and timm")
    parser.add_argument("--most", type=float, default=1e-4, help="largest difference in logits and probabilities")
    options = parser.parse_args()
    images = options.images or [path for folder in sorted(SAMPLE_DATA.iterdir()) for path in sorted(folder.iterdir())[:4]]
    rows, worst = [], 0.0
    with workplace() as place:
        for name in _NETWORKS:
            folder = place / name
            run([options.python, _REFERENCE, "--network", name, folder, *images], place)
            reference = json.loads((folder / "reference.json").read_text())
            ours = run([sys.executable, "-c", _OURS, folder / "model.safetensors", *images], place).result
            theirs = {key: [each[key] for each in reference["answers"]] for key in ("logits", "probabilities")}
            logits, probabilities = (largest(ours[key], theirs[key]) for key in ("logits", "probabilities"))
            spread = max(map(max, theirs["logits"])) - min(map(min, theirs["logits"]))
            commands = [largest(predicted(engine, folder, images), theirs["probabilities"]) for engine in ("keras", "auto")]
            worst = max(worst, logits, probabilities, commands[0])
            figures = (f"{spread:.1f}", *(f"{each:.1e}" for each in (logits, probabilities, *commands)))
            rows.append((name, ours["network"], str(ours["size"]), *figures))
    commands = ("`predict --engine keras`", "`predict`")
    titles = ("timm", "here", "pixels", "range of logits", "logits differ by", "probabilities by", *commands)
    print_table(titles, rows)
    words = f"Largest absolute differences on {len(images)} photos; logits and probabilities in float32, those of the"
    words += " commands as they print them: without --engine in the precision of OpenVINO on this CPU."
    print_notes(1, words, versions={"timm": reference["timm"]})
    if worst > options.most:
        sys.exit(f"more than {options.most:g}")


def predicted(engine: str, folder: Path, images: list[Path]) -> list[list[float]]:
    """Probabilities in the order of the classes, from the JSON of `resnet predict`."""
    command = [RESNET, "predict", "--run", folder / "model.safetensors", "--engine", engine, "--json", "--top", "1000", *images]
    answers: list[dict[str, Any]] = json.loads(run(command, folder).output)
    record = json.loads(next(folder.glob("**/published/*/run.json")).read_text())
    found = [{each["class"]: each["probability"] for each in answer["predictions"]} for answer in answers]
    return [[row[name] for name in record["classes"]] for row in found]


def largest(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """The largest absolute difference."""
    return max(abs(a - b) for row, other in zip(ours, theirs, strict=True) for a, b in zip(row, other, strict=True))


if __name__ == "__main__":
    main()
