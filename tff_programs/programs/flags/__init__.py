"""Flags that programs share."""
