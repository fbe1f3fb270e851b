"""Tests that pyproject.toml declares exactly the distributions that the packages import."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = ("fedsup_tf", "tflite", "tff_programs")
# Test helpers, and modules that pytest's settings put on the path.
OWN = {*PACKAGES, *(path.stem for path in (ROOT / "tests").glob("*.py"))}
OWN |= {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
DISTRIBUTIONS = importlib.metadata.packages_distributions()


def third_party_imports(*folders: str) -> dict[str, str]:
    """Returns the top-level names that files in the folders import, each with one of the files."""
    found = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in (name.partition(".")[0] for name in names):
                if name not in sys.stdlib_module_names and name not in OWN:
                    found.setdefault(name, path.relative_to(ROOT).as_posix())
    assert found
    return found


def normalized(name: str) -> str:
    """Returns a distribution's name as normalized by the Python Package Index."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    """Returns the normalized names of the required distributions."""
    return {normalized(re.match(r"[\w.-]+", line).group()) for line in requirements}


DEPENDENCIES = declared(PROJECT["project"]["dependencies"])
EXTRAS = declared(
    [line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines]
)
DEVELOPMENT = declared(PROJECT["dependency-groups"]["dev"])


@pytest.mark.parametrize(
    ("folders", "allowed"),
    [
        (PACKAGES, DEPENDENCIES | EXTRAS),
        (("tests", "benchmarks"), DEPENDENCIES | DEVELOPMENT),
    ],
    ids=["packages", "tests"],
)
def test_every_import_is_declared(folders, allowed):
    undeclared = {
        name: path
        for name, path in third_party_imports(*folders).items()
        if not allowed & {normalized(found) for found in DISTRIBUTIONS.get(name, [])}
    }
    assert not undeclared


def test_every_dependency_is_imported():
    provided = {
        normalized(distribution)
        for name in third_party_imports(*PACKAGES)
        for distribution in DISTRIBUTIONS.get(name, [])
    }
    assert not (DEPENDENCIES | EXTRAS) - provided


def test_every_dependency_has_one_version():
    constraints = PROJECT["tool"]["uv"]["constraint-dependencies"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in constraints)
    assert (DEPENDENCIES | EXTRAS | DEVELOPMENT) <= declared(constraints)
