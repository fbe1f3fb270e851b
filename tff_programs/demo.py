"""fedsup demo: a small supernet learns handwritten digits from 20 clients of 5 digits each.

A run of `fedsup train` with its settings chosen; every flag of `fedsup train` can change them.
"""

from absl import flags

from tff_programs import train

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
    flags.FLAGS.set_default(_name, _value)

main = train.main
