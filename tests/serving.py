"""Gateway of `fedsup serve` for tests."""

import contextlib
import queue
import re
import signal
import subprocess
import threading

import programs
from commands import fedsup


class Server:
    """Processes of `fedsup serve`, and their output.

    Args:
        supernet: Path of the supernet's file.
        folder: Folder of the gateway's state.
        *more: Additional flags.
        protocol: Version of the protocol to pretend to speak, as a later release would; the real
            one if None.
        apart: If true, one process answers devices and another one, forked by the tests, keeps
            rounds; the latter does not have to import TensorFlow again.

    Attributes:
        printed: Lines that `wait_for` has read.
        url: URL for devices.
    """

    def __init__(self, supernet, folder, *more, protocol=None, apart=False):
        arguments = [
            "serve", str(supernet), f"--out={folder}", "--address=127.0.0.1:0",
            "--operator_address=", "--goal=1",
            "--test_batch_size=100", "--check_in_seconds=1", "--noredraw", "--keep_updates", *more,
        ]  # fmt: skip
        command = fedsup(*arguments, *(["--role=web"] if apart else []))
        if protocol is not None:
            # Simulates a later version of the program.
            change = f"from tflite.together import federation; federation.PROTOCOL = {protocol}\n"
            command[2] = change + command[2]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.printed, self._lines = [], queue.SimpleQueue()
        self._processes, self._readers = [], []
        self._read(self.process)
        self.url = self.wait_for(r"^serving on (\S+)")[1]
        if apart:
            self._read(programs.Program(*arguments, "--role=rounds"))

    def _read(self, process):
        """Collects the output of a process."""

        def read():
            for line in process.stdout:
                self._lines.put(line)
            # The process has ended.
            self._lines.put(None)

        self._processes.append(process)
        self._readers.append(threading.Thread(target=read, daemon=True))
        self._readers[-1].start()

    def wait_for(self, pattern):
        """Reads lines until one matches; returns the match."""
        while (line := self._lines.get()) is not None:
            self.printed.append(line)
            match = re.search(pattern, line)
            if match:
                return match
        raise AssertionError(f"no {pattern!r} in:\n{''.join(self.printed)}")

    def link(self):
        return re.search(r"^fedsup://\S+", "".join(self.printed), re.MULTILINE)[0]

    def token(self):
        return re.search("token=([^&\n]+)", self.link())[1]

    def end(self, number=signal.SIGTERM):
        """Ends all processes; returns the exit code of the one that answers devices."""
        with contextlib.ExitStack() as stack:
            for process in self._processes:
                stack.enter_context(process).send_signal(number)
            for reader in self._readers:
                reader.join()
        return self.process.returncode
