"""Aggregators of subnets' updates: overlap means, clipping, robustness, privacy."""
