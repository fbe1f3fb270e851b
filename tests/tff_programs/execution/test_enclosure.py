"""Tests that only this program, or peers with a certificate, can reach TFF's workers."""

import asyncio
import contextlib
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import time

import pytest
import tensorflow as tf
import tensorflow_federated as tff
from commands import fedsup, train
from processes import children_of, is_running
from programs import run

from tff_programs.execution import connect_workers, enclosure, local_worker
from tff_programs.execution.contexts import local_execution
from tff_programs.execution.forwarder import TlsFiles
from tff_programs.programs.cli import END_WITH

pytestmark = pytest.mark.slow

# State of listening sockets, from Linux' tcp_states.h.
_LISTENING = "0A"


def listeners():
    """Returns local addresses and inodes of the namespace's listening TCP sockets."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING:
                found.add((fields[1], fields[9]))
    return found


def sockets_of(pids):
    """Returns the inodes of the processes' sockets."""
    links = set()
    for pid in pids:
        for descriptor in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            try:
                links.add(os.readlink(descriptor))
            except FileNotFoundError:
                continue
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@tff.tensorflow.computation
def one():
    return tf.constant(1)


def compute_one():
    async def compute():
        return await tff.program.materialize_value(one())

    return asyncio.run(compute())


def test_workers_of_a_program_listen_on_nothing_that_others_reach():
    # Child processes of other tests' contexts.
    others = set(children_of(os.getpid()))
    with local_execution(2):
        assert compute_one() == 1
        workers = [child for child in children_of(os.getpid()) if child not in others]
        forwarders = [child for worker in workers for child in children_of(worker)]
        held = sockets_of([*workers, *forwarders])
        assert len(workers) == len(forwarders) == 2
        assert held
        assert not [address for address, inode in listeners() if inode in held]
    assert not any(map(is_running, workers))
    # The kernel ends a forwarder after its worker.
    wait_until(lambda: not any(map(is_running, forwarders)))


def test_a_workers_socket_has_no_name_on_the_disk(tmp_path, monkeypatch):
    # Longer than a socket's path may be.
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    listener, place = local_worker.listen()
    assert not list(folder.iterdir())
    with listener, socket.socket(socket.AF_UNIX) as peer:
        peer.connect(f"/proc/self/fd/{place}")
    os.close(place)


@pytest.mark.parametrize("killed", ["worker", "forwarder"])
def test_a_worker_and_its_forwarder_end_together(killed):
    with local_worker.start(None) as worker:
        assert local_worker.open_ports_line([worker]) is None
        wait_until(lambda: children_of(worker.process.pid))
        (forwarder,) = children_of(worker.process.pid)
        both = {"worker": worker.process.pid, "forwarder": forwarder}
        os.kill(both[killed], signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, both.values())))


def test_a_program_ends_with_the_parent_that_it_was_told():
    # The process ID of a different parent.
    environment = {**os.environ, END_WITH: "0"}
    result = subprocess.run(
        fedsup("worker", "--port=1"), env=environment, capture_output=True, timeout=100
    )
    assert result.returncode == 1
    assert not result.stdout + result.stderr
    script = (
        "import os, subprocess, sys, time; from tff_programs.execution.enclosure import end_with;"
        "end_with(int(sys.argv[1])); print(os.getpid(), flush=True); time.sleep(600)"
    )
    start = "import os, subprocess, sys; subprocess.run([*sys.argv[1:], str(os.getpid())])"
    command = [sys.executable, "-c", start, sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    wait_until(lambda: not is_running(child))


# A user namespace that does not allow further namespaces.
_REFUSES = (
    "unshare --user --map-root-user sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; "
    'echo 0 > /proc/sys/user/max_net_namespaces; exec "$@"\' sh'
)
_PROGRAM = """
import contextlib, socket
from tff_programs.execution import local_worker
with contextlib.ExitStack() as stack:
    workers = [stack.enter_context(local_worker.start(None)) for _ in range(2)]
    print(local_worker.open_ports_line(workers))
    for worker in workers:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(worker.address.removeprefix("unix:"))
            peer.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n\\0\\0\\0\\4\\0\\0\\0\\0\\0")
            print(len(peer.recv(100)) > 0)
"""


def run_without_namespaces(program: str) -> subprocess.CompletedProcess:
    """Runs a program, which must not contain single quotes, where the system refuses namespaces."""
    return subprocess.run(
        f"{_REFUSES} {sys.executable} -c '{program}'",
        shell=True,
        cwd=pathlib.Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_where_the_system_refuses_namespaces_one_line_names_the_ports():
    result = run_without_namespaces(_PROGRAM)
    assert result.returncode == 0, result.stderr
    line, *answered = result.stdout.splitlines()
    assert line.startswith("This system refuses a network namespace (No space left on device): ")
    assert "TFF's workers listen on ports " in line
    assert "Close ports " in line
    assert answered == ["True", "True"]


def test_where_the_system_refuses_namespaces_a_worker_for_others_does_not_start():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = run_without_namespaces(
        f'from tff_programs.programs import worker; worker.main(["fedsup worker", "--port={port}"])'
    )
    assert result.returncode == 1
    assert "refuses a network namespace (No space left on device)" in result.stderr
    assert "--allow_open_port" in result.stderr


def test_the_line_about_open_ports_names_one_as_one():
    line = enclosure.open_ports_message([1234], "Operation not permitted")
    assert "(Operation not permitted): TFF's worker listens on port 1234 of all" in line


# Purposes and names of the certificates in docs/scale.md, and of one from another authority.
_PEERS = {
    "worker": ("ours", "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:localhost\n"),
    "train": ("ours", "extendedKeyUsage=clientAuth\n"),
    "stranger": ("theirs", "extendedKeyUsage=clientAuth\n"),
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Returns a folder of PEM files: two authorities, and certificates that they signed."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ours", "theirs"):
        openssl(
            *("req", "-x509", *curve, "-days", "2", "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.ca.key", "-out", f"{name}.ca"),
        )
    for name, (authority, extensions) in _PEERS.items():
        (folder / f"{name}.ext").write_text(extensions)
        openssl(
            *("req", *curve, "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-days", "2", "-CAcreateserial"),
            *("-CA", f"{authority}.ca", "-CAkey", f"{authority}.ca.key"),
            *("-out", f"{name}.crt", "-extfile", f"{name}.ext"),
        )
    openssl(*"ec -aes256 -passout pass:x -in worker.key -out encrypted.key".split())
    return folder


def tls_flags(folder, peer):
    return (
        f"--tls_certificate={folder / peer}.crt",
        f"--tls_key={folder / peer}.key",
        f"--tls_authority={folder}/ours.ca",
    )


def client_context(folder, peer):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folder / "ours.ca")
    if peer is not None:
        context.load_cert_chain(folder / f"{peer}.crt", folder / f"{peer}.key")
    return context


_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


def answer_of(port, context=None):
    """Sends an HTTP/2 preface to the worker; returns its answer, empty if it refuses."""
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(socket.create_connection(("localhost", port), timeout=30))
        try:
            if context is not None:
                peer = context.wrap_socket(peer, server_hostname="localhost")
                stack.enter_context(peer)
            peer.sendall(_HTTP2_PREFACE)
            return peer.recv(100)
        except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
            return b""


def test_two_workers_over_tls_train_a_round_and_others_get_nothing(tmp_path, certificates, workers):
    flags = tls_flags(certificates, "worker")
    both = [workers(None, *flags).wait() for _ in range(2)]
    addresses = ",".join(worker.address for worker in both)
    flags = tls_flags(certificates, "train")
    few = ("--clients=4", "--clients_per_round=4", "--sandwich=1", "--tiers=smallest,largest")
    command = train(tmp_path / "run", 1, f"--workers={addresses}", *few, *flags)
    result = run(*command, check=True)
    assert "round 1/1" in result.stdout
    port = both[0].port
    assert answer_of(port, client_context(certificates, "train"))
    # A worker's certificate is not valid for a training program.
    for peer in ("worker", "stranger", None):
        assert not answer_of(port, client_context(certificates, peer)), peer
    # Without TLS, a peer gets at most a TLS alert, and no HTTP/2.
    assert answer_of(port)[:1] in (b"", b"\x15")


def test_a_program_that_trusts_another_authority_refuses_the_worker(certificates, workers):
    worker = workers(None, *tls_flags(certificates, "worker")).wait()
    files = [certificates / name for name in ("train.crt", "train.key", "theirs.ca")]
    tls = TlsFiles(*map(str, files))
    with pytest.raises(RuntimeError, match="certificates of one authority"):
        connect_workers.connect([worker.address], 5.0, print, tls)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"key": "no_such.key"}, "no_such.key: expected a PEM file"),
        ({"key": "train.key"}, "expected a certificate and its private key"),
        ({"key": "encrypted.key"}, "received: the key is encrypted"),
        ({"authority": "ours.ca.key"}, "expected an authority's certificate in PEM"),
    ],
)
def test_files_that_cannot_be_used_are_one_sentence(certificates, change, told):
    names = {"certificate": "worker.crt", "key": "worker.key", "authority": "ours.ca", **change}
    tls = TlsFiles(*(str(certificates / name) for name in names.values()))
    with pytest.raises(ValueError, match=told):
        tls.context(ssl.Purpose.CLIENT_AUTH)


@pytest.mark.parametrize("name", ["certificate", "key", "authority"])
def test_a_pipe_in_place_of_a_tls_file_is_not_waited_for(certificates, tmp_path, name):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    files = {"certificate": "worker.crt", "key": "worker.key", "authority": "ours.ca"}
    paths = {key: str(certificates / file) for key, file in files.items()}
    tls = TlsFiles(**{**paths, name: str(pipe)})
    with pytest.raises(ValueError, match=f"--tls_{name}=.*it is no regular file"):
        tls.context(ssl.Purpose.CLIENT_AUTH)


def test_some_of_the_tls_flags_alone_are_refused(certificates):
    flags = tls_flags(certificates, "worker")[::2]
    command = fedsup("worker", "--port=1", *flags)
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1
    assert "--tls_authority together, received none of --tls_key" in result.stderr


def test_a_worker_binds_what_it_is_told(workers):
    worker = workers(None, "--bind=127.0.0.1").wait()
    port = f":{worker.port:04X}"
    assert [address for address, _ in listeners() if address.endswith(port)] == [f"0100007F{port}"]
    assert answer_of(worker.port)


@pytest.mark.parametrize("address", ["nowhere", "192.0.2.1"])
def test_an_address_that_is_not_of_this_machine_is_refused(address):
    command = fedsup("worker", f"--bind={address}", "--port=23456")
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1
    assert "Expected" in result.stderr
    assert address in result.stderr
