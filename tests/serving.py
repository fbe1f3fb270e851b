"""A process of `fedsup serve` for tests."""

import re
import signal
import subprocess

from commands import fedsup


class Server:
    """A process of `fedsup serve`, and what it printed."""

    def __init__(self, supernet, folder, *more, protocol=None):
        command = fedsup(
            "serve", str(supernet), f"--out={folder}", "--address=127.0.0.1:0",
            "--operator_address=", "--goal=1",
            "--test_batch_size=100", "--check_in_seconds=1", "--noredraw", "--keep_updates", *more,
        )  # fmt: skip
        if protocol is not None:
            # As a later version of the program would.
            change = f"from tflite.together import federation; federation.PROTOCOL = {protocol}\n"
            command[2] = change + command[2]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.printed = []
        self.url = self.wait_for(r"^serving on (\S+)")[1]

    def wait_for(self, pattern):
        """Reads lines until one matches."""
        for line in self.process.stdout:
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
        with self.process:
            self.process.send_signal(number)
            self.process.stdout.read()
        return self.process.returncode
