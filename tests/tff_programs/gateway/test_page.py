"""Tests of the operator's page in a real browser: content, updates, colour schemes, widths."""

import asyncio
import contextlib
import re

import pytest
from browser import open_tab
from gateway import Served, update_bytes

pytestmark = pytest.mark.slow

LINK = "fedsup://enrol?server=https%3A%2F%2Fexample.org&token=abc"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Yields a gateway whose second round has a late, a left-out and a refused update."""
    with Served(tmp_path_factory.mktemp("gateway"), goal=2, over_asking=5) as served:
        phones = [served.phone() for _ in range(4)]
        tasks = [phone.check_in()["task"]["task"] for phone in phones]
        model = phones[0].model(phones[0].check_in()["task"]["model"])
        data = [update_bytes(served.folder, model, value) for value in (1.0, 2.0, 1.0, 3.0)]
        sent = [phones[n].put(tasks[n], data[n])[0] for n in (0, 1)]
        served.step()
        damaged = phones[2].put(tasks[2], data[2][:-1] + b"\0", "0" * 64)[0]
        sent += [phones[n].put(tasks[n], data[n])[0] for n in (2, 3)]
        served.step()
        assert (sent, damaged) == ([201] * 4, 422)
        yield served


async def rows(tab, table):
    """Returns the texts of a table's cells by row."""
    cells = "[...row.cells].map(cell => cell.innerText)"
    return await tab.value(f"[...document.querySelectorAll('#{table} tr')].map(row => {cells})")


async def text(tab, name):
    return await tab.value(f"document.getElementById('{name}').innerText")


@contextlib.asynccontextmanager
async def opened(served, folder):
    """Opens the page; yields its tab once it shows the round."""
    with served.page(LINK) as address:
        async with open_tab(folder) as tab:
            await tab.show(1280)
            await tab.open(address)
            await tab.wait_for("document.querySelectorAll('#rounds tbody tr').length > 0")
            yield tab, address


def test_the_page_shows_the_rounds_and_follows_them(served, tmp_path):
    async def look():
        async with opened(served, tmp_path) as (tab, address):
            assert await text(tab, "number") == "2"
            assert "0 of 2 updates" in await text(tab, "round")
            tiers = (await rows(tab, "tiers"))[1:]
            assert [(row[0], row[-1]) for row in tiers] == [("small", "0"), ("large", "0")]
            heads, *shown = await rows(tab, "rounds")
            by_head = [dict(zip(heads, row, strict=True)) for row in shown]
            keys = ("Round", "Used", "Late", "Left out", "Refused")
            assert [tuple(row[key] for key in keys) for row in by_head] == [
                ("2", "0", "0", "0", ""),
                ("1", "1", "1", "1", "hash 1"),
                ("0", "2", "0", "0", ""),
            ]
            assert [row[2] for row in (await rows(tab, "left_out"))[1:]] == ["came before"]
            accuracies = re.findall(r"(\w+) ([\d.]+) %", await text(tab, "legend"))
            assert accuracies == [("small", "50.0"), ("large", "75.0")]
            assert await tab.value("document.querySelectorAll('#chart polyline').length") == 2

            await asyncio.to_thread(served.take_part, "large", 7.0)
            await tab.wait_for("document.getElementById('round').innerText.startsWith('1 of 2')")
            assert [row[-1] for row in await rows(tab, "tiers")] == ["Sent", "0", "1"]

            await tab.value("document.querySelector('summary').click()")
            await tab.wait_for("document.querySelector('img').naturalWidth > 0")
            asked = [url for url in tab.requested if not url.startswith("data:")]
            assert {"/", "/page.js", "/page.css", "/overview", "/code.svg"} <= {
                url.removeprefix(address) for url in asked
            }
            assert all(url.startswith(f"{address}/") for url in asked)
            assert not tab.problems

    asyncio.run(look())


def test_the_page_is_readable_in_light_and_dark_and_on_a_phone(served, tmp_path):
    async def look():
        async with opened(served, tmp_path) as (tab, _):
            for width in (320, 390, 1280):
                for colours in ("light", "dark"):
                    await tab.show(width, colours=colours)
                    assert await tab.value("innerWidth") == width
                    assert await tab.value("document.documentElement.scrollWidth") <= width
                    ground, ink = [
                        await tab.value(f"getComputedStyle(document.body).{name}")
                        for name in ("backgroundColor", "color")
                    ]
                    assert (_light(ground) > _light(ink)) == (colours == "light")
                    assert _contrast(ground, ink) > 7
            assert not tab.problems

    asyncio.run(look())


def _light(colour):
    """Returns the relative luminance of `rgb(...)`, from 0 to 1."""
    shares = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(weight * s for weight, s in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(one, other):
    lower, higher = sorted((_light(one), _light(other)))
    return (higher + 0.05) / (lower + 0.05)
