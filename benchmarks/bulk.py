"""Many images through several programs: rates with and without the start of the process.

Shared by bulk_predict.py and bulk_evaluate.py. In: commands. Out: rates and Markdown.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import Process, lay_out, print_table, ratio, run, spread

HERE = Path(__file__).parent
FEW = 16  # images of the short run: one batch


@dataclass(frozen=True)
class Folders:
    """The same data set twice: `FEW` images of it, and `count`."""

    few: Path
    many: Path
    count: int


@dataclass(frozen=True)
class Answered:
    """What a program came to.

    Attributes:
        rate: images a second without the start (imports, loading, compilation).
        process: the run over many images.
    """

    rate: float
    process: Process


def lay_out_twice(folder: Path, place: Path, count: int) -> Folders:
    """Links to few and to many images of a data set, inside `place`."""
    if count <= FEW:
        raise SystemExit(f"--images {count}: rates need more than {FEW}")
    lay_out(folder, place / "few", FEW)
    return Folders(place / "few", place / "many", lay_out(folder, place / "many", count))


def answer(command: Callable[[Path], Sequence[str | Path]], folders: Folders, cache: Path) -> Answered:
    """Run a command, made for a folder, over few images and over many: what the others take in addition is the rate."""
    few, many = (run(command(folder), cache) for folder in (folders.few, folders.many))
    if many.seconds <= few.seconds:
        raise SystemExit(f"{folders.count} images took no longer than {FEW}: give more --images")
    return Answered((folders.count - FEW) / (many.seconds - few.seconds), many)


def limit(model: Path, folders: Folders, cache: Path) -> Answered:
    """OpenVINO alone on decoded arrays, at the better of its batch sizes."""
    process = run([sys.executable, HERE / "bulk_openvino.py", model, folders.many], cache)
    return Answered(max(process.result["rates"].values()), process)


def report(results: Mapping[str, Sequence[Answered]], limits: Mapping[str, str], count: int) -> None:
    """A table of what each took, then one of ratios.

    Args:
        results: rounds by contender.
        limits: which contender is the limit of which command of ours.
        count: images.
    """
    rows, pairs = [], []
    for name, rounds in results.items():
        rates = spread([each.rate for each in rounds], ".1f")
        if name in limits.values():
            rows.append([f"{name} ({rounds[0].process.result['precision']})", rates, "", ""])
            continue
        seconds = spread([each.process.seconds for each in rounds], ".1f")
        rows.append([name, rates, seconds, spread([each.process.megabytes for each in rounds], ".0f")])
    print_table([f"{count} images", "images/s without start", "whole process, s", "peak MB"], rows)
    for mine, its_limit in limits.items():
        for other in [its_limit, *(name for name in results if name not in (*limits, *limits.values()))]:
            faster = ratio(*([each.rate for each in results[name]] for name in (mine, other)), ".2f")
            sooner = ratio(*([each.process.seconds for each in results[name]] for name in (other, mine)), ".2f")
            pairs.append([f"{mine} / {other}", faster, "" if other == its_limit else sooner])
    print()
    print_table(["ratio", "images/s without start", "whole process"], pairs)
