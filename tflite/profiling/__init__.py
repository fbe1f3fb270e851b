"""Measurements: latency tables of parts, engines side by side."""
