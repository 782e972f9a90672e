"""What several test files share: generated images, a small data set, and the program run in this process."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

# Read by rich when its consoles are made: tables of one width, and no colours, wherever the tests run.
os.environ["COLUMNS"] = "160"
os.environ["NO_COLOR"] = "1"
os.environ.pop("FORCE_COLOR", None)
# As the program starts TensorFlow; tests that import it themselves do so before the program could.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Workers of pytest-xdist share the cores: one thread each, in TensorFlow and in every process that a test starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

# Ignored where the tests run in the background of a shell, and then in every process that they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SAMPLE_DATA = Path(__file__).parents[1] / "sample_data" / "cars_vs_trucks"

# Seeds that hold out what the share asks for to the image, so that tests can count: half of the images of `finetuned_run`, and
# a quarter of each class of `sample_data` and `tiny_dataset`.
HALF, A_QUARTER = 69, 4232

_COLOURS = ((200, 60, 50), (50, 90, 200), (60, 180, 80), (220, 190, 60), (150, 70, 180))


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def told(self) -> str:
        """What stderr says besides the first lines, which name what is read."""
        return "".join(
            line for line in self.stderr.splitlines(keepends=True) if not line.startswith(("evaluating ", "scanning "))
        )


MakeImage = Callable[..., Path]
MakeDataset = Callable[..., Path]
RunCli = Callable[..., Result]
MakeRun = Callable[..., Path]


def _make_image(path: Path, seed: int = 0, size: tuple[int, int] = (48, 40), label: int = 0) -> Path:
    """An image of (width, height) with a pattern of its own (`seed`) in the colour of its class (`label`)."""
    random = np.random.default_rng((seed, label))
    pattern = random.integers(-50, 51, (6, 6, 3))
    blocks = np.clip(np.array(_COLOURS[label % len(_COLOURS)]) + pattern, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Stored without compression, which is the same with every version of zlib: the content decides what is held out.
    Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC).save(path, compress_level=0)
    return path


def _make_dataset(root: Path, classes: tuple[str, ...] = ("apple", "berry", "cherry"), count: int = 12, first: int = 0) -> Path:
    """`root/<class>/NN.png`, `count` images a class, all different; the colour tells the class."""
    for label, name in enumerate(classes):
        for number in range(first, first + count):
            _make_image(root / name / f"{number:03d}.png", seed=number, label=label)
    return root


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the program keeps for later runs stays out of the user's cache; processes that tests start inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def garbage_is_collected() -> Iterator[None]:
    """A command leaves its garbage to the end of the process, which does not come here: the tests took six gigabytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.freeze", lambda: None)
        yield


@pytest.fixture(autouse=True)
def exact_keras() -> None:
    """Commands turn TensorFlow's bf16 rewriting on for the whole process; what tests compare with computes in float32."""
    if "tensorflow" in sys.modules:
        from resnet_cli.networks.accelerations import set_rewriting

        set_rewriting(False)


@pytest.fixture(scope="session")
def make_image() -> MakeImage:
    """`make_image(path, seed=0, size=(width, height), label=0) -> path`."""
    return _make_image


@pytest.fixture(scope="session")
def make_dataset() -> MakeDataset:
    """`make_dataset(root, classes=(...), count=12, first=0) -> root`; other `first`, other images."""
    return _make_dataset


@pytest.fixture
def tiny_dataset(tmp_path: Path) -> Path:
    """A folder `fruit` of three classes, a dozen small images each, easy to tell apart; a test may change it."""
    return _make_dataset(tmp_path / "fruit")


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The data set that comes with the program: cars and trucks, 40 JPEG images each."""
    return SAMPLE_DATA


def run_once(*args: object) -> Result:
    """`resnet ARGS` in this process, for fixtures that several tests share; tests take `run_cli`."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stdout, stderr, exit_code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        from resnet_cli.cli.app import main

        patch.setattr(sys, "argv", ["resnet", *map(str, args)])
        try:
            main()
        except SystemExit as stop:
            exit_code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return Result(exit_code, stdout.getvalue(), stderr.getvalue())


Exported = tuple[Path, dict[str, Any]]


def written_once(run: Path, root: Path) -> Callable[..., Exported]:
    """`write(format, *options) -> (folder, JSON)` of `resnet export`; the same words give the same folder under `root`."""

    @cache
    def write(*options: str) -> Exported:
        folder = root / "-".join(options)
        result = run_once("export", "--run", run, "--output", folder, "--format", *options, "--json")
        assert result.exit_code == 0, result.stderr
        return folder, json.loads(result.stdout)

    return write


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[RunCli]:
    """`run_cli("check", folder, stdin="") -> Result`: the real entry point, in this process, output captured."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*args: object, stdin: str = "") -> Result:
        from resnet_cli.cli.app import main

        monkeypatch.setattr(sys, "argv", ["resnet", *map(str, args)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        exit_code = 0
        try:
            main()
        except SystemExit as stop:
            exit_code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        captured = capsys.readouterr()
        return Result(exit_code, captured.out, captured.err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine without a network: no name is found. Yields the names that were asked for."""
    asked: list[str] = []

    def unknown(host: str, *rest: object, **options: object) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    without_proxy(monkeypatch)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    return asked


def without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@dataclass(frozen=True)
class Finetuned:
    """A finished fine-tuning that several files look at and none changes.

    Attributes:
        folder: the run.
        data: seven classes, of which two look alike, so that not every answer is right; about half of each class is held
            out.
        arguments: the command, without --output.
        result: what --json printed.
        stderr: what was told on the way.
    """

    folder: Path
    data: Path
    arguments: tuple[str, ...]
    result: dict[str, Any]
    stderr: str

    @property
    def held(self) -> int:
        """How many images are held out."""
        return self._count("val")

    @property
    def trained(self) -> int:
        """How many images it was trained on."""
        return self._count("train")

    def _count(self, split: str) -> int:
        return sum(f",{split}," in line for line in (self.folder / "splits.csv").read_text().splitlines())


@pytest.fixture(scope="session")
def finetuned_run(tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    """`resnet finetune` with the bundled backbone, once for the whole session; quick, and repeated by tests of its figures."""
    root = tmp_path_factory.mktemp("finetuned")
    classes = ("apple", "berry", "cherry", "date", "elder", "fig", "grape")
    data = _make_dataset(root / "fruit", classes, count=12)
    options = f"--weights bundled --set views=2 --epochs 2 --image-size 32 --val-split 0.5 --seed {HALF} --json"
    arguments = ("finetune", str(data), *options.split())
    result = run_once(*arguments, "--output", root / "run")
    assert result.exit_code == 0, result.stderr
    return Finetuned(root / "run", data, arguments, json.loads(result.stdout), result.stderr)


def _write_network(folder: Path, spec: Any, shown: NDArray[np.uint8]) -> None:
    """Weights and OpenVINO's files of an untrained network: every weight is random.

    The head is scaled on the images that it is shown, so that probabilities differ from image to image and every class is
    likely somewhere.
    """
    import keras

    from resnet_cli.engines.frozen import write_classifier
    from resnet_cli.networks.classifier import build_logits

    keras.utils.set_random_seed(0)
    model = build_logits(spec, fused=False)
    head = model.get_layer("logits")
    head.kernel.assign(np.random.default_rng(0).normal(size=head.kernel.shape))
    logits = np.asarray(model(shown))
    scale = logits.std(0) + 1e-6
    head.kernel.assign(np.asarray(head.kernel) / scale)
    head.bias.assign(-logits.mean(0) / scale)
    write_classifier(folder, model, spec)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """`make_run(folder, dataset, arch="resnet20", size=32) -> folder`: a complete, untrained run in a moment.

    A quarter of the images is held out, or the data set's own test folder beside a tenth. What was once written for a network
    and the same images is copied.
    """
    networks = tmp_path_factory.mktemp("networks")

    def make(folder: Path, dataset: Path, arch: str = "resnet20", size: int = 32) -> Path:
        from resnet_cli.data.dataset import scan_dataset
        from resnet_cli.data.decode import Geometry, decode_square
        from resnet_cli.data.split import hold_out
        from resnet_cli.jobs.record import run_record, split_rows
        from resnet_cli.networks.catalogue import ClassifierSpec, find_network
        from resnet_cli.networks.pretrained import WeightsSource
        from resnet_cli.runs.folder import finish_run, write_splits

        scanned = scan_dataset(dataset)
        held_out = hold_out(scanned, 0.1 if "test" in scanned.splits else 0.25, A_QUARTER)
        network = find_network(arch)
        geometry = Geometry(size, "crop", network.crop_fraction)
        spec = ClassifierSpec(network, len(held_out.classes), size)
        shown = np.stack([decode_square(sample.path, geometry) for sample in held_out.splits["val"][:24]])
        written = networks / f"{arch}-{len(held_out.classes)}-{hashlib.sha256(shown.tobytes()).hexdigest()}"
        if not (written / "model.xml").exists():
            written.mkdir(exist_ok=True)
            _write_network(written, spec, shown)
        folder.mkdir(parents=True)
        for path in written.iterdir():
            shutil.copy(path, folder)
        write_splits(folder, split_rows(held_out))
        source = WeightsSource("none", None, "")
        finish_run(folder, run_record(f"resnet train {dataset}", {"seed": 0}, held_out, spec, geometry, source, "float32"))
        return folder

    return make


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as on a full disk: only inside, for pytest writes files of its own."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
