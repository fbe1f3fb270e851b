"""Session fixtures shared by all tests: a TFF worker and a trained supernet."""

import asyncio
import atexit
import fcntl
import gc
import importlib.util
import json
import os
import pathlib
import sys

import pytest

if sys.dont_write_bytecode and not os.path.exists(
    importlib.util.cache_from_source(pytest.__file__)
):
    # Without a bytecode cache, each process that imports TensorFlow and TFF compiles 5,000 modules:
    # 8 s of its 12 s.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if sys.pycache_prefix is None:
        sys.pycache_prefix = str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

# Imported objects are never freed; collecting them again and again takes 1.5 s in each process, and
# 2 s at its end.
gc.disable()
atexit.register(gc.freeze)

# Fixtures that start a worker or a program, or convert; tests that use them are marked as slow.
SLOW_FIXTURES = {"execution", "net_path", "run_programs", "trained_path", "workers"}


def pytest_configure(config):
    """Assigns files to processes in collection order instead of by number of tests."""
    config.option.loadscopereorder = False


def pytest_make_parametrize_id(val):
    """Shortens the names of tests with long parameters, such as the contents of damaged files."""
    if isinstance(val, str | bytes | int):
        name = ascii(val)
        if len(name) > 80:
            return f"{name[:60]}...{len(name)}"
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks tests with slow fixtures as slow, and runs files with slow tests first.

    The files that remain when one of the processes becomes idle are then short.
    """
    for item in items:
        if SLOW_FIXTURES.intersection(item.fixturenames):
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    gc.freeze()
    # Tracing makes many objects and few cycles; searching for cycles as often as Python does by
    # default takes a twentieth of its time.
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session")
def execution():
    """Provides a local TFF context; returns a function that materializes a computation's result."""
    import tensorflow_federated as tff

    from tff_programs.execution.contexts import local_execution

    def materialize(value):
        values = []

        # Returns nothing: asyncio would format the returned value, which takes 0.1 s for a state.
        async def wait():
            values.append(await tff.program.materialize_value(value()))

        asyncio.run(wait())
        return values[0]

    with local_execution():
        yield materialize


@pytest.fixture(scope="session")
def run_programs():
    """Returns `programs.run_calls`, which runs programs in one separate process.

    It takes an optional folder to resolve relative paths in.
    """
    import programs

    return programs.run_calls


TRAINED_SPACE = {
    "name": "tiny",
    "image_shape": [8, 8, 1],
    "classes": 10,
    "stem_width": 8,
    "stem_stride": 1,
    "stages": [{"name": "a-1", "widths": [8, 16], "depths": [1], "kernels": [3, 5], "stride": 2}],
}


@pytest.fixture(scope="session")
def trained_path(tmp_path_factory, run_programs):
    """Returns the path of a supernet trained on digits for one round: two tiers, six clients."""
    base = tmp_path_factory.getbasetemp()
    # The first of the pytest processes trains it.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"
    folder.mkdir(exist_ok=True)
    path = folder / "run" / "supernet.safetensors"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            (folder / "space.json").write_text(json.dumps(TRAINED_SPACE))
            call = [
                "train",
                f"--out={folder / 'run'}",
                f"--space={folder / 'space.json'}",
                "--rounds=1",
                "--clients=6",
                "--clients_per_round=2",
                "--batch_size=16",
                "--tiers=smallest,largest",
                "--nocalibrated_accuracy",
            ]
            ((_, error),) = run_programs([call])
            assert not error
    return path
