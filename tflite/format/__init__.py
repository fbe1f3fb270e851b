"""Formats of the files that phones receive and send: signatures, metadata, update files."""
