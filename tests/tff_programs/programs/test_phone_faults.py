"""Tests of phones between visits: what they keep, and every kind of fault."""

import collections
import json
import pathlib
import subprocess
import types

import numpy as np
import pytest
from gateway import SHAPES, Served
from sqlalchemy import select

from tff_programs.gateway.tables import refusals, updates
from tff_programs.programs import phone_fleet, phones
from tff_programs.programs.phone_faults import FAULTS, FaultyParticipant, draw_fault
from tflite.format.metadata import read_metadata
from tflite.format.update_file import DeviceUpdate
from tflite.together.address import ServerAddress
from tflite.together.device_folder import DeviceFolder
from tflite.together.errors import FederationError, UnavailableError
from tflite.together.federation import Federation

FIELDS = {"tier": "small", "application": "test 1"}
OWN = (np.zeros((5, 8, 8, 1), np.uint8), np.zeros(5, np.int32))


class Untrained(FaultyParticipant):
    """Phone that makes up its update without training."""

    trained = 0

    def train(self, task, path, examples):
        self.trained += 1
        metadata = read_metadata(path)
        delta = {name: np.full(shape, 2.0, np.float32) for name, shape in SHAPES.items()}
        base = (metadata.supernet_hash, metadata.round)
        return DeviceUpdate(delta, metadata.architecture, *base, len(examples[1]), 1.0, 0.5)


def test_a_token_is_in_no_command(tmp_path, monkeypatch):
    def run(command, input, **options):
        assert "secret" not in " ".join(command)
        assert json.loads(input)["address"]["token"] == "secret"
        return subprocess.CompletedProcess(command, 0, '{"event": "waits"}\n', "")

    monkeypatch.setattr(phone_fleet.subprocess, "run", run)
    settings = {"address": {"url": "http://localhost", "token": "secret"}, "folder": "phone"}
    assert phone_fleet.start_visit(settings) == {"event": "waits"}
    (tmp_path / "link").write_text("fedsup://enrol?server=http%3A%2F%2Flocalhost&token=secret\n")
    options = types.SimpleNamespace(server=f"@{tmp_path}/link", token=None, tls_authority=None)
    assert phones._address(options) == ServerAddress("http://localhost", "secret")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Served(tmp_path_factory.mktemp("gateway"), goal=1000, over_asking=1.0) as served:
        yield served


@pytest.fixture
def phone(served, tmp_path):
    """Returns a function that makes a phone with a fault; another call restarts the same phone."""
    made = []

    def make(fault=None, token=None):
        federation = Federation(
            ServerAddress(served.url, token or served.token), attempts=1, sleep=lambda seconds: None
        )
        made.append(federation)
        shares = {fault: 1.0} if fault else {}
        folder = DeviceFolder(tmp_path / "phone")
        return Untrained(federation, folder, FIELDS, None, shares, 0, 0)

    yield make
    for federation in made:
        federation.close()


def kept(served, phone):
    """Returns a phone's updates that the server recorded."""
    with served.database.read() as connection:
        query = select(updates).where(updates.c.device == phone.federation.identity.device)
        return connection.execute(query).all()


def test_a_phone_enrols_once_and_sends_once(served, phone):
    first = phone()
    assert first.visit(lambda metadata: None).event == "needs_examples"
    identity = first.federation.identity
    again = phone(token="no longer needed")
    visit = again.visit(lambda metadata: OWN)
    assert (visit.event, visit.loss_before, visit.loss_after) == ("sent", 1.0, 0.5)
    assert again.federation.identity == identity
    assert again.folder.pending() is None
    assert again.visit(lambda metadata: OWN).event == "waits"
    assert len(kept(served, again)) == 1


def test_an_update_that_found_no_server_is_sent_at_the_next_visit(served, phone, monkeypatch):
    first = phone()

    def away(*arguments):
        raise UnavailableError("away")

    monkeypatch.setattr(first.federation, "send_update", away)
    with pytest.raises(UnavailableError):
        first.visit(lambda metadata: OWN)
    again = phone()
    assert again.visit(lambda metadata: OWN).event == "sent"
    assert again.trained == 0
    assert len(kept(served, again)) == 1


@pytest.mark.parametrize("lost", ["pending.json", "update.safetensors"])
def test_a_damaged_update_is_trained_anew(served, phone, monkeypatch, lost):
    first = phone()

    def away(*arguments):
        raise UnavailableError("away")

    monkeypatch.setattr(first.federation, "send_update", away)
    with pytest.raises(UnavailableError):
        first.visit(lambda metadata: OWN)
    path = pathlib.Path(first.folder.path, lost)
    if lost == "pending.json":
        path.write_text('{"task": 5}')
    else:
        path.unlink()
    again = phone()
    assert again.visit(lambda metadata: OWN).event == "sent"
    assert again.trained == 1


def test_a_model_that_was_damaged_is_fetched_again(phone):
    device = phone()
    visit = device.visit(lambda metadata: None)
    assert visit.event == "needs_examples"
    assert visit.wait_seconds > 0
    pathlib.Path(device.folder.model_path(visit.task["model"])).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"expected a \.tflite that fedsup export wrote"):
        phone().visit(lambda metadata: OWN)
    assert phone().visit(lambda metadata: OWN).event == "sent"


def test_a_damaged_identity_is_told(phone):
    device = phone()
    device.visit(lambda metadata: None)
    path = pathlib.Path(device.folder.path, "identity.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "key": "none"}))
    with pytest.raises(ValueError, match="Delete the file to enrol anew"):
        phone().visit(lambda metadata: OWN)


def test_a_phone_of_another_server_is_told(served, phone):
    device = phone()
    device.visit(lambda metadata: None)
    assert device.folder.identity(f"{served.url}/") == device.federation.identity
    with pytest.raises(FederationError, match=r"identity.json.*expected a device of"):
        device.folder.identity("https://example.org")


def test_a_phone_that_vanishes_sends_nothing(served, phone):
    device = phone("vanish")
    assert device.visit(lambda metadata: OWN).event == "vanished"
    assert device.trained == 0
    assert kept(served, device) == []


def test_a_phone_that_replays_counts_once(served, phone):
    device = phone("replay")
    assert device.visit(lambda metadata: OWN).event == "sent"
    assert len(kept(served, device)) == 1


def test_damaged_bytes_are_refused_and_the_whole_are_taken(served, phone):
    device = phone("damaged")
    assert device.visit(lambda metadata: OWN).event == "sent"
    assert len(kept(served, device)) == 1
    with served.database.read() as connection:
        counts = {row.code: row.count for row in connection.execute(select(refusals)).all()}
    assert counts["update"] == 1


def test_a_hostile_update_is_sent(served, phone):
    device = phone("hostile")
    assert device.visit(lambda metadata: OWN).event == "sent"
    (row,) = kept(served, device)
    (path,) = (served.folder / "updates").glob(f"*/{row.task}-{row.hash}.safetensors")
    assert np.frombuffer(path.read_bytes()[-4:], "<f4") == -20.0


def test_a_late_phone_waits_until_its_round_was_closed(tmp_path, phone):
    folder = tmp_path / "gateway"
    folder.mkdir()
    with Served(folder, goal=1, over_asking=3.0) as served:
        federation = Federation(ServerAddress(served.url, served.token))
        arguments = (DeviceFolder(tmp_path / "late"), FIELDS, None, {"late": 1.0}, 0, 0)
        device = Untrained(federation, *arguments)
        assert device.visit(lambda metadata: OWN).event == "late"
        assert device.visit(lambda metadata: OWN).event == "late"
        served.take_part()
        served.step()
        visit = device.visit(lambda metadata: OWN)
        assert (visit.event, visit.task["round"]) == ("sent", 0)
        assert device.trained == 1
        federation.close()


def test_faults_are_drawn_by_their_shares_and_again_the_same():
    shares = {"vanish": 0.2, "crash": 0.3}
    drawn = [draw_fault(shares, 1, phone, 4) for phone in range(2000)]
    assert drawn == [draw_fault(shares, 1, phone, 4) for phone in range(2000)]
    counts = collections.Counter(drawn)
    assert set(counts) == {"vanish", "crash", None}
    assert 300 < counts["vanish"] < 500
    assert 500 < counts["crash"] < 700
    assert set(FAULTS) >= shares.keys()
