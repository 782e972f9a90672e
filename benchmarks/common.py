"""What the benchmarks share: processes measured in turns, the machine in words, images, a run with random weights, tables.

In: commands and folders. Out: seconds, megabytes, Markdown. The standard library alone: a process starts as large as the one
that starts it, so what measures memory has to stay small itself.
"""

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")

RESNET = str(Path(sys.executable).with_name("resnet"))
SAMPLE_DATA = Path(__file__).parents[1] / "sample_data" / "cars_vs_trucks"
_IMAGES = (".jpg", ".jpeg", ".png")  # what Keras, torch and this program all read
_MAKE_RUN = """
import json, sys
from pathlib import Path
from resnet_cli.engines.frozen import read_classifier, write_classifier
from resnet_cli.networks.catalogue import find_network
from resnet_cli.networks.classifier import build_logits
from resnet_cli.networks.catalogue import ClassifierSpec
from resnet_cli.runs.folder import finish_run, write_splits

folder, data, classes = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
folder.mkdir()
spec = ClassifierSpec(find_network("resnet50"), len(classes), 224)
logits = build_logits(spec)
for layer in logits.get_layer("resnet50").layers:
    if layer.name.endswith("_3_bn"):
        layer.gamma.assign(0.2 + 0 * layer.gamma)  # untrained branches would add up past what fp16 holds
write_classifier(folder, logits, spec)
read_classifier(folder / "model.weights.h5", spec).save(folder / "model.keras")
write_splits(folder, [])
origin = {"source": "none", "path": "", "sha256": "", "fallback": ""}
notes = {"command": "random weights", "weights": origin, "data": {"path": data, "name": Path(data).name}, "versions": {}}
finish_run(folder, {"classes": classes, **spec.to_record(), "input": {"resize": "crop", "fraction": 0.875}, **notes})
"""
RANDOM = "Random ResNet50 weights: only time and memory are measured."


@dataclass(frozen=True)
class Process:
    """What a finished process took.

    Attributes:
        seconds: on the clock.
        processor: seconds of all its cores.
        megabytes: of resident memory, at its peak.
        output: what it wrote to stdout.
        log: the lines of its stderr, with the seconds from the start at which they came.
    """

    seconds: float
    processor: float
    megabytes: float
    output: str
    log: tuple[tuple[float, str], ...]

    @property
    def result(self) -> Any:
        """The JSON on the last line of its output."""
        return json.loads(self.output.splitlines()[-1])


def run(command: Sequence[str | Path], cache: Path, given: str = "") -> Process:
    """Run a process on the CPU and measure it; the script ends when it fails.

    Args:
        command: its words.
        cache: the user's cache folder for it (XDG_CACHE_HOME); the real one is neither read nor written.
        given: its stdin.
    """
    quiet = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow"}
    environment = os.environ | quiet | {"XDG_CACHE_HOME": str(cache)}
    words = [str(word) for word in command]
    with tempfile.TemporaryFile("w+") as stdin, tempfile.TemporaryFile("w+") as stdout:
        stdin.write(given)
        stdin.seek(0)
        began = time.perf_counter()
        try:
            process = subprocess.Popen(
                words, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=environment, text=True, errors="replace"
            )
        except OSError as error:
            raise SystemExit(f"{words[0]} cannot be run: {error.strerror}") from None
        try:
            log = tuple((time.perf_counter() - began, line) for line in process.stderr or ())
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            shown = " ".join(word if "\n" not in word else "..." for word in words)
            said = "".join(line for _, line in log[-20:])
            raise SystemExit(f"{shown}\nended with {process.returncode}:\n{said}")
        stdout.seek(0)
        # Linux counts kilobytes, macOS bytes.
        megabytes = usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
        return Process(seconds, usage.ru_utime + usage.ru_stime, megabytes, stdout.read(), log)


def in_turns(contenders: Mapping[str, Callable[[], Result]], repeats: int, warm_up: bool = False) -> dict[str, list[Result]]:
    """Each contender once, then each again, and so on: what else the machine does meanwhile meets all of them.

    Args:
        contenders: what is measured, by name.
        repeats: rounds.
        warm_up: one more round before them, which fills the disk cache and does not count.
    """
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    for number in range(-warm_up, repeats):
        for name, contender in contenders.items():
            print(f"{'warm-up' if number < 0 else f'round {number + 1}'}: {name}", file=sys.stderr, flush=True)
            result = contender()
            if number >= 0:
                results[name].append(result)
    return results


def spread(values: Sequence[float], form: str) -> str:
    """The median, and the extremes where there are several."""
    median = format(statistics.median(values), form)
    return median if len(values) == 1 else f"{median} ({min(values):{form}} to {max(values):{form}})"


def ratio(above: Sequence[float], below: Sequence[float], form: str = ".1f") -> str:
    """Ratios within each round, as `spread` shows them."""
    return spread([upper / lower for upper, lower in zip(above, below, strict=True)], form)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table."""
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def print_notes(repeats: int, *notes: str, versions: Mapping[str, str] | None = None) -> None:
    """How often was measured, on what, with which versions."""
    often = "Measured once." if repeats == 1 else f"Median (extremes) of {repeats} rounds in turns; ratios within a round."
    from resnet_cli.jobs.record import versions as ours  # not before what measures memory is done

    print("\n" + " ".join([often, *notes]))
    print(f"\n{machine()}; " + ", ".join(f"{name} {number}" for name, number in (ours() | dict(versions or {})).items()))


def machine() -> str:
    """The CPU, the cores that this process may use, memory."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    halves = [flag for flag in ("avx512_bf16", "amx_bf16", "amx_int8", "avx512_vnni") if flag in facts.get("flags", "").split()]
    return ", ".join([name, f"{cores} cores", *halves, f"{memory:.0f} GiB of memory"])


@contextmanager
def workplace() -> Iterator[Path]:
    """A temporary folder with an empty `cache` in it; gone afterwards, also when the script fails or is stopped."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="resnet-benchmark-") as name:
        place = Path(name)
        (place / "cache").mkdir()
        yield place


@contextmanager
def fresh(place: Path) -> Iterator[Path]:
    """A folder inside `place` with an empty `cache`, for one turn."""
    with tempfile.TemporaryDirectory(dir=place) as name:
        (Path(name) / "cache").mkdir()
        yield Path(name)


def images_by_class(folder: Path) -> dict[str, list[Path]]:
    """The images of a data set, by class: those in its `train` folder where it has one."""
    root = folder / "train" if (folder / "train").is_dir() else folder
    names = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    found = {name: sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in _IMAGES) for name in names}
    found = {name: images for name, images in found.items() if images}
    if len(found) < 2:
        raise SystemExit(f"{folder} needs a folder of JPEG or PNG images for each of two or more classes")
    return found


def drawn_by_share(folder: Path) -> list[tuple[str, Path]]:
    """All images of a data set with their classes, so mixed that the first N of them have every class by its share."""
    found = images_by_class(folder)
    places = sorted(
        ((index + 0.5) / len(images), name, path) for name, images in found.items() for index, path in enumerate(images)
    )
    return [(name, path) for _, name, path in places]


def lay_out(folder: Path, target: Path, count: int | None = None) -> int:
    """Links to `count` images of a data set (None: all), in class folders, every class by its share; returns how many.

    All contenders get the same folder, whatever layout the data set has.
    """
    images = drawn_by_share(folder)
    if count is not None and count > len(images):
        raise SystemExit(f"{folder} has {len(images)} images, not {count}")
    for number, (name, path) in enumerate(images[:count]):
        (target / name).mkdir(parents=True, exist_ok=True)
        (target / name / f"{number:06}{path.suffix.lower()}").symlink_to(path.resolve())
    return len(images[:count])


def random_run(folder: Path, data: Path) -> Path:
    """Make a run of a ResNet50 at 224 pixels with random weights and the classes of `data`, and model.keras in it."""
    classes = json.dumps(list(images_by_class(data)))
    run([sys.executable, "-c", _MAKE_RUN, folder, data.resolve(), classes], folder.parent / "cache")
    return folder


def positive(word: str) -> int:
    """A whole number from 1 on, for argparse."""
    number = int(word)
    if number < 1:
        raise ValueError(word)
    return number
