"""Compares the time of a round on protected workers with TFF's unprotected worker.

    uv run python benchmarks/protected_workers.py --rounds=5 --turns=3

One worker process computes one client at a time, in four setups: TFF's worker on an open port; the
worker of a program, in a network namespace behind a Unix socket; `fedsup worker` on loopback; and
the same with mutual TLS. The setups take turns, so that other load on the machine affects all of
them. The shortest round of each setup counts, except for the first round of a turn, which compiles.
Certificates are created with the `openssl` command.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time

import portpicker
import tensorflow_federated as tff

from fedsup_tf.data.datasets import load_dataset
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.presets import digits_small
from tff_programs.execution import worker_command
from tff_programs.execution.contexts import local_execution, remote_execution
from tff_programs.execution.forwarder import TlsFiles
from tff_programs.learning.training_process import build_fedsup_process
from tff_programs.reports.report import format_table
from tff_programs.simulation.clients import ClientData
from tff_programs.simulation.round_plan import Assignment
from tff_programs.simulation.tiers import default_tiers

_CLIENTS = 10
_SECONDS_TO_START = 120.0


def make_certificates(folder: str) -> TlsFiles:
    """Creates a certificate authority and one certificate for both sides; returns their paths."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    with open(os.path.join(folder, "names"), "w", encoding="ascii") as file:
        file.write("subjectAltName=DNS:localhost")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *curve, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", *curve, "-subj", "/CN=worker", "-keyout", "own.key", "-out", "own.csr")
    signed_by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
    openssl("x509", "-req", "-in", "own.csr", *signed_by, "-out", "own.pem")
    return TlsFiles(*(os.path.join(folder, name) for name in ("own.pem", "own.key", "ca.pem")))


@contextlib.contextmanager
def _running(command: list[str], **options):
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def as_it_comes():
    """Runs computations on TFF's unprotected worker, which listens on all interfaces."""
    port = portpicker.pick_unused_port()
    name, *arguments = worker_command.arguments(1)
    binary = worker_command.binary_path()
    options = {"executable": binary, "env": worker_command.environment(1)}
    command = [name, f"--port={port}", *arguments]
    with _running(command, **options), remote_execution([f"localhost:{port}"], _SECONDS_TO_START):
        yield


@contextlib.contextmanager
def fedsup_worker(tls: TlsFiles | None = None):
    """Runs computations on a `fedsup worker`, with mutual TLS if `tls` is given."""
    port = portpicker.pick_unused_port()
    code = "from tff_programs.programs.cli import main; main()"
    command = [sys.executable, "-c", code, "worker", f"--port={port}", "--clients_at_once=1"]
    if tls is not None:
        command += [f"--tls_{name}={path}" for name, path in tls._asdict().items()]
    with (
        _running(command),
        remote_execution([f"localhost:{port}"], _SECONDS_TO_START, tls=tls),
    ):
        yield


def time_rounds(process, source: ClientData, rounds: int) -> list[float]:
    """Returns the seconds of each round, after one that compiles."""

    async def run():
        state = await tff.program.materialize_value(process.initialize())
        seconds = []
        for number in range(1, rounds + 2):
            clients = source.select(source.assignment.plan(number))
            begin = time.perf_counter()
            output = process.next(state, clients)
            state = await tff.program.materialize_value(output.state)
            seconds.append(time.perf_counter() - begin)
        return seconds[1:]

    return asyncio.run(run())


def main() -> None:
    """Times the setups in turns and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="Rounds of a turn.")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    space = digits_small()
    dataset = load_dataset("digits")
    data = FederatedDataset.divide(dataset, "shard", 2 * _CLIENTS, classes_per_client=5)
    assignment = Assignment(space, default_tiers(space, 0), len(data), _CLIENTS)
    source = ClientData(data, assignment)
    process = build_fedsup_process(space, LocalTraining(), dataset.preprocessing, 0.1)
    with tempfile.TemporaryDirectory() as folder:
        tls = make_certificates(folder)
        ways = {
            "TFF's worker, open port": as_it_comes,
            "worker of a program": lambda: local_execution(1),
            "fedsup worker": fedsup_worker,
            "fedsup worker, TLS": lambda: fedsup_worker(tls),
        }
        shortest = dict.fromkeys(ways, float("inf"))
        for turn in range(options.turns):
            for name, way in ways.items():
                with way():
                    seconds = min(time_rounds(process, source, options.rounds))
                shortest[name] = min(shortest[name], seconds)
                print(f"turn {turn + 1}, {name}: {seconds:.2f} s", flush=True)
    baseline = shortest["TFF's worker, open port"]
    rows = [("worker", "seconds", "ratio")]
    rows += [(name, f"{value:.2f}", f"{value / baseline:.2f}") for name, value in shortest.items()]
    print()
    print(format_table(rows))


if __name__ == "__main__":
    main()
