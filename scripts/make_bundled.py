"""Turn finished training runs into the network that the package ships: fp16 weights, its OpenVINO model, the part of run.json
that is needed, and its model card.

    python scripts/make_bundled.py runs/photos-64 runs/photos-128 --image-size 128
    python scripts/make_bundled.py --openvino
    python scripts/make_bundled.py --card

The runs are of `resnet train PHOTOS --teacher FILE`, in the order of training: each begins with the weights of the one before,
and the last one is shipped. The network answers at --image-size, which may be larger than that of training: random crops
magnify what a network sees (Touvron et al. 2019, "Fixing the train-test resolution discrepancy"). Its figures are measured anew
at that size, from the fp16 weights, on the photos that the last run held out; their labels are the teacher's first answers.
With --openvino only the OpenVINO model is written anew, from the weights in the package (`predict` loads it where there is no
run, without TensorFlow); with --card only docs/bundled.md, from the record in the package.
"""

import argparse
import json
import re
import shlex
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
from bundled_card import METRICS, TARGET, write_card, write_curves

from resnet_cli.data.decode import run_geometry
from resnet_cli.data.scoring import held_out
from resnet_cli.engines.frozen import read_classifier
from resnet_cli.engines.openvino import convert, save
from resnet_cli.errors import ResnetError
from resnet_cli.files import digest
from resnet_cli.jobs.measure import Measured, measure_together
from resnet_cli.jobs.predict import Ready
from resnet_cli.networks.catalogue import spec_from_record
from resnet_cli.progress import Silent
from resnet_cli.runs.folder import Run, load_run, read_history, read_splits

_KEPT = ("format", "classes", "network", "head", "input", "config", "versions", "seed", "device", "precision")
_FEW = 20  # held-out photos; of a class with fewer, a share says little
_NAMED = 12  # classes at each end, by how often the network agrees with its teacher


def main() -> None:
    """Write model.weights.h5, model.xml, model.bin and run.json into resnet_cli/networks/bundled, and the card into docs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--openvino", action="store_true", help="write only the OpenVINO model anew, from the shipped weights")
    parser.add_argument("--card", action="store_true", help="write only the model card anew, from the shipped record")
    options = parser.parse_args()
    if options.openvino + options.card + bool(options.runs) != 1 or bool(options.runs) != bool(options.image_size):
        parser.error("give runs and --image-size, or --openvino, or --card")
    try:
        if options.runs:
            runs = [load_run(folder) for folder in options.runs]
            _require_chain(runs)
            _write_openvino(_write_network(runs, options.image_size))
            _write_metrics(runs)
            write_curves()
        elif options.openvino:
            _write_openvino(load_run(TARGET).record)
        write_card()
    except ResnetError as error:
        parser.exit(1, f"error: {error.message}\n")


def _require_chain(runs: Sequence[Run]) -> None:
    """Refuse runs that do not make up the training of the last one."""
    started = [run.record["weights"]["sha256"] for run in runs]
    for run, start, expected in zip(runs, started, ["", *(digest(run.weights) for run in runs[:-1])], strict=True):
        if start != expected:
            before = "random weights" if not expected else "the weights of the run before it"
            raise ResnetError(f"{run.folder} does not begin with {before}: name all runs, in the order of training")


def _write_network(runs: Sequence[Run], image_size: int) -> dict[str, Any]:
    """Write the fp16 weights of the last run; returns the record that belongs to them."""
    run = runs[-1]
    TARGET.mkdir(exist_ok=True)
    weights = TARGET / "model.weights.h5"
    with h5py.File(run.weights, "r") as source, h5py.File(weights, "w") as target:

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset):
                target.create_dataset(name, data=item[()].astype("float16"))

        source.visititems(copy)
    measured = _measure(run, weights, image_size)
    val = _figures(measured)
    record = {key: run.record[key] for key in _KEPT} | {"image_size": image_size, "results": {"val": val}}
    record["teacher"] = {key: run.record["teacher"][key] for key in ("name", "sha256")}
    record["weights_sha256"] = digest(weights)
    record["command"] = _command(run)
    record["commands"] = [_command(each) for each in runs]
    record["data"] = {
        "name": run.record["data"]["name"],
        "path": "",
        "folders": _folders(run, measured),
        "seen": sum(len(read_history(each.folder / "metrics.jsonl")) * _trained(each) for each in runs),
    }
    sys.stdout.write(f"{image_size} pixels: top-1 {val['top1']:.4f}, top-5 {val['top5']:.4f}\n")
    return record


def _write_openvino(record: dict[str, Any]) -> None:
    """Write the OpenVINO model of the shipped weights, and the record, which tells the weights that it was made from."""
    weights = TARGET / "model.weights.h5"
    save(convert(read_classifier(weights, spec_from_record(record))), TARGET / "model.xml")
    record = {**record, "openvino_weights_sha256": digest(weights)}
    (TARGET / "run.json").write_text(json.dumps(record, indent=2) + "\n")


def _write_metrics(runs: Sequence[Run]) -> None:
    """The epochs of all runs in one file, counted through."""
    records: list[dict[str, Any]] = []
    for run in runs:
        lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        done = len(records)
        records += [{**line, "epoch": done + line["epoch"]} for line in lines]
    METRICS.write_text("".join(json.dumps(record) + "\n" for record in records))


def _measure(run: Run, weights: Path, image_size: int) -> Measured:
    spec = replace(spec_from_record(run.record), image_size=image_size)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.xml"
        save(convert(read_classifier(weights, spec)), model)
        geometry = replace(run_geometry(run), size=image_size)
        ready = Ready("", model, run.classes, geometry, partial(read_classifier, weights, spec))
        scored = held_out((run,))
        once = tuple(sample for sample in scored.samples if not _is_again(sample.path.relative_to(run.data).as_posix()))
        return measure_together([ready], replace(scored, samples=once), 1, Silent())


def _figures(measured: Measured) -> dict[str, Any]:
    """The shares of the teacher's answers that the network gives, and the classes with the highest and the lowest ones."""
    figures = measured.figures.to_json()
    known = [[each["class"], each["count"], each["recall"]] for each in figures["classes"] if each["count"] >= _FEW]
    known.sort(key=lambda each: -each[2])
    kept = {name: figures[name] for name in ("count", "top1", "top1_interval", "top5", "loss")}
    return {**kept, "best_classes": known[:_NAMED], "worst_classes": known[::-1][:_NAMED]}


def _folders(run: Run, measured: Measured) -> dict[str, dict[str, Any]]:
    """By set of photos: those to learn from, held-out ones, and the share of these with the teacher's answer.

    A set is a folder of the data set; "cars-again" holds links to photos of "cars", which an epoch shows twice.
    """
    seen = {(row.content or row.path, _set_of(row.path)) for row in read_splits(run) if row.split == "train"}
    photos = Counter(folder for _, folder in seen)
    right = measured.rows.probabilities.argmax(1) == measured.rows.labels
    held: dict[str, list[bool]] = defaultdict(list)
    for sample, hit in zip(measured.rows.samples, right, strict=True):
        held[_set_of(sample.path.relative_to(run.data).as_posix())].append(bool(hit))
    return {
        folder: {
            "photos": photos[folder],
            "held_out": len(held[folder]),
            "top1": sum(held[folder]) / len(held[folder]) if held[folder] else None,
        }
        for folder in sorted({*photos, *held})
    }


def _is_again(path: str) -> bool:
    return path.split("/")[0].endswith("-again")


def _set_of(path: str) -> str:
    return path.split("/")[0].removesuffix("-again")


def _trained(run: Run) -> int:
    """Photos that an epoch of the run shows."""
    return sum(row.split == "train" for row in read_splits(run))


def _command(run: Run) -> str:
    """What was typed, without folders that mean nothing on another machine."""
    return shlex.join(_plain(word) for word in shlex.split(run.record["command"]))


def _plain(word: str) -> str:
    """An absolute path, or the one in OPTION=PATH, by its last part; a model's file, named alike in all folders, by two."""
    option, path = re.fullmatch(r"(--?[\w-]+=)?(.*)", word, re.DOTALL).groups("")  # type: ignore[union-attr]
    if not path.startswith(("/", "~")):
        return word
    parts = Path(path).parts
    return option + "/".join(parts[-2:] if parts[-1].startswith("model.") else parts[-1:])


if __name__ == "__main__":
    main()
