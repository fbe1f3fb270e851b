"""Tests that imports have one direction: fedsup_tf <- tflite <- tff_programs, and in packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}
FORBIDDEN = {
    "fedsup_tf": {"tflite", "tff_programs", "tensorflow_federated"} | PICKLES,
    "tflite": {"tff_programs", "tensorflow_federated"} | PICKLES,
    "tflite/device": {"tensorflow"},
    "tflite/together": {"tensorflow", "tornado", "sqlalchemy"},
    "tff_programs": PICKLES,
    "tests": PICKLES,
}

# Rooms are the parts of a package; each may import itself and the rooms listed here. Modules at a
# package's top level are its core; data.preprocessing is a separate room, below the core.
CORE = "core"
PREPROCESSING = "data.preprocessing"
ROOMS = {
    "fedsup_tf": {
        "files": set(),
        "ops": set(),
        PREPROCESSING: {"files"},
        CORE: {"files", "ops", PREPROCESSING},
        "data": {"files", PREPROCESSING},
        "search": {"files", "ops", PREPROCESSING, CORE},
    },
    "tflite": {
        "format": set(),
        "flatbuffer": set(),
        "device": {"format"},
        "export": {"format", "flatbuffer"},
        "certify": {"format", "flatbuffer", "export", "device"},
        "profiling": {"format", "flatbuffer", "export", "device", "certify"},
        "merge": {"format"},
        "together": {"format", "device"},
    },
    "tff_programs": {
        # The core has only the types.
        CORE: set(),
        "aggregators": {CORE},
        "learning": {CORE, "aggregators"},
        "execution": {CORE},
        "simulation": {CORE, "aggregators", "execution"},
        "reports": {CORE, "aggregators", "execution", "simulation"},
        "gateway": {CORE, "simulation"},
        "programs": {
            CORE,
            "aggregators",
            "learning",
            "execution",
            "simulation",
            "reports",
            "gateway",
        },
    },
}


def imported(source: str) -> set[str]:
    """Returns the full names that the source imports anywhere: modules and names in them."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(package: str, name: str) -> str:
    """Returns the room of a package that a full name belongs to."""
    inside = name.split(".")[1:]
    for known in (".".join(inside[:2]), inside[0]):
        if known in ROOMS[package]:
            return known
    return CORE


def files_of(folder: str) -> dict[str, set[str]]:
    """Returns the modules that each file of a folder imports, by the file's path."""
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    return {
        path.relative_to(ROOT).as_posix(): imported(path.read_text(encoding="utf-8"))
        for path in files
    }


def test_imported_finds_every_form_of_import():
    source = "import a.b as c, d\nfrom e.f import g\nfrom . import h\ndef i():\n    import j\n"
    assert imported(source) == {"a.b", "d", "e.f.g", "j"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fedsup_tf.slicing.take", CORE),
        ("fedsup_tf.layers", CORE),
        ("fedsup_tf.data.preprocessing.Preprocessing", PREPROCESSING),
        ("fedsup_tf.data.datasets", "data"),
        ("fedsup_tf.search.costs", "search"),
    ],
)
def test_a_name_lies_in_a_room(name, expected):
    assert room("fedsup_tf", name) == expected


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_import_runs_backwards(folder):
    found = {
        f"{path}: {name}"
        for path, names in files_of(folder).items()
        for name in names
        if name.partition(".")[0] in FORBIDDEN[folder]
    }
    assert not found


@pytest.mark.parametrize("package", ROOMS)
def test_every_folder_of_a_package_is_a_known_room(package):
    folders = {path.parent for path in (ROOT / package).glob("*/*.py")}
    assert {folder.name for folder in folders} == {
        known for known in ROOMS[package] if known not in (CORE, PREPROCESSING)
    }


@pytest.mark.parametrize("package", ROOMS)
def test_no_import_between_rooms_runs_backwards(package):
    found = set()
    for path, names in files_of(package).items():
        if path == f"{package}/__init__.py":
            continue
        own = room(package, path.removesuffix(".py").replace("/", "."))
        allowed = ROOMS[package][own] | {own}
        found |= {
            f"{path}: {name}"
            for name in names
            if name.startswith(f"{package}.") and room(package, name) not in allowed
        }
    assert not found


@pytest.mark.slow
def test_the_supernet_loads_no_tensorflow_federated():
    program = "import sys, fedsup_tf.supernet; print('tensorflow_federated' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert result.stdout.strip() == "False", result.stderr
