"""constraints.txt names one version of everything that the program and its tests need, and these fit together."""

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LINES = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def pins() -> dict[str, str]:
    """Name and version of every line that holds for this Python."""
    requirements = [Requirement(line) for line in LINES]
    here = [each for each in requirements if each.marker is None or each.marker.evaluate()]
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in here}


def declared() -> list[Requirement]:
    """What pyproject.toml asks for: the program, and all that its tests use."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    (own,) = [Requirement(line) for line in extras["test"] if line.startswith("resnet-cli[")]
    lines = [*project["dependencies"], *extras["test"], *(line for extra in own.extras for line in extras[extra])]
    return [each for each in map(Requirement, lines) if each.name != "resnet-cli"]


def unmet(requirement: Requirement) -> bool:
    version = pins().get(canonicalize_name(requirement.name))
    return version is None or not requirement.specifier.contains(version, prereleases=True)


def test_every_line_names_one_version() -> None:
    assert [line for line in LINES if str(Requirement(line).specifier)[:2] != "==" or "*" in line] == []


def test_the_tested_set_is_what_pyproject_asks_for() -> None:
    assert [str(requirement) for requirement in declared() if unmet(requirement)] == []


def test_the_tested_set_holds_what_its_packages_need_in_turn() -> None:
    # A package that is installed in another version than the tested one may need something else.
    known, found, wrong = pins(), list(declared()), []
    seen: set[str] = set()
    while found:
        requirement = found.pop()
        name = canonicalize_name(requirement.name)
        if unmet(requirement):
            wrong.append(str(requirement))
        elif str(requirement) not in seen and metadata.version(name) == known[name]:
            extras = requirement.extras or {""}
            needed = map(Requirement, metadata.requires(name) or [])
            found += [each for each in needed if not each.marker or any(each.marker.evaluate({"extra": it}) for it in extras)]
        seen.add(str(requirement))
    assert wrong == []
    assert {"tensorflow", "protobuf", "execnet"} <= {canonicalize_name(Requirement(each).name) for each in seen}
