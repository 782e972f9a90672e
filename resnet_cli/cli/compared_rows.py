"""The figures of a comparison: a row for every network and recipe, runs of several seeds in one (light).

In: groups of `Trained`. Out: `Row`s, which are printed, drawn and given as JSON.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

from resnet_cli.cli.compared_runs import Trained, options_of
from resnet_cli.networks.parameters import parameter_count

_WEIGHTIEST = ("weights", "recipe", "optimizer", "learning_rate", "batch_size", "schedule")
_NAMED = 5  # options in which rows differ


@dataclass(frozen=True)
class Spread:
    """Mean over runs, and their sample standard deviation; None for a single run."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Errors:
    """Shares of wrong answers, 0..1: the lowest of all epochs, and after the last."""

    best: Spread
    final: Spread


@dataclass(frozen=True)
class Row:
    """Figures of runs that differ by their seed alone: what --json prints.

    Attributes:
        label: network, with what tells it from the other rows.
        runs, seeds, epochs: a value a run.
        test_error: of the weights that were kept, on test pictures that chose nothing; None where there are none.
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
    """The figures of every group."""
    return [_row(label, group) for label, group in zip(_labels(groups), groups, strict=True)]


def notes_on(trained: Sequence[Trained], rows: Sequence[Row]) -> list[str]:
    """What a reader must know to take the figures for no more than they are."""
    notes = []
    if len({each.fingerprint for each in trained}) > 1:
        notes.append("the runs hold out different pictures of the same data set (another seed or --val-split)")
    by_folder = {str(each.folder): each for each in trained}
    notes += _different([options_of(by_folder[row.runs[0]]) for row in rows])
    for row in rows:
        if row.stage != "train":
            notes.append(
                f"{row.label}: epochs, errors and images/s are those of its stage {row.stage}, whose weights were kept"
            )
    return notes


def _different(options: Sequence[dict[str, Any]]) -> list[str]:
    """The options in which rows differ, in the order of the rows; the epochs stand in the table.

    Those that only some of the commands have tell nothing of the others.
    """
    known = set[str].intersection(*(set(each) for each in options)) - {"epochs"}
    names = [*(name for name in _WEIGHTIEST if name in known), *sorted(known - set(_WEIGHTIEST))]
    values = {name: [json.dumps(each.get(name)).strip('"') for each in options] for name in names}
    differing = [f"--{name.replace('_', '-')} {' / '.join(of)}" for name, of in values.items() if len(set(of)) > 1]
    more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
    return [f"the rows differ in {', '.join(differing[:_NAMED])}{more}"] if differing else []


def _labels(groups: Sequence[tuple[Trained, ...]]) -> list[str]:
    """The network's name, and where that is not enough the shortcut option, what was measured on, at last the folder."""
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
