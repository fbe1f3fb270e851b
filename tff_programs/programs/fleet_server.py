"""A fleet: the gateway's server and one process per phone, on loopback."""

import concurrent.futures
import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable

import numpy as np
from sqlalchemy import select, update

from fedsup_tf.files.atomic_write import write_bytes
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.supernet import Supernet
from tff_programs.gateway.check_in import Training
from tff_programs.gateway.database import Database, sqlite_url
from tff_programs.gateway.lease import Lease
from tff_programs.gateway.pace import Pace
from tff_programs.gateway.round_records import current_round
from tff_programs.gateway.round_work import Base
from tff_programs.gateway.rounds import Rounds, RoundSettings
from tff_programs.gateway.secret_files import enrolment_token, server_secret
from tff_programs.gateway.server import Gateway, ServerSettings, serving_on_loopback
from tff_programs.gateway.tables import round_tiers, rounds, updates
from tff_programs.programs.checkpoint import TrainedSupernet
from tff_programs.programs.fleet_rounds import FleetRounds, client_name
from tff_programs.programs.phone_fleet import (
    clients_of_phones,
    phone_folder,
    start_visit,
    visit_line,
    write_examples,
)
from tff_programs.programs.stored_optimizer import OPTIMIZER_SETTINGS
from tff_programs.programs.supernet_rounds import SUPERNET, WorkSettings
from tff_programs.programs.training_information import (
    device_training,
    left_out_flags,
    trained_tiers,
)
from tff_programs.simulation.cohorts import default_cohorts
from tff_programs.simulation.round_plan import RANDOM_STREAMS, Assignment, RoundPlan
from tff_programs.simulation.run_folder import hold_run
from tff_programs.simulation.tiers import default_tiers
from tflite.together.address import ServerAddress
from tflite.together.device_folder import DeviceFolder

# Seconds: even a fleet that is continued after years waits for every client of a round.
_NEVER = 1e9
_PHONES = "phones"
_VERSION = "was started by another version of this program. Give another --out."


@dataclasses.dataclass(frozen=True)
class FleetSettings:
    """Settings of a fleet.

    Attributes:
      rounds: Total number of rounds.
      clients_per_round: Number of clients per round.
      learning_rate: Learning rate of the clients; None for that of the training.
      processes: Number of clients computed in parallel; 0 for one per CPU core.
      test_batch_size: Number of images normalized together in an evaluation.
      seed: Seed of the client selection; None for that of the training.
    """

    rounds: int
    clients_per_round: int
    learning_rate: float | None
    processes: int
    test_batch_size: int
    seed: int | None = None


class Fleet:
    """The server of a fleet, and the processes of its clients.

    Attributes:
      supernet: The trained supernet before `run`, and the fleet's supernet after it.
    """

    def __init__(
        self,
        trained: TrainedSupernet,
        folder: str,
        settings: FleetSettings,
        on_progress: Callable[[str], None] = lambda line: None,
    ):
        """Plans the fleet; `run` starts it, or continues the one in `folder`.

        Args:
          trained: The supernet and its clients.
          folder: Folder of the fleet.
          settings: Settings of the fleet.
          on_progress: Called with a line of text after each step of progress.
        """
        trained = trained._replace(data=clients_of_phones(trained.data, on_progress))
        self.trained = trained
        self._folder = folder
        self._settings = settings
        self._on_progress = on_progress
        of_training = trained.information["settings"]
        self.learning_rate = settings.learning_rate or of_training.get("learning_rate")
        if self.learning_rate is None:
            raise ValueError(
                "Expected a learning rate of the clients, since the supernet's file tells none. "
                "Give --learning_rate."
            )
        self.training = device_training(trained.information)
        space = trained.supernet.space
        self.aggregation = of_training.get("aggregation", "coverage")
        self.weighting = of_training.get("weighting", "examples")
        self.assignment = Assignment(
            space=space,
            tiers=trained_tiers(trained.information)
            or default_tiers(space, trained.data_settings.seed),
            clients=len(trained.data),
            clients_per_round=settings.clients_per_round,
            seed=trained.data_settings.seed if settings.seed is None else settings.seed,
            redraw=of_training.get("redraw", True),
            tier_net_share=of_training.get("tier_net_share", 0.0),
            cohorts=of_training.get("cohorts")
            or default_cohorts(of_training.get("noise_multiplier")),
            sandwich=of_training.get("cohort_sandwich", False) and settings.clients_per_round > 1,
        )
        self.supernet = trained.supernet
        self._left_out = left_out_flags(of_training, apart_from=("server_optimizer",))
        self._base = fingerprint(trained.weights)
        self._last = trained.information["round"] + settings.rounds
        of_fleet = {"fleet": {"base": self._base, "random_streams": RANDOM_STREAMS}}
        self._work = FleetRounds(
            trained._replace(information={**trained.information, **of_fleet}),
            folder,
            WorkSettings(
                tiers=self.assignment.tiers,
                training=self.training,
                # No limits: the fleet's own processes wrote the updates.
                merging={
                    "aggregation": self.aggregation,
                    "weighting": self.weighting,
                    "limits": None,
                },
                # Once per subnet: the clients' training does not depend on it.
                calibrate_every=math.inf,
                test_batch_size=settings.test_batch_size,
                optimizer={
                    name: of_training[name] for name in OPTIMIZER_SETTINGS if name in of_training
                },
            ),
            lambda number: self.assignment.plan(number + 1),
            self._last,
        )
        self.optimizer = self._work.optimizer

    def run(self) -> None:
        """Runs all remaining rounds.

        Raises:
          ValueError: If another program is using the folder, or it holds another fleet.
        """
        if self._left_out:
            self._on_progress(
                f"Of the training, a fleet's server does without {', '.join(self._left_out)}: it "
                f"takes the mean update as it is ({self.aggregation}, weighted by "
                f"{self.weighting})."
            )
        with hold_run(self._folder):
            database = Database(sqlite_url(self._folder))
            try:
                self._open(database)
                self._run(database)
            finally:
                database.close()
                self._work.close()

    def plan(self, number: int) -> RoundPlan:
        """Returns the plan of a fleet round; `number` counts on from the training's last round."""
        return self.assignment.plan(self.trained.information["round"] + number)

    def accuracies(self, supernet: Supernet) -> dict[str, float]:
        """Returns the test accuracy of each tier's subnet."""
        return self._work.evaluate(supernet)

    def _open(self, database: Database) -> None:
        """Checks that the fleet in the folder is this one, and continues it."""
        with database.read() as connection:
            current = current_round(connection)
        if current is None:
            if os.path.exists(self._path(SUPERNET)):
                raise self._other(_VERSION)
            return
        base = Base(current.number, current.base_hash, current.folder)
        _, information = self._work.load(base)
        if information["fleet"]["random_streams"] != RANDOM_STREAMS:
            raise self._other(_VERSION)
        if information["fleet"]["base"] != self._base:
            raise self._other(
                "began with another supernet. Give that one to continue it, or another --out."
            )
        self._on_progress(f"Continuing after round {self._done(current.number)}.")
        if current.state == "open" and current.number < self._last:
            self._open_anew(database, current.id, base)

    def _open_anew(self, database: Database, round_id: int, base: Base) -> None:
        """Reopens a round whose models are not those of its plan.

        It has no models if the earlier call had fewer rounds, and other models if that call had
        other settings.
        """
        of_round = round_tiers.c.round_id == round_id
        with database.write() as connection:
            goals = select(round_tiers.c.tier, round_tiers.c.goal).where(of_round)
            if dict(connection.execute(goals).all()) == self._work.goals(base.number):
                return
            self._work.go_on(base)
            opened, waits = rounds.c.id == round_id, updates.c.state == "waiting"
            connection.execute(update(rounds).where(opened).values(state="undone"))
            connection.execute(update(updates).where(waits).values(state="left_out"))

    def _other(self, why: str) -> ValueError:
        return ValueError(f"The fleet in {self._folder!r} {why}")

    def _done(self, number: int) -> int:
        """Returns the number of fleet rounds behind the supernet with that number."""
        return number - self.trained.information["round"]

    def _run(self, database: Database) -> None:
        clients = self.assignment.clients_per_round
        settings = RoundSettings(
            goal=clients,
            min_updates=clients,
            deadline_seconds=_NEVER,
            over_asking=0.0,
            max_staleness=0,
            keeps_updates=True,
        )
        # The lock on the folder keeps other programs out.
        lease = Lease(database, "fleet", _NEVER, time.time)
        lease.take()
        keeper = Rounds(
            database, self._folder, settings, self._work, lease, time.time, self._on_progress
        )
        server_settings = ServerSettings(
            Training(self.training.epochs, self.learning_rate, _NEVER),
            max_staleness=0,
            pace=Pace(1.0),
            requests_per_hour=_NEVER,
        )
        secret = server_secret(self._folder)
        gateway = Gateway(
            Database(database.url), self._folder, secret, server_settings, self._on_progress
        )
        with contextlib.closing(gateway), serving_on_loopback(gateway.application()) as url:
            address = ServerAddress(url, enrolment_token(self._folder))
            trained = -1
            while True:
                while keeper.step():
                    pass
                with database.read() as connection:
                    current = current_round(connection)
                self._publish(Base(current.number, current.base_hash, current.folder))
                if current.number >= self._last:
                    return
                if current.number == trained:
                    raise RuntimeError(
                        f"Round {self._done(trained) + 1}: expected updates that can be merged, "
                        "received none. What was left out is above."
                    )
                trained = current.number
                self._train_clients(address, trained)

    def _publish(self, base: Base) -> None:
        """Copies the newest supernet to the top of the fleet's folder and loads it."""
        with open(self._path(os.path.join(base.folder, SUPERNET)), "rb") as file:
            write_bytes(self._path(SUPERNET), file.read())
        self.supernet, _ = self._work.load(base)

    def _train_clients(self, address: ServerAddress, number: int) -> None:
        """Runs the clients of a round."""
        plan = self.assignment.plan(number + 1)
        workers = self._settings.processes or len(os.sched_getaffinity(0))
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            jobs = [
                pool.submit(self._train_client, address, number, *one)
                for one in zip(plan.clients, plan.architectures, plan.seeds, strict=True)
            ]
            for job in jobs:
                job.result()

    def _train_client(
        self, address: ServerAddress, number: int, client: int, architecture, seed: np.ndarray
    ) -> None:
        """Runs a client's processes until its update of the round is accepted."""
        folder = phone_folder(self._path(_PHONES), client)
        write_examples(folder, *self.trained.data.train_examples(client))
        DeviceFolder(folder).change_server_url(address.url)
        settings = {
            "address": dataclasses.asdict(address),
            "folder": folder,
            "fields": {"tier": self._work.tier_name(architecture), "application": "fedsup fleet"},
            "runtime": None,
            "plan": [client_name(client), _client_seed(seed)],
        }
        while True:
            visit = start_visit(settings)
            if visit["event"] not in ("sent", "waits"):
                raise RuntimeError(f"Client {client}: {visit.get('message') or visit['event']}")
            # It is told to wait if an earlier call already sent its update.
            if visit["event"] == "waits" or visit["task"]["round"] == number:
                break
        self._on_progress("  " + visit_line(client, visit))

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)


def _client_seed(seed: np.ndarray) -> int:
    """Returns a client's seed, int32 `(2,)` in the plan, as one non-negative integer."""
    first, second = (int(part) for part in np.asarray(seed, np.int32).view(np.uint32))
    return (first << 32) | second
