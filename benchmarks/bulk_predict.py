"""1,000 images: `resnet predict` against Keras, torch with timm, and OpenVINO's own limit, in turns.

    python benchmarks/bulk_predict.py FOLDER [--images 1000] [--repeats 3] [--torch-python PATH] [--int8 FOLDER]

FOLDER has a folder of photos per class. All get links to the same images of it, and a ResNet50 at 224 pixels with random
weights: `resnet predict LINKS --csv`; Keras' `model.predict` over `image_dataset_from_directory` in float32 (bulk_keras.py); a
timm script (bulk_torch.py) in the precision that OpenVINO chooses here, by the Python of an environment that has timm; and what
OpenVINO reaches on arrays that are decoded already (bulk_openvino.py). Rates without start come from what the images past the
first 16 take in addition.
--int8 is an OpenVINO export of a ResNet50 in int8, as `resnet export --format openvino --quantize int8` writes it; `resnet
predict --run` reads it too.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bulk import HERE, Answered, Folders, answer, lay_out_twice, limit, report
from common import RANDOM, RESNET, images_by_class, in_turns, positive, print_notes, random_run, run, workplace

_PRECISION = "from resnet_cli.engines.openvino import usual_precision; print(usual_precision())"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=positive, default=1000)
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--torch-python", type=Path, help="Python of an environment that has timm; else torch is left out")
    parser.add_argument("--int8", type=Path, help="folder of an int8 OpenVINO export of a ResNet50")
    options = parser.parse_args()
    if options.int8 and not any(options.int8.glob("*.xml")):
        parser.error(f"--int8 {options.int8} holds no OpenVINO model")
    with workplace() as place:
        cache = place / "cache"
        if options.torch_python:
            run([options.torch_python, "-c", "import timm"], cache)  # sooner than after an hour
        folders = lay_out_twice(options.folder, place, options.images)
        classifier = random_run(place / "run", options.folder)
        models = {"resnet predict": classifier} | ({"resnet predict, int8": options.int8} if options.int8 else {})
        contenders: dict[str, Callable[[], Answered]] = {}
        for name, folder in models.items():
            contenders[name] = partial(_ours, folder, folders, cache)
            contenders[f"raw OpenVINO of {name}"] = partial(limit, next(folder.glob("*.xml")), folders, cache)
        keras = [sys.executable, HERE / "bulk_keras.py", "predict", classifier / "model.keras"]
        contenders["Keras predict, fp32"] = lambda: answer(lambda folder: [*keras, folder], folders, cache)
        torch = ""
        if options.torch_python:
            # Where bf16 is emulated it would slow torch down.
            precision = run([sys.executable, "-c", _PRECISION], cache).output.strip()
            torch = f"torch + timm, {precision}"
            script = [options.torch_python, HERE / "bulk_torch.py", str(len(images_by_class(options.folder)))]
            contenders[torch] = lambda: answer(lambda folder: [*script, folder, precision], folders, cache)
        results = in_turns(contenders, options.repeats)
    report(results, {name: f"raw OpenVINO of {name}" for name in models}, folders.count)
    versions = results[torch][0].process.result["versions"] if torch else {}
    print_notes(options.repeats, RANDOM, versions=versions)


def _ours(classifier: Path, folders: Folders, cache: Path) -> Answered:
    result = answer(lambda folder: [RESNET, "predict", folder, "--csv", "--top", "1", "--run", classifier], folders, cache)
    lines = len(result.process.output.splitlines())
    if lines != folders.count + 1:
        raise SystemExit(f"resnet predict wrote {lines} lines for {folders.count} images")
    return result


if __name__ == "__main__":
    main()
