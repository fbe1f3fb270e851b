"""Fixtures that are made once for all tests: a TFF worker, a trained supernet."""

import asyncio
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
    # Without compiled modules each process that imports TensorFlow and TFF compiles 5,000 of them,
    # 8 s of its 12.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if sys.pycache_prefix is None:
        sys.pycache_prefix = str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

# What imports make stays: the collector would traverse it again and again, 1.5 s in each process.
gc.disable()

# A test that uses one of these starts a worker or a program.
SLOW_FIXTURES = {"execution", "run_programs", "trained_path", "workers"}


def pytest_configure(config):
    """Gives files to the processes in the order of collection, not those of most tests first."""
    config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks tests that are slow by their fixtures, and begins with files that have slow tests.

    What is left at the end, when one of the processes has nothing more to do, is then short.
    """
    for item in items:
        if SLOW_FIXTURES.intersection(item.fixturenames):
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def execution():
    """Runs TFF computations; returns a function that waits for their results."""
    import tensorflow_federated as tff

    from tff_programs.execution.contexts import local_execution

    def materialize(value):
        values = []

        # What the coroutine returns asyncio would print to itself, 0.1 s for a state.
        async def wait():
            values.append(await tff.program.materialize_value(value()))

        asyncio.run(wait())
        return values[0]

    with local_execution():
        yield materialize


@pytest.fixture(scope="session")
def run_programs():
    """Runs calls of programs in one process of their own; returns what each printed and raised.

    Relative paths are below a folder if one is given.
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
    """The supernet of a round's training on digits, with two tiers and six clients."""
    base = tmp_path_factory.getbasetemp()
    # Of all processes of pytest the first trains it.
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
            ]
            ((_, error),) = run_programs([call])
            assert not error
    return path
