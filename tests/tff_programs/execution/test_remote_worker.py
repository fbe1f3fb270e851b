"""Tests of rounds on real `fedsup worker` processes: equal results, even if one is killed."""

import os
import signal
import socket
import subprocess
import time

import numpy as np
import portpicker
import pytest
from commands import fedsup, train
from programs import Program, run

from fedsup_tf.files.checkpoint import read_tensors
from tff_programs.execution import connect_workers, worker_command

ROUNDS = 5

pytestmark = pytest.mark.slow


def train_command(folder, *more):
    few = ("--clients=10", "--clients_per_round=8", "--sandwich=1", "--tiers=smallest,largest")
    return train(folder, ROUNDS, *few, "--clipping=adaptive", *more)


@pytest.fixture(scope="module")
def local_weights(tmp_path_factory):
    """Returns the weights of a run without remote workers."""
    folder = tmp_path_factory.mktemp("local") / "run"
    run(*train_command(folder), check=True)
    return weights(folder)


def weights(folder):
    tensors, _ = read_tensors(folder / "supernet.safetensors", "supernet")
    return tensors


def assert_near(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], 0, 2e-4, err_msg=name)


def lines_until(process, begin):
    """Returns the lines that a program prints up to the first that starts with `begin`."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(begin):
            break
    return "".join(lines)


def start_training(folder, workers, *more):
    addresses = ",".join(worker.address for worker in workers)
    return Program(*train_command(folder, f"--workers={addresses}", *more))


def test_a_killed_worker_leaves_the_result_as_it_is(tmp_path, workers, local_weights):
    first = workers().wait()
    # The second one starts later than the program.
    late = portpicker.pick_unused_port()
    addresses = [first, type("Late", (), {"address": f"localhost:{late}"})]
    training = start_training(tmp_path / "run", addresses)
    told = lines_until(training, "Waiting")
    assert f"for workers at localhost:{late}" in told
    second = workers(late).wait()
    lines_until(training, "round 2")
    second.kill()
    told, errors = training.communicate(timeout=200)
    assert training.returncode == 0, errors
    assert f"Worker localhost:{late} is lost" in told
    assert f"goes on with Worker {first.address}" in told
    assert_near(weights(tmp_path / "run"), local_weights)


def test_without_any_worker_left_the_run_can_be_continued(tmp_path, workers, local_weights):
    worker = workers().wait()
    training = start_training(tmp_path / "run", [worker])
    lines_until(training, "round 2")
    worker.kill()
    told, errors = training.communicate(timeout=200)
    assert training.returncode == 1
    assert (
        errors.strip().splitlines()[-1].startswith(f"fedsup train: Worker {worker.address} is lost")
    )
    assert "no worker is left" in errors
    assert "round 5" not in told
    again = workers(worker.port).wait()
    training = start_training(tmp_path / "run", [again])
    told, errors = training.communicate(timeout=200)
    assert training.returncode == 0, errors
    assert "Continuing after round" in told
    assert_near(weights(tmp_path / "run"), local_weights)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_ends_a_worker_leaves_nothing_on_its_port(workers, number):
    worker = workers().wait()
    worker.process.send_signal(number)
    worker.process.wait(timeout=20)
    # The process itself became TFF's worker: there is no other process.
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("localhost", worker.port), timeout=2)


def test_a_taken_port_is_one_error():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = subprocess.run(
            fedsup("worker", f"--port={port}"), capture_output=True, text=True, timeout=60
        )
    assert result.returncode == 1
    assert f"a free port, received --bind=127.0.0.1 --port={port}" in result.stderr


def test_a_worker_that_never_comes_is_named():
    address = f"localhost:{portpicker.pick_unused_port()}"
    told = []
    with pytest.raises(RuntimeError, match=f"Expected workers at {address}.*within 3 s"):
        connect_workers.connect([address], 3.0, told.append)
    assert told == [f"Waiting up to 3 s for workers at {address}."]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (None, "received a worker that `fedsup worker` did not start"),
        ("fedsup-worker fedsup-tf=0.0.1 tensorflow=2.0", "received fedsup-tf 0.0.1, tensorflow 2"),
    ],
)
def test_another_version_is_refused(name, told):
    port = portpicker.pick_unused_port()
    binary = worker_command.binary_path()
    arguments = [name or binary, f"--port={port}", *worker_command.arguments(1)[1:]]
    process = subprocess.Popen(arguments, executable=binary, stderr=subprocess.DEVNULL)
    try:
        with pytest.raises(RuntimeError, match=rf"Worker localhost:{port}: expected.*{told}"):
            connect_workers.connect([f"localhost:{port}"], 20.0, print)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("addresses", "told"),
    [(["nowhere"], "host:port, received 'nowhere'"), (["a:1", "a:1"], "each worker once")],
)
def test_addresses_without_sense_are_refused(addresses, told):
    with pytest.raises(ValueError, match=told):
        connect_workers.connect(addresses, 1.0, print)


def test_a_worker_under_two_names_is_refused(workers):
    port = workers().wait().port
    with pytest.raises(ValueError, match=f"under two names: localhost:{port} and 127.0.0.1:{port}"):
        connect_workers.connect([f"localhost:{port}", f"127.0.0.1:{port}"], 20.0, print)


def test_ending_the_program_leaves_workers_that_it_did_not_start(tmp_path, workers):
    worker = workers().wait()
    training = start_training(tmp_path / "run", [worker])
    lines_until(training, "round 1")
    training.send_signal(signal.SIGINT)
    _, errors = training.communicate(timeout=60)
    assert "fedsup train: stopped." in errors
    time.sleep(0.5)
    assert worker.process.poll() is None
    os.kill(worker.process.pid, 0)


def test_a_workers_name_tells_its_versions_and_capacity():
    lines = ["\0".join(worker_command.arguments(3)).encode() + b"\0" for _ in range(2)]
    first, second = map(worker_command.read_arguments, lines)
    assert first[::2] == second[::2] == (worker_command.versions(), 3)
    assert first.identity != second.identity
    foreign = worker_command.read_arguments(b"/some/worker_binary\0--port=1\0")
    assert foreign == (None, "", 1)
