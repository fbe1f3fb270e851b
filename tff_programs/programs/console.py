"""Printing of whole lines, at once, for all programs."""


def print_line(line: object) -> None:
    """Prints a line at once, so that who reads the program's output through a pipe has it too."""
    print(line, flush=True)
