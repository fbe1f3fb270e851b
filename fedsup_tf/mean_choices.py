"""Names of the ways to average overlapping slices, for programs that load no TensorFlow."""

# Whose weights the sum of an entry's updates is divided by: those of the clients that trained the
# entry, or those of all clients.
DIVISORS = ("coverage", "diluted")
# A client's weight: its number of examples, or 1.
WEIGHTINGS = ("examples", "uniform")
