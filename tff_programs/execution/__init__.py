"""Execution of TFF computations: contexts, workers, subrounds, load balancing."""
