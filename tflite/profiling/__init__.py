"""Measurements: latency tables of subnet parts, and comparisons of engines."""
