"""The geometry that a run was trained with, read from its record.

In: a run. Out: a `Geometry`.
"""

from resnet_cli.data.decode import Geometry, pad_width
from resnet_cli.errors import ResnetError
from resnet_cli.runs import Run


def run_geometry(run: Run) -> Geometry:
    """How pictures reach the input size of this run's classifier.

    Raises:
        ResnetError: its record lacks it.
    """
    try:
        words, size = run.record["input"], int(run.record["image_size"])
        fraction = float(words["fraction"])
        padded = fraction == 1 and run.record.get("config", {}).get("crop") == "pad"
        return Geometry(size, words["resize"], fraction, pad_width(size) if padded else 0)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResnetError(f"{run.path} does not describe the input: {error}", "the run is damaged") from error
