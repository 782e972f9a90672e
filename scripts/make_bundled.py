"""Turn a finished training run into the backbone that the package ships: fp16 weights, and the part of run.json that is needed.

python scripts/make_bundled.py runs/tiny-imagenet-32-resnet18-compact
"""

import argparse
import json
from pathlib import Path

import h5py

from resnet_cli.networks.imagenet_files import digest
from resnet_cli.runs import load_run

_TARGET = Path(__file__).parents[1] / "resnet_cli" / "networks" / "bundled"
_KEPT = ("format", "command", "classes", "network", "image_size", "head", "input", "config", "results", "versions", "seed")


def main() -> None:
    """Write model.weights.h5 and run.json into resnet_cli/networks/bundled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = load_run(parser.parse_args().run)
    _TARGET.mkdir(exist_ok=True)
    weights = _TARGET / "model.weights.h5"
    with h5py.File(run.weights, "r") as source, h5py.File(weights, "w") as target:

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset):
                target.create_dataset(name, data=item[()].astype("float16"))

        source.visititems(copy)
    record = {key: run.record[key] for key in _KEPT}
    record["weights_sha256"] = digest(weights, "sha256")
    # The folder's place on the machine that trained means nothing elsewhere.
    record["command"] = record["command"].replace(run.record["data"]["path"], run.record["data"]["name"])
    record["data"] = {"name": run.record["data"]["name"], "path": "", "counts": run.record["data"]["counts"]}
    (_TARGET / "run.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
