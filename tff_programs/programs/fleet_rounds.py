"""The work of a fleet's rounds, which follow a plan of clients and of what they train."""

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
          folder: The fleet's.
          settings: As of `SupernetRounds`.
          plan: Returns the plan of the round that trains a supernet, by the supernet's number.
          last: Number of the supernet with which the fleet ends, for which nothing is exported.
        """
        super().__init__(trained, folder, settings)
        self._plan = plan
        self._last = last
        self._names = {tier.architecture: tier.name for tier in settings.tiers}
        self._continued: Base | None = None

    def go_on(self, base: Base) -> None:
        """Begins with the supernet of an earlier call."""
        self._continued = base

    def begin(self) -> Base:
        """Returns the first supernet, put into the fleet's folder."""
        return self._continued or super().begin()

    def prepare(self, base: Base, on_progress: Callable[[str], None]) -> Prepared:
        """Exports the models of a round unless it is after the last one; evaluates the supernet."""
        if base.number < self._last:
            return super().prepare(base, on_progress)
        return Prepared([], self.evaluate(self.load(base)[0]))

    def _ordered(self, base: Base, paths: list[str]) -> list[str]:
        """Returns updates in the plan's order, on which the last bits of their sum depend."""
        supernet = self._trained.supernet
        shapes_of = functools.partial(subnet_shapes, supernet)
        order = {
            client_name(one): place for place, one in enumerate(self._plan(base.number).clients)
        }

        def place(path: str) -> int:
            return order.get(read_update(path, supernet.space, shapes_of).client, len(order))

        return sorted(paths, key=place)

    def goals(self, number: int) -> dict[str, int]:
        """Returns how many clients train each subnet of a round, by the subnet's name."""
        return {tier.name: tier.share for tier in self._draw(number)}

    def _draw(self, number: int) -> list[Tier]:
        """Returns a tier for each subnet of the plan, with as many devices as train it."""
        counts = collections.Counter(self._plan(number).architectures)
        return [Tier(self.tier_name(one), one, count) for one, count in counts.items()]

    def tier_name(self, architecture: Architecture) -> str:
        """Returns the name under which clients ask for a subnet."""
        index = self._trained.supernet.space.index(architecture)
        return self._names.get(architecture, f"subnet_{index}")


def client_name(client: int) -> str:
    """Returns the name of a client in its updates."""
    return f"client {client}"
