"""The geometry that a run was trained with, read from its record.

In: a run. Out: a `Geometry`.
"""

from resnet_cli.data.decode import Geometry
from resnet_cli.errors import ResnetError
from resnet_cli.runs import Run


def run_geometry(run: Run) -> Geometry:
    """How pictures reach the input size of this run's classifier.

    Raises:
        ResnetError: run.json lacks it.
    """
    try:
        words = run.record["input"]
        return Geometry(int(run.record["image_size"]), words["resize"], float(words["fraction"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ResnetError(f"{run.folder / 'run.json'} does not describe the input: {error}", "the run is damaged") from error
