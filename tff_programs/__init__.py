"""Federated computations and the programs a person runs."""
