"""Flags that say where a program's computations run; they change nothing of what it computes."""

import contextlib

from tff_programs.execution.contexts import local_execution, remote_execution
from tff_programs.programs.console import print_line
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags
from tff_programs.programs.flags.tls_flags import define_tls_flags, tls_files_from_flags


def define_clients_at_once(define: FlagDefiner) -> None:
    """Defines the flag of how many clients this machine computes side by side."""
    define.integer(
        "clients_at_once",
        0,
        "Clients computed side by side, a process each; 0 for one a core.",
        lower_bound=0,
        upper_bound=1024,
    )


def define_execution_flags(define: FlagDefiner) -> None:
    """Defines the flags of `execution_from_flags`."""
    define_clients_at_once(define)
    define.list(
        "workers",
        [],
        "host:port of each `fedsup worker` that computes clients; by default this machine does.",
    )
    define.float(
        "workers_deadline", 300.0, "Seconds to wait for workers that are not up yet.", lower_bound=0
    )
    define_tls_flags(define)


def execution_from_flags(options: ProgramFlags) -> contextlib.AbstractContextManager:
    """Runs TFF computations of a `with` block where the flags say.

    Args:
      options: The program's flags; workers have their own number of clients at once.

    Raises:
      ValueError: If the flags contradict each other.
    """
    tls = tls_files_from_flags(options)
    if options.workers:
        return remote_execution(options.workers, options.workers_deadline, print_line, tls)
    # A flag file may be written for workers that the command line takes away.
    if tls is not None and not options.is_typed("workers"):
        raise ValueError(
            "Expected --workers with --tls_certificate, --tls_key and --tls_authority, received "
            "none. Give the workers' addresses, or leave the files out."
        )
    return local_execution(options.clients_at_once or None, print_line)
