"""The run folder and its files (light: the standard library only).

    runs/<dataset>-<arch>[-N]/  run.json  splits.csv  model.weights.h5  model.xml  model.bin  metrics.jsonl  checkpoint/

A run is complete only if it has run.json, which is written last and atomically. metrics.jsonl has one line per epoch, and
metrics.csv the same figures.
"""

import csv
import json
import platform
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from resnet_cli import __version__
from resnet_cli.downloads import WEIGHTS
from resnet_cli.errors import ResnetError
from resnet_cli.files import UNFINISHED, path_text, write_csv, write_text


def versions() -> dict[str, str]:
    """Versions by package; "absent" if one is not installed."""
    found = {"resnet-cli": __version__, "python": platform.python_version()}
    keras = sys.modules.get("keras")
    with_jax = ["jax"] if keras is not None and keras.backend.backend() == "jax" else []
    for name in ["keras", "tensorflow", *with_jax, "numpy", "pillow", "openvino"]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def is_older(found: str, wanted: str) -> bool:
    """Whether a version such as "2026.4.1" is older than another one; what is not a number in it does not count."""
    mine, least = ([int(part) for part in version.split(".") if part.isdecimal()] for version in (found, wanted))
    return mine < least


FORMAT = 1
RUNS = Path("runs")
EXPORT_RECORD = "export.json"  # of an OpenVINO export: its run's record without paths
SPLITS = "splits.csv"
EARLIER = "earlier"  # split, in an export, of training images of the earlier run whose weights its run started from
EVALUATIONS = "evaluations"  # folder of evaluations on images other than the run's held-out images
FIGURES = ("predictions.csv", "confusion.csv", "report.html")  # what `evaluate` writes
GENERATOR = '<meta name="generator" content="resnet-cli">'  # in every report
LITTER = (".DS_Store", "._", ".nfs", ".writable")  # files left by file systems and by killed processes
_NUMBERS = re.compile(r"(?<=\[)\s+\d+(?:,\s+\d+)*\s+(?=\])")
_TELLTALE = ("run.json", "checkpoint/config.json", "metrics.jsonl", "rate.csv")
_FILES = {
    *("run.json", SPLITS, "model.weights.h5", "model.xml", "model.bin", "metrics.jsonl", "metrics.csv", "rate.png"),
    *("rate.csv", "tensorboard", "curves.png", "checkpoint", "export", EVALUATIONS, *FIGURES),
    *("folds.csv", "trials.csv", "tuned.toml", "novelty.npz"),
}

Content = tuple[int, str]  # bytes of a file, and their SHA-256, hexadecimal


@dataclass(frozen=True)
class Run:
    """A complete run, or an export of one: its folder and the contents of run.json or export.json.

    Published weights are one too, in the user's cache; their record has a field `published`.
    """

    folder: Path
    record: dict[str, Any]

    @property
    def path(self) -> Path:
        """The file that the record was read from."""
        return self.folder / (EXPORT_RECORD if self.is_export else "run.json")

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of probabilities."""
        return tuple(self.record["classes"])

    @property
    def name(self) -> str:
        """Its folder, or the name of the published weights."""
        return str(self.record.get("published", self.folder))

    @property
    def is_published(self) -> bool:
        """Whether it was made of published weights, and not trained here."""
        return "published" in self.record

    @property
    def is_export(self) -> bool:
        """Whether it is an export of a run."""
        return "export" in self.record

    @property
    def data(self) -> Path:
        """The data set's folder, as it was when the run began.

        Raises:
            ResnetError: the record has none, as in an export.
        """
        try:
            return Path(self.record["data"]["path"])
        except (KeyError, TypeError):
            if self.is_published:
                what = f"{self.name} has no held-out images: it was not trained here"
                raise ResnetError(what, "give a folder of images: resnet evaluate FOLDER") from None
            if self.is_export:
                what = f"the export {self.folder} does not record where its images are"
                raise ResnetError(what, "give a folder of images: resnet evaluate FOLDER") from None
            raise ResnetError(f"{self.path} is damaged: it names no data set", "train the run again") from None

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of its training; an export has none."""
        return tuple(self.record.get("results", {}).get("warnings", ()))

    @property
    def warnings_of_data(self) -> tuple[str, ...]:
        """The warnings about its data, which do not depend on the results on held-out images."""
        of_figures = self.record.get("results", {}).get("figure_warnings", ())
        return tuple(warning for warning in self.warnings if warning not in of_figures)

    @property
    def splits(self) -> Path:
        """splits.csv: the images with the split of each; an export has only their hashes."""
        return self.folder / SPLITS

    @property
    def weights(self) -> Path:
        """Weights of its network, in Keras' format."""
        return self.folder / "model.weights.h5"

    @property
    def openvino(self) -> Path:
        """Its classifier as an OpenVINO model, with model.bin beside it."""
        return self.folder / "model.xml"


@dataclass(frozen=True)
class SplitRow:
    """One line of splits.csv: an image's path in the data set's folder, class, split (train, val or test), and content.

    Content is missing in runs of older versions, and for files that could not be read. An export has only split and content;
    path and class are empty.
    """

    path: str
    label: str
    split: str
    content: Content | None = None


def is_run_like(folder: Path) -> bool:
    """Whether a folder contains a complete or unfinished run and nothing else: --force replaces no other folder."""
    if not folder.is_dir() or not any((folder / name).exists() for name in _TELLTALE):
        return False
    return all(path.name in _FILES or path.name.startswith((UNFINISHED, *LITTER)) for path in folder.iterdir())


def is_evaluation(folder: Path) -> bool:
    """Whether a folder contains the files of `evaluate` and nothing else."""
    return (folder / FIGURES[0]).is_file() and all(
        path.name in FIGURES or path.name.startswith((UNFINISHED, *LITTER)) for path in folder.iterdir()
    )


def is_rate_search(folder: Path) -> bool:
    """Whether a folder contains the files of `--lr-find plot` and no run."""
    return (folder / "rate.csv").is_file() and not any((folder / name).exists() for name in ("run.json", "checkpoint"))


def unfinished_runs(name: str, output: Path | None = None) -> list[Path]:
    """The folders of that name with a checkpoint and without run.json, newest first: the runs that --resume can continue.

    Raises:
        ResnetError: there is none.
    """
    numbered = re.compile(re.escape(name) + r"(-\d+)?")
    named = [path for path in RUNS.glob("*") if numbered.fullmatch(path.name)]
    candidates = [output] if output else sorted(named, key=lambda path: path.stat().st_mtime, reverse=True)
    found = [folder for folder in candidates if (folder / "checkpoint").is_dir() and not (folder / "run.json").exists()]
    if not found:
        raise ResnetError(f"there is no interrupted run at {output or RUNS / name}", "leave --resume out to start a new one")
    return found


def finish_run(folder: Path, record: dict[str, Any]) -> Run:
    """Write run.json atomically as the last file, then delete what only an unfinished run needs."""
    record = {"format": FORMAT, **record}
    text = json.dumps(record, indent=2)
    # A confusion matrix of 1,000 classes has a million numbers: one row per line, not one number per line.
    write_text(folder / "run.json", _NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n")
    drop_checkpoint(folder)
    return Run(folder, record)


def drop_checkpoint(folder: Path) -> None:
    """Delete what only an unfinished run needs."""
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)


def load_run(folder: Path | None = None) -> Run:
    """Open a run; without a folder, the newest complete one under runs/.

    Raises:
        ResnetError: there is none, it is not complete, or a newer version wrote it.
    """
    folder = newest_run() if folder is None else folder
    if not folder.is_dir():
        what = f"{folder} is a file, not a run folder" if folder.exists() else f"there is no run folder {folder}"
        raise ResnetError(what, "`resnet runs` lists the runs of this folder")
    path = folder / "run.json"
    if not path.exists():
        if (folder / EXPORT_RECORD).exists():
            raise ResnetError(f"{folder} is an export, not a run", "name the run that it was made from with --run")
        if (folder / WEIGHTS).is_file():
            raise ResnetError(f"{folder} is a folder of published weights, not a run", f"name {folder / WEIGHTS}")
        if not any((folder / name).exists() for name in (*_TELLTALE, "model.weights.h5")):
            raise ResnetError(
                f"{folder} is not a run folder: it has no run.json", "`resnet runs` lists the runs of this folder"
            )
        if is_rate_search(folder):
            raise ResnetError(f"{folder} contains a learning-rate range test, not a run", "name a run with --run")
        raise ResnetError(f"the run {folder} is not complete: it has no run.json", "finish it with --resume")
    run = Run(folder, read_record(path))
    if not run.weights.exists():
        raise ResnetError(f"the run {folder} is not complete: it has no {run.weights.name}")
    return run


def read_record(path: Path) -> dict[str, Any]:
    """Read run.json, or an export's record.

    Raises:
        ResnetError: it is damaged, or a newer version wrote it.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ResnetError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("format"), int):
        raise ResnetError(f"{path} is not a run of this program")
    if record["format"] > FORMAT:
        raise ResnetError(
            f"{path} was written by a newer version (format {record['format']})", "upgrade with pip install -U resnet-cli"
        )
    if not record.get("classes"):
        raise ResnetError(f"{path} is damaged: it names no classes", "train the run again")
    return record


def newest_run() -> Path:
    """The complete run under runs/ that was finished last."""
    complete = sorted(RUNS.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if not complete:
        raise ResnetError("there is no run under runs/", "train one with `resnet finetune FOLDER`, or name one with --run")
    return complete[-1].parent


@dataclass(frozen=True)
class Summary:
    """A run in a list.

    Attributes:
        folder: the run.
        dataset, network: names; None if an interrupted run does not record them.
        split: split of the accuracy, test or val.
        top1: accuracy, 0..1; None for an interrupted run.
        images: images it was measured on.
        seconds: time of the training.
        finished: when it was finished, seconds since the epoch; None for an interrupted run.
    """

    folder: Path
    dataset: str | None = None
    network: str | None = None
    split: str | None = None
    top1: float | None = None
    images: int | None = None
    seconds: float | None = None
    finished: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Its entry in the JSON of `runs`."""
        return {**asdict(self), "folder": str(self.folder)}


def summaries(root: Path) -> list[Summary]:
    """The runs in a folder: complete ones, newest first, then interrupted ones; damaged ones are passed over.

    Raises:
        ResnetError: there is no such folder, other than the usual one.
    """
    if root != RUNS and not root.is_dir():
        raise ResnetError(f"there is no folder {root}", "name the folder that contains the runs")
    complete = sorted(root.glob("*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    found = [each for path in complete if (each := _summary(path)) is not None]
    begun = sorted(root.glob("*/checkpoint/config.json"))
    return found + [Summary(path.parent.parent) for path in begun if not (path.parent.parent / "run.json").exists()]


def _summary(path: Path) -> Summary | None:
    try:
        record = read_record(path)
        results = record["results"]
        split = "test" if "test" in results else "val"
        figures = results[split]
        about = (record["data"]["name"], record["network"]["name"], split, figures["top1"], figures["count"])
        return Summary(path.parent, *about, results["seconds"], path.stat().st_mtime)
    except (ResnetError, KeyError, TypeError):
        return None


def write_splits(folder: Path, rows: Iterable[SplitRow]) -> None:
    """Write splits.csv, whole."""
    lines = ((path_text(row.path), row.label, row.split, *(row.content or ("", ""))) for row in rows)
    write_csv(folder / SPLITS, [("path", "class", "split", "bytes", "sha256"), *lines])


def read_splits(run: Run) -> list[SplitRow]:
    """The images of a run with the split that each was in."""
    try:
        with run.splits.open(encoding="utf-8", newline="") as file:
            lines = csv.DictReader(file)
            is_nameless = run.is_export and "path" not in (lines.fieldnames or ())
            return [_split_row({"path": "", "class": "", **line} if is_nameless else line) for line in lines]
    except (OSError, KeyError, ValueError, TypeError) as error:
        hint = "export the run again" if run.is_export else ""
        raise ResnetError(f"{run.splits} cannot be read: {error}", hint) from error


def _split_row(line: dict[str, str]) -> SplitRow:
    content = (int(line["bytes"]), sha) if (sha := line.get("sha256")) else None
    return SplitRow(line["path"].removeprefix("./"), line["class"], line["split"], content)


@dataclass(frozen=True)
class EpochRecord:
    """One line of metrics.jsonl.

    Accuracies are shares, 0..1; stage is "train", "head" or "tail". `loss` is the training loss: cross-entropy in nats, with
    label smoothing and class weights if they are used. `val_loss` is plain cross-entropy in nats, in every stage.
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
    """The records of a metrics.jsonl, oldest first; a truncated last line is skipped, a missing file gives no records.

    Raises:
        ResnetError: a line is no record.
    """
    try:
        lines = path.read_text().splitlines() if path.exists() else []
        return [EpochRecord(**json.loads(line)) for line in lines if line.endswith("}")]
    except (OSError, ValueError, TypeError) as error:
        raise ResnetError(f"{path} cannot be read: {error}", "the run is damaged: train it again") from error


def write_metrics_csv(folder: Path) -> None:
    """Write a run's metrics.csv: the columns and lines of its metrics.jsonl; missing values are empty."""
    names = [field.name for field in fields(EpochRecord)]
    write_csv(folder / "metrics.csv", [names, *map(astuple, read_history(folder / "metrics.jsonl"))])
