"""Tests of the operator's page: files, data, metrics and access."""

import json
import re

import pytest
from gateway import Phone, Served

from tff_programs.gateway.address import parse_address
from tff_programs.gateway.secret_files import replace_token

LINK = "fedsup://enrol?server=https%3A%2F%2Fexample.org&token="


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Served(tmp_path_factory.mktemp("gateway"), goal=1) as served:
        served.take_part()
        served.step()
        yield served


@pytest.fixture(scope="module")
def browser(served):
    with served.page(LINK) as address:
        yield Phone(address)


def test_the_page_loads_nothing_from_elsewhere(browser):
    status, headers, page = browser.request("GET", "/")
    assert status == 200
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    named = re.findall(r'(?:src|href)="(.*?)"', page.decode())
    assert named
    for path in named:
        assert path.startswith("/")
        assert browser.request("GET", path)[0] == 200
    assert b"http" not in page
    script = browser.request("GET", "/page.js")[2].decode()
    assert set(re.findall(r"https?://[^\"]+", script)) == {"http://www.w3.org/2000/svg"}


def test_the_page_shows_what_its_script_reads(browser):
    status, _, body = browser.request("GET", "/overview")
    assert status == 200
    state = json.loads(body)
    script = browser.request("GET", "/page.js")[2].decode()
    for fields, of in [
        (state, "state"),
        (state["round"], "round"),
        (state["rounds"][0], "round"),
        (state["round"]["tiers"][0], "tier"),
    ]:
        named = set(re.findall(rf"\b{of}\.([a-z_]+)", script))
        known = set(fields) | set(state["round"]) | set(state["rounds"][0]) | {"in"}
        assert named & set(fields)
        assert named <= known, named - known


def test_another_name_for_this_machine_is_refused(browser):
    for host in ("evil.example", "evil.example:80", "localhost.evil.example"):
        for path in ("/", "/overview", "/metrics", "/supernets/1", "/code.svg"):
            assert browser.request("GET", path, headers={"Host": host})[0] == 403
    assert browser.request("GET", "/overview", headers={"Host": "localhost"})[0] == 200


def test_metrics_are_prometheus_text(browser):
    status, headers, body = browser.request("GET", "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    kinds = {}
    for line in body.decode().splitlines():
        comment = re.fullmatch(r"# TYPE (\w+) (counter|gauge)", line)
        if comment:
            assert comment[1] not in kinds
            kinds[comment[1]] = comment[2]
            continue
        sample = re.fullmatch(r'(\w+)(?:\{(?:\w+="[^"\\]*",?)+\})? ([0-9.e+-]+)', line)
        assert sample, line
        assert sample[1] in kinds
        assert float(sample[2]) >= 0
    assert "fedsup_gateway_round 1" in body.decode()
    assert 'answers_total{method="PUT",request="Update",status="201"} 1\n' in body.decode()


def test_the_code_is_a_picture(browser):
    status, headers, body = browser.request("GET", "/code.svg")
    assert (status, headers["Content-Type"]) == (200, "image/svg+xml")
    assert b"<svg" in body


def test_the_code_holds_the_token_that_enrols_now(served, browser):
    code = browser.request("GET", "/code.svg")[2]
    replace_token(served.folder)
    assert browser.request("GET", "/code.svg")[2] != code


def test_devices_have_no_path_to_the_operators(served):
    for path in ("/overview", "/metrics", "/code.svg", "/supernets/1", "/page.js"):
        assert Phone(served.url).request("GET", path)[0] == 404


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:80", True),
        ("[::1]:80", True),
        ("localhost:0", True),
        ("0.0.0.0:80", False),
        ("[::]:80", False),
        ("example.org:80", False),
    ],
)
def test_loopback_is_known(text, loopback):
    assert parse_address(text, "address").is_loopback == loopback


@pytest.mark.parametrize("text", ["", "80", ":80", "localhost", "localhost:", "a:99999", "a:x"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="--address: expected HOST:PORT"):
        parse_address(text, "address")
