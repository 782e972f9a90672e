"""The runs that `compare` sets side by side: opened, and told apart by everything but their seeds (light).

In: run folders. Out: `Trained`, in groups of runs that differ by their seed alone.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from resnet_cli.data.trained import is_validated_by_test
from resnet_cli.errors import ResnetError
from resnet_cli.history import EpochRecord, read_history
from resnet_cli.networks.spec import ClassifierSpec, spec_from_record
from resnet_cli.runs import Run, is_evaluation, is_rate_search, load_run, read_splits


@dataclass(frozen=True)
class Trained:
    """What is compared of one run.

    Attributes:
        folder: the run.
        dataset: name of its data set.
        pictures: hash of the pictures, whichever split they are in; "" in runs of older versions.
        fingerprint: hash of the pictures and their splits.
        recipe: everything that was chosen but the seed, and the stage, as text.
        seed: of everything random.
        spec: its classifier.
        stage: "train", or the stage of fine-tuning whose weights were kept.
        history: the epochs of that stage, at least one.
        held_out: what it was measured on after every epoch.
        test_error: of the weights that were kept, on test pictures that chose nothing; None where there are none.
        seconds: time of all stages.
    """

    folder: Path
    dataset: str
    pictures: str
    fingerprint: str
    recipe: str
    seed: int
    spec: ClassifierSpec
    stage: str
    history: tuple[EpochRecord, ...]
    held_out: Literal["validation", "test"]
    test_error: float | None
    seconds: float

    @property
    def train_errors(self) -> list[float]:
        """Share of wrong answers by epoch, 0..1, measured while learning."""
        return [1 - record.accuracy for record in self.history]

    @property
    def held_out_errors(self) -> list[float]:
        """Share of wrong answers by epoch, 0..1, on what was held out."""
        return [1 - record.val_accuracy for record in self.history]


def read_runs(folders: Iterable[Path]) -> list[Trained]:
    """Open runs; a folder that is named twice counts once; evaluations and searches for a rate, which runs/* fits too, do not.

    Raises:
        ResnetError: a run is incomplete or damaged, or was trained on other pictures than the first.
    """
    named = list({folder.resolve(): folder for folder in folders}.values())
    runs = [folder for folder in named if not (is_evaluation(folder) or is_rate_search(folder))]
    trained = [_read(folder) for folder in runs or named]
    first = trained[0]
    for each in trained[1:]:
        # Another seed may have drawn other splits from the same pictures.
        same_pictures = bool(first.pictures) and first.pictures == each.pictures
        if first.fingerprint != each.fingerprint and not same_pictures:
            raise ResnetError(
                f"{first.folder} and {each.folder} were trained on different pictures ({first.dataset}, {each.dataset})",
                "errors on different data sets cannot be compared: name runs of one data set",
            )
    return trained


def group_by_seed(trained: Sequence[Trained]) -> list[tuple[Trained, ...]]:
    """Runs that differ by their seed alone, together; the groups in the order of their first runs."""
    groups: dict[tuple[str, int], list[Trained]] = defaultdict(list)
    seen: Counter[tuple[str, int]] = Counter()
    for each in trained:
        # A seed that comes again is a repetition: it says nothing of the spread over seeds, so it gets a row of its own.
        groups[each.recipe, seen[each.recipe, each.seed]].append(each)
        seen[each.recipe, each.seed] += 1
    return [tuple(group) for group in groups.values()]


def _read(folder: Path) -> Trained:
    run = load_run(folder)
    records = read_history(folder / "metrics.jsonl")
    try:
        data, results, counts = run.record["data"], run.record["results"], run.record["data"]["counts"]
        stage = results.get("kept", "train")
        history = tuple(each for each in records if each.stage == stage)
        if not history:
            raise ResnetError(f"{folder / 'metrics.jsonl'} holds no epoch of stage {stage}", "train the run anew")
        held_out = _held_out(run) if counts["val"] == counts.get("test") else "validation"
        return Trained(
            folder=folder,
            dataset=data["name"],
            pictures=data.get("pictures", ""),
            fingerprint=data["fingerprint"],
            recipe=_recipe(run.record, stage),
            seed=run.record["seed"],
            spec=spec_from_record(run.record),
            stage=stage,
            history=history,
            held_out=held_out,
            # What chose the epoch to keep is no test of it.
            test_error=1 - results["test"]["top1"] if "test" in results and held_out == "validation" else None,
            # A run that was resumed counted its time from there on; its epochs know nothing of the time before the first.
            seconds=max(results["seconds"], sum(each.seconds for each in records)),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ResnetError(f"{folder / 'run.json'} does not describe a training: {error}", "train the run anew") from error


def options_of(trained: Trained) -> dict[str, Any]:
    """The options that a run was trained with, and the kind of weights that it began with."""
    _, (weights, _), options, _ = json.loads(trained.recipe)
    return {"weights": weights, **options}


def _recipe(record: dict[str, Any], stage: str) -> str:
    network = [record[name] for name in ("classes", "network", "image_size", "head")]
    weights = [record["weights"][name] for name in ("source", "sha256")]
    options = {name: value for name, value in record["config"].items() if name != "seed"}
    return json.dumps([network, weights, options, stage], sort_keys=True)


def _held_out(run: Run) -> Literal["validation", "test"]:
    """With --val-split 0 the pictures that epochs were measured on are the test folder's."""
    return "test" if is_validated_by_test(read_splits(run)) else "validation"
