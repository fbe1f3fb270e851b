"""What is made once for all tests: a TFF worker, a trained supernet."""

import asyncio
import json
import subprocess
import sys

import pytest


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
    """Runs calls of programs in one process of their own; returns what each printed and raised."""

    def run(calls):
        result = subprocess.run(
            [sys.executable, "-c", _RUN_PROGRAMS, json.dumps(calls)],
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    return run


# One process for one import of TensorFlow.
_RUN_PROGRAMS = """
import contextlib, importlib, io, json, sys
from absl import flags
told = []
for name, *arguments in json.loads(sys.argv[1]):
    program = importlib.import_module("tff_programs.programs." + name)
    printed, error = io.StringIO(), ""
    with contextlib.redirect_stdout(printed):
        try:
            program.main([name, *arguments])
        except (ValueError, OSError, RuntimeError, SystemExit, flags.Error) as raised:
            error = str(raised)
    told.append([printed.getvalue(), error])
print(json.dumps(told))
"""

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
    folder = tmp_path_factory.mktemp("trained")
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
    return folder / "run" / "supernet.safetensors"
