"""Several runs that answer together: the same classes, in whatever order (light: the standard library only).

In: folders of runs, or of their OpenVINO exports. Out: the runs. Their probabilities are averaged in `classify`.
"""

from collections.abc import Sequence
from pathlib import Path

from resnet_cli.data.words import some_names
from resnet_cli.errors import ResnetError
from resnet_cli.inference.export_folder import load_classifier
from resnet_cli.runs import Run, load_run


def load_runs(folders: Sequence[Path]) -> tuple[Run, ...]:
    """Open runs that answer together; without folders, the newest complete one under runs/ alone.

    Raises:
        ResnetError: a run cannot be opened or is named twice, or two of them know different classes.
    """
    runs = tuple(map(load_classifier, folders)) or (load_run(),)
    for number, run in enumerate(runs):
        if any(run.folder.resolve() == other.folder.resolve() for other in runs[:number]):
            raise ResnetError(f"the run {run.folder} is named twice", "every --run counts once; leave one out")
        _require_same_classes(runs[0], run)
    return runs


def _require_same_classes(first: Run, other: Run) -> None:
    """Averaging a class that one of them never learned would count its silence as an answer."""
    pairs = ((first, other), (other, first))
    alone = [(knows, [name for name in knows.classes if name not in lacks.classes]) for knows, lacks in pairs]
    words = "; ".join(f"only {run.folder} knows {some_names(names)}" for run, names in alone if names)
    if words:
        raise ResnetError(f"the runs cannot answer together, their classes differ: {words}", "name one of them with --run")
