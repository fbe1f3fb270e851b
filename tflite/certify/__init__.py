"""Certification of an exported file: checks against the subnet that it was exported from."""
