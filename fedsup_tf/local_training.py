"""Hyper-parameters of a client's training."""

import dataclasses
import math
from typing import Any

from fedsup_tf.files.json_schema import quoted
from fedsup_tf.files.validation import check_choice, check_number, check_whole_number

TEACHERS = ("received", "ensemble")
# Values that disable hyper-parameters which earlier versions did not have.
NEUTRAL_VALUES = {"frozen": [], "clip_norm": math.inf, "received_weight": 1.0}
# Hyper-parameters that also apply to a net that a device trains by itself.
DEVICE_FIELDS = (
    "epochs",
    "batch_size",
    "momentum",
    "weight_decay",
    "clip_value",
    "label_smoothing",
    "absent_class_weight",
    "frozen",
)
# Maximum number of nets in a sandwich; each adds its own part to the graph of a step.
MAX_SANDWICH = 64
# Maximum number of epochs and batch size; graphs hold them as int32.
_MAX_COUNT = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class LocalTraining:
    """Hyper-parameters of a client's training, with the reference implementation's defaults.

    Attributes:
      epochs: Number of passes over the client's examples.
      batch_size: Number of examples per step; the last step of an epoch may have fewer.
      momentum: Momentum of SGD; each round starts with zero momentum.
      weight_decay: L2 decay of convolution and classifier kernels; PN and bias do not decay.
      clip_norm: Maximum global l2 norm of a step's gradient over all weights; infinity disables
        clipping. Training at a high learning rate diverges by single steps that are far longer than
        the others.
      clip_value: Maximum absolute value of each gradient entry; infinity disables clipping.
      label_smoothing: Share of the target that is spread over the classes, in proportion to their
        weights in the softmax: evenly, if absent classes have the same weight as the others.
      sandwich: Number of nets trained in each step, M; 1 trains only the received net.
      temperature: Temperature of the distillation.
      teacher: What the nets of a sandwich learn from in addition to the labels. `"received"`: the
        smaller nets learn from the received net, which learns from the labels alone (in-place
        distillation of FedSup). `"ensemble"`: all nets, including the received one, learn from the
        mean of their predictions (deep mutual learning, Zhang et al., arXiv 1706.00384).
      label_share: Weight of the labels' cross-entropy in the loss of each net that has a teacher;
        the remaining weight is that of the distillation.
      received_weight: Weight of the received net's loss; all other nets of a sandwich have weight
        1. Parameters that the smaller nets lack get only the gradient of the received net, whereas
        parameters shared by all nets get the sum of all gradients (a greater weight of the largest
        net: SuperFedNAS, Khare et al., arXiv 2301.10879).
      absent_class_weight: Weight, in the softmax sum, of the classes that the client has no
        examples of; 1 is the plain softmax. All that a client can learn about these classes is that
        they are less likely than its own, which contradicts the other clients; a small weight
        largely prevents this (logit adjustment by the client's own label prior, Menon et al., arXiv
        2007.07314; restricted softmax, Li & Zhan, KDD 2021).
      frozen: Parts of the net whose weights are not trained, from `frozen.parts_to_freeze` of its
        space; they get no gradient and are not sent back.
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
        max_values = {"epochs": _MAX_COUNT, "batch_size": _MAX_COUNT, "sandwich": MAX_SANDWICH}
        for field, limit in max_values.items():
            value = check_whole_number(getattr(self, field), field, 1, limit, what=what)
            object.__setattr__(self, field, value)
        bounds = {
            "momentum": {"minimum": 0, "maximum": 1},
            "weight_decay": {"minimum": 0},
            "clip_norm": {"above": 0, "allow_infinity": True},
            "clip_value": {"above": 0, "allow_infinity": True},
            "label_smoothing": {"minimum": 0, "maximum": 1},
            "temperature": {"above": 0},
            "label_share": {"minimum": 0, "maximum": 1},
            "received_weight": {"above": 0},
            # Its logarithm is computed in float32.
            "absent_class_weight": {"minimum": 1e-30, "maximum": 1},
        }
        for field, limits in bounds.items():
            value = check_number(getattr(self, field), field, what=what, **limits)
            # JSON cannot serialize NumPy numbers.
            object.__setattr__(self, field, value.item() if hasattr(value, "item") else value)
        check_choice(self.teacher, "teacher", TEACHERS, what=what)
        frozen = self.frozen
        if not isinstance(frozen, list | tuple) or not all(isinstance(n, str) for n in frozen):
            raise ValueError(
                "Local training: expected frozen to be a list of names of parts, received "
                f"{quoted(frozen)}."
            )
        object.__setattr__(self, "frozen", tuple(frozen))

    def on_device(self) -> "LocalTraining":
        """Returns the hyper-parameters that also apply on a device; the others have no effect.

        A device trains its net alone, without a sandwich, and does not clip the gradient's norm.
        """
        return LocalTraining(**{name: getattr(self, name) for name in DEVICE_FIELDS})

    def fields(self) -> dict[str, Any]:
        """Returns the hyper-parameters as JSON values by name.

        Hyper-parameters that earlier versions did not have are included only if they have an
        effect.
        """
        values = {**dataclasses.asdict(self), "frozen": list(self.frozen)}
        return {
            name: value
            for name, value in values.items()
            if name not in NEUTRAL_VALUES or value != NEUTRAL_VALUES[name]
        }
