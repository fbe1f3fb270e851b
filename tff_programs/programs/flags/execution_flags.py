"""Flags that say where a program's computations run; they change nothing of what it computes."""

import contextlib

from tff_programs.execution.contexts import local_execution, remote_execution
from tff_programs.programs.console import print_line
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags
from tff_programs.programs.flags.tls_flags import define_tls_flags, tls_files_from_flags


def define_execution_flags(define: FlagDefiner) -> None:
    """Defines the flags of `execution_from_flags`."""
    define.list(
        "workers",
        [],
        "host:port of each `fedsup worker` that computes clients; by default this machine does.",
    )
    define.float(
        "workers_deadline", 300.0, "Seconds to wait for workers that are not up yet.", lower_bound=0
    )
    define_tls_flags(define)


def execution_from_flags(
    options: ProgramFlags, clients_at_once: int | None = None
) -> contextlib.AbstractContextManager:
    """Runs TFF computations of a `with` block where the flags say.

    Args:
      options: The program's flags.
      clients_at_once: Clients that this machine computes side by side; workers have their own
        number.

    Raises:
      ValueError: If the flags contradict each other.
    """
    tls = tls_files_from_flags(options)
    if options.workers:
        return remote_execution(options.workers, options.workers_deadline, print_line, tls)
    if tls is not None:
        raise ValueError(
            "Expected --workers with --tls_certificate, --tls_key and --tls_authority, received "
            "none. Give the workers' addresses, or leave the files out."
        )
    return local_execution(clients_at_once, print_line)
