"""Flags that decide where a program's computations run, without affecting their results."""

import contextlib

from tff_programs.execution.contexts import local_execution, remote_execution
from tff_programs.programs.console import print_line
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags
from tff_programs.programs.flags.tls_flags import define_tls_flags, tls_files_from_flags


def define_clients_at_once(define: FlagDefiner) -> None:
    """Defines the flag for the number of clients that this machine computes in parallel."""
    define.integer(
        "clients_at_once",
        0,
        "Clients computed in parallel, each in its own process; 0 for one per CPU core.",
        lower_bound=0,
        upper_bound=1024,
    )


def define_execution_flags(define: FlagDefiner) -> None:
    """Defines the flags for `execution_from_flags`."""
    define_clients_at_once(define)
    define.list(
        "workers",
        [],
        "host:port of each `fedsup worker` that computes clients; by default this machine does.",
    )
    define.float("workers_deadline", 300.0, "Seconds to wait for workers to start.", lower_bound=0)
    define_tls_flags(define)


def execution_from_flags(options: ProgramFlags) -> contextlib.AbstractContextManager:
    """Returns a context manager that runs TFF computations where the flags say.

    Args:
      options: The program's flags; `clients_at_once` does not apply to workers.

    Raises:
      ValueError: If the flags contradict each other.
    """
    tls = tls_files_from_flags(options)
    if options.workers:
        return remote_execution(options.workers, options.workers_deadline, print_line, tls)
    # A flag file may have been written for workers that the command line removes.
    if tls is not None and not options.is_on_command_line("workers"):
        raise ValueError(
            "Expected --workers with --tls_certificate, --tls_key and --tls_authority, received "
            "none. Give the workers' addresses, or leave the files out."
        )
    return local_execution(options.clients_at_once or None, print_line)
