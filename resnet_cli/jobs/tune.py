"""`--tune`: try settings of `finetune` within a time, and choose those with the fewest mistakes in validation (heavy).

In: the plan of a fine-tuning, and its run folder. Out: a `Tuned`: the plan with the best settings. Trial 0 has the settings
that the run would have without --tune, so nothing is chosen that is worse in validation. No test image is opened.

A trial is what the run would do: frozen layers, head, fine-tuning. Stored features serve all trials of an image size and
augmentation. Where the time is too short for three fine-tunings, trials are heads on frozen features, and fine-tuning keeps its
settings. With few validation images, trials are scored on folds of the training and validation images: the error of
an accuracy falls with the square root of the number of images.
"""

import gc
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from resnet_cli.data.dataset import Dataset
from resnet_cli.data.split import stratified_folds
from resnet_cli.engines.frozen import engine_for
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.files import write_text
from resnet_cli.jobs.ends import pretrained, read_to_finetune
from resnet_cli.jobs.environment import kept_in_cache
from resnet_cli.jobs.plan import FinetunePlan, sizes_to_search
from resnet_cli.jobs.start import begun_with, remember
from resnet_cli.networks.classifier import feature_model
from resnet_cli.networks.precision import prepare
from resnet_cli.progress import GO_ON, Muted, Progress, how_long, how_many
from resnet_cli.training.callbacks import Diverged, is_perfect
from resnet_cli.training.checkpoints import untouched
from resnet_cli.training.config import FinetuneConfig, make_finetune_config, without_effect
from resnet_cli.training.tuning import (
    SIZE,
    Settings,
    Space,
    Trial,
    best_of,
    compared,
    described,
    head_alone,
    read_trials,
    recipe_text,
    suggest,
    why_ended,
    write_table,
    write_trials,
)
from resnet_cli.transfer.features import Material, augmentation_of
from resnet_cli.transfer.folds import part_of
from resnet_cli.transfer.phases import Frozen, run_frozen, seconds_to_fine_tune, transfer
from resnet_cli.transfer.time_limit import FrozenPace, measure_frozen

_FOLDER = Path("checkpoint", "tune")  # in a run
_TUNED, _FINE_TUNES = "tuned", "tune_fine_tunes"  # remembered in the run's configuration
_FEW, _FOLDS = 100, 3  # with fewer validation images, trials are scored on so many folds
_TRAININGS = 3  # fine-tunings that the time must have room for
_ATTEMPTS = 40  # suggestions in a row that are known, or too slow for the time left, before the search ends
_ALL = 4.0  # times that all layers cost of the last stage, until it has been measured


def tune(plan: FinetunePlan, folder: Path, progress: Progress) -> tuple[FinetunePlan, dict[str, Any]]:
    """Search for `plan.request.tune` seconds; a finished search of an interrupted run is not repeated.

    Returns:
        The plan with the best settings, and the field `tuning` of the JSON and of run.json.

    Raises:
        ResnetError: see `read_to_finetune`, `run_frozen` and `transfer`.
        Interrupted: a signal requested a stop; finished trials are kept.
    """
    record = begun_with(folder).get(_TUNED)
    if record is None:
        record = _Search(plan, folder, progress).run()
        remember(folder, _TUNED, record)
    shutil.rmtree(folder / _FOLDER, ignore_errors=True)
    if not record["trials"]:
        progress.warn(f"--tune {how_long(record['limit'])} was too short for one trial: the run has the default settings")
    elif not record["test"] and record["trials"] > 1:
        progress.warn(
            f"--tune chose the best of {record['trials']} trials by their accuracy, which is therefore too good for new images;"
            " there is no test folder that tells by how much"
        )
    chosen = dict(record["settings"])
    size = int(chosen.pop(SIZE, plan.geometry.size))
    config = replace(plan.config, **chosen)
    if record["trials"]:
        text = recipe_text(config, make_finetune_config("default", {}), without_effect(config), size)
        write_text(folder / "tuned.toml", text)
    return _with(plan, config, size), record


def _with(plan: FinetunePlan, config: FinetuneConfig, size: int) -> FinetunePlan:
    spec = replace(plan.spec, image_size=size, dropout=config.dropout)
    return replace(plan, config=config, spec=spec, geometry=spec.network.geometry(size, plan.geometry.resize))


class _OutOfTime(Exception):
    """The time ended within a trial."""


class _Search:
    """The trials of one run.

    Args:
        plan: with the default settings.
        folder: the run folder.
        progress: where to report.
    """

    def __init__(self, plan: FinetunePlan, folder: Path, progress: Progress) -> None:
        self._limit = plan.request.tune or 0.0
        self._folder, self._progress = folder, progress
        splits = {name: samples for name, samples in plan.dataset.splits.items() if name != "test"}
        self._plan = replace(plan, dataset=replace(plan.dataset, splits=splits))
        self._has_test = "test" in plan.dataset.splits
        self._folds = _folds_of(self._plan.dataset, plan.config.seed)
        self._muted = Muted(progress, lambda: self._left() <= 0)
        self._frozen: dict[tuple[int, str, str], Frozen] = {}
        self._cost: dict[str, float] = {}  # seconds of a fine-tuning at the usual image size, by `unfreeze`
        self._pace: FrozenPace | None = None
        self._file = folder / _FOLDER / "trials.jsonl"
        self._trials = read_trials(self._file)
        spent = self._trials[-1].spent if self._trials else 0.0
        self._began = time.perf_counter() - spent

    def run(self) -> dict[str, Any]:
        """Try settings until the time is over or nothing new fits; the record."""
        self._progress.line(
            f"tuning for {how_long(self._limit)}, scored on {self._scored_on()}; the run is trained after this time"
        )
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with suppress(_OutOfTime):
            space = self._space(self._fine_tunes())
            while self._left() > 0 and (settings := self._next(space)) is not None:
                trial = self._trial(space, settings)
                self._tell(trial, space)
                self._trials.append(trial)
                write_trials(self._file, self._trials)
                self._progress.saved(GO_ON)
            if self._left() > 0:
                self._progress.line(why_ended(space.count, len(self._trials), _ATTEMPTS))
        if not self._trials:
            return {"limit": self._limit, "trials": 0, "settings": {}, "test": self._has_test}
        write_table(self._folder / "trials.csv", self._trials, list(space.usual))
        return self._record(space)

    def _spent(self) -> float:
        return time.perf_counter() - self._began

    def _left(self) -> float:
        return self._limit - self._spent()

    def _scored_on(self) -> str:
        counts = {split: len(samples) for split, samples in self._plan.dataset.splits.items()}
        if self._folds is None:
            return how_many(counts["val"], "validation image")
        every = f"{_FOLDS} folds of all {sum(counts.values())} training and validation images"
        return f"{every}, as {how_many(counts['val'], 'validation image')} would be too few to choose by"

    def _space(self, fine_tunes: bool) -> Space:
        plan, request = self._plan, self._plan.request
        sizes = sizes_to_search(request, plan.spec.network, plan.source, plan.geometry.size)
        return Space(plan.config, plan.geometry.size, sizes, request.fixed, fine_tunes)

    def _fine_tunes(self) -> bool:
        """Whether trials fine-tune: if the time has room for some of the default's; decided once for a run."""
        known: bool | None = begun_with(self._folder).get(_FINE_TUNES)
        if known is None:
            known = self._has_time_to_fine_tune()
            remember(self._folder, _FINE_TUNES, known)
        if not known and self._plan.config.unfreeze != "none":
            self._progress.line(
                f"too little time for {_TRAININGS} fine-tunings: trials are heads on frozen features, and the fine-tuning phase"
                " keeps its settings"
            )
        return known

    def _has_time_to_fine_tune(self) -> bool:
        config, size = self._plan.config, self._plan.geometry.size
        if config.unfreeze == "none":
            return "unfreeze" not in self._plan.request.fixed
        model = self._model(config, size)
        with self._in_time():
            frozen = self._frozen_of(model, config, size)
            head = transfer(model, self._apart(frozen), head_alone(config), self._muted).head
            if self._folds is None and config.patience and is_perfect(head.best):  # the phase will be skipped
                return True
            seconds = seconds_to_fine_tune(model, self._apart(frozen), config, self._left(), self._muted)
        self._cost[config.unfreeze] = seconds * (_FOLDS if self._folds else 1)
        return self._cost[config.unfreeze] * _TRAININGS <= self._left()

    def _next(self, space: Space) -> Settings | None:
        """The settings of the next trial: the defaults, then new ones that fit into the time left; None if there are none."""
        if not self._trials:
            return space.usual
        if len(self._trials) == space.count:
            return None
        known = [trial.settings for trial in self._trials]
        for attempt in range(_ATTEMPTS):
            settings = suggest(space, self._trials, space.config.seed, attempt)
            if settings not in known and self._seconds_of(space, settings) <= self._left():
                return settings
        return None

    def _seconds_of(self, space: Space, settings: Settings) -> float:
        """The expected seconds of a trial."""
        config, size = space.configuration(settings), settings[SIZE]
        larger = (size / space.size) ** 2
        seconds = 0.0
        if _key(space.frozen_configuration(settings), size) not in self._frozen:
            frozen = next(iter(self._frozen.values()), None)
            if self._pace is None and frozen is not None:
                self._pace = self._measured(frozen.views)
            if self._pace is not None and frozen is not None:
                seconds += self._pace.seconds_of(frozen.views) * larger
        if config.unfreeze == "none" or not self._cost:
            return seconds
        every = self._cost.get("all", self._cost.get("last", 0.0) * _ALL)
        return float(seconds + larger * self._cost.get(config.unfreeze, every))

    def _measured(self, views: int) -> FrozenPace:
        model = self._model(self._plan.config, self._plan.geometry.size)
        engine = engine_for(feature_model(model), self._plan.config.engine)
        with self._in_time():
            return measure_frozen(engine, self._material(self._plan), views, self._limit, self._muted)

    def _trial(self, space: Space, settings: Settings) -> Trial:
        """Score some settings.

        Raises:
            _OutOfTime: the time ended before.
            Interrupted: a signal requested a stop.
        """
        began, config, size = self._spent(), space.configuration(settings), settings[SIZE]
        count, mistakes, losses = 0, 0, list[float]()
        model = self._model(config, size)
        with self._in_time():
            frozen = self._frozen_of(model, space.frozen_configuration(settings), size)
            started = time.perf_counter()
            diverged = False
            for part in self._parts(frozen):
                held = len(part.material.held_out)
                count += held
                try:
                    with untouched(model):
                        best = transfer(model, self._apart(part), config, self._muted).best.best
                except Diverged:
                    diverged = True
                    continue
                mistakes += round(held * (1 - best.val_accuracy))
                losses.append(held * best.val_loss)
        seconds = (time.perf_counter() - started) / (size / space.size) ** 2
        self._cost[config.unfreeze] = max(seconds, self._cost.get(config.unfreeze, 0.0))
        del model
        gc.collect()  # graphs of the trained network
        loss = None if diverged else sum(losses) / count
        number, spent = len(self._trials), self._spent()
        return Trial(number, settings, count, count if diverged else mistakes, loss, spent - began, spent)

    def _in_time(self) -> "_InTime":
        return _InTime(self._progress, self._folder / _FOLDER / "trial")

    def _model(self, config: FinetuneConfig, size: int) -> keras.Model:
        prepare(config.seed)  # as the run itself begins
        return pretrained(_with(self._plan, config, size))

    def _material(self, plan: FinetunePlan) -> Material:
        """Images and folders of some settings; those of the defaults share the run's own store."""
        config, size = plan.config, plan.geometry.size
        training, held_out = read_to_finetune(plan, self._muted)
        is_usual = (size, config.augment) == (self._plan.geometry.size, self._plan.config.augment)
        folder = self._folder if is_usual else self._folder / _FOLDER / f"{size}-{config.augment}"
        folder.mkdir(parents=True, exist_ok=True)
        kept = kept_in_cache("features") if config.cache else None
        room = None if config.cache_limit is None else int(config.cache_limit * 1e9)
        how = augmentation_of(config, plan.geometry.resize)
        return Material(plan.spec, plan.geometry, how, training, held_out, folder, kept, room, False, self._folds)

    def _frozen_of(self, model: keras.Model, config: FinetuneConfig, size: int) -> Frozen:
        key = _key(config, size)
        for other, frozen in self._frozen.items():
            if other != key:  # one set of decoded images in memory at a time
                training, held_out = (replace(each, kept=None) for each in (frozen.material.training, frozen.material.held_out))
                material = replace(frozen.material, training=training, held_out=held_out)
                self._frozen[other] = replace(frozen, material=material)
        if key not in self._frozen:
            material = self._material(_with(self._plan, config, size))
            self._frozen[key] = run_frozen(model, material, config, self._muted)
        return self._frozen[key]

    def _apart(self, frozen: Frozen) -> Frozen:
        """The same with a folder of its own for records and checkpoints."""
        return replace(frozen, material=replace(frozen.material, folder=self._folder / _FOLDER / "trial"))

    def _parts(self, frozen: Frozen) -> Iterator[Frozen]:
        """What is trained and scored: the usual split, or one part for each fold."""
        if frozen.pool is None:
            yield frozen
            return
        for number in range(_FOLDS):
            material, features = part_of(frozen.pool, frozen.material, number)
            yield replace(frozen, material=material, features=features, boundary=None)

    def _tell(self, trial: Trial, space: Space) -> None:
        """One line for trial 0 and for every improvement."""
        if self._trials and trial.value >= best_of(self._trials).value:
            return
        loss = "diverged" if trial.loss is None else f"loss {trial.loss:.3f}"
        left = f"{how_long(max(0.0, self._left()))} left"
        what = described(trial.settings, space.usual)
        self._progress.line(f"trial {trial.number}: accuracy {trial.accuracy:.1%}, {loss} with {what}; {left}")

    def _record(self, space: Space) -> dict[str, Any]:
        first, best = self._trials[0], best_of(self._trials)
        record = {
            "limit": self._limit,
            "seconds": round(self._spent(), 1),
            "trials": len(self._trials),
            "phase": "fine-tuning" if space.fine_tunes else "head",
            "scored_on": "validation" if self._folds is None else f"{_FOLDS} folds",
            "count": first.count,
            "default": {"top1": first.accuracy, "loss": first.loss},
            "best": {"trial": best.number, "top1": best.accuracy, "loss": best.loss},
            "settings": best.settings,
            "changed": described(best.settings, space.usual),
            "test": self._has_test,
        }
        trials = how_many(len(self._trials), "trial")
        self._progress.line(f"tuning: {trials} in {how_long(self._spent())}; accuracy {compared(record)}")
        return record


class _InTime:
    """The context of work that the end of the time may stop, which becomes `_OutOfTime`; removes the trial's records."""

    def __init__(self, progress: Progress, folder: Path) -> None:
        self._progress, self._folder = progress, folder

    def __enter__(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if isinstance(error, Interrupted) and not self._progress.stop_signal():
            self._progress.saved(GO_ON)
            raise _OutOfTime from error


def _key(config: FinetuneConfig, size: int) -> tuple[int, str, str]:
    """What images and stored rows depend on."""
    return size, config.augment, config.unfreeze


def _folds_of(dataset: Dataset, seed: int) -> Mapping[Path, int] | None:
    """The folds that trials are scored on where there are few validation images; None for the validation images."""
    if len(dataset.splits["val"]) >= _FEW:
        return None
    try:
        return stratified_folds(dataset, _FOLDS, seed)
    except ResnetError:  # too few images even for that
        return None
