"""Server optimizers by name."""

import tensorflow_federated as tff

from fedsup_tf.files.validation import check_choice
from fedsup_tf.mean_choices import SERVER_OPTIMIZERS
from tff_programs.learning.nesterov import build_nesterov


def build_server_optimizer(
    name: str, learning_rate: float | None = None, momentum: float = 0.9
) -> tff.learning.optimizers.Optimizer | None:
    """Makes the server optimizer with the given name.

    Args:
      name: One of `mean_choices.SERVER_OPTIMIZERS`.
      learning_rate: Learning rate of the optimizer. The default is that of earlier versions, whose
        settings do not record it: 0.3 for `"nesterov"`, otherwise 1.
      momentum: Momentum of `"nesterov"` and `"sgdm"`.

    Returns:
      The optimizer; None for `"none"`, which adds the mean update to the weights.
    """
    check_choice(name, "server_optimizer", SERVER_OPTIMIZERS)
    if name == "nesterov":
        return build_nesterov(0.3 if learning_rate is None else learning_rate, momentum)
    rate = 1.0 if learning_rate is None else learning_rate
    if name == "sgdm":
        return tff.learning.optimizers.build_sgdm(rate, momentum=momentum)
    if name == "adam":
        return tff.learning.optimizers.build_adam(rate, epsilon=1e-3)
    return None
