"""For benchmarks/gateway.py: a `fedsup serve` that can be killed, and a replay of its rounds."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

from sqlalchemy import select

from tff_programs.gateway.database import Database, sqlite_url
from tff_programs.gateway.round_records import current_round
from tff_programs.gateway.round_work import Base
from tff_programs.gateway.rounds import staleness_factor
from tff_programs.gateway.tables import rounds, updates
from tff_programs.gateway.update_files import update_path

_CODE = "from tff_programs.programs.cli import main; main()"


def cpu_seconds(process: subprocess.Popen) -> float:
    """Returns the CPU time of a process in seconds, without its children."""
    text = pathlib.Path(f"/proc/{process.pid}/stat").read_text()
    # The name in parentheses may contain spaces; user and system time are fields 14 and 15.
    fields = text.rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


class KilledServer:
    """A process of `fedsup serve` on a fixed port.

    Attributes:
      url: URL of the server.
      token: Enrolment token of the server.
      kills: Number of times that the server was killed.
      max_bytes: Maximum resident memory of the process that answers devices, over all calls of
        `measure`.
    """

    def __init__(
        self,
        supernet: pathlib.Path,
        folder: pathlib.Path,
        port: int,
        flags: list[str],
        database: str | None = None,
    ):
        """Starts the server; `database` is a URL, by default of SQLite in the folder."""
        self.folder, self.kills, self.max_bytes = folder, 0, 0
        self.url = f"http://127.0.0.1:{port}"
        self.arguments = [
            *("serve", str(supernet), f"--out={folder}", f"--address=127.0.0.1:{port}"),
            *("--operator_address=", "--requests_per_hour=1e9", "--keep_updates", *flags),
            *([f"--database={database}"] if database else []),
        ]
        self.token = ""
        self._start()
        # The server has created the database by now.
        self._database = Database(database or sqlite_url(str(folder)))

    def _start(self) -> None:
        command = [sys.executable, "-c", _CODE, *self.arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in self._process.stdout:
            found = re.search("token=([^&\n]+)", line)
            self.token = found[1] if found else self.token
            if line.startswith("serving on"):
                # Further output must not fill the pipe.
                threading.Thread(target=self._process.stdout.read, daemon=True).start()
                return
        raise RuntimeError(f"fedsup serve ended with {self._process.wait()}.")

    def kill(self) -> None:
        """Kills the server, whose child process ends with it, and restarts it."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.kills += 1
        self._start()

    def measure(self) -> None:
        """Updates `max_bytes` with the current resident memory."""
        text = pathlib.Path(f"/proc/{self._process.pid}/statm").read_text()
        resident = int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")
        self.max_bytes = max(self.max_bytes, resident)

    def cpu_seconds(self) -> float:
        """Returns the CPU time of the process that answers devices, in seconds."""
        return cpu_seconds(self._process)

    def number(self) -> int | None:
        """Returns the number of the round that is open or closing; None before the first round."""
        with self._database.read() as connection:
            row = current_round(connection)
        return None if row is None else row.number

    def end(self) -> None:
        """Stops the server."""
        self._database.close()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()


def check_counts(folder: pathlib.Path, accepted: dict[str, str]) -> dict[str, int]:
    """Compares the updates that phones know to be accepted with those that the server recorded.

    Args:
      folder: Folder of the gateway.
      accepted: Hashes of the accepted updates by task, from the server's answers.

    Returns:
      Number of updates by state, and number of faults: `lost` (accepted but not recorded),
      `unknown` (recorded but never acknowledged) and `other` (recorded with another hash).
    """
    database = Database(sqlite_url(str(folder)))
    with database.read() as connection:
        rows = connection.execute(select(updates)).all()
    database.close()
    found = {row.task: row.hash for row in rows}
    counts = {state: 0 for state in ("used", "left_out", "waiting")}
    for row in rows:
        counts[row.state] += 1
    counts["lost"] = len(accepted.keys() - found.keys())
    counts["unknown"] = len(found.keys() - accepted.keys())
    counts["other"] = sum(found[task] != accepted[task] for task in found.keys() & accepted.keys())
    return counts


def repeat_rounds(server: KilledServer, again: pathlib.Path) -> tuple[int, int, int]:
    """Merges the same updates in the same rounds again, in one process that is not killed.

    Args:
      server: Server that was killed.
      again: Folder to create.

    Returns:
      The number of closed rounds, the number of rounds whose supernet is not bitwise the same, and
      the number of times that an update was used in a further round.
    """
    from tff_programs.programs import serve
    from tff_programs.programs.flags.program_flags import ProgramFlags
    from tff_programs.programs.flags.round_work_flags import round_work_from_flags

    again.mkdir()
    options = ProgramFlags(serve.define_flags)
    _, _, supernet, *_ = options.parse(["fedsup", *server.arguments, f"--out={again}"])
    database = Database(sqlite_url(str(server.folder)))
    try:
        work = round_work_from_flags(options, supernet, database)
        with database.read() as connection:
            every = connection.execute(select(rounds).order_by(rounds.c.id)).all()
            rows = connection.execute(
                select(updates).order_by(updates.c.hash, updates.c.task)
            ).all()
    finally:
        database.close()
    origins = {row.id: row for row in every}
    base, different, used, merged = work.begin(), 0, [], {}
    for place, closed in enumerate(every[:-1]):
        own = [row for row in rows if row.merged_in == closed.id]
        paths = [str(server.folder / update_path(row.task, row.hash)) for row in own]
        older = {
            origins[row.round_id].base_hash: staleness_factor(
                closed.number - origins[row.round_id].number
            )
            for row in own
            if origins[row.round_id].base_hash != closed.base_hash
        }
        # Like the server, considers only rounds that may still receive updates.
        lately = {row.id for row in every[max(0, place - options.max_staleness - 2) : place]}
        before = frozenset(identity for identity, where in merged.items() if where in lately)
        base = Base(closed.number, closed.base_hash, base.folder)
        result = work.merge(base, paths, older, before, closed.id)
        for path, row in zip(paths, own, strict=True):
            if result.outcomes[path].is_used:
                used.append(row.identity)
                merged[row.identity] = closed.id
        base = result.base
        different += base.hash != every[place + 1].base_hash
    return len(every) - 1, different, len(used) - len(set(used))
