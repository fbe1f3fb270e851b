"""Programs in processes of their own, forked off one that has imported TensorFlow and TFF.

A process that imports them itself computes for 5 to 10 s before it begins.
"""

import atexit
import contextlib
import importlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading

_FORK_SERVER = multiprocessing.get_context("forkserver")
_FORK_SERVER.set_forkserver_preload(
    [
        *("matplotlib.pyplot", "sklearn.datasets"),
        *(
            f"tff_programs.programs.{name}"
            for name in ("train", "evaluate", "search", "calibrate", "export", "certify", "fleet")
        ),
    ]
)


class Program:
    """A process of `fedsup`, with those methods of `subprocess.Popen` that tests use.

    Args:
        *arguments: The program's name and its flags.
        folder: The folder that it works in; that of the tests if None.
        environment: Variables that it has beside those of the tests.

    Attributes:
        pid: The process's number.
        stdout: What it prints, as a text file.
        returncode: The code it ended with, the negative number of the signal that ended it, or
            None while it runs.
    """

    def __init__(self, *arguments, folder=None, environment=None, _target=None):
        self.arguments = arguments
        self._errors = tempfile.NamedTemporaryFile("r", encoding="utf-8", prefix="errors")
        reader, writer = _FORK_SERVER.Pipe(duplex=False)
        self._process = _FORK_SERVER.Process(
            target=_run,
            args=(_target or _fedsup, arguments, folder, environment, writer, self._errors.name),
            daemon=True,
        )
        self._process.start()
        writer.close()
        self.stdout = open(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stdout.close()
        self.wait()
        self._errors.close()

    def poll(self):
        return self.returncode

    def send_signal(self, number):
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self):
        self._process.kill()

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        return self.returncode

    def communicate(self, timeout=300):
        """Returns the rest of what it prints, and its errors, when it has ended."""
        watch = threading.Timer(timeout, self.kill)
        watch.start()
        try:
            with self._errors as errors, self.stdout as printed:
                told = printed.read()
                self.wait()
                return told, errors.read()
        finally:
            watch.cancel()
            # Where waiting was interrupted.
            self.kill()


def run(*arguments, check=False, timeout=300, **options):
    """Runs a program; returns what `subprocess.run` does."""
    program = Program(*arguments, **options)
    told = program.communicate(timeout)
    result = subprocess.CompletedProcess(arguments, program.returncode, *told)
    assert not (check and result.returncode), result.stderr
    return result


def run_calls(calls, folder=None):
    """Runs programs one after another in one process; returns what each printed and raised."""
    result = run(json.dumps(calls), folder=folder, timeout=1500, check=True, _target=_calls)
    return json.loads(result.stdout.splitlines()[-1])


def _run(target, arguments, folder, environment, output, errors):
    """Does in a forked process what its command would do from the start."""
    os.dup2(output.fileno(), 1)
    output.close()
    with open(errors, "w") as file:
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
    os.environ.update(environment or {})
    if folder is not None:
        os.chdir(folder)
    try:
        target(*arguments)
    finally:
        # A forked process is ended without what a program has registered for its end.
        atexit._run_exitfuncs()


def _fedsup(*arguments):
    from tff_programs.programs import cli

    sys.argv = ["fedsup", *arguments]
    cli.main()


def _calls(calls):
    from absl import flags

    told = []
    for name, *arguments in json.loads(calls):
        program = importlib.import_module(f"tff_programs.programs.{name}")
        printed, error = io.StringIO(), ""
        with contextlib.redirect_stdout(printed):
            try:
                program.main([name, *arguments])
            except (ValueError, OSError, RuntimeError, SystemExit, flags.Error) as raised:
                error = str(raised)
        told.append([printed.getvalue(), error])
    print(json.dumps(told))
