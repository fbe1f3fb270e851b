"""Tests of killing a server at any time: accepted updates count once, with the same result."""

import contextlib
import http.client
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import portpicker
import pytest
from gateway import Phone, SumRounds, update_bytes
from sqlalchemy import select

from tff_programs.gateway.database import Database
from tff_programs.gateway.round_records import current_round
from tff_programs.gateway.round_work import Base
from tff_programs.gateway.rounds import staleness_factor
from tff_programs.gateway.secret_files import enrolment_token
from tff_programs.gateway.tables import rounds, updates
from tff_programs.gateway.update_files import update_path

TESTS = Path(__file__).parents[2]
KILLS = 5
PHONES = 6
UPDATES = 5
GOAL = 4
pytestmark = pytest.mark.slow


def start(folder, url, port):
    command = [sys.executable, str(TESTS / "gateway_process.py"), str(folder), url, str(port)]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    return subprocess.Popen([*command, str(GOAL)], env=environment)


def persist(call, *arguments, **options):
    """Retries a request until the server answers, as the protocol specifies."""
    for _ in range(2000):
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, *_, answer = call(*arguments, **options)
            if status not in (429, 503):
                return status, answer
        time.sleep(0.05)
    raise AssertionError("no answer")


def take_part(url, token, number, folder, accepted):
    """Runs phone `number` until `UPDATES` updates are accepted; it sends each one twice."""
    folder.mkdir()
    phone = Phone(url)
    status, fields = persist(phone.json, "POST", "/v1/enrol", {"token": token}, signed=False)
    assert status == 201
    phone.device, phone.key = fields["device"], bytes.fromhex(fields["key"])
    fields = {"runtime": "r", "application": "a", "tier": "small" if number % 2 else "large"}
    sent = 0
    while sent < UPDATES:
        _, answer = persist(phone.json, "POST", "/v1/check-in", fields)
        if "task" not in answer:
            time.sleep(0.05)
            continue
        task = answer["task"]
        _, model = persist(phone.signed, "GET", f"/v1/models/{task['model']}")
        data = update_bytes(folder, model, float(2 + number * UPDATES + sent))
        status, answer = persist(phone.put, task["task"], data)
        if status in (200, 201):
            accepted.append(answer["update"])
            sent += 1
        assert status in (200, 201, 410), answer
        persist(phone.put, task["task"], data)


def test_what_was_accepted_counts_once_whatever_is_killed(tmp_path, url):
    folder = tmp_path / "gateway"
    folder.mkdir()
    # With PostgreSQL, several processes share the database.
    ports = [portpicker.pick_unused_port() for _ in range(1 if url.startswith("sqlite") else 2)]
    token, accepted, rng = enrolment_token(folder), [], random.Random(3)
    addresses = [f"http://127.0.0.1:{port}" for port in ports]
    threads = [
        threading.Thread(
            target=take_part,
            args=(addresses[number % len(ports)], token, number, tmp_path / str(number), accepted),
        )
        for number in range(PHONES)
    ]
    processes = [start(folder, url, port) for port in ports]
    try:
        for thread in threads:
            thread.start()
        for kill in range(KILLS):
            place = kill % len(ports)
            persist(Phone(addresses[place]).json, "GET", "/health", signed=False)
            time.sleep(rng.uniform(0.1, 1.5))
            processes[place].send_signal(signal.SIGKILL)
            processes[place].wait()
            processes[place] = start(folder, url, ports[place])
        for thread in threads:
            thread.join(300)
        assert not any(thread.is_alive() for thread in threads)
        database = Database(url)
        rows = wait_until_merged(database)
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert sorted(accepted) == sorted(row.hash for row in rows)
    assert len(accepted) == PHONES * UPDATES
    assert {row.state for row in rows} <= {"used", "waiting"}
    check_same_without_kills(database, folder, tmp_path / "again")
    database.close()


def wait_until_merged(database):
    """Waits until too few updates for a round are left; returns all updates."""
    for _ in range(600):
        with database.read() as connection:
            rows = connection.execute(select(updates)).all()
        if sum(row.state == "waiting" for row in rows) < GOAL:
            return rows
        time.sleep(0.1)
    raise AssertionError("updates wait")


def check_same_without_kills(database, folder, other):
    """Merges the same updates in the same rounds again, and compares the supernets."""
    with database.read() as connection:
        closed = connection.execute(select(rounds).order_by(rounds.c.id)).all()
        rows = connection.execute(select(updates).order_by(updates.c.hash)).all()
        newest = current_round(connection)
    numbers = {row.id: row.number for row in closed}
    hashes = {row.id: row.base_hash for row in closed}
    work = SumRounds(folder)
    work.folder = other
    base = work.begin()
    assert len(closed) > 2
    for each in closed[:-1]:
        assert base.hash == each.base_hash
        own = [row for row in rows if row.merged_in == each.id]
        assert len(own) >= GOAL
        paths = [str(folder / update_path(row.task, row.hash)) for row in own]
        older = {
            hashes[row.round_id]: staleness_factor(each.number - numbers[row.round_id])
            for row in own
            if row.round_id != each.id
        }
        base = work.merge(Base(each.number, each.base_hash, base.folder), paths, older, (), 0).base
    assert base.hash == newest.base_hash
