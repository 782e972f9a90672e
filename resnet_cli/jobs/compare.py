"""Compare runs: open them, group runs that differ only by seed, and compute a row of metrics for each group (light).

In: run folders. Out: `Trained`, in groups of runs that differ only by seed, and their rows.
"""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any, Literal

from resnet_cli.data.contents import is_validated_by_test
from resnet_cli.data.folders import COMPARED_BY, is_figure
from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import ClassifierSpec, parameter_count, spec_from_record
from resnet_cli.runs.folder import EpochRecord, Run, is_evaluation, is_rate_search, load_run, read_history, read_splits
from resnet_cli.training.config import FinetuneConfig

if TYPE_CHECKING:
    from resnet_cli.reports.comparison import Pair


@dataclass(frozen=True)
class Trained:
    """The data of one run for a comparison.

    Attributes:
        folder: the run.
        dataset: name of its data set.
        images: hash of the images, regardless of splits; "" in runs of older versions.
        fingerprint: hash of the images and their splits.
        recipe: all settings except the seed, and the stage, as text.
        seed: random seed.
        spec: its classifier.
        stage: "train", or the stage of fine-tuning whose weights were kept.
        history: the epochs of that stage, at least one.
        held_out: the split that was evaluated after every epoch.
        test_error: error of the kept weights on test images that did not select the epoch; None if there are none.
        seconds: time of all stages.
    """

    folder: Path
    dataset: str
    images: str
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
        """Training error by epoch, 0..1, measured during training."""
        return [1 - record.accuracy for record in self.history]

    @property
    def held_out_errors(self) -> list[float]:
        """Error on the held-out images by epoch, 0..1."""
        return [1 - record.val_accuracy for record in self.history]


def require_own_figure(image: Path) -> None:
    """Check that a figure may be written to a path: it replaces an earlier comparison, but no other file.

    Raises:
        ResnetError: it is neither PNG nor SVG, or another file has that name.
    """
    if image.suffix.lower() not in (".png", ".svg"):
        raise ResnetError(f"--output {image} is neither .png nor .svg", "such as --output compare.png")
    if not image.exists():
        return
    if image.is_file() and is_figure(image, COMPARED_BY):
        return
    raise ResnetError(f"{image} exists and is not a figure of `{COMPARED_BY}`", "choose another --output")


def read_runs(folders: Iterable[Path]) -> list[Trained]:
    """Open runs; a folder given twice counts once; evaluations and range tests, which runs/* matches too, are skipped.

    Raises:
        ResnetError: a run is incomplete or damaged, or was trained on other images than the first.
    """
    named = list({folder.resolve(): folder for folder in folders}.values())
    runs = [folder for folder in named if not (is_evaluation(folder) or is_rate_search(folder))]
    trained = [_read(folder) for folder in runs or named]
    first = trained[0]
    for each in trained[1:]:
        # Another seed may have drawn other splits from the same images.
        same_images = bool(first.images) and first.images == each.images
        if first.fingerprint != each.fingerprint and not same_images:
            raise ResnetError(
                f"{first.folder} and {each.folder} were trained on different images ({first.dataset}, {each.dataset})",
                "errors on different data sets cannot be compared: name runs of one data set",
            )
    return trained


def group_by_seed(trained: Sequence[Trained]) -> list[tuple[Trained, ...]]:
    """Group runs that differ only by seed; groups are in the order of their first runs."""
    groups: dict[tuple[str, int], list[Trained]] = defaultdict(list)
    seen: Counter[tuple[str, int]] = Counter()
    for each in trained:
        # A second run with the same seed tells nothing about the spread over seeds, so it gets its own row.
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
            raise ResnetError(f"{folder / 'metrics.jsonl'} has no epoch of stage {stage}", "train the run again")
        held_out = _held_out(run) if counts["val"] == counts.get("test") else "validation"
        return Trained(
            folder=folder,
            dataset=data["name"],
            images=data.get("pictures", ""),
            fingerprint=data["fingerprint"],
            recipe=_recipe(run.record, stage),
            seed=run.record["seed"],
            spec=spec_from_record(run.record),
            stage=stage,
            history=history,
            held_out=held_out,
            # Images that selected the epoch are not test images.
            test_error=1 - results["test"]["top1"] if "test" in results and held_out == "validation" else None,
            # `seconds` of a resumed run may only count from its resumption; epochs do not include the time before the first.
            seconds=max(results["seconds"], sum(each.seconds for each in records)),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ResnetError(f"{folder / 'run.json'} does not describe a training: {error}", "train the run again") from error


def options_of(trained: Trained) -> dict[str, Any]:
    """The options that a run was trained with, and the kind of its initial weights."""
    _, (weights, _), options, _ = json.loads(trained.recipe)
    return {"weights": weights, **options}


def _recipe(record: dict[str, Any], stage: str) -> str:
    network = [record[name] for name in ("classes", "network", "image_size", "head")]
    weights = [record["weights"][name] for name in ("source", "sha256")]
    config = record["config"]
    if "unfreeze" in config:  # keys that an older run does not name had their defaults
        config = {**asdict(FinetuneConfig()), **config}
    options = {name: value for name, value in config.items() if name not in ("seed", "cache", "cache_limit")}
    return json.dumps([network, weights, options, stage], sort_keys=True)


def _held_out(run: Run) -> Literal["validation", "test"]:
    """The split that epochs were evaluated on: with --val-split 0 it is the test folder."""
    return "test" if is_validated_by_test(read_splits(run)) else "validation"


_WEIGHTIEST = ("weights", "recipe", "optimizer", "learning_rate", "batch_size", "schedule")
_NAMED = 5  # most options named in the note on differences


@dataclass(frozen=True)
class Spread:
    """Mean over runs, and their sample standard deviation; None for a single run."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Errors:
    """Errors, 0..1: the lowest of all epochs, and after the last epoch."""

    best: Spread
    final: Spread


@dataclass(frozen=True)
class Row:
    """Metrics of runs that differ only by seed, as printed by --json.

    Attributes:
        label: name of the network, with what distinguishes it from the other rows.
        runs, seeds, epochs: one value per run.
        test_error: error of the kept weights on test images that did not select the epoch; None if there are none.
        images_per_second: mean over runs of the median epoch.
        seconds: mean over runs.
    """

    label: str
    network: str
    shortcut: str
    parameters: int
    stage: str
    held_out: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    epochs: tuple[int, ...]
    train_error: Errors
    held_out_error: Errors
    test_error: Spread | None
    images_per_second: float
    seconds: float


def make_rows(groups: Sequence[tuple[Trained, ...]]) -> list[Row]:
    """The metrics of every group."""
    return [_row(label, group) for label, group in zip(_labels(groups), groups, strict=True)]


def notes_on(trained: Sequence[Trained], rows: Sequence[Row]) -> list[str]:
    """Notes that are needed to interpret the metrics."""
    notes = []
    if len({each.fingerprint for each in trained}) > 1:
        notes.append("the runs hold out different images of the same data set (another seed or --val-split)")
    by_folder = {str(each.folder): each for each in trained}
    notes += _different([options_of(by_folder[row.runs[0]]) for row in rows])
    for row in rows:
        if row.stage != "train":
            notes.append(
                f"{row.label}: epochs, errors and images/s are those of its stage {row.stage}, whose weights were kept"
            )
    return notes


def _different(options: Sequence[dict[str, Any]]) -> list[str]:
    """The options in which rows differ, in the order of the rows; epochs are in the table.

    Options that only some of the commands have are not compared, nor values that only one command leaves to the program (None).
    """
    known = set[str].intersection(*(set(each) for each in options)) - {"epochs"}
    if len({"unfreeze" in each for each in options}) > 1:
        known = {name for name in known if all(each[name] is not None for each in options)}
    names = [*(name for name in _WEIGHTIEST if name in known), *sorted(known - set(_WEIGHTIEST))]
    values = {name: ["auto" if each[name] is None else json.dumps(each[name]).strip('"') for each in options] for name in names}
    differing = [f"{name} {' / '.join(of)}" for name, of in values.items() if len(set(of)) > 1]
    more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
    return [f"the rows differ in {', '.join(differing[:_NAMED])}{more}"] if differing else []


def _labels(groups: Sequence[tuple[Trained, ...]]) -> list[str]:
    """The network's name and, as far as needed to distinguish rows, the shortcut option, the measured split and the folder."""
    firsts = [group[0] for group in groups]
    options: dict[str, set[str]] = defaultdict(set)
    for first in firsts:
        options[first.spec.network.name].add(first.spec.network.shortcut)
    labels = []
    for first in firsts:
        network = first.spec.network
        words = [network.name]
        words += [f"shortcut {network.shortcut}"] if len(options[network.name]) > 1 else []
        words += ["fine-tuned"] if first.stage != "train" else []
        words += [first.held_out] if len({each.held_out for each in firsts}) > 1 else []
        labels.append(", ".join(words))
    counts = Counter(labels)
    return [label if counts[label] == 1 else f"{label} ({first.folder})" for label, first in zip(labels, firsts, strict=True)]


def _row(label: str, group: tuple[Trained, ...]) -> Row:
    first = group[0]
    network = first.spec.network
    tested = [each.test_error for each in group if each.test_error is not None]
    return Row(
        label=label,
        network=network.name,
        shortcut=network.shortcut,
        parameters=parameter_count(network, first.spec.classes, first.spec.hidden),
        stage=first.stage,
        held_out=first.held_out,
        runs=tuple(str(each.folder) for each in group),
        seeds=tuple(each.seed for each in group),
        epochs=tuple(len(each.history) for each in group),
        train_error=_errors([each.train_errors for each in group]),
        held_out_error=_errors([each.held_out_errors for each in group]),
        test_error=_spread(tested) if tested else None,
        images_per_second=fmean(median(record.images_per_second for record in each.history) for each in group),
        seconds=fmean(each.seconds for each in group),
    )


def _errors(runs: list[list[float]]) -> Errors:
    return Errors(_spread([min(errors) for errors in runs]), _spread([errors[-1] for errors in runs]))


def _spread(values: list[float]) -> Spread:
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None)


_CHANGED = 24  # images of a report, of either kind


def pairs_of(trained: Sequence[Trained]) -> "list[Pair]":
    """What changed from the first run to each of the others, by the predictions of their held-out images.

    Only images that both runs have measured with the same true class are compared, by their paths in the data set; a pair
    without any is left out.
    """
    from scipy.stats import binomtest

    from resnet_cli.reports.comparison import Guess, Pair

    pairs = []
    first, before = trained[0], _predictions(trained[0].folder)
    for other in trained[1:]:
        after = _predictions(other.folder)
        common = [path for path in before if path in after and before[path].true == after[path].true]
        if not common:
            continue
        by_right: dict[tuple[bool, bool], list[Guess]] = defaultdict(list)
        for path in common:
            one, two = before[path], after[path]
            guess = Guess(one.path, one.true, one.predicted, one.probability, two.predicted, two.probability)
            by_right[one.right, two.right].append(guess)
        lost, gained = by_right[True, False], by_right[False, True]
        changed = len(lost) + len(gained)
        p_value = float(binomtest(len(lost), changed).pvalue) if changed else 1.0
        lost.sort(key=lambda guess: -guess.second_probability)
        gained.sort(key=lambda guess: -guess.first_probability)
        counts = (len(by_right[True, True]), len(lost), len(gained), len(by_right[False, False]))
        names = (str(first.folder), str(other.folder))
        pairs.append(Pair(*names, *counts, p_value, lost[:_CHANGED], gained[:_CHANGED]))
    return pairs


@dataclass(frozen=True)
class _Predicted:
    """A line of predictions.csv."""

    path: Path
    true: str
    predicted: str
    probability: float

    @property
    def right(self) -> bool:
        return self.true == self.predicted


def _predictions(folder: Path) -> dict[str, _Predicted]:
    """The held-out images of a run, by their path in the data set, with its predictions; empty without a predictions.csv.

    predictions.csv has paths as the data set was named: relative ones after a training, absolute ones after `evaluate`.
    """
    path, run = folder / "predictions.csv", load_run(folder)
    if not path.exists():
        return {}
    known, root = {row.path for row in read_splits(run)}, Path(run.record["data"].get("path", "."))
    found = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                named = Path(line["path"])
                inside = _inside(named, known)
                image = named if named.exists() else root / inside
                found[inside] = _Predicted(image, line["true"], line["predicted"], float(line["probability"]))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ResnetError(f"{path} cannot be read: {error}", f"write it again: resnet evaluate --run {folder}") from error
    return found


def _inside(path: Path, known: Set[str]) -> str:
    """The end of a path that is a known path in the data set; the whole path if none is."""
    ends = ("/".join(path.parts[start:]) for start in range(len(path.parts)))
    return next((end for end in ends if end in known), path.as_posix())
