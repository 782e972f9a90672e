"""The findings of the residual papers, again: trains what is missing, then prints the tables and draws the curves.

    python benchmarks/reproduction.py CIFAR10 [--group degradation ...] [--epochs 16] [--seeds 0 1 2] [--side-by-side 2]

CIFAR10 is a folder with train/<class> and test/<class>. Every network is a run of `resnet train` under --runs; the script may
be stopped at any time and goes on where it stopped. Side by side, each on its share of two cores, small networks take less
time in all than one after the other on both: a tenth with 20 layers, a quarter with 56 (Linux). Curves and final figures are
those of the test folder (--val-split 0), as in the papers: no epoch is chosen by it, the tables give the last one. The group
"transfer" holds a tenth of the training images out, for `finetune` chooses by them, and touches the test folder once, at the
end.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any


@dataclass(frozen=True)
class Experiment:
    """One network of a group, and what is typed for it."""

    name: str
    options: str
    epochs: int = 0  # 0: those of --epochs
    timed: bool = False  # as many epochs as --minutes allow
    command: str = "train"


_PAPER = "--recipe paper"
_CYCLE = "--recipe fast --optimizer sgd --set label_smoothing=0 --set cutout=0 --set ema=0 --set weight_decay=1e-4"
_DEPTHS = ("plain20", "resnet20", "plain56", "resnet56")
_COMPACT = "--arch resnet18-compact --image-size 32"
_SLIM = "--arch resnet18-slim --image-size 96"
GROUPS = {
    # He et al. 2015, section 4.2 and figure 6: plain networks get worse with depth, residual ones better.
    "degradation": [Experiment(arch, f"--arch {arch} {_PAPER}") for arch in _DEPTHS],
    # The same under one cycle, which lets deep networks start gently: few epochs are enough for them.
    "degradation-cycle": [Experiment(f"{arch}-cycle", f"--arch {arch} {_CYCLE}") for arch in _DEPTHS],
    # Section 3.3, options A (the network's own), B and C.
    "shortcuts": [
        Experiment("resnet20", f"--arch resnet20 {_PAPER}"),
        Experiment("resnet20-b", f"--arch resnet20 --shortcut B {_PAPER}"),
        Experiment("resnet20-c", f"--arch resnet20 --shortcut C {_PAPER}"),
    ],
    # He et al. 2016: post-activation against pre-activation.
    "preactivation": [Experiment(f"{arch}-cycle", f"--arch {arch} {_CYCLE}") for arch in ("resnet56", "resnet56v2")],
    # Best accuracy in an hour of two cores. Trainings as short as that gain nothing from cutout.
    "best": [
        Experiment("resnet20-fast", "--arch resnet20 --recipe fast --set cutout=0", timed=True),
        Experiment("resnet18-compact-fast", f"{_COMPACT} --recipe fast --set cutout=0", timed=True),
    ],
    # Recipe "fast" by Muon and by momentum alone.
    "optimizers": [
        Experiment(f"resnet20-{optimizer}", f"--arch resnet20 --recipe fast --optimizer {optimizer}")
        for optimizer in ("sgd", "muon")
    ],
    # What the bundled weights are worth at the same number of epochs.
    "transfer": [
        Experiment("slim-scratch", f"{_SLIM} --recipe fast --optimizer sgd", 3),
        Experiment("slim-scratch-muon", f"{_SLIM} --recipe fast", 3),
        Experiment("slim-bundled", f"{_SLIM} --weights bundled --unfreeze all --batch-size 128", 3, command="finetune"),
    ],
}


def main() -> None:
    """Train what is missing of the groups, then report them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--group", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--minutes", type=int, default=60, help="of all cores, for each network of the group best")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduction"))
    parser.add_argument("--figures", type=Path, default=Path("docs/reproduction"))
    parser.add_argument("--side-by-side", type=int, default=1, help="networks that train at the same time")
    parser.add_argument("--report", action="store_true", help="train nothing, report what is there")
    options = parser.parse_args()
    if not options.report:
        # All networks once before any again; some are in several groups.
        plan = [(each, seed) for seed in options.seeds for group in options.group for each in GROUPS[group]]
        cores = sorted(os.sched_getaffinity(0)) if options.side_by_side > 1 else []
        shares: Queue[list[int]] = Queue()
        for number in range(options.side_by_side):
            shares.put(cores[number :: options.side_by_side])
        with ThreadPoolExecutor(options.side_by_side) as pool:
            list(pool.map(lambda pair: _train(pair[0], options, pair[1], shares), dict.fromkeys(plan)))
    options.figures.mkdir(parents=True, exist_ok=True)
    for group in options.group:
        folders = [_folder(each, options, seed) for each in GROUPS[group] for seed in options.seeds]
        done = [folder for folder in folders if (folder / "run.json").exists()]
        if not done:
            continue
        if group == "transfer":
            _report_transfer(done)
        else:
            _report(group, done, options.figures)
        if group == "best":
            _report_views(done, options.data)


def _folder(experiment: Experiment, options: argparse.Namespace, seed: int) -> Path:
    runs: Path = options.runs
    length = f"{options.minutes}m" if experiment.timed else experiment.epochs or options.epochs
    return runs / f"{experiment.name}-{length}-{seed}"


def _train(experiment: Experiment, options: argparse.Namespace, seed: int, shares: Queue[list[int]]) -> None:
    folder = _folder(experiment, options, seed)
    if (folder / "run.json").exists():
        return
    resume = ["--resume"] if (folder / "checkpoint").exists() else []
    length = ["--epochs", str(experiment.epochs or options.epochs)]
    if experiment.timed:
        length = ["--time-limit", f"{options.minutes * options.side_by_side}m"]
    fixed = [*length, "--seed", str(seed), "--output", str(folder)]
    scored = [] if experiment in GROUPS["transfer"] else ["--val-split", "0"]
    command = [experiment.command, str(options.data), *experiment.options.split(), *scored, *fixed, *resume]
    cores = shares.get()
    pinned = ["taskset", "--cpu-list", ",".join(map(str, cores))] if cores else []
    print("resnet", *command, file=sys.stderr, flush=True)
    try:
        subprocess.run([*pinned, _resnet(), *command], check=True, stdout=subprocess.DEVNULL)
    finally:
        shares.put(cores)


def _report(group: str, folders: list[Path], figures: Path) -> None:
    document = _answer("compare", *map(str, folders), "--output", str(figures / f"{group}.png"))
    print(f"\n### {group}\n\n| network | parameters | seeds | epochs | training error | test error | images/s | minutes |")
    print("|---|---|---|---|---|---|---|---|")
    for row in document["rows"]:
        train, test = (_percent(row[kind]["final"]) for kind in ("train_error", "held_out_error"))
        facts = [row["label"], f"{row['parameters']:,}", len(row["seeds"]), max(row["epochs"]), train, test]
        print("|", *(f"{fact} |" for fact in [*facts, f"{row['images_per_second']:.0f}", f"{row['seconds'] / 60:.0f}"]))
    for note in document["notes"]:
        print(f"\n{note}")


def _report_transfer(folders: list[Path]) -> None:
    print("\n### transfer\n\n| run | epochs | test accuracy | 95 % interval | minutes |\n|---|---|---|---|---|")
    for folder in folders:
        results = json.loads((folder / "run.json").read_text())["results"]
        print(f"| {folder.name} | {results['epochs']} | {_accuracy(results['test'])} | {results['seconds'] / 60:.0f} |")


def _report_views(folders: list[Path], data: Path) -> None:
    print("\n| run | answers averaged over | test accuracy | 95 % interval |\n|---|---|---|---|")
    for folder in folders:
        for views, words in (("1", "the image"), ("2", "the image and its mirror image"), ("10", "ten crops")):
            document = _answer("evaluate", str(data), "--run", str(folder), "--views", views)
            print(f"| {folder.name} | {words} | {_accuracy(document)} |")


def _accuracy(figures: dict[str, Any]) -> str:
    low, high = figures["top1_interval"]
    return f"{figures['top1']:.2%} | {low:.2%} to {high:.2%}"


def _answer(*words: str) -> Any:
    """What a command of `resnet` prints with --json."""
    done = subprocess.run([_resnet(), *words, "--json"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def _percent(error: dict[str, float | None]) -> str:
    mean, spread = error["mean"], error["sd"]
    return f"{100 * (mean or 0):.2f} %" + (f" ± {100 * spread:.2f}" if spread is not None else "")


def _resnet() -> str:
    return str(Path(sys.executable).with_name("resnet"))


if __name__ == "__main__":
    main()
