"""fedsup demo: a small supernet learns handwritten digits from 20 clients, then from two phones.

Runs `fedsup train` with preset settings, each of which a flag can change, and then a round of
`fedsup fleet`: two clients receive a subnet as a `.tflite`, train it in their own processes with
the stock runtime, and their updates are merged into the supernet.
"""

import os
from collections.abc import Sequence

from tff_programs.programs import train
from tff_programs.programs.checkpoint import load_trained
from tff_programs.programs.console import print_line
from tff_programs.programs.flags.program_flags import FlagDefiner, parse_flags_only
from tff_programs.programs.fleet_server import Fleet, FleetSettings

_SETTINGS = {
    "out": "runs/demo",
    "space": "digits_small",
    "dataset": "digits",
    "partition": "shard",
    "classes_per_client": 5,
    "clients": 20,
    "rounds": 60,
    "epochs": 3,
    "batch_size": 16,
    "schedule": "cosine",
    "evaluate_every": 10,
    "random_subnets": 40,
}


def define_flags(define: FlagDefiner) -> None:
    """Defines the flags of `fedsup train` with the defaults of the demo."""
    train.define_flags(define)
    for name, value in _SETTINGS.items():
        define.default(name, value)


def main(argv: Sequence[str]) -> None:
    """Trains the supernet, then lets two clients train exported subnets of it."""
    options = parse_flags_only(define_flags, argv)
    train.run(options)
    trained = load_trained(
        os.path.join(options.out, "supernet.safetensors"), {"data_dir": options.data_dir}
    )
    folder = os.path.join(options.out, "fleet")
    print("\nTwo clients train exported subnets with the runtime of a phone")
    # A lower learning rate, since the net is already trained.
    settings = FleetSettings(
        rounds=1,
        clients_per_round=2,
        learning_rate=0.01,
        processes=0,
        test_batch_size=50,
    )
    Fleet(trained, folder, settings, print_line).run()
    print(f"In {folder}: the .tflite files, the clients' updates and the merged supernet")
