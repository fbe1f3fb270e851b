"""fedsup demo: a small supernet learns handwritten digits from 20 clients, then from two phones.

A run of `fedsup train` with its settings chosen, every flag of which can be changed; then a round
of `fedsup fleet`: two clients get a subnet as a `.tflite`, train it in processes of their own with
the stock runtime, and the supernet takes up what they learned.
"""

import os

from absl import flags

from tff_programs.programs import train
from tff_programs.programs.checkpoint import load_trained
from tff_programs.programs.fleet_server import Fleet, FleetSettings

FLAGS = flags.FLAGS
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
    "cohort_sandwich": True,
}
for _name, _value in _SETTINGS.items():
    FLAGS.set_default(_name, _value)

# A learning rate for a net that is trained already.
_FLEET = FleetSettings(
    rounds=1, clients_per_round=2, learning_rate=0.01, processes=0, test_batch_size=50, seed=0
)


def main(argv) -> None:
    """Trains the supernet, then lets two clients train exported subnets of it."""
    train.main(argv)
    trained = load_trained(os.path.join(FLAGS.out, "supernet.safetensors"))
    folder = os.path.join(FLAGS.out, "fleet")
    print("\nTwo clients train exported subnets with the runtime of a phone")
    fleet = Fleet(trained, folder, _FLEET)
    fleet.print_accuracies("before")
    fleet.run_round(1)
    print(f"In {folder}: the .tflite files, the clients' updates and the merged supernet")
