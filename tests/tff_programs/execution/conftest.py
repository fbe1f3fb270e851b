"""Fixture that runs `fedsup worker` in real processes."""

import subprocess

import portpicker
import pytest
from commands import fedsup


class Worker:
    """A `fedsup worker` process."""

    def __init__(self, port=None, *flags):
        self.port = port or portpicker.pick_unused_port()
        self.address = f"localhost:{self.port}"
        self.process = subprocess.Popen(
            fedsup("worker", f"--port={self.port}", *flags), stdout=subprocess.PIPE, text=True
        )

    def wait(self):
        assert "clients at once" in self.process.stdout.readline()
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def workers():
    """Yields a function that starts workers; ends them after the test."""
    started = []

    def start(port=None, *flags):
        started.append(Worker(port, *flags))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
