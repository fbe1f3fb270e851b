"""Blocking wrappers of coroutines, for callers outside an event loop."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def run_blocking(coroutine: Coroutine[Any, Any, _Result], instead: str) -> _Result:
    """Runs a coroutine to completion and returns its result.

    Args:
      coroutine: Coroutine to run.
      instead: Name of the coroutine function to await instead inside an event loop.

    Raises:
      RuntimeError: If an event loop is already running, as in a notebook cell.
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
