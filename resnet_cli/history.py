"""What every epoch of a run came to: metrics.jsonl, and the same as metrics.csv (light: the standard library only).

In: a run's folder. Out: `EpochRecord`s.
"""

import json
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

from resnet_cli.errors import ResnetError
from resnet_cli.files import write_csv


@dataclass(frozen=True)
class EpochRecord:
    """One line of metrics.jsonl.

    Accuracies are shares, 0..1; stage is "train", "head" or "tail". `loss` is what training minimises: cross-entropy in nats,
    with label smoothing and class weights where these are used. `val_loss` is plain cross-entropy in nats, in every stage.
    """

    stage: str
    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    images_per_second: float
    seconds: float
    val_top5: float | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """Smaller is better: a higher validation accuracy, and of equal ones the lower validation loss."""
        return -self.val_accuracy, self.val_loss

    def to_line(self) -> str:
        """The line of metrics.jsonl."""
        return json.dumps(asdict(self), allow_nan=False) + "\n"


def read_history(path: Path) -> list[EpochRecord]:
    """The records of a metrics.jsonl, oldest first; a last line that was cut off is passed over, a missing file is empty.

    Raises:
        ResnetError: a line is no record.
    """
    try:
        lines = path.read_text().splitlines() if path.exists() else []
        return [EpochRecord(**json.loads(line)) for line in lines if line.endswith("}")]
    except (OSError, ValueError, TypeError) as error:
        raise ResnetError(f"{path} cannot be read: {error}", "the run is damaged: train it anew") from error


def write_metrics_csv(folder: Path) -> None:
    """Write a run's metrics.csv: the columns and lines of its metrics.jsonl, an absent value left empty."""
    names = [field.name for field in fields(EpochRecord)]
    write_csv(folder / "metrics.csv", [names, *map(astuple, read_history(folder / "metrics.jsonl"))])
