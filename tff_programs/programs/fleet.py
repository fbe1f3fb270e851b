"""fedsup fleet SUPERNET: rounds whose clients are processes with a `.tflite` and their own images.

A client has what a phone has: an exported model, its own examples and the stock runtime, neither
TensorFlow nor this program's memory. In each round the server exports a subnet for every tier that
takes part, the clients train and write update files, and the server merges those. `--compare` runs
the same rounds inside TFF beside it.

A fleet that was killed goes on with the round that was cut off when it is called again.
"""

import asyncio
import dataclasses
import os

import tensorflow_federated as tff
from absl import flags

from fedsup_tf.supernet import Supernet
from tff_programs.execution.contexts import local_execution
from tff_programs.learning.training_process import build_fedsup_process
from tff_programs.programs.checkpoint import load_trained
from tff_programs.programs.flags.data_flags import define_data_flags
from tff_programs.programs.fleet_server import Fleet, FleetSettings
from tff_programs.reports import report
from tff_programs.simulation.clients import ClientData

FLAGS = flags.FLAGS

define_data_flags()
flags.DEFINE_string("out", None, "Folder of the fleet; one that is there is continued.")
flags.DEFINE_integer("rounds", 5, "Rounds.", lower_bound=1)
flags.DEFINE_integer("clients_per_round", 10, "Clients of a round.", lower_bound=1)
flags.DEFINE_float("learning_rate", None, "Of the clients; by default that of the training.")
flags.DEFINE_integer("processes", 0, "Clients computed side by side; 0 for one a core.")
flags.DEFINE_integer("test_batch_size", 50, "Images normalized together in a test.", lower_bound=1)
flags.DEFINE_bool("compare", False, "Run the same rounds inside TFF and tell the difference.")


def main(argv) -> None:
    """Runs a fleet from the supernet that the first argument names."""
    if len(argv) != 2:
        raise ValueError(f"Expected one argument, the supernet's file; received {argv[1:]}.")
    if not FLAGS.out:
        raise ValueError("Expected --out=FOLDER, where the fleet is kept.")
    trained = load_trained(argv[1])
    names = [field.name for field in dataclasses.fields(FleetSettings)]
    fleet = Fleet(trained, FLAGS.out, FleetSettings(**{name: FLAGS[name].value for name in names}))
    print(
        f"fleet of {len(trained.partition)} clients, {FLAGS.clients_per_round} a round, from "
        f"round {trained.information['round']} of {argv[1]}",
        flush=True,
    )
    fleet.print_accuracies("before")
    for number in range(1, FLAGS.rounds + 1):
        fleet.run_round(number)
    tiers = [tier.name for tier in fleet.assignment.tiers]
    rows = [("subnet", "", "accuracy")]
    accuracies = {"fleet": fleet.accuracies(fleet.supernet)}
    if FLAGS.compare:
        print("the same rounds inside TFF", flush=True)
        accuracies["TFF"] = fleet.accuracies(_run_in_tff(fleet))
    for name in tiers:
        rows += [(name, how, f"{100 * shares[name]:.1f} %") for how, shares in accuracies.items()]
    print(report.format_table(rows))
    print(os.path.join(FLAGS.out, "supernet.safetensors"))


def _run_in_tff(fleet: Fleet) -> Supernet:
    """The supernet after the same rounds as a federated computation, from the same weights."""
    trained = fleet.trained
    space = trained.supernet.space
    process = build_fedsup_process(
        space, fleet.training, trained.preprocessing, fleet.learning_rate
    )
    source = ClientData(trained.dataset, trained.partition, fleet.assignment)

    async def run():
        state = await tff.program.materialize_value(process.initialize())
        values = tuple(trained.weights.values())
        state = process.set_model_weights(state, tff.learning.models.ModelWeights(values, ()))
        for number in range(1, FLAGS.rounds + 1):
            output = process.next(state, source.select(fleet.plan(number)))
            state = await tff.program.materialize_value(output.state)
        weights = process.get_model_weights(state)
        return (await tff.program.materialize_value(weights)).trainable

    with local_execution():
        values = asyncio.run(run())
    supernet = Supernet(space)
    supernet.assign_weights(dict(zip(supernet.weight_shapes, values, strict=True)))
    return supernet
