"""A finished run in Python: evaluate, predict, export (light: heavy modules are imported when a call needs them).

In: a run's folder; images as files or in memory. Out: metrics, predictions, an export's folder. Also the common parts of all
API calls: progress in terminals and notebooks, warnings without progress, and the handling of Ctrl-C.
"""

import numbers
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from resnet_cli.data.inputs import given_images
from resnet_cli.data.named import no_name
from resnet_cli.data.scoring import SplitName
from resnet_cli.engines import EngineName
from resnet_cli.errors import Interrupted, ResnetError
from resnet_cli.export.formats import FormatName
from resnet_cli.files import at_home
from resnet_cli.jobs.environment import settled
from resnet_cli.jobs.export import ExportRequest, QuantizeName, run_export
from resnet_cli.progress import Interruptible, Progress, WarningsAlone, how_many
from resnet_cli.runs import folder as runs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from resnet_cli.engines.openvino import Purpose
    from resnet_cli.inference.classify import Member, Prediction
    from resnet_cli.inference.metrics import Evaluation

PathLike = str | os.PathLike[str]
Views = Literal[1, 2, 10]

_RESUME = "the training is saved: the same call with resume=True continues where it stopped"


@contextmanager
def call(progress: bool | Progress) -> Iterator[Interruptible]:
    """The context of an API call: Ctrl-C raises KeyboardInterrupt, after unsaved work has been saved.

    On exit the caller's signal handlers are restored; the caller's own handlers of Ctrl-C are not replaced.

    Args:
        progress: True shows it in the terminal or notebook, False only gives Python's warnings, an object is called.
    """
    shown, close = _shown(progress)
    inside = Interruptible(shown)
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    listens = is_default and threading.current_thread() is threading.main_thread()
    if listens:
        signal.signal(signal.SIGINT, inside.interrupt)
    try:
        yield inside
    except Interrupted as error:
        if inside.was_interrupted:
            raise KeyboardInterrupt(_RESUME) from error
        raise
    finally:
        if listens and signal.getsignal(signal.SIGINT) == inside.interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        close()


def _shown(progress: bool | Progress) -> tuple[Progress, Callable[[], None]]:
    """The progress object of a call, and the function that closes it."""
    if progress is True:
        from resnet_cli.cli.reporter import Reporter

        reporter = Reporter()
        return reporter, reporter.close
    if progress is not False and not hasattr(progress, "start"):
        raise ResnetError(f"progress={progress!r} is not a Progress", "give True, False or an object of that protocol")
    return (WarningsAlone() if progress is False else progress), lambda: None


def require_one_of(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse an argument that is not one of the allowed values.

    Raises:
        ResnetError: it is not.
    """
    if value not in choices or isinstance(value, bool):
        raise ResnetError(f"{name}={value!r} is not allowed", f"choose {', '.join(map(repr, choices))}")


def as_text(name: str, value: object) -> str:
    """The text of an argument that is a name or a path.

    Raises:
        ResnetError: it is neither.
    """
    if not isinstance(value, str | os.PathLike):
        raise ResnetError(f"{name}={value!r} is neither text nor a path", f"give {name} as text")
    return str(os.fspath(value))


def optional_path(name: str, given: PathLike | None) -> Path | None:
    """The path of an argument, if it was given; `~` is the user's home.

    Raises:
        ResnetError: it is no path.
    """
    return None if given is None else at_home(as_text(name, given))


def data_path(given: PathLike) -> Path:
    """The path of a data set; the bare word `cifar10` is a name, and `./cifar10` a folder."""
    text = as_text("data", given)
    return no_name(at_home(text), text)


def load(folder: PathLike | None = None) -> "Run":
    """Open a finished run, or an export.

    Args:
        folder: the run folder, or an export's folder or model file; None for the newest run under runs/.

    Raises:
        ResnetError: there is none, or it is not complete.

    Example:
        >>> run = resnet.load("runs/photos-resnet50")  # doctest: +SKIP
    """
    from resnet_cli.jobs.predict import load_classifier

    found = runs.load_run() if folder is None else load_classifier(at_home(as_text("folder", folder)))
    return Run(runs.Run(found.folder.absolute(), found.record))


class Run:
    """A finished run, or an export of one; returned by `finetune`, `train` and `load`.

    Example:
        >>> run = resnet.load()  # doctest: +SKIP
        >>> run.predict("photos/cats/tom.jpg")[0].label  # doctest: +SKIP
        'cats'
    """

    def __init__(self, opened: runs.Run) -> None:
        self._run = opened
        self._loaded: dict[tuple[EngineName, str], tuple[Member, ...]] = {}

    def __repr__(self) -> str:
        return f"<resnet_cli.Run {self.folder}: {self._run.record['network']['name']}, {how_many(len(self.classes), 'class')}>"

    @property
    def folder(self) -> Path:
        """Its folder, an absolute path."""
        return self._run.folder

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of probabilities."""
        return self._run.classes

    @property
    def results(self) -> dict[str, Any]:
        """The JSON output of `finetune --json` and `train --json` (docs/cli.md); empty for an export."""
        return dict(self._run.record.get("results", {}))

    def evaluate(
        self,
        data: PathLike | None = None,
        *,
        labels: PathLike | None = None,
        split: SplitName | None = None,
        views: Views = 1,
        engine: EngineName = "auto",
        output: PathLike | None = None,
        allow_changed: bool = False,
        strict: bool = False,
        progress: bool | Progress = True,
    ) -> "Evaluation":
        """Measure the classifier as `resnet evaluate` does, which also writes predictions.csv, confusion.csv and report.html.

        Args:
            data: folder, archive or name of a known data set whose images are scored; None for the run's held-out images.
            labels: table of labels that is scored in place of class folders.
            split: "val", "test" or "train"; None for test images if there are any, else validation images.
            views: views of each image to average: 1, 2 or 10.
            engine, output, allow_changed, strict: as the options of the command.
            progress: as for `finetune`.

        Returns:
            `top1`, `top1_interval`, `top5`, `loss`, `ece`, `classes` with precision, recall and F1, and `confusion`.

        Raises:
            ResnetError: there is nothing to score, or the files cannot be written.

        Example:
            >>> resnet.load().evaluate(views=10).top1  # doctest: +SKIP
            0.962
        """
        require_one_of("split", split, (None, *get_args(SplitName)))
        require_one_of("views", views, get_args(Views))
        require_one_of("engine", engine, get_args(EngineName))
        from resnet_cli.jobs.evaluate import EvaluateRequest, run_evaluation

        root = None if data is None else data_path(data)
        request = EvaluateRequest(
            runs=(self.folder / self._run.record.get("export", {}).get("file", ""),),
            dataset=root,
            split=split,
            views=views,
            engine=engine,
            output=optional_path("output", output),
            allow_changed=allow_changed,
            strict=strict,
            labels=optional_path("labels", labels),
        )
        with call(progress) as shown:
            return run_evaluation(request, shown).measured.figures

    def predict(
        self,
        images: "PathLike | Image | NDArray[np.uint8] | Iterable[PathLike | Image | NDArray[np.uint8]]",
        *,
        views: Views = 1,
        top: int = 5,
        engine: EngineName = "auto",
        progress: bool | Progress = False,
    ) -> "list[Prediction]":
        """Classify images, as `resnet predict` does; the engine stays loaded for the next call.

        Args:
            images: a file, folder or pattern; a PIL image; an array uint8 (H, W, 3) or (N, H, W, 3), RGB; or any number of
                files, folders, PIL images and arrays (H, W, 3).
            views: views of each image to average: 1, 2 or 10.
            top: number of most probable classes to return.
            engine: as the option of the command.
            progress: as for `finetune`.

        Returns:
            One prediction per image, in order, with `label`, `probability`, `top`, `unlike_training` and, for files, `path`.

        Raises:
            ResnetError: an image cannot be read; the message names it.

        Example:
            >>> [each.label for each in resnet.load().predict("photos/new")]  # doctest: +SKIP
            ['cats', 'dogs', 'cats']
        """
        require_one_of("views", views, get_args(Views))
        require_one_of("engine", engine, get_args(EngineName))
        if not isinstance(top, numbers.Integral) or top < 1:
            raise ResnetError(f"top={top!r} is not a number of classes", "give 1 or more")
        from resnet_cli.inference.classify import predict

        with call(progress) as shown:
            sources, count = given_images(images, shown)
            members = self._members(engine, views, "one" if count == 1 else "many", count or 0, shown)
            task = shown.start("predicting", count)
            found = []
            for prediction in predict(sources, members, self.classes, top, views):
                if prediction.error is not None:
                    raise ResnetError(prediction.error, "leave it out, or replace it")
                found.append(prediction)
                task.advance()
            task.finish()
            return found

    def export(
        self,
        format: FormatName,
        *,
        output: PathLike | None = None,
        quantize: bool | QuantizeName = False,
        max_drop: float | None = None,
        force: bool = False,
        with_resize: bool = False,
        min_accuracy: float | None = None,
        progress: bool | Progress = True,
    ) -> Path:
        """Write the classifier for other programs as `resnet export` does, and check it on held-out images.

        Args:
            format: "savedmodel", "keras", "onnx", "tflite" or "openvino".
            output: folder to write; None for export/<format>[-<quantize>][-with-resize] in the run.
            quantize: "int8" (or True) for 8-bit weights and activations, "float16" for weights in half precision.
            max_drop: points of held-out top-1 that int8 may lose; None for the default.
            force: replace an existing export.
            with_resize: the model takes images of any size and resizes them itself.
            min_accuracy: held-out top-1 of the exported model, 0..1, below which nothing is kept.
            progress: as for `finetune`.

        Returns:
            The folder with the model, labels.txt, classify.py and README.md, an absolute path; `load` opens it.

        Raises:
            ResnetError: a package is missing, the folder exists, the exported model's probabilities differ, or it is less
                accurate than `min_accuracy`.

        Example:
            >>> resnet.load().export("onnx") / "model.onnx"  # doctest: +SKIP
            PosixPath('runs/photos-resnet50/export/onnx/model.onnx')
        """
        require_one_of("format", format, get_args(FormatName))
        kind = "int8" if quantize is True else quantize or None
        require_one_of("quantize", kind, (None, *get_args(QuantizeName)))
        place = optional_path("output", output)
        request = ExportRequest(format, self.folder, kind, max_drop, place, force, with_resize, min_accuracy)
        with call(progress) as shown:
            return run_export(request, shown).exported.folder.absolute()

    def _members(
        self, wish: EngineName, views: int, purpose: "Purpose", count: int, progress: Progress
    ) -> "tuple[Member, ...]":
        """The classifier in the engine that `resnet predict` would choose, loaded once."""
        from resnet_cli.jobs.predict import engine_for_many, load_members, require_possible, run_classifier

        classifiers = (run_classifier(self._run),)
        require_possible(classifiers, wish, views)
        engine = engine_for_many(settled(wish, progress), classifiers, lambda: count, progress)
        if (engine, purpose) not in self._loaded:
            self._loaded[engine, purpose] = load_members(classifiers, purpose, engine, progress)
        return self._loaded[engine, purpose]
