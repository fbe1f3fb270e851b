"""The programs of the command `fedsup`."""
