"""A head on frozen features by `resnet finetune --unfreeze none`, and where its time goes.

Shared by head_finetune.py and second_finetune.py. In: images, weights, options. Out: seconds by phase, Markdown.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import RESNET, Process, print_table, run, spread

_PHASES = ("start", "features", "head", "writing, measuring")


@dataclass(frozen=True)
class Trained:
    """A whole process, and its seconds by phase, in the order of `_PHASES`."""

    process: Process
    phases: tuple[float, ...]


def train_head(data: Path, weights: Path, output: Path, cache: Path, words: Sequence[str]) -> Trained:
    """Run the command; its phases begin where it says so, and the head's epochs are those of metrics.jsonl."""
    process = run([RESNET, "finetune", data, "--weights", weights, "--unfreeze", "none", "--output", output, *words], cache)
    begin, end = (_time_of(line, process) for line in ("frozen layers", "head "))
    lines = (output / "metrics.jsonl").read_text().splitlines()
    head = sum(float(json.loads(line)["seconds"]) for line in lines)
    return Trained(process, (begin, end - begin - head, head, process.seconds - end))


def print_phases(results: Mapping[str, Sequence[Trained]]) -> None:
    """A table of seconds by phase, a row a contender."""
    print()
    rows = [
        [name, *(spread([each.phases[place] for each in rounds], ".1f") for place in range(len(_PHASES)))]
        for name, rounds in results.items()
    ]
    print_table(["seconds of", *_PHASES], rows)


def _time_of(beginning: str, process: Process) -> float:
    for seconds, line in process.log:
        if line.startswith(beginning):
            return seconds
    raise SystemExit(f"resnet finetune said nothing that begins with '{beginning}'")
