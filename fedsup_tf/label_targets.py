"""Targets of the cross-entropy with the labels."""

import tensorflow as tf


def smoothed_targets(
    labels: tf.Tensor, classes: int, label_smoothing: float, offsets: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns one-hot targets of which a share is spread over the classes (label smoothing).

    The share is spread evenly (Szegedy et al., arXiv 1512.00567, section 7) or, with offsets, in
    proportion to the classes' weights in the softmax: targets that are spread evenly would assert
    that classes which a client has no examples of are as likely as its own.

    Args:
      labels: `(batch,)`, int32.
      classes: Number of classes.
      label_smoothing: Share of the target that is spread, from 0 to 1.
      offsets: Offsets that the loss adds to the logits, `(classes,)`: the logarithms of the
        classes' weights in the softmax. None if all weights are 1.

    Returns:
      Targets, float32 `(batch, classes)`; each row has the sum 1.
    """
    targets = tf.one_hot(labels, classes)
    if not label_smoothing:
        return targets
    spread = 1 / classes if offsets is None else tf.nn.softmax(offsets)
    return targets * (1 - label_smoothing) + label_smoothing * spread
