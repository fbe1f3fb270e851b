"""The work of a fleet's rounds, which follow a plan of clients and their subnets."""

import collections
import functools
from collections.abc import Callable

from fedsup_tf.architecture import Architecture
from tff_programs.gateway.round_work import Base, Prepared
from tff_programs.programs.checkpoint import TrainedSupernet
from tff_programs.programs.supernet_rounds import SupernetRounds, WorkSettings
from tff_programs.simulation.round_plan import RoundPlan
from tff_programs.simulation.tiers import Tier
from tflite.format.update_file import read_update
from tflite.merge.received_updates import subnet_shapes


class FleetRounds(SupernetRounds):
    """Exports a model for each subnet of a plan, and merges updates in the plan's order."""

    def __init__(
        self,
        trained: TrainedSupernet,
        folder: str,
        settings: WorkSettings,
        plan: Callable[[int], RoundPlan],
        last: int,
    ):
        """Creates the work.

        Args:
          trained: The first supernet, and the server's own data.
          folder: The fleet's folder.
          settings: Settings of the work, as for `SupernetRounds`.
          plan: Function from the number of a supernet to the plan of the round that trains it.
          last: Number of the fleet's last supernet, from which nothing is exported.
        """
        super().__init__(trained, folder, settings)
        self._plan = plan
        self._last = last
        self._names = {tier.architecture: tier.name for tier in settings.tiers}
        self._continued: Base | None = None

    def go_on(self, base: Base) -> None:
        """Makes `begin` continue from the supernet of an earlier call."""
        self._continued = base

    def begin(self) -> Base:
        """Returns the supernet to continue from, or puts the first one into the fleet's folder."""
        return self._continued or super().begin()

    def prepare(self, base: Base, on_progress: Callable[[str], None]) -> Prepared:
        """Exports a round's models, except after the last round, and evaluates the supernet."""
        if base.number < self._last:
            return super().prepare(base, on_progress)
        return Prepared([], self.evaluate(self.load(base)[0]))

    def _ordered(self, base: Base, paths: list[str]) -> list[str]:
        """Returns the updates in the plan's order, so that their sum is rounded in the same way."""
        supernet = self._trained.supernet
        shapes_of = functools.partial(subnet_shapes, supernet)
        order = {
            client_name(one): place for place, one in enumerate(self._plan(base.number).clients)
        }

        def place(path: str) -> int:
            return order.get(read_update(path, supernet.space, shapes_of).client, len(order))

        return sorted(paths, key=place)

    def goals(self, number: int) -> dict[str, int]:
        """Returns the number of clients that train each subnet of a round, by the subnet's name."""
        return {tier.name: tier.share for tier in self._draw(number)}

    def _draw(self, number: int) -> list[Tier]:
        """Returns a tier for each subnet of the plan, whose share is the number of its clients."""
        counts = collections.Counter(self._plan(number).architectures)
        return [Tier(self.tier_name(one), one, count) for one, count in counts.items()]

    def tier_name(self, architecture: Architecture) -> str:
        """Returns the tier name by which clients request a subnet."""
        index = self._trained.supernet.space.index(architecture)
        return self._names.get(architecture, f"subnet_{index}")


def client_name(client: int) -> str:
    """Returns the name that a client has in its updates."""
    return f"client {client}"
