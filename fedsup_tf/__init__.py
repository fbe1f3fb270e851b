"""The supernet, its subnets and the algorithm; TensorFlow and NumPy alone."""
