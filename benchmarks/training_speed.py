"""Training speed on the CPU: this program, a plain Keras `fit` and torch, in turns, a process each.

    python benchmarks/training_speed.py [--rounds 3] [--steps 20] [--networks resnet20 ...] [--torch-python PATH | --skip-torch]

All train the same architecture, with the same batch: 128 images of 32 pixels for resnet20 and resnet18-compact, 16 of 224 for
resnet50; their parameter counts must agree. training_keras.py and training_torch.py say what each of them does. "Alone" and
torch repeat one batch that is in memory, and torch is spared the accuracy that Keras computes at every step. "With pipeline"
augments images that are drawn here: PNG of 32 pixels, kept decoded, and JPEG photos of 500 x 375, decoded anew each time. A
process counts for the median of its steps after a warm-up, the table has the median of the rounds and the extremes, and ratios
are taken within a round.

Torch lives in an environment of its own, `.venv-torch` in the checkout, made at the first run (5 GB of disk where its package
brings GPU libraries along).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_HERE = Path(__file__).parent
WARM_UP = 10  # steps: compilation, and the batches that threads made ahead in the meantime


@dataclass(frozen=True)
class Setting:
    """What a network is trained on."""

    classes: int
    batch_size: int
    image: tuple[int, int]  # width and height of the files


SETTINGS = {
    "resnet20": Setting(10, 128, (32, 32)),
    "resnet18-compact": Setting(10, 128, (32, 32)),
    "resnet50": Setting(1000, 16, (500, 375)),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="measured steps a process, after the warm-up")
    parser.add_argument("--networks", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--torch-python", type=Path, help="Python of an environment that has torch")
    parser.add_argument("--skip-torch", action="store_true")
    options = parser.parse_args()
    torch = None if options.skip_torch else options.torch_python or _torch_environment()
    versions: dict[str, str] = {}
    rows = []
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            steps = WARM_UP + options.steps
            draw(Path(folder), SETTINGS[name], steps)
            rounds = []
            for number in range(options.rounds):
                print(f"{name}, round {number + 1}", file=sys.stderr)
                rounds.append(_turns(name, steps, folder, torch, versions))
        rows.append(_row(name, rounds))
    print(
        "| network, images/s | alone | with pipeline | Keras | torch | alone / Keras | alone / torch | with pipeline / alone |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    print(f"\nMedian (extremes) of {options.rounds} rounds of {options.steps} steps. {processor()}; ", end="")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))


def _turns(name: str, steps: int, folder: str, torch: Path | None, versions: dict[str, str]) -> dict[str, float]:
    """Each contender once: images/s by contender. Versions are noted in `versions`."""
    setting = SETTINGS[name]
    results: dict[str, dict[str, Any]] = {}
    for kind in ("alone", "pipeline", "keras"):
        words = [kind, name, setting.classes, setting.batch_size, steps, folder]
        results[kind] = contend(kind, Path(sys.executable), "training_keras.py", words)
    if torch is not None:
        ours = results["alone"]
        # Half precision on the same CPUs as ours: where it is emulated, it would take torch seven times as long.
        precision = ours["versions"]["precision"]
        words = [json.dumps(ours["network"]), setting.classes, ours["image_size"], setting.batch_size, steps, precision]
        results["torch"] = contend("torch", torch, "training_torch.py", words)
    counts = {kind: result["parameters"] for kind, result in results.items()}
    if len(set(counts.values())) > 1:
        raise SystemExit(f"{name}: the contenders differ in trainable parameters: {counts}")
    for result in results.values():
        versions.update(result["versions"])
    return {kind: setting.batch_size / statistics.median(result["seconds"][WARM_UP:]) for kind, result in results.items()}


def contend(kind: str, python: Path, script: str, words: list[Any]) -> dict[str, Any]:
    """One process; what it prints on its last line."""
    # On the CPU even where there is a GPU; TensorFlow's greetings are of no use here.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow"}
    command = [str(python), str(_HERE / script), *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    milliseconds = statistics.median(result["seconds"][WARM_UP:]) * 1000
    print(f"  {kind}: {milliseconds:.0f} ms a step", file=sys.stderr)
    return result


def _row(name: str, rounds: list[dict[str, float]]) -> str:
    """A line of the table, from images/s by contender of every round."""
    kinds = ("alone", "pipeline", "keras", "torch")
    cells = [spread([speeds[kind] for speeds in rounds if kind in speeds], ".1f") for kind in kinds]
    for above, below in (("alone", "keras"), ("alone", "torch"), ("pipeline", "alone")):
        cells.append(spread([speeds[above] / speeds[below] for speeds in rounds if below in speeds], ".2f"))
    return f"| {name} | {' | '.join(cells)} |"


def spread(values: list[float], form: str) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def draw(folder: Path, setting: Setting, steps: int) -> None:
    """Images that compress like photos, enough for every step: a coarse noise, smoothed, under a fine one."""
    random = np.random.default_rng(0)
    width, height = setting.image
    ending = "png" if width == 32 else "jpg"
    for number in range((steps + 1) * setting.batch_size):
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        fine = random.integers(-12, 13, (height, width, 3))
        pixels = np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8)
        place = folder / f"class{number % 10}"
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:05}.{ending}")


def _torch_environment() -> Path:
    """Python of `.venv-torch`, made where it is missing."""
    python = _HERE.parent / ".venv-torch" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "torch"], check=True)
    return python


def processor() -> str:
    """Name of the CPU and cores that this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


if __name__ == "__main__":
    main()
