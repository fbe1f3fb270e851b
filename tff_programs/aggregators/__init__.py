"""Aggregators of subnet updates: overlap means, clipping, robustness, privacy."""
