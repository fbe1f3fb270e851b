"""Tests of `fedsup serve` and `fedsup phones` with TLS: rounds, faults, refusals, rollback."""

import datetime
import itertools
import re
import subprocess
import sys

import pytest
from busy_proxy import BusyProxy
from commands import fedsup
from serving import Server
from sqlalchemy import select

from fedsup_tf.files.checkpoint import read_tensors
from tff_programs.gateway.certificates import make_certificate
from tff_programs.gateway.database import Database, sqlite_url
from tff_programs.gateway.round_records import current_round
from tff_programs.gateway.tables import devices, updates

pytestmark = pytest.mark.slow

# Modules that only a server may load, and no phone.
LOADED = """
import sys
import tff_programs.programs.phone_process
import tflite.device.trainer
servers = ("tensorflow", "tensorflow_federated", "tornado", "sqlalchemy", "tff_programs.gateway")
print([name for name in servers if name in sys.modules])
"""


def phones(folder, url, token, authority, *more):
    command = fedsup(
        "phones", f"--server={url}", f"--token={token}", f"--tls_authority={authority}",
        f"--out={folder}", "--clients=3", "--processes=2", *more,
    )  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=550)


def test_phones_take_part_through_troubles(tmp_path, trained_path):
    folder = tmp_path / "gateway"
    server = Server(trained_path, folder, "--make_certificates", "--goal=2", "--over_asking=1")
    now = datetime.datetime.now(datetime.UTC)
    own = make_certificate(str(folder / "tls"), ["127.0.0.1"], now)
    foreign = make_certificate(str(tmp_path / "foreign"), ["127.0.0.1"], now)
    try:
        first = int(server.wait_for(r"^round (\d+) open")[1])
        with BusyProxy(server.url, own.context(), own.certificate) as proxy:
            url = f"https://127.0.0.1:{proxy.server_port}"
            arguments = (tmp_path / "phones", url, server.token())
            refused = phones(*arguments, foreign.certificate)
            stranger = phones(tmp_path / "strangers", url, "wrong", own.certificate)
            shares = ("--rounds=2", "--crash=0.4", "--replay=0.3")
            done = phones(*arguments, own.certificate, *shares)
            assert proxy.busy == 0
    finally:
        server.end()
    assert done.returncode == 0, done.stderr + done.stdout
    assert "sent" in done.stdout
    message = refused.stderr.strip()
    assert refused.returncode == 1
    assert re.fullmatch(
        r"fedsup phones: .*expected a certificate that .* received another .*", message
    )
    assert stranger.returncode == 1
    assert "Expected the enrolment token of this server" in stranger.stderr
    database = Database(sqlite_url(folder))
    with database.read() as connection:
        assert len(connection.execute(select(devices)).all()) == 3
        used = connection.execute(select(updates).where(updates.c.state == "used")).all()
        assert len(used) >= 4
        assert current_round(connection).number >= first + 2
    supernets = []
    for number in range(first, first + 3):
        (made,) = (folder / "rounds").glob(f"{number:06d}-*/supernet.safetensors")
        supernets.append(read_tensors(made, "supernet")[0])
    for before, after in itertools.pairwise(supernets):
        assert any((before[name] != after[name]).any() for name in before)
    back = fedsup("rollback", f"--out={folder}", f"--round={first + 1}")
    subprocess.run(back, check=True, timeout=300)
    with database.read() as connection:
        assert current_round(connection).number == first + 1
    database.close()


def test_a_phone_loads_nothing_of_a_server():
    command = [sys.executable, "-c", LOADED]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == "[]"
