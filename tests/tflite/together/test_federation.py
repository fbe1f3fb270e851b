"""Tests of a device's requests: retried until answered, resumed, or refused in one sentence."""

import ast
import contextlib
import datetime
import hashlib
import http.server
import json
import os
import re
import threading

import pytest
from gateway import Served, update_bytes

from tff_programs.gateway.certificates import make_certificate
from tff_programs.gateway.devices import revoke
from tflite.together.address import ServerAddress, parse_link
from tflite.together.connection import Answer, Connection
from tflite.together.errors import FederationError, RefusedError, UnavailableError
from tflite.together.federation import Federation, Identity

CHECK_IN = {"tier": "small", "runtime": "test 1", "application": "test 1"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Served(tmp_path_factory.mktemp("gateway"), over_asking=20.0) as served:
        yield served


class Flaky(Connection):
    """Connection that fails some requests and records what was sent."""

    def __init__(self, address, failures=(), broken_after=None):
        super().__init__(address)
        self.failures, self.broken_after = list(failures), broken_after
        self.sent = []

    def send(self, method, path, headers, body=b""):
        self.sent.append((method, path, dict(headers)))
        if self.failures:
            failure = self.failures.pop(0)
            if failure is not None:
                raise failure
        answer = super().send(method, path, headers, body)
        if method == "GET" and "/models/" in path and self.broken_after is not None:
            count, self.broken_after = self.broken_after, None
            return Answer(answer.status, answer.headers, self._break(answer.parts, count))
        return answer

    def _break(self, parts, count):
        yield b"".join(parts)[:count]
        raise UnavailableError("the transfer broke")


@pytest.fixture
def device(served):
    """Yields a function that enrols a device; returns it, its connection and its waiting times."""
    with contextlib.ExitStack() as stack:

        def make(**options):
            address = ServerAddress(served.url, served.token)
            connection, waited = Flaky(address, **options), []
            federation = Federation(address, sleep=waited.append, connection=connection)
            stack.callback(federation.close)
            federation.enrol()
            return federation, connection, waited

        yield make


def test_the_example_is_one_that_a_server_takes(device):
    federation, _, _ = device()
    (fields,) = re.findall(r"^ +fields = (.*)$", Federation.__doc__, re.M)
    example = ast.literal_eval(fields)
    assert "task" in federation.check_in({**example, "tier": "small"})


def test_a_device_takes_part(device, tmp_path):
    federation, _, _ = device()
    assert federation.check_server()
    task = federation.check_in(CHECK_IN)["task"]
    path = tmp_path / "model.tflite"
    federation.fetch_model(task["model"], task["model_bytes"], path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == task["model"]
    data = update_bytes(tmp_path, path.read_bytes())
    receipt = federation.send_update(task["task"], data)
    assert receipt["update"] == hashlib.sha256(data).hexdigest()
    assert federation.send_update(task["task"], data)["update"] == receipt["update"]
    (told,) = federation.status()["updates"]
    assert told["state"] == "waiting"
    assert "task" not in federation.check_in(CHECK_IN)


def test_a_broken_transfer_is_resumed(device, tmp_path):
    federation, connection, _ = device(broken_after=100)
    task = federation.check_in(CHECK_IN)["task"]
    path = tmp_path / "models" / "model.tflite"
    federation.fetch_model(task["model"], task["model_bytes"], path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == task["model"]
    ranges = [headers.get("Range") for _, name, headers in connection.sent if "/models/" in name]
    assert ranges == [None, "bytes=100-"]
    assert [file.name for file in path.parent.iterdir()] == ["model.tflite"]


def test_a_transfer_goes_on_after_the_end_of_the_process(device, tmp_path):
    federation, connection, _ = device()
    task = federation.check_in(CHECK_IN)["task"]
    path = tmp_path / "model.tflite"
    federation.fetch_model(task["model"], task["model_bytes"], path)
    whole = path.read_bytes()
    path.unlink()
    (tmp_path / "model.tflite.part").write_bytes(whole[:50])
    federation.fetch_model(task["model"], task["model_bytes"], path)
    assert path.read_bytes() == whole
    assert connection.sent[-1][2]["Range"] == "bytes=50-"


def test_damaged_bytes_of_a_model_are_thrown_away(device, tmp_path):
    federation, _, _ = device()
    task = federation.check_in(CHECK_IN)["task"]
    path = tmp_path / "model.tflite"
    (tmp_path / "model.tflite.part").write_bytes(b"x" * 50)
    with pytest.raises(UnavailableError, match="thrown away"):
        federation.fetch_model(task["model"], task["model_bytes"], path)
    federation.fetch_model(task["model"], task["model_bytes"], path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == task["model"]


def test_requests_are_repeated_as_long_as_the_server_says(device):
    failures = [None, UnavailableError("busy", 17), UnavailableError("gone")]
    federation, _, waited = device(failures=failures)
    assert federation.check_in(CHECK_IN)["wait_seconds"] >= 1
    assert waited[0] == 17
    assert 1 <= waited[1] <= 2
    assert len(waited) == 2


def test_a_visit_does_not_sleep_for_hours(device):
    federation, connection, waited = device()
    connection.failures = [UnavailableError("full", 3600)]
    with pytest.raises(UnavailableError, match="full"):
        federation.check_in(CHECK_IN)
    assert not waited


TASK = {
    "task": 32 * "a",
    "round": 1,
    "tier": "small",
    "model": 64 * "b",
    "model_bytes": 9,
    "epochs": 1,
    "learning_rate": 0.1,
    "seed": 0,
}


class Fixed(Connection):
    """Connection that answers every request with the same fields."""

    def __init__(self, address, fields):
        super().__init__(address)
        self.fields = fields

    def send(self, method, path, headers, body=b""):
        return Answer(200, {}, iter([json.dumps(self.fields).encode()]))


def answered(fields):
    address = ServerAddress("http://127.0.0.1:1", "token")
    identity = Identity(32 * "a", bytes(32))
    return Federation(address, identity, connection=Fixed(address, fields))


def test_a_device_waits_for_a_week_at_most():
    told = {"wait_seconds": 2**60, "task": TASK}
    week = 7 * 24 * 3600
    assert answered(told).check_in(CHECK_IN) == {"wait_seconds": week, "task": TASK}
    assert answered({"wait_seconds": 2**60}).send_update("a", b"")["wait_seconds"] == week


@pytest.mark.parametrize(
    "changes",
    [{"epochs": 10**6}, {"learning_rate": 1e300}, {"model_bytes": 2**40}, {"round": -1}],
)
def test_a_task_beyond_the_protocols_bounds_is_told(changes):
    federation = answered({"wait_seconds": 1, "task": {**TASK, **changes}})
    with pytest.raises(FederationError, match="as the protocol has it, received"):
        federation.check_in(CHECK_IN)


@pytest.mark.parametrize("fields", [{"round": "x", "updates": []}, {"round": 1, "updates": [3]}])
def test_other_answers_are_told(fields):
    with pytest.raises(FederationError, match="Check that the address is that of"):
        answered(fields).status()
    with pytest.raises(FederationError, match="wait_seconds as a whole number from 1"):
        answered({"wait_seconds": "soon"}).send_update("a", b"")


def test_a_server_that_stays_away_is_told(device):
    federation, connection, waited = device()
    connection.failures = [UnavailableError("away")] * 9
    with pytest.raises(UnavailableError, match="away"):
        federation.status()
    assert len(waited) == 4


def test_a_refused_token_is_told(served):
    federation = Federation(ServerAddress(served.url, "wrong"))
    with pytest.raises(FederationError, match=r"Expected the enrolment token .* another one"):
        federation.enrol()
    federation.close()
    with pytest.raises(FederationError, match="received none"):
        Federation(ServerAddress(served.url)).enrol()


def test_a_revoked_device_is_told(served, device):
    federation, _, _ = device()
    with served.database.write() as connection:
        revoke(connection, federation.identity.device, 1.0)
    with pytest.raises(FederationError, match="revoked"):
        federation.check_in(CHECK_IN)


def test_an_update_that_cannot_be_used_is_told(device):
    federation, _, _ = device()
    task = federation.check_in(CHECK_IN)["task"]
    with pytest.raises(RefusedError, match="cannot be used") as error:
        federation.send_update(task["task"], b"damaged")
    assert error.value.code == "update"


def test_the_clock_is_taken_from_the_server(device, monkeypatch):
    federation, _, _ = device()
    monkeypatch.setattr("tflite.together.federation.time.time", lambda: 1_700_000_000.0)
    assert federation.status()["updates"] == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"protocol": 2, "version": "9.9"}, "protocol version 1, received 2.*9.9"),
        ({}, "protocol version 1, received None"),
        ("something else", "Expected an answer in JSON"),
    ],
)
def test_a_server_of_another_version_is_told(answer, message):
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Other)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        federation = Federation(ServerAddress(f"http://127.0.0.1:{server.server_port}"))
        with pytest.raises(FederationError, match=message):
            federation.check_server()
        federation.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_only_the_certificate_that_is_meant_is_accepted(tmp_path):
    now = datetime.datetime.now(datetime.UTC)
    own = make_certificate(str(tmp_path / "own"), ["127.0.0.1"], now)
    foreign = make_certificate(str(tmp_path / "foreign"), ["127.0.0.1"], now)
    folder = tmp_path / "gateway"
    folder.mkdir()
    with Served(folder, tls=own.context()) as served:
        for trust in ({"authority": own.certificate}, {"certificate": own.fingerprint()}):
            federation = Federation(ServerAddress(served.url, served.token, **trust))
            federation.enrol()
            federation.close()
        for trust in (
            {"authority": foreign.certificate},
            {"certificate": foreign.fingerprint()},
            {},
        ):
            federation = Federation(ServerAddress(served.url, served.token, **trust))
            with pytest.raises(FederationError, match=r"expected .*certificate.*Nothing was sent"):
                federation.enrol()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("example.org", "expected an address"),
        ("ftp://example.org", "expected an address"),
        ("https://example.org:99999", "expected an address"),
        ("https://example.org:0", "expected an address"),
        ("https://example.org?", "expected an address"),
        ("https://example.org/#", "expected an address"),
        ("https://user@example.org", "expected an address"),
        ("https://a_b.org", "expected an address"),
        ("https://[1::2::3]", "expected an address"),
        ("https://example.org/a b", "expected an address"),
        ("https://example.org/" + 200 * "a", "expected an address"),
        ("http://example.org:8080", "https beyond this machine"),
        ("fedsup://enrol?server=https%3A%2F%2Fexample.org", "Copy the whole line"),
        ("fedsup://enrol?server=https://a.org&token=t&certificate=12", "64 lower-case"),
        ("fedsup://[enrol?server=https://a.org&token=t", "Copy the whole line"),
    ],
)
def test_an_address_that_is_none_is_told(text, message):
    with pytest.raises(FederationError, match=message):
        parse_link(text)


def test_the_link_of_the_code_is_read():
    hash_ = "a" * 64
    link = f"fedsup://enrol?server=https%3A%2F%2Fa.org%3A8443%2Fx&token=t%2F1&certificate={hash_}"
    address = parse_link(link)
    assert address == ServerAddress("https://a.org:8443/x", "t/1", hash_)
    assert (address.host, address.prefix) == ("a.org:8443", "/x")


def test_an_authority_that_is_no_certificate_is_told(tmp_path):
    path = tmp_path / "authority.pem"
    path.write_text("no certificate")
    with pytest.raises(FederationError, match=r"authority.pem.*in PEM"):
        Federation(ServerAddress("https://127.0.0.1:1", authority=path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FederationError, match=r"pipe.*in PEM"):
        Federation(ServerAddress("https://127.0.0.1:1", authority=tmp_path / "pipe"))
