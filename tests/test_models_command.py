"""`resnet models` lists every network of the catalogue."""

import json
import subprocess
import sys

import pytest

from resnet_cli.networks.catalogue import CATALOGUE


def test_the_table_tells_name_depth_parameters_and_weights(run_cli) -> None:  # type: ignore[no-untyped-def]
    result = run_cli("models")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = {line.split()[1]: line.split()[3::2] for line in result.stdout.splitlines() if line.startswith("│")}
    assert set(lines) == set(CATALOGUE)
    assert lines["resnet50"] == ["imagenet", "50", "25,636,712", "224", "imagenet"]
    assert lines["resnet20"] == ["cifar", "20", "271,098", "32", "none"]
    assert lines["resnet18-slim"][-2:] == ["128", "bundled"]
    assert lines["resnet18-compact"] == ["compact", "18", "2,851,240", "64", "none"]
    assert "6n+2" in result.stdout


def test_json_is_one_document_with_the_documented_fields(run_cli) -> None:  # type: ignore[no-untyped-def]
    result = run_cli("models", "--json")
    rows = json.loads(result.stdout)
    assert [row["name"] for row in rows] == list(CATALOGUE)
    assert all(list(row) == ["name", "family", "depth", "parameters", "input", "weights"] for row in rows)
    fifty = next(row for row in rows if row["name"] == "resnet50v2")
    assert fifty["parameters"] == 25_613_800 and fifty["input"] == 224 and fifty["weights"] == "imagenet"
    assert {row["weights"] for row in rows} == {"imagenet", "hub", "bundled", "none"}
    assert {row["name"] for row in rows if row["weights"] == "hub"} == {
        *("resnet18", "resnet34", "resnet50v1.5", "resnet101v1.5", "resnet152v1.5")
    }


@pytest.mark.parametrize("arguments", [["models"], ["models", "--json"]])
def test_the_list_needs_no_heavy_package(arguments: list[str]) -> None:
    script = f"""
import sys
from resnet_cli.cli.app import app
app({arguments!r}, standalone_mode=False)
print([name for name in ("numpy", "keras", "tensorflow", "h5py", "PIL") if name in sys.modules], file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
