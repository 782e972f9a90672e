"""Turn a finished training run into the network that the package ships: fp16 weights, its OpenVINO model, and the part of
run.json that is needed.

    python scripts/make_bundled.py runs/tiny-imagenet-32-resnet18-compact --image-size 40
    python scripts/make_bundled.py --openvino

The network answers at --image-size, which may be larger than that of training: random crops magnify what a network sees
(Touvron et al. 2019, "Fixing the train-test resolution discrepancy"). Its figures are measured anew at that size, from the fp16
weights, on the pictures that the run held out. With --openvino only the OpenVINO model is written anew, from the weights that
are in the package: `predict` loads it where there is no run, without TensorFlow.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py

from resnet_cli.cli.measuring import measure_together
from resnet_cli.cli.ready import Ready
from resnet_cli.data.scoring import held_out
from resnet_cli.engines.openvino import convert, save
from resnet_cli.engines.portable import read_classifier
from resnet_cli.files import digest
from resnet_cli.inference.geometry import run_geometry
from resnet_cli.networks.spec import spec_from_record
from resnet_cli.progress import Silent
from resnet_cli.runs import Run, load_run

_TARGET = Path(__file__).parents[1] / "resnet_cli" / "networks" / "bundled"
_KEPT = ("format", "classes", "network", "head", "input", "config", "versions", "seed")


def main() -> None:
    """Write model.weights.h5, model.xml, model.bin and run.json into resnet_cli/networks/bundled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--openvino", action="store_true", help="write only the OpenVINO model anew, from the shipped weights")
    options = parser.parse_args()
    if options.openvino == bool(options.run) or bool(options.run) != bool(options.image_size):
        parser.error("give either a run and --image-size, or --openvino")
    if options.openvino:
        _write_openvino(load_run(_TARGET).record)
    else:
        _write_openvino(_write_network(load_run(options.run), options.image_size))


def _write_network(run: Run, image_size: int) -> dict[str, Any]:
    """Write the fp16 weights; returns the record that belongs to them."""
    _TARGET.mkdir(exist_ok=True)
    weights = _TARGET / "model.weights.h5"
    with h5py.File(run.weights, "r") as source, h5py.File(weights, "w") as target:

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset):
                target.create_dataset(name, data=item[()].astype("float16"))

        source.visititems(copy)
    record = {key: run.record[key] for key in _KEPT} | {"image_size": image_size}
    record["results"] = {"val": _figures(run, weights, image_size)}
    record["weights_sha256"] = digest(weights)
    # The folder's place on the machine that trained means nothing elsewhere.
    record["command"] = run.record["command"].replace(run.record["data"]["path"], run.record["data"]["name"])
    record["data"] = {"name": run.record["data"]["name"], "path": "", "counts": run.record["data"]["counts"]}
    val = record["results"]["val"]
    sys.stdout.write(f"{image_size} pixels: top-1 {val['top1']:.4f}, top-5 {val['top5']:.4f}\n")
    return record


def _write_openvino(record: dict[str, Any]) -> None:
    """Write the OpenVINO model of the shipped weights, and the record, which tells the weights that it was made from."""
    weights = _TARGET / "model.weights.h5"
    save(convert(read_classifier(weights, spec_from_record(record))), _TARGET / "model.xml")
    record = {**record, "openvino_weights_sha256": digest(weights)}
    (_TARGET / "run.json").write_text(json.dumps(record, indent=2) + "\n")


def _figures(run: Run, weights: Path, image_size: int) -> dict[str, Any]:
    spec = replace(spec_from_record(run.record), image_size=image_size)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.xml"
        save(convert(read_classifier(weights, spec)), model)
        geometry = replace(run_geometry(run), size=image_size)
        ready = Ready("", model, run.classes, geometry, partial(read_classifier, weights, spec))
        figures = measure_together([ready], held_out((run,)), 1, Silent()).figures.to_json()
    return {name: figures[name] for name in ("count", "top1", "top1_interval", "top5", "loss")}


if __name__ == "__main__":
    main()
