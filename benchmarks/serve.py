"""`resnet serve` under load against `resnet predict` on the same images, in turns.

    python benchmarks/serve.py FOLDER [--requests 500] [--clients 16] [--repeats 3]

FOLDER has a folder of photos per class. For a ResNet50 at 224 pixels with random weights and for the bundled network: images/s
of `resnet predict --json`, without its start (from what the images past the first 16 take in addition), and of `resnet serve`
with 16 clients, each of which sends its next request when the last one is answered. The bundled network, which is fast, gets
four times as many images, and is also sent 16 images a request. The clients run in one process on the same cores: their
processor time is given, and the rates include it.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from bulk import FEW, HERE, Folders, lay_out_twice
from common import RANDOM, RESNET, in_turns, positive, print_notes, print_table, random_run, ratio, run, spread, workplace

_MANY = 16  # images in a request


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--requests", type=positive, default=500)
    parser.add_argument("--clients", type=positive, default=16)
    parser.add_argument("--repeats", type=positive, default=3)
    options = parser.parse_args()
    with workplace() as place:
        cache = place / "cache"
        (place / "fast").mkdir()
        few = lay_out_twice(options.folder, place, options.requests)
        many = lay_out_twice(options.folder, place / "fast", 4 * options.requests)
        networks: dict[str, tuple[list[Path | str], Folders]] = {
            "ResNet50 at 224": (["--run", random_run(place / "run", options.folder)], few),
            "bundled": ([], many),
        }
        contenders: dict[str, Callable[[], dict[str, Any]]] = {}
        for name, (chosen, folders) in networks.items():
            contenders[f"{name}: predict"] = partial(_predicted, chosen, folders, cache)
            for together in (1, _MANY) if name == "bundled" else (1,):
                what = f"{name}: serve, {together} a request"
                contenders[what] = partial(_served, chosen, folders, cache, place, options.clients, together)
        results = in_turns(contenders, options.repeats)
    _report(results, options.clients)
    print_notes(options.repeats, RANDOM)


def _predicted(chosen: list[Path | str], folders: Folders, cache: Path) -> dict[str, Any]:
    command = [RESNET, "predict", "--json", "--quiet", *chosen]
    few, many = (run([*command, folder], cache) for folder in (folders.few, folders.many))
    images = folders.count - FEW
    rate, own = images / (many.seconds - few.seconds), (many.processor - few.processor) / images
    return {"rate": rate, "own": own}


def _served(
    chosen: list[Path | str], folders: Folders, cache: Path, place: Path, clients: int, together: int
) -> dict[str, Any]:
    with _server(chosen, cache, place) as url:
        command = [sys.executable, HERE / "serve_clients.py", url]
        run([*command, folders.few, str(clients), "1"], cache)  # memory is allotted at the first images
        before = _processor(url)
        found: dict[str, Any] = run([*command, folders.many, str(clients), str(together)], cache).result
        own = (_processor(url) - before) / found["images"]
    if found["lost"]:
        raise SystemExit(f"{found['lost']} requests were lost")
    return {**found, "rate": found["images"] / found["seconds"], "own": own}


def _processor(url: str) -> float:
    """Processor seconds of the server until now."""
    with urlopen(f"{url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith("process_cpu_seconds_total ")).split()[1])


@contextmanager
def _server(chosen: list[Path | str], cache: Path, place: Path) -> Iterator[str]:
    """A server on a free port; its URL once it is ready."""
    command = [RESNET, "serve", "--port", "0", *map(str, chosen)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "XDG_CACHE_HOME": str(cache)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=place)
    try:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith("ready"):
                break
        else:
            raise SystemExit(f"resnet serve did not start:\n{said}")
        yield next(line for line in said.splitlines() if line.startswith("serving")).split()[-1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def _report(results: dict[str, list[dict[str, Any]]], clients: int) -> None:
    rows = []
    for name, rounds in results.items():
        rates, own = [each["rate"] for each in rounds], spread([1000 * each["own"] for each in rounds], ".1f")
        if "lost" not in rounds[0]:
            rows.append([name, spread(rates, ".0f"), "", "", "", "", own, ""])
            continue
        network = name.partition(":")[0]
        answered = sum(len(each["requests"]) for each in rounds)
        shares = ratio(rates, [each["rate"] for each in results[f"{network}: predict"]], ".2f")
        latencies = [statistics.quantiles(each["requests"], n=100) for each in rounds]
        p50, p99 = (spread([1000 * each[place] for each in latencies], ".0f") for place in (49, 98))
        cost = spread([1000 * each["processor"] / each["images"] for each in rounds], ".2f")
        rows.append([name, spread(rates, ".0f"), shares, p50, p99, f"0 of {answered}", own, cost])
    names = ["images/s", "of predict's", "p50, ms", "p99, ms", "lost requests", "processor ms an image", "of the clients"]
    print_table([f"{clients} clients", *names], rows)


if __name__ == "__main__":
    main()
