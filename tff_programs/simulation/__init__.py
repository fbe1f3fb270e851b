"""Simulated federations: tiers, round plans, availability, time, the training loop."""
