"""Names of the ways to merge clients' updates, for programs that load no TensorFlow."""

# Whose weights the sum of an entry's updates is divided by: those of the clients that trained the
# entry, or those of all clients.
DIVISORS = ("coverage", "diluted")
# A client's weight: its number of examples, or 1.
WEIGHTINGS = ("examples", "uniform")
# Optimizers of the mean update on the server; with none it is added.
SERVER_OPTIMIZERS = ("none", "nesterov", "sgdm", "adam")
