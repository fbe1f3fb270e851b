"""Flags that say where a program's computations run; they change nothing of what it computes."""

import contextlib

from absl import flags

from tff_programs.execution.contexts import local_execution, remote_execution

FLAGS = flags.FLAGS

flags.DEFINE_list(
    "workers",
    [],
    "host:port of each `fedsup worker` that computes clients; by default this machine does.",
)
flags.DEFINE_float(
    "workers_deadline", 300.0, "Seconds to wait for workers that are not up yet.", lower_bound=0
)


def execution_from_flags(clients_at_once: int | None = None) -> contextlib.AbstractContextManager:
    """Runs TFF computations of a `with` block where the flags say.

    Args:
      clients_at_once: Clients that this machine computes side by side; workers have their own
        number.
    """
    if FLAGS.workers:
        return remote_execution(FLAGS.workers, FLAGS.workers_deadline)
    return local_execution(clients_at_once)
