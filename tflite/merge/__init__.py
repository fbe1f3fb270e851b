"""Merging of device updates into a supernet, and its report."""
