"""What each acceleration of training is worth, end to end: training speed with all of them, and without each in turn.

    python benchmarks/accelerations.py [--rounds 2] [--steps 15] [--networks resnet20 ...]

Trains as `resnet train` does (training_keras.py, "alone": one batch that is in memory), a process for each measurement, with
`RESNET_WITHOUT` set to one name after the other. Batches are those of training_speed.py. A ratio is speed with all of them, the
mean of a process at the beginning and one at the end of the round, over speed without that one; the table has the median of the
rounds and the extremes.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from training_speed import SETTINGS, WARM_UP, contend, draw, processor, spread


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=15, help="measured steps a process, after the warm-up")
    parser.add_argument("--networks", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options = parser.parse_args()
    # Imported here: they import Keras, which `--help` need not wait for.
    from resnet_cli.networks.accelerations import ACCELERATIONS

    kinds = ["", *ACCELERATIONS]
    rows, versions = [], {}
    for network in options.networks:
        rounds: list[dict[str, float]] = []
        with tempfile.TemporaryDirectory() as folder:
            steps = WARM_UP + options.steps
            draw(Path(folder), SETTINGS[network], steps)
            for number in range(options.rounds):
                print(f"{network}, round {number + 1}", file=sys.stderr)
                speeds = {name: _speed(network, steps, folder, name, versions) for name in kinds}
                speeds[""] = (speeds[""] + _speed(network, steps, folder, "", versions)) / 2
                rounds.append(speeds)
        cells = [spread([each[""] for each in rounds], ".1f")]
        cells += [spread([each[""] / each[name] for each in rounds], ".2f") for name in ACCELERATIONS]
        rows.append(f"| {network} | {' | '.join(cells)} |")
    print(f"| network | all, images/s | {' | '.join(f'with / without {name}' for name in ACCELERATIONS)} |")
    print("|---" * (len(ACCELERATIONS) + 2) + "|")
    print("\n".join(rows))
    print(f"\nMedian (extremes) of {options.rounds} rounds of {options.steps} steps. {processor()}; ", end="")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))


def _speed(network: str, steps: int, folder: str, without: str, versions: dict[str, str]) -> float:
    """Images a second of one process."""
    setting = SETTINGS[network]
    os.environ["RESNET_WITHOUT"] = without
    words = ["alone", network, setting.classes, setting.batch_size, steps, folder]
    result = contend(without or "all", Path(sys.executable), "training_keras.py", words)
    versions |= result["versions"] if not without else {}
    return setting.batch_size / statistics.median(result["seconds"][WARM_UP:])


if __name__ == "__main__":
    main()
