"""Training curves as a picture.

In: a run's metrics.jsonl. Out: curves.png: loss and accuracy, training dashed, held-out solid.
"""

import io
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from resnet_cli.runs import write_bytes

_COLOURS = {"train": "tab:blue", "tail": "tab:blue", "head": "tab:orange"}


def draw_curves(metrics: Path, picture: Path, title: str) -> None:
    """Draw loss and accuracy over the epochs of every stage.

    Args:
        metrics: lines as `learning.callbacks.EpochRecord` writes them.
        picture: PNG to write.
        title: of the figure.
    """
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure, (loss, accuracy) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for stage in dict.fromkeys(record["stage"] for record in records):
        rows = [record for record in records if record["stage"] == stage]
        _lines(loss, rows, "loss", stage)
        _lines(accuracy, rows, "accuracy", stage)
    loss.set(xlabel="epoch", ylabel="cross-entropy, nats")
    accuracy.set(xlabel="epoch", ylabel="accuracy", ylim=(None, 1.0))
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    plt.close(figure)
    write_bytes(picture, buffer.getbuffer())


def _lines(axes: Any, rows: list[dict[str, Any]], figure: str, stage: str) -> None:
    epochs = [row["epoch"] for row in rows]
    colour = _COLOURS[stage]
    axes.plot(epochs, [row[figure] for row in rows], "--", color=colour, label=f"{stage}, training")
    axes.plot(epochs, [row[f"val_{figure}"] for row in rows], "-", color=colour, label=f"{stage}, held out")
