"""The `fedsup` console command: imports only the requested program and runs it."""

import atexit
import contextlib
import gc
import importlib
import io
import os
import select
import sys
from logging import CRITICAL, getLogger
from typing import Any

PROGRAMS = {
    "demo": "train a small supernet on handwritten digits, from nothing, in about two minutes",
    "train": "train a supernet by federated learning",
    "worker": "compute clients for a train --workers= on another machine",
    "evaluate": "accuracy of subnets of a trained supernet, central and federated",
    "profile": "measure how long the parts of subnets take in the phone's runtime",
    "search": "find the most accurate subnet of a trained supernet under a budget",
    "calibrate": "freeze subnets' normalizations and fit their classifiers",
    "export": "write subnets as .tflite files that infer and train on a phone",
    "certify": "compare an exported subnet with TensorFlow: every weight of every step, time",
    "data": "load a data set, divide it among clients and show who holds what",
    "device": "train an exported subnet on one person's examples, as the app on a phone does",
    "fleet": "rounds whose clients are processes with a .tflite and their own images",
    "serve": "rounds whose clients are phones that come over HTTP",
    "phones": "phones for a serve, as processes with a .tflite and their own images",
    "devices": "list and revoke the phones of a serve, change the token of enrolment",
    "rollback": "take the newest rounds of a serve back",
    "merge": "add what phones learned, the updates they sent, to a supernet",
}

# Environment variable with the process ID of the parent; the program ends when the parent does.
END_WITH = "FEDSUP_END_WITH"

_USAGE = """fedsup: one federated supernet, a trainable subnet for every class of phone

usage: fedsup PROGRAM [--flag=value ...] [--flagfile=FILE]

{programs}

fedsup PROGRAM --help lists a program's flags.
"""


def end_with_parent() -> None:
    """Makes this process end with the process whose identifier is in the variable `END_WITH`.

    Without the variable, it does nothing. The processes that this one starts do not inherit it.
    """
    parent = os.environ.pop(END_WITH, None)
    if parent is not None:
        from tff_programs.execution.enclosure import end_with

        end_with(int(parent))


def _print_help(text: str) -> None:
    """Prints a help text, of which a program such as `head` may read only a part."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _discard_unread_output()


def _discard_unread_output() -> bool:
    """Discards the output if nothing reads it any longer, and returns whether that is so."""
    output = select.poll()
    output.register(sys.stdout)
    if not any(event & select.POLLERR for _, event in output.poll(0)):
        return False
    # What is left in the buffer would fail again when the interpreter ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _import_program(name: str) -> Any:
    """Imports a program, and keeps the garbage collector from visiting what lives until the end.

    TensorFlow and TFF create millions of objects. The collector would visit them while the program
    is imported, while it runs and several times at its end: 4 s of a short training's 22.
    """
    module = f"tff_programs.programs.{name}"
    if module in sys.modules:
        return sys.modules[module]
    atexit.register(gc.freeze)
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def main() -> None:
    """Runs the program that the first argument names."""
    # As on standard error: a name that the terminal cannot encode must not crash a program.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    names = sys.argv[1:2]
    if not names or names[0] in ("-h", "--help", "help"):
        lines = (f"  {name:10s} {text}" for name, text in PROGRAMS.items())
        _print_help(_USAGE.format(programs="\n".join(lines)))
        return
    name = names[0]
    if name not in PROGRAMS:
        sys.exit(f"fedsup: expected a program of {', '.join(PROGRAMS)}, received {name!r}.")
    end_with_parent()
    # TensorFlow's and gRPC's start-up messages are irrelevant to the run.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from absl import flags, logging

    logging.set_verbosity(logging.WARNING)
    if not os.environ.get("FEDSUP_TRACEBACK"):
        # If several TFF tasks fail in the same way, one is awaited and asyncio logs the others.
        getLogger("asyncio").setLevel(CRITICAL)
    program = _import_program(name)
    if "--help" in sys.argv[2:] or "-h" in sys.argv[2:]:
        from tff_programs.programs.flags.program_flags import ProgramFlags

        listed = ProgramFlags(program.define_flags).get_help(include_special_flags=False)
        _print_help(f"{program.__doc__}\n{listed}")
        return
    from fedsup_tf.files.temporary_folder import own_temporary_folder

    # TFF's worker replaces this process, so nothing would be left to remove the folder.
    folder = contextlib.nullcontext() if name == "worker" else own_temporary_folder()
    try:
        with folder:
            program.main([f"fedsup {name}", *sys.argv[2:]])
            # Here, and not when the interpreter ends, an output that cannot be written is reported.
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(f"fedsup {name}: stopped.")
    except (ValueError, OSError, RuntimeError, flags.Error) as error:
        if os.environ.get("FEDSUP_TRACEBACK"):
            raise
        if isinstance(error, BrokenPipeError) and _discard_unread_output():
            sys.exit(f"fedsup {name}: stopped, since the program that read its output has ended.")
        sys.exit(f"fedsup {name}: {error}")
