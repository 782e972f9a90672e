"""`KERAS_BACKEND=jax` on a CPU: train, finetune, resume, evaluate and predict work, and answer as TensorFlow does."""

import csv
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import MakeImage

from resnet_cli.runs.folder import read_history

pytestmark = pytest.mark.slow  # a dozen commands on either backend

SCRIPT = Path(__file__).with_name("backend_commands.py")
BACKENDS = ("jax", "tensorflow")
RESIZES = ("crop", "pad", "squash")
TRAIN = "--arch resnet8 --epochs 3 --batch-size 8 --learning-rate 0.02 --seed 4 --json"
FINETUNE = (
    "--arch resnet8 --weights none --image-size 32 --set views=2 --epochs 2 --val-split 0.5 --set cache=false --engine keras"
    " --json"
)
# The last stage is trained too with one of them.
UNFREEZE = {"crop": "last", "pad": "none", "squash": "none"}
INTERRUPTED_AT = 6  # steps: in the middle of the second epoch of four steps

Command = tuple[list[str], bool, int]


@dataclass(frozen=True)
class Session:
    """The folder in which commands ran on both backends, and what each printed, by backend and name."""

    folder: Path
    results: dict[tuple[str, str], dict[str, Any]]

    def printed(self, backend: str, name: str) -> Any:
        return json.loads(self.results[backend, name]["stdout"])

    def record(self, run: str) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.folder / run / "run.json").read_text())
        return record


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, make_image: MakeImage) -> Session:
    """Everything on JAX, then on TensorFlow, which also answers with the runs that JAX trained: one process each."""
    folder = tmp_path_factory.mktemp("backends")
    for label, name in enumerate(("apple", "berry", "cherry")):
        for number in range(12):
            size = (96, 24) if number % 2 else (36, 60)  # wide and tall: every --resize shows another part of them
            make_image(folder / "fruit" / name / f"{number:03d}.png", seed=number, size=size, label=label)
    results: dict[tuple[str, str], dict[str, Any]] = {}
    for backend in BACKENDS:
        commands = _commands(folder, backend)
        answers = _run(folder, backend, list(commands.values()))
        results |= {(backend, name): answer for name, answer in zip(commands, answers, strict=True)}
    return Session(folder, results)


def _commands(folder: Path, backend: str) -> dict[str, Command]:
    """By name: the words of a command, whether there is OpenVINO, and after how many steps SIGINT comes."""
    commands: dict[str, Command] = {}
    if backend == "jax":
        train = ["train", "fruit", *TRAIN.split()]
        commands["train"] = ([*train, "--output", "whole"], True, 0)
        commands["interrupted"] = ([*train, "--output", "stopped"], False, INTERRUPTED_AT)
        commands["resumed"] = ([*train, "--output", "stopped", "--resume"], False, 0)
    for resize in RESIZES:
        words = ["finetune", "fruit", "--resize", resize, "--unfreeze", UNFREEZE[resize], *FINETUNE.split()]
        commands[f"finetune {resize}"] = ([*words, "--output", f"{backend}-{resize}"], False, 0)
    images = sorted(str(path.relative_to(folder)) for path in (folder / "fruit").rglob("*.png"))
    for resize in RESIZES:
        for trained_by in {"jax", backend}:
            run = f"{trained_by}-{resize}"
            own = ["--run", run, "--engine", "keras", "--json"]
            commands[f"evaluate {run}"] = (["evaluate", *own, "--output", f"{run}-by-{backend}"], False, 0)
            commands[f"predict {run}"] = (["predict", *images, *own], False, 0)
    return commands


def _run(folder: Path, backend: str, commands: list[Command]) -> list[dict[str, Any]]:
    """Commands in one process; Python's warnings are errors there."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT)],
        input=json.dumps(commands),
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert backend == "tensorflow" or done.stderr == "", "nothing but commands says anything"
    return [json.loads(line) for line in done.stdout.splitlines()]


def measured(folder: Path) -> dict[str, float]:
    """The probability of the true class of each image in a predictions.csv, by class and file name."""
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return {_place(row["path"]): math.exp(-float(row["loss"])) for row in csv.DictReader(file)}


def predicted(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The same of what `predict --json` printed: the class is the name of the folder."""
    return {
        _place(row["path"]): next(
            each["probability"] for each in row["predictions"] if each["class"] == Path(row["path"]).parent.name
        )
        for row in rows
    }


def _place(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


def test_no_command_fails_on_jax_and_none_imports_tensorflow(session: Session) -> None:
    for (backend, name), result in session.results.items():
        assert result["exit_code"] == (130 if name == "interrupted" else 0), (backend, name, result["stderr"])
        assert result["tensorflow"] == (backend == "tensorflow")


def test_runs_say_which_backend_trained_them(session: Session) -> None:
    for run, backend in (("whole", "jax"), ("stopped", "jax"), ("jax-crop", "jax"), ("tensorflow-crop", "tensorflow")):
        record = session.record(run)
        assert (record["backend"], record["device"], record["deterministic"]) == (backend, "cpu", True)
        assert ("jax" in record["versions"]) == (backend == "jax")


def test_an_interrupted_training_on_jax_ends_with_the_same_weights(session: Session) -> None:
    assert session.results["jax", "interrupted"]["stderr"].endswith("--resume to continue where it stopped\n")
    whole, resumed = (
        [(each.epoch, each.loss, each.accuracy, each.val_loss, each.val_accuracy, each.learning_rate) for each in history]
        for history in (read_history(session.folder / run / "metrics.jsonl") for run in ("whole", "stopped"))
    )
    assert whole == resumed and [epoch for epoch, *_ in whole] == [1, 2, 3]
    with (
        h5py.File(session.folder / "whole" / "model.weights.h5") as one,
        h5py.File(session.folder / "stopped" / "model.weights.h5") as other,
    ):
        names: list[str] = []
        one.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        assert len(names) > 30
        for name in names:
            if not name.startswith("logits/"):
                np.testing.assert_array_equal(one[name][()], other[name][()], err_msg=name)
        # Divided by temperatures that different engines measured: OpenVINO is hidden from the resumed run.
        for name in ("logits/kernel", "logits/bias"):
            whole_logits, resumed_logits = (
                file[name][()] * session.record(run)["calibration"]["temperature"]
                for file, run in ((one, "whole"), (other, "stopped"))
            )
            np.testing.assert_allclose(resumed_logits, whole_logits, rtol=1e-6, err_msg=name)


def test_what_jax_trained_is_converted_for_openvino(session: Session) -> None:
    assert (session.folder / "whole" / "model.xml").exists()
    assert session.record("whole")["engine"].startswith("openvino")
    assert not (session.folder / "stopped" / "model.xml").exists()
    assert session.record("stopped")["engine"] == "keras f32"
    whole, stopped = (session.printed("jax", name)["val"]["top1"] for name in ("train", "resumed"))
    assert whole == stopped


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_training_evaluate_and_predict_agree_on_every_held_out_image(backend: str, resize: str, session: Session) -> None:
    run = f"{backend}-{resize}"
    record = session.record(run)
    assert (record["input"]["resize"], record["backend"]) == (resize, backend)
    after_training = measured(session.folder / run)
    assert len(after_training) == record["results"]["val"]["count"] >= 9
    evaluated = measured(session.folder / f"{run}-by-{backend}")
    answers = predicted(session.printed(backend, f"predict {run}"))
    for path, probability in after_training.items():
        assert evaluated[path] == pytest.approx(probability, abs=1e-3), path
        assert answers[path] == pytest.approx(probability, abs=1e-3), path


@pytest.mark.parametrize("resize", RESIZES)
def test_in_float32_evaluate_measures_the_accuracy_that_selected_the_epoch(resize: str, session: Session) -> None:
    run = f"jax-{resize}"
    assert session.record(run)["precision"] == "float32"
    best = max(read_history(session.folder / run / "metrics.jsonl"), key=lambda each: each.val_accuracy)
    assert session.printed("jax", f"evaluate {run}")["top1"] == pytest.approx(best.val_accuracy, abs=1e-6)


@pytest.mark.parametrize("resize", RESIZES)
def test_both_backends_give_the_same_answers_with_the_same_weights(resize: str, session: Session) -> None:
    run = f"jax-{resize}"
    by_jax, by_tensorflow = (measured(session.folder / f"{run}-by-{backend}") for backend in BACKENDS)
    assert by_jax.keys() == by_tensorflow.keys()
    for path, probability in by_jax.items():
        assert by_tensorflow[path] == pytest.approx(probability, abs=1e-3), path
    rows, others = (session.printed(backend, f"predict {run}") for backend in BACKENDS)
    assert [row["path"] for row in rows] == [row["path"] for row in others] and len(rows) == 36
    for row, other in zip(rows, others, strict=True):
        one, two = ({each["class"]: each["probability"] for each in answer["predictions"]} for answer in (row, other))
        assert one == pytest.approx(two, abs=1e-3), row["path"]
