"""Tests of blocking forms: they wait outside an event loop, and raise helpful errors inside."""

import asyncio

import pytest

from tff_programs.blocking import run_blocking


async def double(number):
    await asyncio.sleep(0)
    return 2 * number


def test_outside_a_loop_the_result_is_returned():
    assert run_blocking(double(3), "double") == 6


def test_inside_a_loop_the_caller_is_told_what_to_await():
    async def cell():
        with pytest.raises(RuntimeError, match="await double with the same arguments"):
            run_blocking(double(3), "double")
        return await double(4)

    assert asyncio.run(cell()) == 8
