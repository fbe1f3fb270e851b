"""Hyper-parameters of a client's training."""

import dataclasses
import math
from typing import Any

from fedsup_tf.files.json_schema import quoted
from fedsup_tf.files.validation import check_choice, check_number, check_whole_number

TEACHERS = ("received", "ensemble")
# Values without effect of hyper-parameters that earlier versions did not have.
WITHOUT_EFFECT = {"frozen": [], "clip_norm": math.inf, "received_weight": 1.0}
# Greatest number of nets of a sandwich: each has its part of the graph of a step.
MOST_SANDWICH = 64
# Greatest number of epochs and of images of a step; a shape has it as an int32.
_MOST_COUNT = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class LocalTraining:
    """Hyper-parameters of a client's training; the defaults are the reference's.

    Attributes:
      epochs: Passes over the client's examples.
      batch_size: Examples in a step; the last step of an epoch takes what is left.
      momentum: Momentum of SGD; each round starts with zero momentum.
      weight_decay: L2 decay of convolution and classifier kernels; PN and bias do not decay.
      clip_norm: Largest l2 norm of a step's gradient, of all weights together; infinity to leave
        it. A step far longer than the others is how a training at a high rate diverges.
      clip_value: Largest absolute value of an entry of the gradient; infinity to leave it.
      label_smoothing: Share of the target spread evenly over the classes.
      sandwich: Number of nets trained in each step, M; 1 trains only what was received.
      temperature: Temperature of the distillation.
      teacher: What the nets of a sandwich learn from beside the labels. `"received"`: the smaller
        nets from the net that the client received, which learns from the labels alone (in-place
        distillation of FedSup). `"ensemble"`: each net, the received one too, from the mean of all
        nets' predictions (deep mutual learning, Zhang et al., arXiv 1706.00384).
      label_share: Share of the labels' cross-entropy in the loss of each net that has a teacher;
        the rest is distillation.
      received_weight: Weight of the received net's loss, beside 1 for each other net of a sandwich.
        Weights that the smaller nets lack have this net's gradient alone, those that all share the
        sum of all nets' (a greater weight of the largest net: SuperFedNAS, Khare et al., arXiv
        2301.10879).
      absent_class_weight: Weight, in the sum of the softmax, of a class that the client has no
        example of; 1 is the plain softmax. A client can only learn that its classes are likelier
        than those it never sees, which the other clients contradict: with a small weight it hardly
        does (logit adjustment by the client's own label prior, Menon et al., arXiv 2007.07314;
        restricted softmax, Li & Zhan, KDD 2021).
      frozen: Parts of the net that keep their weights, `frozen.parts_to_freeze` of its space: they
        get no gradient and are not sent back.
    """

    epochs: int = 1
    batch_size: int = 32
    momentum: float = 0.5
    weight_decay: float = 1e-4
    clip_norm: float = math.inf
    clip_value: float = 1.0
    label_smoothing: float = 0.0
    sandwich: int = 1
    temperature: float = 1.0
    teacher: str = "received"
    label_share: float = 0.0
    received_weight: float = 1.0
    absent_class_weight: float = 1.0
    frozen: tuple[str, ...] = ()

    def __post_init__(self):
        what = "Local training"
        most = {"epochs": _MOST_COUNT, "batch_size": _MOST_COUNT, "sandwich": MOST_SANDWICH}
        for field, limit in most.items():
            value = check_whole_number(getattr(self, field), field, 1, limit, what=what)
            object.__setattr__(self, field, value)
        bounds = {
            "momentum": {"least": 0, "most": 1},
            "weight_decay": {"least": 0},
            "clip_norm": {"above": 0, "allow_infinity": True},
            "clip_value": {"above": 0, "allow_infinity": True},
            "label_smoothing": {"least": 0, "most": 1},
            "temperature": {"above": 0},
            "label_share": {"least": 0, "most": 1},
            "received_weight": {"above": 0},
            "absent_class_weight": {"above": 0, "most": 1},
        }
        for field, limits in bounds.items():
            value = check_number(getattr(self, field), field, what=what, **limits)
            # JSON knows no numbers of NumPy.
            object.__setattr__(self, field, value.item() if hasattr(value, "item") else value)
        check_choice(self.teacher, "teacher", TEACHERS, what=what)
        frozen = self.frozen
        if not isinstance(frozen, list | tuple) or not all(isinstance(n, str) for n in frozen):
            raise ValueError(
                "Local training: expected frozen to be a list of names of parts, received "
                f"{quoted(frozen)}."
            )
        object.__setattr__(self, "frozen", tuple(frozen))

    def fields(self) -> dict[str, Any]:
        """Returns the hyper-parameters as JSON values by name.

        Those that earlier versions did not have are there only where they have an effect.
        """
        values = {**dataclasses.asdict(self), "frozen": list(self.frozen)}
        return {
            name: value
            for name, value in values.items()
            if name not in WITHOUT_EFFECT or value != WITHOUT_EFFECT[name]
        }
