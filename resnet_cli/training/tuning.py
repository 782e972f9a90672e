"""`--tune`: the settings that are searched, Optuna's suggestions, and the records of the trials (light to import).

In: a configuration, and the trials so far. Out: the next settings to try. Optuna (Akiba et al. 2019) is asked anew for every
trial: a study in memory is given the finished trials, and a sampler (TPE, Bergstra et al. 2011) with a seed of the random seed
and the trial's number. The suggestions therefore depend on the finished trials alone, and an interrupted search continues as it
would have gone on; what it needs is a file of JSON lines, and nothing is ever unpickled.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from resnet_cli.errors import ResnetError
from resnet_cli.files import write_csv, write_text
from resnet_cli.training.config import FinetuneConfig
from resnet_cli.training.recipes import BASE, as_toml

SIZE = "image_size"  # not a key of the recipe, but an option
KEYS = ("unfreeze", "augment", "learning_rate", "weight_decay", "label_smoothing", "dropout")
_CHOICES: dict[str, tuple[Any, ...]] = {"unfreeze": ("none", "last", "all"), "augment": ("light", "strong")}
_FACTORS = {"learning_rate": (0.2, 5.0), "weight_decay": (0.1, 10.0)}  # of the usual value, on a logarithmic scale
_STEPS = {"label_smoothing": (0.0, 0.2, 0.05), "dropout": (0.0, 0.5, 0.1)}  # lowest, highest, step
_SIDES = (0.75, 1.0, 1.25, 1.5)  # image sizes, as multiples of the usual one; prediction costs the square
_MULTIPLE = 32  # pixels: the factor by which most networks reduce their input
_RANDOM = 6  # trials before the sampler follows what it has seen

_GUIDED = 10  # attempts by that sampler, which may suggest known settings again and again; further ones are random

Settings = dict[str, Any]  # values by key


def require_optuna() -> None:
    """Check that settings can be searched, before anything else is done.

    Raises:
        ResnetError: the package is not installed.
    """
    if find_spec("optuna") is None:
        raise ResnetError("--tune needs the package optuna", "pip install 'resnet-cli[tune]'")


@dataclass(frozen=True)
class Trial:
    """One finished trial.

    Attributes:
        number: from 0, which has the default settings.
        settings: value of each searched key.
        count: images that it was scored on.
        mistakes: misclassified ones; all of them if the training diverged.
        loss: mean cross-entropy, nats; None if the training diverged.
        seconds: that it took.
        spent: seconds of the search until its end.
    """

    number: int
    settings: Settings
    count: int
    mistakes: int
    loss: float | None
    seconds: float
    spent: float

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly, 0..1."""
        return (self.count - self.mistakes) / self.count

    @property
    def value(self) -> float:
        """What the search minimises: the number of mistakes; of equal ones the lower loss counts, as everywhere."""
        return self.mistakes + (1.0 if self.loss is None else self.loss / (1 + self.loss))


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the fewest mistakes, of equal ones with the lowest loss, of equal ones the first."""
    return min(trials, key=lambda trial: trial.value)


@dataclass(frozen=True)
class Space:
    """The settings that are searched.

    Attributes:
        config: the configuration of trial 0.
        size: its image size, pixels.
        sizes: image sizes to try, with that one; a single one is fixed.
        fixed: keys of the recipe that the user has set.
        fine_tunes: whether trials fine-tune; otherwise the head on frozen features is scored.
    """

    config: FinetuneConfig
    size: int
    sizes: tuple[int, ...]
    fixed: frozenset[str]
    fine_tunes: bool

    @property
    def usual(self) -> Settings:
        """The settings of trial 0."""
        return {SIZE: self.size, **{name: getattr(self.config, name) for name in KEYS if name in self._searched}}

    @property
    def _searched(self) -> tuple[str, ...]:
        names: tuple[str, ...] = KEYS if self.fine_tunes else ("augment",)
        if not self.config.augments:  # the user wants no augmentation
            names = tuple(name for name in names if name != "augment")
        return tuple(name for name in names if name not in self.fixed)

    def configuration(self, settings: Mapping[str, Any]) -> FinetuneConfig:
        """The configuration with these settings; without fine-tuning, of a head alone."""
        config = replace(self.config, **{name: value for name, value in settings.items() if name != SIZE})
        return config if self.fine_tunes else head_alone(config)

    def frozen_configuration(self, settings: Mapping[str, Any]) -> FinetuneConfig:
        """The same for the frozen layers: a head alone has the views that it has in a run that trains all layers."""
        config = self.configuration(settings)
        return replace(config, unfreeze="all") if not self.fine_tunes and self.config.unfreeze == "all" else config

    @property
    def varied(self) -> tuple[str, ...]:
        """The searched settings that have several values; none of them without a base for its factors."""
        sizes = (SIZE,) if len(self.sizes) > 1 else ()
        return *sizes, *(name for name in self._searched if name not in _FACTORS or getattr(self.config, name))

    def distributions(self) -> dict[str, Any]:
        """Optuna's distribution of each setting that has several values; rate and decay as factors of the usual ones."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        found: dict[str, Any] = {}
        for name in self.varied:
            if name == SIZE or name in _CHOICES:
                found[name] = CategoricalDistribution(_CHOICES.get(name, self.sizes))
            elif name in _FACTORS:
                found[name] = FloatDistribution(*_FACTORS[name], log=True)
            else:
                low, high, step = _STEPS[name]
                found[name] = FloatDistribution(low, high, step=step)
        return found

    @property
    def count(self) -> int | None:
        """Number of different settings; None with a rate or a decay, which have any value in a range."""
        varied = set(self.varied)
        if varied & _FACTORS.keys():
            return None
        frozen = (len(self.sizes) if SIZE in varied else 1) * (len(_CHOICES["augment"]) if "augment" in varied else 1)
        steps = math.prod(round((high - low) / step) + 1 for name, (low, high, step) in _STEPS.items() if name in varied)
        if "unfreeze" in varied:
            return frozen * (1 + (len(_CHOICES["unfreeze"]) - 1) * steps)  # a head alone has no steps
        return frozen * (1 if self.config.unfreeze == "none" else steps)

    def settings_of(self, drawn: Mapping[str, Any]) -> Settings:
        """The settings that drawn values mean; keys without effect have the values of trial 0."""
        found = self.usual | dict(drawn)
        if found.get("unfreeze", self.config.unfreeze) == "none":
            return {**self.usual, **{name: found[name] for name in (SIZE, "unfreeze", "augment") if name in found}}
        if "learning_rate" in drawn:
            usual = replace(self.config, learning_rate=0.0, unfreeze=found.get("unfreeze", self.config.unfreeze)).rate
            found["learning_rate"] = _rounded(usual * drawn["learning_rate"])
        if "weight_decay" in drawn:
            found["weight_decay"] = _rounded(self.config.weight_decay * drawn["weight_decay"])
        return {name: round(value, 2) if name in _STEPS else value for name, value in found.items()}

    def drawn_of(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The values that would have been drawn for these settings, within the distributions."""
        found = {name: settings[name] for name in self.distributions()}
        usual = replace(self.config, learning_rate=0.0, unfreeze=settings.get("unfreeze", self.config.unfreeze)).rate
        for name, base in (("learning_rate", usual), ("weight_decay", self.config.weight_decay)):
            if name in found:
                low, high = _FACTORS[name]
                found[name] = min(high, max(low, found[name] / base))
        return found


def head_alone(config: FinetuneConfig) -> FinetuneConfig:
    """The configuration without its fine-tuning phase, whose number of epochs is not that of the head."""
    return config if config.unfreeze == "none" else replace(config, unfreeze="none", epochs=0)


def require_several(config: FinetuneConfig, size: int, sizes: tuple[int, ...], fixed: frozenset[str]) -> None:
    """Check that something is left to search, with as much time as it takes.

    Args:
        config, size, sizes, fixed: see `Space`.

    Raises:
        ResnetError: all settings that have an effect are given.
    """
    fine_tunes = config.unfreeze != "none" or "unfreeze" not in fixed
    if not Space(config, size, sizes, fixed, fine_tunes).varied:
        raise ResnetError(
            "nothing is left for --tune to search: all settings that have an effect are given", "leave some of them out"
        )


def require_tunable(tune: object, options: Mapping[str, object]) -> None:
    """Check the options beside `--tune`, before anything else is done.

    Args:
        tune: as typed; None for no search.
        options: options that contradict it, by name, as typed.

    Raises:
        ResnetError: an option contradicts the search, or the package is not installed.
    """
    if tune is None:
        return
    reasons = {
        "--time-limit": "--tune tries whole trainings, which --time-limit would cut",
        "--lr-find": "--tune searches the learning rate",
        "--folds": "--tune chooses settings by the images that --folds measures on",
        "--show": "--show trains nothing",
    }
    for name, value in options.items():
        if value:
            hint = "tune first, then add --folds to a run with --recipe tuned.toml" if name == "--folds" else "leave one out"
            raise ResnetError(f"{reasons[name]}: --tune and {name} contradict each other", hint)
    require_optuna()


def given_of(fixed: Collection[str], size: str) -> set[str]:
    """The settings that --tune would search, had the user not given them.

    Args:
        fixed: keys of the recipe that the user has set.
        size: the image size as typed: "auto", or pixels.
    """
    return {name for name in KEYS if name in fixed} | ({SIZE} if size != "auto" else set())


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def sizes_around(size: int, least: int) -> tuple[int, ...]:
    """Image sizes to try: multiples of 32 pixels from three quarters of the usual size to one and a half of it, and that one.

    Args:
        size: the usual size, pixels.
        least: smallest size, pixels.
    """
    found = {round(size * factor / _MULTIPLE) * _MULTIPLE for factor in _SIDES} | {size}
    return tuple(sorted(side for side in found if side >= max(least, 1)))


def suggest(space: Space, trials: Sequence[Trial], seed: int, attempt: int) -> Settings:
    """The settings of the next trial.

    Args:
        space: what may be tried.
        trials: the finished trials, in order.
        seed: random seed of the search.
        attempt: from 0; another one gives another suggestion after the same trials, later ones at random.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    number = _seed(seed, len(trials), attempt)
    sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=_RANDOM)
    if attempt >= _GUIDED:
        sampler = optuna.samplers.RandomSampler(seed=number)
    study, distributions = optuna.create_study(sampler=sampler), space.distributions()
    for trial in trials:
        drawn = space.drawn_of(trial.settings)
        study.add_trial(optuna.trial.create_trial(params=drawn, distributions=distributions, value=trial.value))
    return space.settings_of(study.ask(distributions).params)


def why_ended(count: int | None, trials: int, attempts: int) -> str:
    """Why a search ends before its time, in a sentence.

    Args:
        count: different settings in the space; None for any number.
        trials: finished trials.
        attempts: suggestions in a row that were of no use.
    """
    if trials != count:
        return f"the search ends early: the last {attempts} settings were tried already, or take longer than the time left"
    if count == 1:
        return "the search ends early: heads on frozen features leave only the default settings to try"
    return f"the search ends early: all {count} settings of the search were tried"


def _seed(seed: int, number: int, attempt: int) -> int:
    return (seed * 1_000_003 + number * 1_009 + attempt) % 2**32


def read_trials(path: Path) -> list[Trial]:
    """The trials of an interrupted search, in order; a truncated last line is skipped, a missing file has none.

    Raises:
        ResnetError: a line is no trial.
    """
    try:
        lines = path.read_text().splitlines() if path.exists() else []
        return [Trial(**json.loads(line)) for line in lines if line.endswith("}")]
    except (OSError, ValueError, TypeError) as error:
        raise ResnetError(f"{path} cannot be read, so the search cannot be resumed", "begin a new run") from error


def write_trials(path: Path, trials: Sequence[Trial]) -> None:
    """Write all trials as JSON lines, atomically."""
    write_text(path, "".join(json.dumps(asdict(trial)) + "\n" for trial in trials))


def write_table(path: Path, trials: Sequence[Trial], names: Collection[str]) -> None:
    """Write trials.csv: settings, images, mistakes, accuracy, loss, seconds; the best trial is marked."""
    best = best_of(trials).number
    head = ["trial", *names, "count", "mistakes", "accuracy", "loss", "seconds", "best"]
    rows = [
        [
            trial.number,
            *(trial.settings[name] for name in names),
            *(trial.count, trial.mistakes, trial.accuracy, trial.loss, round(trial.seconds, 1)),
            "yes" if trial.number == best else "",
        ]
        for trial in trials
    ]
    write_csv(path, [head, *rows])


def recipe_text(config: FinetuneConfig, usual: FinetuneConfig, idle: Mapping[str, str], size: int) -> str:
    """The text of tuned.toml: a recipe file; the image size, which is no key of a recipe, stands in a comment."""
    title = f"# The settings that --tune chose. The image size is an option: --recipe tuned.toml --image-size {size}"
    return "\n".join([title, "", f'{BASE} = "default"', *as_toml(config, usual, idle)]) + "\n"


def compared(found: Mapping[str, Any]) -> str:
    """The accuracies of the defaults and of the best trial, in words; one where they are the same trial.

    Args:
        found: the record of a search with trials, the field `tuning` of run.json.
    """
    usual = f"{found['default']['top1']:.1%} with the defaults"
    if found["best"]["trial"] == 0:
        return usual if found["trials"] == 1 else f"{usual}, and no other trial was better"
    return f"{usual}, {found['best']['top1']:.1%} with {found['changed']}"


def described(settings: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """The settings that differ from trial 0, in words."""
    changed = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in settings.items()
        if value != usual[name]
    ]
    return ", ".join(changed) or "the defaults"
