"""The wheel carries everything that the program needs: code, data files, the licence and the command."""

import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email import message_from_string
from pathlib import Path

import pytest

from resnet_cli import __version__

ROOT = Path(__file__).parents[1]
# What belongs to the package but is made by running it.
MADE = {".pyc", ".pyo"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def read(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"resnet_cli-{__version__}.dist-info/{name}").decode()


def test_every_file_of_the_package_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    package = ROOT / "resnet_cli"
    files = {str(path.relative_to(ROOT)) for path in package.rglob("*") if path.is_file() and path.suffix not in MADE}
    packed = {name for name in wheel.namelist() if name.startswith("resnet_cli/")}
    assert packed == files


def test_the_wheel_brings_the_bundled_network_with_its_openvino_model(wheel: zipfile.ZipFile) -> None:
    files = {"run.json", "model.weights.h5", "model.xml", "model.bin"}
    assert {f"resnet_cli/networks/bundled/{name}" for name in files} <= set(wheel.namelist())


def test_the_wheel_holds_nothing_but_the_package(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0] for name in wheel.namelist()} == {"resnet_cli", f"resnet_cli-{__version__}.dist-info"}


def test_the_wheel_brings_the_command_resnet(wheel: zipfile.ZipFile) -> None:
    entry_points = ConfigParser()
    entry_points.read_string(read(wheel, "entry_points.txt"))
    assert dict(entry_points["console_scripts"]) == {"resnet": "resnet_cli.__main__:main"}


def test_the_wheel_names_its_licence_its_version_and_what_it_needs(wheel: zipfile.ZipFile) -> None:
    metadata = message_from_string(read(wheel, "METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Version"] == __version__
    assert metadata["Requires-Python"] == ">=3.11"
    extras = {"export", "gpu", "heif", "hub", "jax", "parquet", "ray", "serve", "tensorboard", "test", "tune"}
    assert set(metadata.get_all("Provides-Extra") or ()) == extras
    assert "Apache License" in read(wheel, "licenses/LICENSE")
