"""TFF's worker as a process of this program, which only this program can reach."""

import contextlib
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from tff_programs.execution import enclosure, worker_command


class LocalWorker(NamedTuple):
    """Worker process that was started.

    Attributes:
      address: gRPC address of the worker.
      process: The process.
      report: File descriptor of the worker's report, which `open_ports_line` reads.
    """

    address: str
    process: subprocess.Popen
    report: int


@contextlib.contextmanager
def start(core: int | None) -> Iterator[LocalWorker]:
    """Starts a worker that computes one client at a time, and ends it after the `with` block.

    The worker also ends if this process is killed.

    Args:
      core: Core to which the worker is pinned; None for any.
    """
    with contextlib.ExitStack() as stack:
        listener, place = listen()
        stack.callback(os.close, place)
        read_report, write_report = os.pipe()
        stack.callback(os.close, read_report)
        command = enclosure.command(
            worker_command.arguments(1),
            worker_command.binary_path(),
            listener.fileno(),
            report=write_report,
            core=core,
            parent=os.getpid(),
        )
        # The worker inherits no standard streams, since holding them would keep a reader of this
        # program's output waiting. It has its own session, since Ctrl-C is for this program, which
        # then ends the worker.
        try:
            process = subprocess.Popen(
                command,
                env=worker_command.environment(1),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(listener.fileno(), write_report),
            )
        finally:
            # Closed here so that a connection fails as soon as the forwarder has ended.
            listener.close()
            os.close(write_report)
        stack.callback(process.wait)
        stack.callback(process.kill)
        yield LocalWorker(f"unix:/proc/self/fd/{place}", process, read_report)


def open_ports_line(workers: list[LocalWorker]) -> str | None:
    """Waits until the workers have started; returns a message if others can reach them.

    Args:
      workers: Workers whose reports have not been read yet.

    Returns:
      A line for the user; None if every worker has its own network namespace.
    """
    ports, reason = [], None
    for worker in workers:
        with os.fdopen(os.dup(worker.report), "rb") as file:
            text = file.read()
        # Without a report the worker did not start, and connecting to it will fail.
        report = json.loads(text) if text else {"reason": None}
        if report["reason"] is not None:
            ports.append(report["port"])
            reason = report["reason"]
    return enclosure.open_ports_message(ports, reason) if ports else None


def listen() -> tuple[socket.socket, int]:
    """Makes a listening Unix socket that only this process and its children can find.

    The socket's name is removed immediately, so nobody can look it up and nothing remains on disk.
    A process that holds the returned file descriptor can still connect, by its path in /proc.

    Returns:
      The listening socket, and a file descriptor of its name.
    """
    listener = socket.socket(socket.AF_UNIX)
    with tempfile.TemporaryDirectory(prefix="fedsup-") as folder:
        # A socket's path is limited to 107 bytes; a temporary folder's path may be longer.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            listener.bind(f"/proc/self/fd/{descriptor}/worker")
            listener.listen()
            place = os.open("worker", os.O_PATH, dir_fd=descriptor)
        finally:
            os.close(descriptor)
    return listener, place
