"""Training on a device, with the stock runtime and without TensorFlow."""
