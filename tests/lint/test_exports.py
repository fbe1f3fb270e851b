"""Tests of the packages' exports: every name exists, and unused modules are not loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

import fedsup_tf
import tff_programs
import tflite
from fedsup_tf.lazy import lazy_exports

PACKAGES = [fedsup_tf, tff_programs, tflite]
ROOT = Path(__file__).resolve().parents[2]


def run(program: str) -> str:
    """Runs a program in a separate Python process and returns its output."""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_package_shows_its_exports_alone_and_each_is_what_it_is_called(package):
    assert dir(package) == package.__all__ == sorted(package.__all__)
    # A module of the same name would replace an export once it is imported.
    modules = {path.stem for path in Path(package.__file__).parent.iterdir()}
    assert not modules & set(package.__all__)
    for name in package.__all__:
        value = getattr(package, name)
        assert value.__name__ == name
        assert value.__module__.startswith(f"{package.__name__}.")
        assert value.__doc__


def test_importing_a_package_loads_neither_numpy_nor_tensorflow():
    told = run(
        "import sys, fedsup_tf, tff_programs, tflite\n"
        "dir(fedsup_tf), dir(tff_programs), dir(tflite)\n"
        "print({'numpy', 'tensorflow', 'tflite_runtime'} & sys.modules.keys())"
    )
    assert told == "set()"


def test_what_a_device_and_a_server_need_of_a_file_loads_no_tensorflow():
    told = run(
        "import sys\n"
        "from tflite import DeviceTrainer, DeviceUpdate, read_metadata, read_update, write_update\n"
        "from fedsup_tf import Architecture, Budget, CostModel, SearchSpace, load_space\n"
        "print('tensorflow' in sys.modules)"
    )
    assert told == "False"


def test_programs_that_compute_nothing_federated_do_not_load_tff():
    told = run(
        "import sys\n"
        "from tff_programs.programs import certify, device, devices, merge, profile\n"
        "print('tensorflow_federated' in sys.modules)"
    )
    assert told == "False"


def test_the_protocol_of_a_gateway_is_spoken_without_numpy():
    told = run(
        "import sys\n"
        "from tflite.together import address, federation, signing\n"
        "print('numpy' in sys.modules)"
    )
    assert told == "False"


@pytest.mark.slow
def test_a_star_import_brings_the_exports():
    told = run("from tflite import *\nprint(export_tflite.__module__, 'lazy_exports' in globals())")
    assert told == "tflite.export.export False"


def test_a_name_that_is_not_exported_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'tflite' has no attribute 'export_onnx'"):
        _ = tflite.export_onnx
    with pytest.raises(ImportError, match="cannot import name 'export_onnx'"):
        from tflite import export_onnx  # noqa: F401


def test_a_name_of_two_modules_is_refused():
    with pytest.raises(ValueError, match=r"each name once, received \['a'\] twice"):
        lazy_exports("package", {"package.one": ["a"], "package.two": ["a", "b"]})


@pytest.fixture(scope="module")
def completions():
    """Returns a notebook shell's completions after each package's name and a dot."""
    names = [package.__name__ for package in PACKAGES]
    told = run(
        "from IPython.core.completer import provisionalcompleter\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        f"for name in {names}:\n"
        "    shell.run_cell(f'import {name}')\n"
        "    text = f'{name}.'\n"
        "    with provisionalcompleter():\n"
        "        print(*[found.text for found in shell.Completer.completions(text, len(text))])"
    )
    return dict(zip(names, told.split("\n"), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_notebook_completes_the_exports_and_nothing_else(package, completions):
    assert sorted(completions[package.__name__].split()) == package.__all__
