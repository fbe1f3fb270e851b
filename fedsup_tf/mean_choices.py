"""Options for merging clients' updates, for programs that do not load TensorFlow."""

# Divisors of the sum of an entry's updates: the total weight of the clients that trained the entry,
# or that of all clients.
DIVISORS = ("coverage", "diluted")
# A client's weight: its number of examples, or 1.
WEIGHTINGS = ("examples", "uniform")
# Server optimizers, which apply the mean update; "none" simply adds it.
SERVER_OPTIMIZERS = ("none", "nesterov", "sgdm", "adam")
# Learning rates of server optimizers in new trainings; others have TFF's own defaults.
DEFAULT_SERVER_RATES = {"nesterov": 0.8}
