"""Simulated clients: a `tff.program.FederatedDataSource` over a federated dataset."""

import functools
import json
from collections import OrderedDict

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf.architecture import Architecture
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.search.costs import count_macs
from fedsup_tf.space import SearchSpace
from tff_programs.execution.streaming import DeferredData
from tff_programs.simulation.round_plan import Assignment, RoundPlan
from tff_programs.types import client_data_type


def client_element(
    space: SearchSpace, images, labels, architecture, client: int, seed
) -> tf.data.Dataset:
    """Returns one client's data for a round, of the type `client_data_type`."""
    return tf.data.Dataset.from_tensors(
        OrderedDict(
            architecture=np.int32(space.index(architecture)),
            client=np.int32(client),
            seed=np.asarray(seed, np.int32),
            images=images,
            labels=labels,
        )
    )


def client_cost(space: SearchSpace, architecture: Architecture, examples: int) -> float:
    """Estimates the duration of a client's round, relative to other clients of the space.

    Small nets are limited more by memory: a step of the smallest net of `fedsup_cifar` has an
    eighth of the multiply-accumulates of a step of the largest net, but takes a quarter of its
    time.
    """
    macs = count_macs(space, architecture) + count_macs(space, space.largest()) / 8
    return macs * examples


class ClientData(tff.program.FederatedDataSource):
    """Source of the training data of all clients."""

    def __init__(
        self,
        data: FederatedDataset,
        assignment: Assignment,
        architecture: Architecture | None = None,
    ):
        """Makes the source of the clients of `data`, which train as planned by `assignment`.

        Args:
          data: The clients and their examples.
          assignment: Plans the clients and architectures of each round.
          architecture: Single architecture that all clients train instead, as given to the process;
            only used to estimate costs.
        """
        if len(data) != assignment.clients:
            raise ValueError(
                f"Expected the assignment to be of the data set's {len(data)} clients, received "
                f"one of {assignment.clients}."
            )
        if len(data.class_names) != assignment.space.classes:
            raise ValueError(
                f"Expected data of the search space's {assignment.space.classes} classes, received "
                f"{data.name} of {len(data.class_names)}. Make the space with `classes`."
            )
        if data.image_shape != tuple(assignment.space.image_shape):
            raise ValueError(
                f"Expected images of the search space's shape {assignment.space.image_shape}, "
                f"received {data.name} of {data.image_shape}. Load the data set with `image_shape`."
            )
        self.data = data
        self.assignment = assignment
        self.architecture = architecture

    @property
    def federated_type(self):
        """Type of the clients' data for a round."""
        return tff.FederatedType(client_data_type(self.assignment.space), tff.CLIENTS)

    def iterator(self) -> "ClientDataIterator":
        """Returns an iterator that starts with the first round."""
        return ClientDataIterator(self)

    def select(self, plan: RoundPlan) -> list[DeferredData]:
        """Returns the data of the clients that answer in a round, made when sent to a worker."""
        return [
            DeferredData(
                functools.partial(self._element, client, architecture, seed),
                client_cost(
                    self.assignment.space,
                    self.architecture or architecture,
                    self.data.train_sizes[client],
                ),
            )
            for client, architecture, seed in zip(
                plan.clients, plan.architectures, plan.seeds, strict=True
            )
        ]

    def _element(self, client, architecture, seed):
        examples = self.data.train_examples(client)
        return client_element(self.assignment.space, *examples, architecture, client, seed)


class ClientDataIterator(tff.program.FederatedDataSourceIterator):
    """Iterator over rounds; its state is the next round's number and the simulated time."""

    def __init__(self, source: ClientData | None, round_number: int = 0, clock: float = 0.0):
        """Makes an iterator that starts with round `round_number` at simulated time `clock`."""
        self.source = source
        self.round_number = round_number
        self.clock = clock

    @classmethod
    def from_bytes(cls, buffer: bytes) -> "ClientDataIterator":
        """Restores an iterator without its source; set `source` before use."""
        fields = json.loads(buffer)
        return cls(None, fields["round"], fields.get("clock", 0.0))

    def to_bytes(self) -> bytes:
        """Serializes the next round's number and the simulated time."""
        return json.dumps({"round": self.round_number, "clock": self.clock}).encode()

    @property
    def federated_type(self):
        """Type of the clients' data for a round."""
        return self.source.federated_type

    def plan(self) -> RoundPlan:
        """Returns the plan of the next round."""
        return self.source.assignment.plan(self.round_number, self.clock)

    def select(self, k: int | None = None) -> list[DeferredData]:
        """Returns the next round's data; `k` must be None or the assignment's number of clients."""
        if k not in (None, self.source.assignment.clients_per_round):
            raise ValueError(
                f"Expected k to be {self.source.assignment.clients_per_round} or None, got {k}."
            )
        return self.follow(self.plan())

    def follow(self, plan: RoundPlan) -> list[DeferredData]:
        """Returns the data for `plan`, which must be the next round's, and advances by a round."""
        self.round_number += 1
        self.clock = plan.end_seconds
        return self.source.select(plan)
