"""Blocking forms of coroutines, for callers outside an event loop."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def run_blocking(coroutine: Coroutine[Any, Any, _Result], instead: str) -> _Result:
    """Runs a coroutine to its end and returns its result.

    Args:
      coroutine: What to run.
      instead: Name of the coroutine function that a caller inside an event loop awaits instead.

    Raises:
      RuntimeError: If an event loop is running already, as in a notebook's cell.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    coroutine.close()
    raise RuntimeError(
        f"Expected no running event loop, received a call inside one, such as a notebook's cell. "
        f"There, await {instead} with the same arguments."
    )
