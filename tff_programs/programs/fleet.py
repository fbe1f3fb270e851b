"""fedsup fleet SUPERNET: rounds whose clients are processes with a `.tflite` and their own images.

Runs a gateway and its phones on loopback, with rounds that follow the plan of a training:
the clients that take part, the subnet of each and the seed of its steps. A client has only what a
phone has: an exported model, its own examples and the stock runtime, but neither TensorFlow nor
access to this program's memory. `--compare` also runs the same rounds inside TFF.

If a fleet is killed, the same command continues with the interrupted round.
"""

import asyncio
import os
from collections.abc import Sequence

import tensorflow_federated as tff

from fedsup_tf.supernet import Supernet
from tff_programs.execution.contexts import local_execution
from tff_programs.learning.training_process import build_fedsup_process
from tff_programs.programs.console import print_line
from tff_programs.programs.flags.checkpoint_flags import load_trained_from_flags
from tff_programs.programs.flags.data_flags import define_data_flags
from tff_programs.programs.flags.program_flags import FlagDefiner, parse_with_path
from tff_programs.programs.fleet_server import Fleet, FleetSettings
from tff_programs.reports import report
from tff_programs.simulation.clients import ClientData


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define_data_flags(define)
    define.output_folder("out", None, "Folder of the fleet; an existing fleet is continued.")
    define.integer("rounds", 5, "Total number of rounds.", lower_bound=1)
    define.integer("clients_per_round", 10, "Number of clients per round.", lower_bound=1)
    define.float(
        "learning_rate", None, "Clients' learning rate; by default, that of the training.", above=0
    )
    define.integer(
        "processes",
        0,
        "Number of clients computed in parallel; 0 for one per CPU core.",
        lower_bound=0,
        upper_bound=1024,
    )
    define.integer(
        "test_batch_size", 50, "Images normalized together in an evaluation.", lower_bound=1
    )
    define.bool("compare", False, "Also run the same rounds inside TFF and print both accuracies.")


def main(argv: Sequence[str]) -> None:
    """Runs a fleet from the supernet that the first argument names."""
    options, path = parse_with_path(define_flags, argv, "the supernet's file")
    if not options.out:
        raise ValueError("Expected --out=FOLDER, where the fleet is kept.")
    trained = load_trained_from_flags(options, path)
    settings = FleetSettings(
        rounds=options.rounds,
        clients_per_round=options.clients_per_round,
        learning_rate=options.learning_rate,
        processes=options.processes,
        test_batch_size=options.test_batch_size,
    )
    fleet = Fleet(trained, options.out, settings, on_progress=print_line)
    print(
        f"fleet of {len(fleet.trained.data)} clients, {options.clients_per_round} a round, from "
        f"round {trained.information['round']} of {path}",
        flush=True,
    )
    fleet.run()
    tiers = [tier.name for tier in fleet.assignment.tiers]
    rows = [("subnet", "", "accuracy")]
    accuracies = {"fleet": fleet.accuracies(fleet.supernet)}
    if options.compare:
        print("the same rounds inside TFF", flush=True)
        accuracies["TFF"] = fleet.accuracies(run_in_tff(fleet, options.rounds))
    for name in tiers:
        rows += [(name, how, f"{100 * shares[name]:.1f} %") for how, shares in accuracies.items()]
    print(report.format_table(rows))
    print(os.path.join(options.out, "supernet.safetensors"))


def run_in_tff(fleet: Fleet, rounds: int) -> Supernet:
    """Runs the rounds of a fleet as a federated computation and returns the resulting supernet.

    Args:
      fleet: Fleet that defines the initial weights, plan, clients, hyper-parameters and server
        optimizer.
      rounds: Number of rounds.
    """
    trained = fleet.trained
    space = trained.supernet.space
    process = build_fedsup_process(
        space,
        fleet.training,
        trained.preprocessing,
        fleet.learning_rate,
        aggregation=fleet.aggregation,
        weighting=fleet.weighting,
        server_optimizer=fleet.optimizer.optimizer,
    )
    source = ClientData(trained.data, fleet.assignment)

    async def run():
        state = await tff.program.materialize_value(process.initialize())
        values = tuple(trained.weights.values())
        state = process.set_model_weights(state, tff.learning.models.ModelWeights(values, ()))
        for number in range(1, rounds + 1):
            output = process.next(state, source.select(fleet.plan(number)))
            state = await tff.program.materialize_value(output.state)
        weights = process.get_model_weights(state)
        return (await tff.program.materialize_value(weights)).trainable

    with local_execution():
        values = asyncio.run(run())
    supernet = Supernet(space)
    supernet.assign_weights(supernet.named(values))
    return supernet
