"""Runs programs in processes forked from one that has imported TensorFlow and TFF.

A process that imports them itself needs 5 to 10 s of computation before it begins.
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import multiprocessing
import os
import pathlib
import shlex
import socketserver
import subprocess
import sys
import tempfile
import threading

_FORK_SERVER = multiprocessing.get_context("forkserver")
_FORK_SERVER.set_forkserver_preload(
    [
        # Can be imported if the tests are started in the project's folder.
        "tests.program_server",
        *("matplotlib.pyplot", "sklearn.datasets"),
        *(
            f"tff_programs.programs.{name}"
            for name in ("train", "evaluate", "search", "calibrate", "export", "certify", "fleet")
        ),
    ]
)


class Program:
    """A process of `fedsup`, with the methods of `subprocess.Popen` that tests use.

    Args:
        *arguments: The program's name and its flags.
        folder: Working directory; that of the tests if None.
        environment: Environment variables in addition to those of the tests.

    Attributes:
        pid: Process ID.
        stdout: Text file to read the standard output from.
        returncode: Exit code, the negative number of the signal that ended it, or None while it
            runs.
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
        """Waits for the end of the process; returns its remaining output and its errors."""
        watch = threading.Timer(timeout, self.kill)
        watch.start()
        try:
            with self._errors as errors, self.stdout as printed:
                told = printed.read()
                self.wait()
                return told, errors.read()
        finally:
            watch.cancel()
            # In case waiting was interrupted.
            self.kill()


def run(*arguments, check=False, timeout=300, **options):
    """Runs a program; returns the same as `subprocess.run`."""
    program = Program(*arguments, **options)
    told = program.communicate(timeout)
    result = subprocess.CompletedProcess(arguments, program.returncode, *told)
    assert not (check and result.returncode), result.stderr
    return result


def run_calls(calls, folder=None):
    """Runs programs one after another in one process; returns the output and error of each."""
    result = run(json.dumps(calls), folder=folder, timeout=1500, check=True, _target=_calls)
    return json.loads(result.stdout.splitlines()[-1])


def run_commands(calls, folder):
    """Runs commands of `fedsup` in one process; returns the code, output and errors of each.

    Any exception other than SystemExit ends the process.
    """
    result = run(json.dumps(calls), folder=folder, check=True, _target=_commands)
    return json.loads(result.stdout.splitlines()[-1])


class Commands:
    """Commands for shells and notebooks that run their programs in forked processes.

    Args:
        folder: Folder to put the commands in: `fedsup`, and `kernel` for notebooks.
    """

    def __init__(self, folder):
        self._socket = tempfile.TemporaryDirectory(prefix="commands")
        path = os.path.join(self._socket.name, "socket")
        self._server = socketserver.ThreadingUnixStreamServer(path, _Call)
        self._server.folder, self._server.running = folder, []
        self._thread = threading.Thread(target=self._server.serve_forever)
        client = pathlib.Path(__file__).with_name("forked_command.py")
        for name in _TARGETS:
            words = shlex.join([sys.executable, "-IS", str(client), path, name])
            command = folder / name
            command.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            command.chmod(0o755)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._thread.join()
        for program in self._server.running:
            program.kill()
        # Waits for the calls in progress.
        self._server.server_close()
        self._socket.cleanup()


class _Call(socketserver.StreamRequestHandler):
    """Runs the program that a command names, and sends its output to the command."""

    def handle(self):
        (name, *arguments), folder = json.loads(self.rfile.readline())
        search = f"{self.server.folder}{os.pathsep}{os.environ['PATH']}"
        options = {"folder": folder, "environment": {"PATH": search}, "_target": _TARGETS[name]}
        with Program(*arguments, **options) as program:
            self.server.running.append(program)
            # The command may have ended, for example in a pipe to `head`.
            with contextlib.suppress(BrokenPipeError):
                for line in program.stdout:
                    self._send("stdout", line)
                _, errors = program.communicate()
                self._send("stderr", errors)
                self._send("code", program.returncode)

    def _send(self, kind, value):
        self.wfile.write(json.dumps([kind, value]).encode() + b"\n")


def _run(target, arguments, folder, environment, output, errors):
    """Runs a program in a forked process as if it had just been started."""
    gc.freeze()
    gc.enable()
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
        # A forked process ends without running the registered exit functions.
        atexit._run_exitfuncs()


def _fedsup(*arguments):
    from tff_programs.programs import cli

    sys.argv = ["fedsup", *arguments]
    cli.main()


def _kernel(*arguments):
    import matplotlib
    from ipykernel.kernelapp import IPKernelApp

    # Like a kernel before Matplotlib's import; the backend is loaded with the first figure.
    matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"
    IPKernelApp.launch_instance([*arguments])


_TARGETS = {"fedsup": _fedsup, "kernel": _kernel}


def _commands(calls):
    told = []
    for arguments in json.loads(calls):
        out, errors, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                _fedsup(*arguments)
            except SystemExit as end:
                code = end.code
        told.append([code, out.getvalue(), errors.getvalue()])
    print(json.dumps(told))


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
