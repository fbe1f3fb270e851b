"""fedsup worker: computes clients for a `fedsup train --workers=` on another machine.

The process is TFF's own worker, it has replaced the program that started it: whatever ends the one
ends the other. It serves whoever reaches its port, unencrypted: let nobody but the training
program reach it.
"""

import os
import socket
from collections.abc import Sequence

from tff_programs.execution import worker_command
from tff_programs.programs.flags.program_flags import FlagDefiner, parse_flags


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define.integer("port", 10000, "Where it listens.", lower_bound=1, upper_bound=65535)
    define.integer(
        "clients_at_once", 0, "Clients computed side by side; 0 for one a core.", lower_bound=0
    )


def main(argv: Sequence[str]) -> None:
    """Becomes a worker."""
    options, arguments = parse_flags(define_flags, argv)
    if arguments:
        raise ValueError(f"Expected flags alone, received {arguments}.")
    clients_at_once = options.clients_at_once or worker_command.cores()
    binary = worker_command.binary_path()
    _check_port(options.port)
    versions = ", ".join(" ".join(pair) for pair in worker_command.versions().items())
    print(
        f"Worker of {versions} on port {options.port}: {clients_at_once} clients at once.",
        flush=True,
    )
    os.execve(
        binary,
        worker_command.arguments(options.port, clients_at_once),
        worker_command.environment(clients_at_once),
    )


def _check_port(port: int) -> None:
    # TFF's worker would only log that it cannot listen, and go on.
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ValueError(
                f"Expected a free port, received --port={port}: {error.strerror}. Give another, or "
                "end what listens there."
            ) from error
