"""Shell completion: commands, options, choices, networks, recipes and keys, as the shell asks for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# One process for all questions: the name of the program decides which variable asks.
ASK = """
import contextlib, io, json, os, sys
from resnet_cli.cli.app import main
sys.argv = ["resnet"]
answers = []
for words in json.loads(sys.stdin.read()):
    os.environ |= {"_RESNET_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    with contextlib.redirect_stdout(io.StringIO()) as answer, contextlib.suppress(SystemExit):
        main()
    answers.append(answer.getvalue().split("\\n"))
heavy = [name for name in ("numpy", "PIL", "keras", "tensorflow", "openvino") if name in sys.modules]
print(json.dumps([answers, heavy]))
"""
QUESTIONS = {
    "resnet fine": ["finetune"],
    "resnet train --opt": ["--optimizer"],
    "resnet train --optimizer ": ["sgd", "muon", "adam", "adamw"],
    "resnet train --shortcut ": ["A", "B", "C"],
    "resnet finetune photos --augment s": ["strong"],
    "resnet finetune --resize ": ["crop", "pad", "squash"],
    "resnet finetune --set label": ["label_smoothing="],
    "resnet train --set teacher": ["teacher_weight=", "teacher_views="],
    "resnet train --arch plain": ["plain18", "plain34", "plain20", "plain32", "plain44", "plain56"],
    "resnet train --recipe ": ["fast", "paper", "keras", "my.toml"],
    "resnet finetune --recipe ./m": ["./my.toml"],
    "resnet predict --engine o": ["openvino"],
    "resnet export --format ke": ["keras"],
    "resnet predict --run runs/n": ["runs/new"],
    "resnet export --run ": ["runs/new"],
    "resnet train --momentum": [],
    "resnet compare runs/": ["runs/new"],
    "resnet train --teacher ": ["runs/new"],
    "resnet finetune --weights ": ["imagenet", "bundled", "none", "runs/new"],
    "resnet train --weights b": ["bundled"],
    "resnet train cif": ["cifar10", "cifar100"],
    "resnet evaluate cifar100": ["cifar100"],
    "resnet finetune my": [],  # there is such a file: the shell completes it
    "resnet check ": [],
    "resnet export --verb": ["--verbose"],
}


def test_the_shell_completes_commands_options_and_values(tmp_path: Path) -> None:
    (tmp_path / "my.toml").touch()
    (tmp_path / "runs" / "new").mkdir(parents=True)
    record = {"format": 1, "classes": ["a"], "data": {"name": "d"}, "network": {"name": "n"}}
    results = {"val": {"top1": 0.5, "count": 2}, "seconds": 1.0}
    (tmp_path / "runs" / "new" / "run.json").write_text(json.dumps({**record, "results": results}))
    asked = json.dumps([question.split(" ") for question in QUESTIONS])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COMP_", "_RESNET"))}
    done = subprocess.run(
        [sys.executable, "-c", ASK], input=asked, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True
    )
    answers, heavy = json.loads(done.stdout)
    found = {question: [word for word in words if word] for question, words in zip(QUESTIONS, answers, strict=True)}
    assert found == QUESTIONS
    assert heavy == []


def test_bash_itself_completes_with_the_script(tmp_path: Path) -> None:
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    program = "import sys; sys.argv[0] = 'resnet'; from resnet_cli.cli.app import main; main()"
    (tmp_path / "resnet").write_text(f"#!{sys.executable}\n{program}\n")
    (tmp_path / "resnet").chmod(0o755)
    asked = (
        "source <(resnet --show-completion bash); COMP_WORDS=(resnet export --format ''); COMP_CWORD=3;"
        " $(complete -p resnet | sed 's/.*-F \\([^ ]*\\).*/\\1/') resnet; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    assert done.stdout.split() == ["savedmodel", "keras", "onnx", "tflite", "openvino"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_the_shell_asks_the_program(shell: str) -> None:
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    program = "import sys; sys.argv = ['resnet', '--show-completion', sys.argv[1]]; from resnet_cli.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", program, shell], capture_output=True, text=True, env=environment, check=True)
    assert "_RESNET_COMPLETE=complete_" in done.stdout and "resnet" in done.stdout
