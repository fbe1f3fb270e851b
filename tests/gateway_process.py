"""Gateway process for tests that kill it: serves devices and closes rounds all the time."""

import asyncio
import sys
import threading
import time
from pathlib import Path

from gateway import SumRounds

from tff_programs.gateway.address import Address
from tff_programs.gateway.check_in import Training
from tff_programs.gateway.database import Database
from tff_programs.gateway.keeper import keep_rounds
from tff_programs.gateway.pace import Pace
from tff_programs.gateway.rounds import RoundSettings
from tff_programs.gateway.secret_files import server_secret
from tff_programs.gateway.server import Gateway, ServerSettings, http_server, listen


class SlowRounds(SumRounds):
    """Rounds with slow merges, so that a kill is likely to interrupt one."""

    def merge(self, *arguments):
        time.sleep(0.05)
        merged = super().merge(*arguments)
        time.sleep(0.05)
        return merged


async def serve(folder, url, port):
    training = Training(1, 0.1, 600.0)
    settings = ServerSettings(training, 3, Pace(1.0), 1e6)
    gateway = Gateway(Database(url), folder, server_secret(folder), settings)
    server = http_server(gateway.application(), None)
    listen(server, Address("127.0.0.1", port))
    await asyncio.Event().wait()


def main():
    folder, url, port, goal = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    settings = RoundSettings(goal, over_asking=2.0, keeps_updates=True)
    arguments = (Database(url), folder, settings, SlowRounds(folder), lambda line: None, 2.0)
    threading.Thread(target=keep_rounds, args=arguments, daemon=True).start()
    asyncio.run(serve(folder, url, port))


if __name__ == "__main__":
    main()
