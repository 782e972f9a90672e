"""The Python API does what the commands do, on everything that Python calls an image, and leaves its caller's process alone."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HALF, Finetuned, MakeImage, MakeRun, RunCli
from PIL import Image

import resnet_cli as resnet
from resnet_cli.progress import Silent, Task

ROOT = Path(__file__).parents[1]


class Told(Silent):
    """Progress that keeps what it is told, and calls `at` whenever a bar moves."""

    def __init__(self, at: Callable[[str, int], None] = lambda title, step: None) -> None:
        self.lines: list[str] = []
        self.bars: dict[str, int] = {}
        self.at = at

    def line(self, text: str) -> None:
        self.lines.append(text)

    def start(self, title: str, total: int | None) -> Task:
        outer = self
        outer.bars.setdefault(title, 0)

        class Bar:
            def advance(self, steps: int = 1, figures: Mapping[str, float] | None = None) -> None:
                outer.bars[title] += steps
                outer.at(title, outer.bars[title])

            def finish(self) -> None:
                return

        return Bar()


@pytest.fixture(scope="module")
def fruit(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    return make_dataset(tmp_path_factory.mktemp("api") / "fruit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun, fruit: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("api") / "run", fruit, arch="resnet8")


@pytest.fixture
def run(folder: Path) -> resnet.Run:
    return resnet.load(folder)


@pytest.fixture
def paths(fruit: Path) -> list[Path]:
    return sorted((fruit / "apple").iterdir())


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


ONE: dict[str, Callable[[Path], Any]] = {
    "a string": str,
    "a path": lambda path: path,
    "a PIL image": Image.open,
    "an array": pixels,
    "a list of one path": lambda path: [path],
    "an array of one image": lambda path: pixels(path)[None],
}


@pytest.mark.parametrize("given", ONE.values(), ids=ONE.keys())
def test_one_image_has_the_same_answer_however_it_is_given(
    run: resnet.Run, paths: list[Path], run_cli: RunCli, given: Callable[[Path], Any]
) -> None:
    (found,) = run.predict(given(paths[3]))
    (row,) = json.loads(run_cli("predict", paths[3], "--run", run.folder, "--json").stdout)
    assert [{"class": label, "probability": probability} for label, probability in found.top] == row["predictions"]
    assert (found.label, found.probability) == found.top[0]


MANY: dict[str, Callable[[list[Path]], Any]] = {
    "paths": lambda paths: paths,
    "strings in a tuple": lambda paths: tuple(map(str, paths)),
    "a generator of PIL images": lambda paths: (Image.open(path) for path in paths),
    "PIL images that are closed again": lambda paths: closed_again(paths),
    "arrays": lambda paths: [pixels(path) for path in paths],
    "one array": lambda paths: np.stack([pixels(path) for path in paths]),
    "an array of paths": lambda paths: np.array(list(map(str, paths))),
    "a folder": lambda paths: paths[0].parent,
    "a pattern": lambda paths: f"{paths[0].parent}/*.png",
    "all kinds": lambda paths: [paths[0], str(paths[1]), Image.open(paths[2]), *map(pixels, paths[3:])],
    "a folder among others": lambda paths: [paths[0].parent],
}


def closed_again(paths: list[Path]) -> Iterator[Image.Image]:
    for path in paths:
        with Image.open(path) as image:
            yield image


@pytest.mark.parametrize("given", MANY.values(), ids=MANY.keys())
def test_many_images_have_the_answers_of_the_command_in_order(
    run: resnet.Run, paths: list[Path], run_cli: RunCli, given: Callable[[list[Path]], Any]
) -> None:
    found = run.predict(given(paths), top=2)
    rows = json.loads(run_cli("predict", paths[0].parent, "--run", run.folder, "--top", 2, "--json").stdout)
    assert [[label for label, _ in each.top] for each in found] == [
        [each["class"] for each in row["predictions"]] for row in rows
    ]
    for each, row in zip(found, rows, strict=True):
        assert each.probability == pytest.approx(row["predictions"][0]["probability"], abs=1e-6)


def test_predictions_of_files_have_their_paths_and_those_of_memory_none(run: resnet.Run, paths: list[Path]) -> None:
    assert [each.path for each in run.predict([paths[0], pixels(paths[1]), paths[2]])] == [paths[0], None, paths[2]]


@pytest.mark.parametrize("views", [2, 10])
def test_views_are_those_of_the_command(run: resnet.Run, paths: list[Path], run_cli: RunCli, views: Any) -> None:
    (row,) = json.loads(run_cli("predict", paths[0], "--run", run.folder, "--views", views, "--json").stdout)
    for image in (paths[0], pixels(paths[0])):
        (found,) = run.predict(image, views=views)
        assert dict(found.top) == {each["class"]: each["probability"] for each in row["predictions"]}


def test_an_image_that_pillow_opened_is_upright_and_on_white_as_a_file_is(run: resnet.Run, tmp_path: Path) -> None:
    random_pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 4), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    path = tmp_path / "turned.png"
    Image.fromarray(random_pixels).save(path, exif=turned)
    assert run.predict(Image.open(path))[0].top == run.predict(path)[0].top


def test_an_array_that_changes_after_it_was_given_is_answered_as_it_was(run: resnet.Run, paths: list[Path]) -> None:
    def reused() -> Iterator[np.ndarray]:
        buffer = np.empty_like(pixels(paths[0]))
        for path in paths:
            buffer[:] = pixels(path)
            yield buffer

    assert [each.top for each in run.predict(reused())] == [each.top for each in run.predict(map(pixels, paths))]


def test_no_images_have_no_predictions(run: resnet.Run) -> None:
    assert run.predict([]) == []


ODD: dict[str, tuple[Any, str]] = {
    "no file": ("gone.png", "gone.png cannot be read: No such file or directory"),
    "no image among paths": (lambda good: [good, "gone.png"], "gone.png cannot be read: No such file or directory"),
    "numbers of another type": (
        np.zeros((8, 8, 3), np.float32),
        "the image is an array of float32 (8, 8, 3), not of uint8 (height, width, 3)",
    ),
    "no colours": (np.zeros((8, 8), np.uint8), "the image is an array of uint8 (8, 8), not of uint8 (height, width, 3)"),
    "four channels in a list": (
        lambda good: [good, np.zeros((8, 8, 4), np.uint8)],
        "images[1] is an array of uint8 (8, 8, 4), not of uint8 (height, width, 3)",
    ),
    "a number": (7, "images cannot be of type int"),
    "a number in a list": (lambda good: [good, 7], "images[1] is a int"),
    "an empty name": ("", "an image has an empty name"),
    "a pattern that fits nothing": ("none*.png", "no file matches the pattern none*.png"),
}


@pytest.mark.parametrize(("images", "message"), ODD.values(), ids=ODD.keys())
def test_what_is_no_image_is_one_sentence_that_names_it(
    run: resnet.Run, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(resnet.ResnetError) as caught:
        run.predict(images(paths[0]) if callable(images) else images)
    assert caught.value.message == message
    assert run.predict(paths[0])[0].label in run.classes  # the next call works


def test_a_damaged_pil_image_is_named(run: resnet.Run, paths: list[Path], tmp_path: Path, make_image: MakeImage) -> None:
    whole = make_image(tmp_path / "whole.png", size=(200, 200)).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with Image.open(tmp_path / "half.png") as half, pytest.raises(resnet.ResnetError, match=r"images\[1\] is damaged: "):
        run.predict([paths[0], half])


WRONG: dict[str, tuple[Callable[[resnet.Run, Path], Any], str]] = {
    "views": (lambda run, data: run.predict(data, views=3), "views=3 is not allowed"),
    "top": (lambda run, data: run.predict(data, top=0), "top=0 is not a number of classes"),
    "engine": (lambda run, data: run.predict(data, engine="torch"), "engine='torch' is not allowed"),
    "split": (lambda run, data: run.evaluate(split="all"), "split='all' is not allowed"),
    "format": (lambda run, data: run.export("pdf"), "format='pdf' is not allowed"),
    "int8 of a format without": (
        lambda run, data: run.export("keras", quantize=True),
        "--quantize int8 goes with --format openvino, onnx, tflite, not with keras",
    ),
    "a bound without int8": (lambda run, data: run.export("onnx", max_drop=1), "--max-drop is the bound of int8"),
    "no run": (lambda run, data: resnet.load(data / "gone"), "there is no run folder"),
    "no folder": (lambda run, data: resnet.check(data / "gone", progress=False), "there is no folder"),
    "a key": (lambda run, data: resnet.finetune(data, settings={"droput": 0.1}), "droput"),
    "a key twice": (
        lambda run, data: resnet.finetune(data, seed=1, settings={"seed": 2}),
        "seed is an argument and in settings as well",
    ),
    "weights of no kind": (lambda run, data: resnet.finetune(data, weights=None), "weights=None is neither text nor a path"),
    "a limit of no kind": (lambda run, data: resnet.finetune(data, time_limit=-1), "time_limit=-1 is not a duration"),
    "settings of no kind": (
        lambda run, data: resnet.train(data, settings="views=2"),
        "settings is not a mapping of keys to values",
    ),
    "a size of no kind": (lambda run, data: resnet.train(data, image_size="32"), "image_size='32' is not a number of pixels"),
    "a size of nothing": (lambda run, data: resnet.finetune(data, image_size=0), "image_size=0 is less than 8 pixels"),
    "labels of no kind": (lambda run, data: resnet.finetune(data, labels=5), "labels=5 is neither text nor a path"),
    "labels to score of no kind": (lambda run, data: run.evaluate(labels=[("a", "b")]), "is neither text nor a path"),
    "a data set of no kind": (lambda run, data: resnet.check(None), "data=None is neither text nor a path"),
    "unfreeze given twice": (
        lambda run, data: resnet.finetune(data, unfreeze="last", settings={"unfreeze": "none"}),
        "unfreeze is an argument and in settings as well",
    ),
    "an image of no pixels": (lambda run, data: run.predict(Image.new("RGB", (0, 0))), "the image has no pixels: 0 x 0"),
    "views of no kind": (lambda run, data: run.predict(data, views=True), "views=True is not allowed"),
    "progress of no kind": (lambda run, data: run.predict(data, progress=None), "progress=None is not a Progress"),
    "epochs and a limit": (lambda run, data: resnet.train(data, epochs=2, time_limit="5m"), "time_limit chooses the epochs"),
    "unfreeze": (lambda run, data: resnet.finetune(data, unfreeze="some", progress=False), "unfreeze"),
    "a network": (lambda run, data: resnet.train(data, arch="resnet21"), "resnet21"),
    "a teacher's key": (lambda run, data: resnet.train(data, settings={"temperature": 3.0}), "temperature"),
    "a recipe": (lambda run, data: resnet.finetune(data, recipe="quick"), "quick"),
    "a key out of range": (lambda run, data: resnet.finetune(data, settings={"dropout": 2.0}), "dropout"),
}


@pytest.mark.parametrize(("ask", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_argument_is_one_sentence(
    run: resnet.Run, fruit: Path, ask: Callable[[resnet.Run, Path], Any], message: str
) -> None:
    with pytest.raises(resnet.ResnetError) as caught:
        ask(run, fruit)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_evaluate_gives_the_figures_of_the_command_and_writes_its_files(run: resnet.Run, run_cli: RunCli, folder: Path) -> None:
    with pytest.warns(UserWarning, match="the same images selected the best epoch"):
        figures = run.evaluate(progress=False)
    written = {name: (folder / name).read_bytes() for name in ("predictions.csv", "confusion.csv", "report.html")}
    document = json.loads(run_cli("evaluate", "--run", folder, "--json").stdout)
    assert figures.to_json() == {name: document[name] for name in figures.to_json()}
    assert {name: (folder / name).read_bytes() for name in written} == written
    assert [each.name for each in figures.classes] == list(run.classes)


def test_evaluate_of_a_folder_and_a_split_are_those_of_the_command(
    run: resnet.Run, run_cli: RunCli, tmp_path: Path, make_dataset: Callable[..., Path]
) -> None:
    new = make_dataset(tmp_path / "new", count=4, first=50)
    told = Told()
    figures = run.evaluate(new, views=2, output=tmp_path / "figures", progress=told)
    options = ("--run", run.folder, "--views", 2, "--output", tmp_path / "others", "--json")
    document = json.loads(run_cli("evaluate", new, *options).stdout)
    assert (figures.count, figures.top1, figures.loss) == (12, document["top1"], document["loss"])
    assert (tmp_path / "figures" / "report.html").is_file()
    assert told.bars == {"measuring all": 12}
    assert run.evaluate(split="train", output=tmp_path / "train", progress=told).count == 27


@pytest.mark.slow
def test_an_export_is_written_where_the_command_writes_it_and_openvino_is_a_run_again(
    run: resnet.Run, paths: list[Path], tmp_path: Path
) -> None:
    written = run.export("openvino", output=tmp_path / "out", progress=False)
    assert written == tmp_path / "out"
    again = resnet.load(written)
    assert again.classes == run.classes and again.results == {}
    assert [each.label for each in again.predict(paths)] == [each.label for each in run.predict(paths)]
    with pytest.raises(resnet.ResnetError, match="exists already"):
        run.export("openvino", output=tmp_path / "out", progress=False)


def test_load_without_a_folder_opens_the_newest_run(
    tmp_path: Path, fruit: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(resnet.ResnetError, match="there is no run under runs/"):
        resnet.load()
    make_run(tmp_path / "runs" / "fruit-resnet8", fruit, arch="resnet8")
    run = resnet.load()
    assert run.folder == tmp_path / "runs" / "fruit-resnet8"
    monkeypatch.chdir(fruit)  # a run stays the same wherever its process goes
    assert run.predict("apple/000.png")[0].path == Path("apple/000.png")


def test_check_finds_what_the_command_finds(fruit: Path, tmp_path: Path, run_cli: RunCli, make_image: MakeImage) -> None:
    twice = make_image(tmp_path / "data" / "a" / "1.png")
    make_image(tmp_path / "data" / "b" / "1.png")
    found = resnet.check(tmp_path / "data", progress=False)
    assert found.to_json() == json.loads(run_cli("check", tmp_path / "data", "--json").stdout)
    assert ("conflict", "error") in [(each.kind, each.severity) for each in found.problems] and twice.exists()


def options(run: Finetuned, output: Path) -> dict[str, Any]:
    return {"weights": "bundled", "image_size": 32, "epochs": 2, "val_split": 0.5, "seed": HALF, "output": output}


def figures_of(results: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in results.items() if name not in ("run", "seconds")}


@pytest.mark.slow
def test_finetune_gives_the_run_of_the_command_and_leaves_the_process_as_it_was(
    finetuned_run: Finetuned, tmp_path: Path
) -> None:
    from resnet_cli.networks.accelerations import rewrites

    before, expected = rewrites(), random.Random(5).random()
    random.seed(5)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    told = Told()
    run = resnet.finetune(
        str(finetuned_run.data), settings={"views": 2}, progress=told, **options(finetuned_run, tmp_path / "run")
    )
    assert figures_of(run.results) == figures_of(finetuned_run.result)
    assert run.folder == tmp_path / "run" and run.classes == tuple(sorted(path.name for path in finetuned_run.data.iterdir()))
    assert told.warnings == finetuned_run.result["warnings"] and "fruit: 7 classes" in told.lines[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert (random.random(), rewrites()) == (expected, before)
    command = json.loads((run.folder / "run.json").read_text())["command"]
    assert eval(command, {"resnet": _Asked}) == {
        "data": str(finetuned_run.data),
        "settings": {"views": 2},
        **options(finetuned_run, tmp_path / "run"),
        "output": str(tmp_path / "run"),
    }


class _Asked:
    """Stands for the module, and tells what it is called with."""

    @staticmethod
    def finetune(data: str, **asked: Any) -> dict[str, Any]:
        return {"data": data, **asked}


@pytest.mark.slow
def test_an_interrupted_call_saves_raises_keyboard_interrupt_and_goes_on_with_resume(
    finetuned_run: Finetuned, tmp_path: Path
) -> None:
    def interrupt(title: str, step: int) -> None:
        if title.startswith(("tail 2", "epoch 2")) and step == 2:
            signal.raise_signal(signal.SIGINT)

    asked = {"settings": {"views": 2}, **options(finetuned_run, tmp_path / "run")}
    told = Told(interrupt)
    with pytest.raises(KeyboardInterrupt, match="resume=True"):
        resnet.finetune(finetuned_run.data, progress=told, **asked)
    assert "stopping after the current step or batch, and saving; interrupt again to stop at once" in told.lines
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not (tmp_path / "run" / "run.json").exists()
    again = Told()
    assert figures_of(resnet.finetune(finetuned_run.data, resume=True, progress=again, **asked).results) == figures_of(
        finetuned_run.result
    )


def test_an_interrupt_where_nothing_would_be_lost_stops_at_once(fruit: Path) -> None:
    told = Told(lambda title, step: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        resnet.check(fruit, progress=told)
    assert list(told.bars.values()) == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_callers_own_stays_during_a_call(fruit: Path) -> None:
    seen = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        told = Told(lambda title, step: signal.raise_signal(signal.SIGINT) if step == 1 else None)
        assert resnet.check(fruit, progress=told).images == 36
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert set(seen) == {signal.SIGINT}


def test_a_run_answers_in_a_thread_too(run: resnet.Run, paths: list[Path]) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(run.predict(paths)))
    thread.start()
    thread.join()
    assert [each.path for each in found] == paths


@pytest.mark.slow
def test_train_gives_a_run_with_the_recipe_and_the_changes_that_were_asked_for(fruit: Path, tmp_path: Path) -> None:
    run = resnet.train(
        fruit,
        arch="resnet8",
        image_size=16,
        recipe="paper",
        epochs=1,
        settings={"crop": "none", "pixel_mean": False},
        output=tmp_path / "run",
        progress=Told(),
    )
    config = json.loads((run.folder / "run.json").read_text())["config"]
    assert (config["recipe"], config["epochs"], config["crop"], config["momentum"]) == ("paper", 1, "none", 0.9)
    assert run.results["arch"] == "resnet8" and run.evaluate(progress=Told()).top1 == run.results["val"]["top1"]


def test_progress_shows_on_stderr_and_without_it_warnings_alone(
    run: resnet.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.evaluate(split="train", output=tmp_path / "shown")
    stdout, stderr = capsys.readouterr()
    assert stdout == "" and stderr.startswith("warning: these 27 images were trained on") and "measuring train" in stderr
    with pytest.warns(UserWarning, match="these 27 images were trained on"):
        run.evaluate(split="train", output=tmp_path / "silent", progress=False)
    assert capsys.readouterr() == ("", "")


SILENT = """
import sys
import resnet_cli as resnet
run = resnet.load(sys.argv[1])
assert run.predict(sys.argv[2])[0].label in run.classes
assert not {"rich", "typer", "tensorflow", "keras", "matplotlib"} & set(sys.modules), sorted(sys.modules)
"""


def test_a_prediction_imports_neither_tensorflow_nor_what_shows_progress(folder: Path, paths: list[Path]) -> None:
    done = subprocess.run([sys.executable, "-c", SILENT, folder, paths[0]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# What rich looks for in a notebook, without the packages.
NOTEBOOK = """
import builtins, sys, threading, types
shown = []
class ZMQInteractiveShell: pass
builtins.get_ipython = ZMQInteractiveShell
display = types.ModuleType("IPython.display")
display.display = lambda *things: shown.extend(things)
display.clear_output = lambda **options: None
class Output:
    def __enter__(self): return self
    def __exit__(self, *error): return None
    def clear_output(self, **options): return None
    def close(self): return None
widgets = types.ModuleType("ipywidgets")
widgets.Output, widgets.__spec__ = Output, types.SimpleNamespace(name="ipywidgets")
sys.modules.update({"IPython": types.ModuleType("IPython"), "IPython.display": display, "ipywidgets": widgets})
import resnet_cli as resnet
resnet.check(sys.argv[1])
bars = any(isinstance(each, Output) for each in shown)
texts = "".join(each._repr_mimebundle_([], [])["text/plain"] for each in shown if hasattr(each, "_repr_mimebundle_"))
for thread in set(threading.enumerate()) - {threading.main_thread()}:
    thread.join(10)  # of a bar that was taken away
print(bars, "/36" in texts, threading.active_count())
"""


@pytest.mark.slow
def test_a_notebook_shows_bars(fruit: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK, str(fruit)], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert (done.stdout, done.stderr) == ("True True 1\n", "")


def blocks(page: Path) -> list[str]:
    """The Python examples of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_examples_of_the_page_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # as few images as these are worth a warning
        for block in blocks(ROOT / "docs" / "python.md"):
            exec(block, names)
    assert set(names["accuracies"]) == {("none", 0), ("none", 1), ("last", 0), ("last", 1)}
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "cars_vs_trucks-resnet18-slim",
        *(f"cars_vs_trucks-resnet18-slim-{number}" for number in (2, 3, 4, 5, 6)),
        "cars_vs_trucks-resnet8",
    ]
