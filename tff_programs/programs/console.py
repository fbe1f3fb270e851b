"""Console output of all programs."""


def print_line(line: object) -> None:
    """Prints a line and flushes it, so that readers of a pipe receive it immediately."""
    print(line, flush=True)
