"""Tests of uploads: counted once, bounded, complete, and of the right task."""

import asyncio
import concurrent.futures
import dataclasses
import errno
import hashlib
import io
import json
import os
import socket
import threading
import time

import pytest
from gateway import Phone, Served, update_bytes
from sqlalchemy import func, select

from fedsup_tf.architecture import Architecture
from tff_programs.gateway import handler, server, upload_body, uploads
from tff_programs.gateway.address import Address
from tff_programs.gateway.devices import revoke
from tff_programs.gateway.tables import models, refusals, updates
from tff_programs.gateway.update_files import INCOMING, update_path, write_all
from tflite.together.signing import EMPTY_HASH, authorization


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Served(tmp_path_factory.mktemp("gateway"), goal=10_000, over_asking=1) as served:
        yield served


@pytest.fixture
def phone(served):
    return served.phone()


@pytest.fixture
def task(phone):
    return phone.check_in()["task"]


@pytest.fixture
def data(served, phone, task):
    return update_bytes(served.folder, phone.model(task["model"]))


def count(served, task):
    with served.database.read() as connection:
        return connection.scalar(
            select(func.count()).select_from(updates).where(updates.c.task == task["task"])
        )


def refused(served, code):
    with served.database.read() as connection:
        return connection.scalar(select(refusals.c.count).where(refusals.c.code == code)) or 0


def incoming(served):
    folder = served.folder / INCOMING
    return sorted(folder.iterdir()) if folder.exists() else []


def test_an_update_sent_again_counts_once(served, phone, task, data):
    assert [phone.put(task["task"], data)[0] for _ in range(3)] == [201, 200, 200]
    assert count(served, task) == 1


def test_another_update_of_the_task_is_refused(served, phone, task, data):
    other = update_bytes(served.folder, phone.model(task["model"]), 2.0)
    assert phone.put(task["task"], data)[0] == 201
    before = refused(served, "sent_before")
    status, answer = phone.put(task["task"], other)
    assert (status, answer["code"]) == (409, "sent_before")
    assert refused(served, "sent_before") == before + 1


def test_a_task_is_its_devices_own(served, task, data):
    status, answer = served.phone().put(task["task"], data)
    assert (status, answer["code"]) == (404, "unknown")
    assert not count(served, task)


def test_a_body_of_another_hash_is_refused_and_may_be_sent_again(served, phone, task, data):
    hash_ = hashlib.sha256(data).hexdigest()
    status, answer = phone.put(task["task"], data[:-1] + b"\0", hash_)
    assert (status, answer["code"]) == (422, "hash")
    assert not count(served, task)
    assert phone.put(task["task"], data)[0] == 201


@pytest.mark.parametrize("damage", ["cut", "longer", "noise", "empty", "header"])
def test_a_damaged_update_is_refused(served, phone, task, data, damage):
    damaged = {
        "cut": data[:-4],
        "longer": data + b"abcd",
        "noise": bytes(255 - byte for byte in data),
        "empty": b"",
        "header": (2**60).to_bytes(8, "little") + data[8:],
    }[damage]
    status, answer = phone.put(task["task"], damaged)
    assert (status, answer["code"]) == (422, "update")
    assert not count(served, task)
    assert not incoming(served)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_hash": "1" * 64},
        {"base_round": 5},
        {"class_names": ("0", "2", "1")},
        {"architecture": Architecture((16, 24), (2, 2), (5, 5))},
    ],
)
def test_an_update_of_another_model_is_refused(served, phone, task, changes):
    other = update_bytes(served.folder, phone.model(task["model"]), **changes)
    status, answer = phone.put(task["task"], other)
    assert (status, answer["code"]) == (422, "update")


def test_a_large_body_is_not_read(served, phone, task):
    size = task["max_update_bytes"] + 1
    status, answer = phone.put(task["task"], b"\0" * size)
    assert (status, answer["code"]) == (413, "size")
    assert not incoming(served)


def raw(served, head, body=b""):
    """Sends raw bytes; returns the answer up to its JSON or the end."""
    with socket.create_connection(Phone(served.url).url.netloc.split(":"), 30) as connection:
        connection.sendall(head + body)
        received = b""
        while b"}" not in received and (part := connection.recv(65536)):
            received += part
        return received


def put_head(phone, task, hash_, *lines):
    path = f"/v1/tasks/{task['task']}/updates/{hash_}"
    signed = authorization(phone.device, phone.key, "PUT", path, hash_, int(time.time()))
    head = [f"PUT {path} HTTP/1.1", "Host: localhost", f"Authorization: {signed}", *lines, "", ""]
    return "\r\n".join(head).encode()


@pytest.mark.parametrize("size", [10**12, "9" * 5000], ids=["large", "larger than numbers"])
def test_a_huge_body_is_answered_before_it_is_sent(served, phone, task, size):
    head = put_head(phone, task, "0" * 64, f"Content-Length: {size}")
    assert raw(served, head, b"\0" * 1000).startswith(b"HTTP/1.1 413")


def test_a_body_without_length_is_refused(served, phone, task):
    head = put_head(phone, task, "0" * 64, "Transfer-Encoding: chunked")
    assert raw(served, head, b"5\r\nhello\r\n0\r\n\r\n").startswith(b"HTTP/1.1 411")
    assert raw(served, put_head(phone, task, "0" * 64)).startswith(b"HTTP/1.1 411")


@pytest.fixture(params=["memory", "file"])
def held(request, monkeypatch):
    """Selects where request bodies are kept during their transfer."""
    if request.param == "file":
        monkeypatch.setattr(upload_body, "MAX_HELD_BYTES", 0)


def rest(served):
    """Returns the files and the bytes of memory used by bodies in transfer."""
    return len(incoming(served)), server.HELD_BYTES - served.gateway.memory_budget.free_bytes


def test_a_broken_transfer_leaves_nothing(served, phone, task, data, held):
    hash_ = hashlib.sha256(data).hexdigest()
    head = put_head(phone, task, hash_, f"Content-Length: {len(data)}")
    with socket.create_connection(Phone(served.url).url.netloc.split(":")) as connection:
        connection.sendall(head + data[:100])
        deadline = time.monotonic() + 30
        while rest(served) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert rest(served) in [(1, 0), (0, 100)]
    deadline = time.monotonic() + 30
    while rest(served) != (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert rest(served) == (0, 0)
    assert phone.put(task["task"], data)[0] == 201


def test_bodies_that_memory_has_no_room_for_go_through_files(served, phone, task, data):
    full = server.HELD_BYTES
    served.gateway.memory_budget.free_bytes -= full
    try:
        assert phone.put(task["task"], data)[0] == 201
        assert (len(incoming(served)), served.gateway.memory_budget.free_bytes) == (0, 0)
    finally:
        served.gateway.memory_budget.free_bytes += full


def test_an_update_for_which_the_disk_has_no_room_comes_again(
    served, phone, task, data, held, monkeypatch
):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        status, answer = phone.put(task["task"], data)
    assert (status, answer["code"]) == (503, "unavailable")
    assert rest(served) == (0, 0)
    assert not count(served, task)
    assert phone.put(task["task"], data)[0] == 201
    kept = served.folder / update_path(task["task"], hashlib.sha256(data).hexdigest())
    assert kept.read_bytes() == data


def test_a_disk_that_takes_a_part_of_what_is_written_takes_the_rest(tmp_path):
    class Part(io.FileIO):
        def write(self, data):
            return super().write(data[:3])

    with Part(tmp_path / "file", "w") as file:
        write_all(file, b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_revoked_device_takes_no_part(served, phone, task, data):
    with served.database.write() as connection:
        assert revoke(connection, phone.device, 1.0)
        assert not revoke(connection, "0" * 32, 1.0)
    for status, answer in [
        phone.put(task["task"], data),
        phone.json("GET", "/v1/status"),
        phone.json("POST", "/v1/check-in", {"runtime": "r", "application": "a", "tier": "small"}),
    ]:
        assert (status, answer["code"]) == (403, "revoked")
    assert phone.signed("GET", f"/v1/models/{task['model']}")[0] == 403
    assert not count(served, task)


def test_a_device_that_is_revoked_while_it_sends_takes_no_part(served, phone, task, data):
    hash_ = hashlib.sha256(data).hexdigest()
    head = put_head(phone, task, hash_, f"Content-Length: {len(data)}")
    with socket.create_connection(Phone(served.url).url.netloc.split(":"), 30) as connection:
        connection.sendall(head + data[:100])
        deadline = time.monotonic() + 30
        while rest(served) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.01)
        with served.database.write() as changed:
            assert revoke(changed, phone.device, 1.0)
        connection.sendall(data[100:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 403")
    assert not count(served, task)


def test_two_phones_with_one_key_get_one_task_and_send_one_update(served, phone):
    other = Phone(served.url, phone.device, phone.key)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        given = list(pool.map(lambda each: each.check_in()["task"], [phone, other] * 3))
        assert len({task["task"] for task in given}) == 1
        data = update_bytes(served.folder, phone.model(given[0]["model"]))
        sent = pool.map(lambda each: each.put(given[0]["task"], data)[0], [phone, other] * 3)
        assert sorted(sent) == [200] * 5 + [201]
    assert count(served, given[0]) == 1
    assert rest(served) == (0, 0)


@pytest.mark.slow
def test_a_client_that_does_not_read_holds_nothing_for_ever(served, phone, monkeypatch, caplog):
    monkeypatch.setattr(handler, "MAX_PART_SECONDS", 0.5)
    hash_, size = "e" * 64, 2**26
    with open(served.folder / "models" / "large", "wb") as file:
        file.truncate(size)
    with served.database.write() as connection:
        connection.execute(models.insert().values(hash=hash_, path="models/large", bytes=size))
    path = f"/v1/models/{hash_}"
    signed = authorization(phone.device, phone.key, "GET", path, EMPTY_HASH, int(time.time()))
    with socket.create_connection(Phone(served.url).url.netloc.split(":"), 30) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: {signed}\r\n\r\n".encode()
        )
        time.sleep(1.5)
        received = 0
        while part := connection.recv(2**20):
            received += len(part)
    assert received < size
    assert not caplog.records
    assert phone.signed("GET", "/v1/status")[0] == 200


@pytest.mark.parametrize("is_late", [False, True])
def test_a_request_that_has_begun_ends_before_the_server_does(tmp_path, monkeypatch, is_late):
    """A server that is shutting down still answers, unless that takes too long."""
    monkeypatch.setattr(server, "END_SECONDS", 0.1 if is_late else 60.0)
    begun, goes_on = threading.Event(), threading.Event()

    def slow(connection):
        begun.set()
        goes_on.wait(60)
        return 0

    async def serve(gateway):
        made = server.http_server(gateway.application(), None)
        url = f"http://127.0.0.1:{server.listen(made, Address('127.0.0.1', 0))}"
        asked = asyncio.create_task(asyncio.to_thread(Phone(url).request, "GET", "/health"))
        await asyncio.to_thread(begun.wait, 60)
        ending = asyncio.create_task(server.end(made, gateway))
        if is_late:
            await ending
        else:
            await asyncio.sleep(0)
        goes_on.set()
        await ending
        # Requests after the slow one are answered after it.
        behind = asyncio.get_running_loop().create_future()
        gateway.reads.submit(lambda connection: None, behind)
        await behind
        return await asked

    with Served(tmp_path) as served:
        monkeypatch.setattr(uploads, "current_number", slow)
        if is_late:
            with pytest.raises(ConnectionError):
                asyncio.run(serve(served.gateway))
        else:
            assert asyncio.run(serve(served.gateway))[0] == 200


def test_a_device_that_asks_too_often_is_told_when_to_come(tmp_path):
    served = Served(tmp_path)
    served.server_settings = dataclasses.replace(served.server_settings, requests_per_hour=36.0)
    with served:
        phone = served.phone()
        # Two more than the burst of 60 that every gateway allows.
        answers = [phone.signed("GET", "/v1/status") for _ in range(62)]
        assert [status for status, _, _ in answers] == [200] * 60 + [429] * 2
        _, headers, body = answers[-1]
        assert 1 <= int(headers["Retry-After"]) <= 100
        assert json.loads(body)["code"] == "limit"


def test_no_more_devices_enrol_than_may(tmp_path):
    with Served(tmp_path) as served:
        for _ in range(served.server_settings.max_devices):
            served.phone()
        status, answer = Phone(served.url).json(
            "POST", "/v1/enrol", {"token": served.token}, signed=False
        )
        assert (status, answer["code"]) == (429, "limit")
