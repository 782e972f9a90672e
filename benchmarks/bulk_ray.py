"""Bulk prediction on Ray Data: speed against `predict`, memory over the number of images, and restarts.

    python benchmarks/bulk_ray.py speed FOLDER [--images 5000] [--repeats 1] [--heavy]
    python benchmarks/bulk_ray.py memory FOLDER [--small 5000] [--images 50000]
    python benchmarks/bulk_ray.py kills FOLDER [--images 50000]

FOLDER has a folder of photos per class; all commands get links to its images, repeated where there are fewer. The network is
the bundled one; --heavy is a ResNet50 at 224 pixels with random weights.
speed: `resnet predict --ray local` and `resnet predict --csv` in turns; the rate without the start is that from the 256th image
to the last; images per second of a core, from the processor time of all processes, do not depend on what else the machine does.
memory: the sum of the proportional set sizes of all processes of a command, sampled every second; the peak. kills:
an actor, then the driver, is ended by SIGKILL; then the same command is given again, and every image has to have one row.
"""

import argparse
import atexit
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from common import (
    RANDOM,
    RESNET,
    drawn_by_share,
    in_turns,
    positive,
    print_notes,
    print_table,
    random_run,
    ratio,
    spread,
    workplace,
)

_FEW = 256


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory", "kills"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=positive)
    parser.add_argument("--small", type=positive, default=5000)
    parser.add_argument("--repeats", type=positive, default=1)
    parser.add_argument("--heavy", action="store_true")
    options = parser.parse_args()
    with workplace() as place:
        os.chdir(place)  # where there are no runs
        if options.what == "speed":
            _speed(options, place, options.images or 5000)
        elif options.what == "memory":
            _memory(options, place, options.images or 50_000)
        else:
            _kills(options, place, options.images or 50_000)


def _links(folder: Path, target: Path, count: int) -> Path:
    """Links to `count` images, a thousand in a folder."""
    for number, (_, path) in zip(range(count), itertools.cycle(drawn_by_share(folder)), strict=False):
        place = target / f"{number // 1000:04}" / f"{number:06}{path.suffix.lower()}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path.resolve())
    return target


def _bulk(images: Path, output: Path, *options: str | Path) -> list[str | Path]:
    return [RESNET, "predict", "--ray", "local", "--input", images, "--output", output, "--quiet", *options]


def _speed(options: argparse.Namespace, place: Path, count: int) -> None:
    model = ["--run", random_run(place / "run", options.folder)] if options.heavy else []
    images = _links(options.folder, place / "links", count)
    outputs = (place / f"out-{number}" for number in itertools.count())

    def plain() -> tuple[float, ...]:
        began = time.time()
        process = _start([RESNET, "predict", images, "--csv", "--top", "1", "--quiet", *model], place, subprocess.PIPE)
        work = _Work(process)
        times = [time.time() for _ in process.stdout or ()][1:]  # but for the header
        return _ended(process, began), (count - _FEW) / (times[-1] - times[_FEW - 1]), count / work.seconds()

    def bulk() -> tuple[float, ...]:
        began, output = time.time(), next(outputs)
        process = _start(_bulk(images, output, "--top", "1", *model), place)
        work = _Work(process)
        whole = _ended(process, began)
        blocks = sorted(path.stat().st_mtime for path in output.glob("predictions/*.parquet"))
        size = json.loads((output / "bulk.json").read_text())["bulk"]["block"]
        return whole, (count - size) / (blocks[-1] - blocks[0]), count / work.seconds()

    results = in_turns({"resnet predict": plain, "resnet predict --ray local": bulk}, options.repeats)
    rows = [[name, *(spread([each[place] for each in found], ".1f") for place in range(3))] for name, found in results.items()]
    ours, rays = ([list(column) for column in zip(*found, strict=True)] for found in results.values())
    ratios = [ratio(ours[0], rays[0], ".2f"), *(ratio(rays[place], ours[place], ".2f") for place in (1, 2))]
    header = [f"{count} images", "whole process, s", "images/s without the start", "images per second of a core"]
    print_table(header, [*rows, ["ratio of speeds", *ratios]])
    print_notes(options.repeats, *([RANDOM] if options.heavy else []))


class _Work:
    """The processor time of a process and all that it started, sampled while it runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._ticks: dict[int, int] = {}
        self._thread = threading.Thread(target=self._watch, args=(process,))
        self._thread.start()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            for pid in _family(process.pid):
                try:
                    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                self._ticks[pid] = int(fields[11]) + int(fields[12])
            time.sleep(0.5)

    def seconds(self) -> float:
        """Seconds of all cores together, when the process has ended."""
        self._thread.join()
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")


def _ended(process: subprocess.Popen[bytes], began: float) -> float:
    if process.wait():
        raise SystemExit(f"predict ended with {process.returncode}")
    return time.time() - began


def _memory(options: argparse.Namespace, place: Path, count: int) -> None:
    rows = []
    for number in (options.small, count):
        process = _start(_bulk(_links(options.folder, place / f"links-{number}", number), place / f"out-{number}"), place)
        peak, began = 0.0, time.monotonic()
        while process.poll() is None:
            peak = max(peak, _proportional(process.pid))
            time.sleep(1)
        if process.returncode:
            raise SystemExit(f"predict ended with {process.returncode}")
        rows.append((number, peak, time.monotonic() - began))
    print_table(["images", "peak of all processes, MB", "s"], [[str(a), f"{b:.0f}", f"{c:.0f}"] for a, b, c in rows])
    print(f"\nratio: {rows[1][1] / rows[0][1]:.2f}")
    print_notes(1)


def _kills(options: argparse.Namespace, place: Path, count: int) -> None:
    images, output = _links(options.folder, place / "links", count), place / "out"
    process = _start(_bulk(images, output), place)
    _wait(process, output, 3)
    (actor,) = (pid for pid in _family(process.pid) if "MapWorker" in _command(pid))
    os.kill(actor, signal.SIGKILL)
    print(f"killed the actor after {_finished(output)} blocks", file=sys.stderr)
    _wait(process, output, _finished(output) + 4)
    process.kill()
    process.wait()
    kept = _finished(output)
    print(f"killed the driver after {kept} blocks", file=sys.stderr)
    times = {path: path.stat().st_mtime_ns for path in output.glob("predictions/*.parquet")}
    if _start(_bulk(images, output), place).wait():
        raise SystemExit("the same command again failed")
    if any(path.stat().st_mtime_ns != when for path, when in times.items()):
        raise SystemExit("a finished block was written again")
    from pyarrow import dataset

    rows = Counter(dataset.dataset(output / "predictions").to_table(columns=["path"])["path"].to_pylist())
    wanted = {str(path) for path in images.rglob("*.*")}
    once = sum(number == 1 for number in rows.values())
    print_table(
        ["images", "rows", "exactly once", "missing", "blocks kept", "blocks"],
        [[str(count), str(rows.total()), str(once), str(len(wanted - rows.keys())), str(kept), str(_finished(output))]],
    )


def _start(command: list[str | Path], place: Path, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "XDG_CACHE_HOME": str(place / "cache")}
    process = subprocess.Popen(list(map(str, command)), stdout=stdout, env=environment)
    atexit.register(process.kill)  # where the script is stopped
    return process


def _wait(process: subprocess.Popen[bytes], output: Path, blocks: int) -> None:
    while _finished(output) < blocks:
        if process.poll() is not None:
            raise SystemExit("predict ended before it could be killed: give more --images")
        time.sleep(0.2)


def _finished(output: Path) -> int:
    return len(list(output.glob("predictions/block-*.parquet")))


def _family(root: int) -> list[int]:
    """A process and all that it started, by their parents."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _proportional(root: int) -> float:
    """Proportional set size of a process and all that it started, MB."""
    total = 0
    for pid in _family(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1000


if __name__ == "__main__":
    main()
