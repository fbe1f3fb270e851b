"""Tests of the gateway's programs: refusals, listing devices, rolling back rounds."""

import gc
import os
import random
import shutil
import socket
import stat
import types

import numpy as np
import pytest
from absl import flags
from gateway import Phone, Served
from spaces import SPACE

from fedsup_tf.files.checkpoint import write_tensors
from tff_programs.gateway.enrolment_code import keep_server
from tff_programs.gateway.pace import Pace
from tff_programs.gateway.same_gateway import check_secret, check_secret_exists
from tff_programs.gateway.secret_files import enrolment_token, replace_token, server_secret
from tff_programs.programs import devices, rollback, serve
from tff_programs.programs.flags import gateway_flags
from tflite.together.address import parse_link


@pytest.fixture
def supernet(tmp_path):
    path = tmp_path / "supernet.safetensors"
    write_tensors(path, "supernet", {}, {"space": SPACE.to_json(), "information": {"settings": {}}})
    return str(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--address=0.0.0.0:0"], "beyond this machine's loopback"),
        (["--address=nowhere"], "--address: expected HOST:PORT"),
        (["--operator_address=0.0.0.0:0"], "--operator_address=0.0.0.0:0: expected an address of"),
        (["--make_certificates", "--address=0.0.0.0:0"], "expected --public_url=https://NAME:PORT"),
        (["--make_certificates", "--address=[::]:0"], "expected --public_url=https://NAME:PORT"),
        (["--tiers=smallest,nonsense"], "Tier 'nonsense': expected smallest"),
        (["--tls_certificate=a.pem"], "--tls_certificate and --tls_key together"),
        (["--make_certificates", "--tls_key=a", "--tls_certificate=b"], "leave|Leave one"),
        (["--make_certificates", "--public_url=example.org"], "--public_url: expected an address"),
        (["--public_url=javascript:alert(1)"], "--public_url: expected an address"),
        (["--public_url=https://a b"], "--public_url: expected an address"),
        (["--public_url=https://example.org:99999999"], "--public_url: expected an address"),
        (["--public_url=https://"], "--public_url: expected an address"),
        (["--public_url=https://example.org:0"], "--public_url: expected an address"),
        (["--public_url=https://example.org/?a=b"], "--public_url: expected an address"),
        (["--public_url=https://user@example.org"], "--public_url: expected an address"),
        (["--public_url=http://example.org"], "--public_url: .* with https beyond this machine"),
        ([f"--address=127.0.0.1:{'9' * 5000}"], "--address: expected HOST:PORT"),
        (["--tls_certificate=a.pem", "--tls_key=b.pem"], "Expected a certificate in PEM"),
        (["--poisoned=0.2", "--goal=2"], "--poisoned: expected --goal from 3"),
        (["--noise_multiplier=1"], "--noise_multiplier: expected --clip_norm"),
        (["--noise_multiplier=1", "--clip_norm=1"], "expected --max_staleness=0 with it"),
        (["--server_learning_rate=1"], "--server_learning_rate goes with a --server_optimizer"),
        (["--max_examples=9", "--weighting=uniform"], "--max_examples goes with --weighting=exam"),
        (["--max_epsilon=1"], "--max_epsilon: expected --noise_multiplier with it"),
        (["--database=mysql://host/name"], "expected sqlite:///FILE or postgresql://"),
        (["--database=sqlite://"], "expected sqlite:///FILE, received .* kept in memory"),
        (["--database=postgresql://u@nowhere.invalid/x"], "received: [^\n]*$"),
        (["--database=nonsense"], "expected sqlite:///FILE or postgresql://"),
        (["--database=postgresql://u:secret@/x?host=/nowhere"], "Expected a database that can be"),
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path, supernet, changes, message):
    command = ["serve", supernet, f"--out={tmp_path}/out", "--address=127.0.0.1:0", "--role=web"]
    with pytest.raises(ValueError, match=message) as raised:
        serve.main([*command, "--operator_address=127.0.0.1:0", *changes])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "flag",
    [
        "--round_deadline=1e20",
        "--task_seconds=1e20",
        "--check_in_seconds=1e20",
        "--check_ins_per_second=1e-30",
        "--requests_per_hour=1e-30",
        "--goal=2000000000",
        "--noise_multiplier=1e30",
        "--server_optimizer=typo",
    ],
)
def test_what_no_date_column_or_optimizer_is_is_refused(tmp_path, supernet, flag):
    with pytest.raises(flags.IllegalFlagValueError, match=f"flag {flag}: .* (to|range|one of)"):
        serve.main(["serve", supernet, f"--out={tmp_path}/out", flag])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "rate", "expected"),
    [
        (None, None, ("sgdm", 0.4)),
        (None, 0.1, ("sgdm", 0.1)),
        ("sgdm", None, ("sgdm", 0.4)),
        ("nesterov", None, ("nesterov", 0.8)),
        ("adam", None, ("adam", None)),
    ],
)
def test_the_rate_of_the_training_is_that_of_its_optimizer(name, rate, expected):
    options = types.SimpleNamespace(server_optimizer=name, server_learning_rate=rate)
    of_training = {"server_optimizer": "sgdm", "server_learning_rate": 0.4, "server_momentum": 0.7}
    settings = gateway_flags.server_optimizer_settings(options, of_training)
    assert (settings["server_optimizer"], settings["server_learning_rate"]) == expected
    assert settings["server_momentum"] == 0.7


# Tornado does not close a socket that it could not bind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_another_gateways_folder_or_supernet_is_refused(tmp_path, supernet):
    other = tmp_path / "other.safetensors"
    write_tensors(other, "supernet", {"a": np.ones(1, np.float32)}, {"space": ""})
    out = tmp_path / "out"
    out.mkdir()
    command = ["--address=127.0.0.1:0", "--role=web"]
    with Served(out), pytest.raises(ValueError, match="began with another supernet"):
        serve.main(["serve", str(other), f"--out={out}", *command])
    command.append(f"--database=sqlite:///{tmp_path}/other.sqlite")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command.append(f"--operator_address=127.0.0.1:{port}")
        for name, message in (
            ("out", "Choose another --operator_address"),
            ("elsewhere", "secret.key with which the database's devices enrolled"),
            ("out", "Choose another --operator_address"),
        ):
            with pytest.raises(ValueError, match=message):
                serve.main(["serve", supernet, f"--out={tmp_path / name}", *command])
    gc.collect()


def test_the_longest_wait_is_one_that_a_phone_can_count():
    assert Pace(1.0, 0.001).wait_seconds(2**31, random.Random(0)) < 2**31


def test_what_is_missing_is_named(tmp_path, supernet):
    with pytest.raises(ValueError, match="Expected --out=FOLDER"):
        serve.main(["serve", supernet])
    with pytest.raises(ValueError, match="Expected one argument"):
        serve.main(["serve", f"--out={tmp_path}"])
    for program, more in ((devices, []), (rollback, ["--round=1"])):
        with pytest.raises(ValueError, match="Expected --out=FOLDER of a gateway"):
            program.main(["program", f"--out={tmp_path}", *more])


def test_devices_are_listed_and_revoked(tmp_path, capsys):
    with Served(tmp_path, goal=1) as served:
        phone, _, _ = served.take_part()
        other = served.phone()
        devices.main(["devices", f"--out={tmp_path}", f"--revoke={phone.device}"])
        rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
        assert "revoked" in rows[phone.device]
        assert "revoked" not in rows[other.device]
        assert phone.json("GET", "/v1/status")[0] == 403
        with pytest.raises(ValueError, match="--revoke: expected the identity of a device"):
            devices.main(["devices", f"--out={tmp_path}", "--revoke=nobody"])


def test_a_devices_names_do_not_command_the_terminal(tmp_path, capsys):
    with Served(tmp_path) as served:
        phone = served.phone()
        phone.check_in(runtime="\x1b[2Jr\n0000  forged", application="\u202ea")
        devices.main(["devices", f"--out={tmp_path}"])
    told = capsys.readouterr().out
    assert len(told.splitlines()) == 3
    assert r"\x1b[2Jr\n0000  forged" in told
    assert r"\u202ea" in told


def test_a_new_token_ends_enrolment_with_the_one_before(tmp_path, capsys):
    with Served(tmp_path, goal=1) as served:
        devices.main(["devices", f"--out={tmp_path}", "--new_token"])
        token = capsys.readouterr().out.split()[-1]
        status, _ = served_enrol(served, served.token)
        assert status == 403
        assert served_enrol(served, token)[0] == 201


def test_a_new_token_is_printed_in_the_link_of_the_server(tmp_path, capsys):
    with Served(tmp_path) as served:
        for server in ("https://before.example", "https://example.org"):
            with served.database.write() as connection:
                keep_server(connection, server, "0" * 64)
        devices.main(["devices", f"--out={tmp_path}", "--new_token"])
        address = parse_link(capsys.readouterr().out.splitlines()[-1])
        assert (address.url, address.certificate) == ("https://example.org", "0" * 64)
        assert address.token == enrolment_token(tmp_path)


def test_a_gateway_whose_database_is_elsewhere_gets_no_other(tmp_path, supernet):
    with Served(tmp_path, f"sqlite:///{tmp_path}/elsewhere.sqlite"):
        supernet = [supernet, "--role=web", "--address=127.0.0.1:0"]
        for program, more in ((devices, []), (rollback, ["--round=1"]), (serve, supernet)):
            with pytest.raises(ValueError, match="expected the database of the gateway in"):
                program.main(["program", f"--out={tmp_path}", *more])
    assert not (tmp_path / "gateway.sqlite").exists()


def test_lost_secrets_are_told_and_not_replaced(tmp_path, supernet):
    with Served(tmp_path, f"sqlite:///{tmp_path}/gateway.sqlite") as served:
        check_secret(served.database, server_secret(tmp_path), str(tmp_path))
        (tmp_path / "enrolment.token").write_text("")
        with pytest.raises(ValueError, match="expected the enrolment token, received an empty"):
            enrolment_token(tmp_path)
        (tmp_path / "secret.key").unlink()
        with pytest.raises(ValueError, match=r"secret.key with which .* received none"):
            check_secret_exists(served.database, str(tmp_path))
    assert not (tmp_path / "secret.key").exists()


@pytest.mark.parametrize(("mode", "closed"), [(0o755, 0o700), (0o2775, 0o2770), (0o700, 0o700)])
def test_a_gateways_folder_is_not_open_to_others(tmp_path, mode, closed):
    folder = tmp_path / "gateway"
    folder.mkdir()
    folder.chmod(mode)
    server_secret(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == closed


def test_a_new_token_is_never_another_users_to_read(tmp_path, monkeypatch):
    before, modes, replace = enrolment_token(tmp_path), [], os.replace

    def spied(source, target):
        modes.append(stat.S_IMODE(os.stat(source).st_mode))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spied)
    assert enrolment_token(tmp_path) == before != replace_token(tmp_path)
    assert modes == [0o600]
    assert [path.name for path in tmp_path.iterdir()] == ["enrolment.token"]


def served_enrol(served, token):
    return Phone(served.url).json("POST", "/v1/enrol", {"token": token}, signed=False)


def test_rounds_are_taken_back(tmp_path, capsys):
    with Served(tmp_path, goal=1) as served:
        for number in range(2):
            served.take_part(value=float(number + 1))
            served.step()
        rollback.main(["rollback", f"--out={tmp_path}", "--round=1"])
        assert "rolled back: rounds 1, 2; round 1 is open again" in capsys.readouterr().out
        assert served.phone().check_in()["task"]["round"] == 1
        with pytest.raises(ValueError, match="received 7"):
            rollback.main(["rollback", f"--out={tmp_path}", "--round=7"])
        served.take_part()
        served.step()
        shutil.rmtree(tmp_path / "models")
        with pytest.raises(ValueError, match=r"models.*: expected what round 1 needs"):
            rollback.main(["rollback", f"--out={tmp_path}", "--round=1"])
