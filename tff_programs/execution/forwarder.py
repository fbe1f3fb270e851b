"""Forwards bytes between a listening socket and TFF's worker, optionally with mutual TLS.

The forwarder runs in the worker's network namespace. The listening socket was created outside it,
so the forwarder is the only way in. It uses only Python's standard library, since it starts with
every worker.
"""

import contextlib
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

_BUFFER_BYTES = 1 << 20
# Includes peers in the handshake, which are disconnected after `_HANDSHAKE_SECONDS`.
_MAX_CONNECTIONS = 64
_HANDSHAKE_SECONDS = 10.0
_WORKER_START_SECONDS = 60.0


class TlsFiles(NamedTuple):
    """Paths of the PEM files for mutual TLS.

    Attributes:
      certificate: Certificate shown to peers, with any intermediate certificates.
      key: Private key of the certificate, not encrypted.
      authority: Certificate of the authority that signs the peers' certificates.
    """

    certificate: str
    key: str
    authority: str

    def context(self, side: ssl.Purpose) -> ssl.SSLContext:
        """Returns TLS settings that require peers to show a certificate of the authority.

        Args:
          side: `ssl.Purpose.CLIENT_AUTH` for the side that listens, `ssl.Purpose.SERVER_AUTH` for
            the side that connects.

        Raises:
          ValueError: If a file cannot be used.
        """
        listens = side is ssl.Purpose.CLIENT_AUTH
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listens else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        # gRPC refuses a peer that does not agree on HTTP/2.
        context.set_alpn_protocols(["h2"])
        for name, path in self._asdict().items():
            if fault := _fault(path):
                raise ValueError(
                    f"--tls_{name}={path}: expected a PEM file, received none that can be read: "
                    f"{fault}. Check the path."
                )
        try:
            context.load_cert_chain(self.certificate, self.key, password=_refuse_encrypted_key)
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(
                f"--tls_certificate={self.certificate}, --tls_key={self.key}: expected a "
                f"certificate and its private key, not encrypted, in PEM; received: {error}. "
                "docs/scale.md shows how to make them."
            ) from error
        try:
            context.load_verify_locations(cafile=self.authority)
        except ssl.SSLError as error:
            raise ValueError(
                f"--tls_authority={self.authority}: expected an authority's certificate in PEM, "
                f"received: {error}. docs/scale.md shows how to make one."
            ) from error
        return context


def _fault(path: str) -> str | None:
    """Returns why a file cannot be read; None if it can."""
    try:
        # Opening a named pipe would wait for a writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "it is no regular file"
        with open(path, "rb"):
            return None
    except OSError as error:
        return error.strerror


def _refuse_encrypted_key() -> str:
    # Without this callback, OpenSSL would ask for the password in the terminal.
    raise ValueError("the key is encrypted")


def serve(listener: socket.socket, port: int, tls: ssl.SSLContext | None) -> None:
    """Accepts connections forever and forwards them to a port of this namespace's loopback.

    Args:
      listener: A listening socket.
      port: Port of TFF's worker.
      tls: Settings that require each peer to show a certificate; None for no TLS.
    """
    connections = threading.BoundedSemaphore(_MAX_CONNECTIONS)

    def forward(outer):
        try:
            with contextlib.suppress(OSError), outer:
                _forward(outer, port, tls)
        finally:
            connections.release()

    while True:
        connections.acquire()
        try:
            outer, _ = listener.accept()
        except OSError:
            # The peer disconnected or file descriptors ran out: neither may end the forwarder.
            connections.release()
            time.sleep(0.05)
            continue
        threading.Thread(target=forward, args=(outer,), daemon=True).start()


def _forward(outer: socket.socket, port: int, tls: ssl.SSLContext | None) -> None:
    """Forwards bytes in both directions until one side ends."""
    if outer.family != socket.AF_UNIX:
        outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        outer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    receive, send = outer.recv_into, outer.sendall
    if tls is not None:
        session = _TlsSession(outer, tls)
        session.handshake()
        receive, send = session.receive_into, session.send
    with _connect(port) as inner:

        def answer():
            _copy(inner.recv_into, send)
            _shut_down(inner, outer)

        answering = threading.Thread(target=answer, daemon=True)
        answering.start()
        _copy(receive, inner.sendall)
        _shut_down(inner, outer)
        answering.join()


def _connect(port: int) -> socket.socket:
    """Connects to TFF's worker, which may still be starting."""
    deadline = time.monotonic() + _WORKER_START_SECONDS
    while True:
        try:
            inner = socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return inner


def _copy(receive_into: Callable[[memoryview], int], send: Callable[[memoryview], None]) -> None:
    """Copies bytes until the source ends or a side fails."""
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    with contextlib.suppress(OSError):
        while count := receive_into(buffer):
            send(buffer[:count])


def _shut_down(*sockets: socket.socket) -> None:
    """Wakes the threads that read from or write to the sockets."""
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class _TlsSession:
    """Server side of TLS over a socket; one thread may receive while another sends.

    An OpenSSL session must not be used by two threads at the same time. Each thread waits for the
    socket without the lock and holds it only to decrypt or encrypt data in memory.
    """

    def __init__(self, outer: socket.socket, context: ssl.SSLContext):
        self._outer = outer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._using = threading.Lock()
        self._encrypted = bytearray(_BUFFER_BYTES)

    def handshake(self) -> None:
        """Performs the handshake, in which the peer shows its certificate.

        Raises:
          OSError: If the peer shows no certificate of the authority or is too slow.
        """
        deadline = time.monotonic() + _HANDSHAKE_SECONDS
        while True:
            try:
                self._session.do_handshake()
                return
            except ssl.SSLWantReadError:
                pass
            finally:
                # If the peer is refused, this is the alert that says why.
                self._outer.settimeout(max(0.001, deadline - time.monotonic()))
                self._outer.sendall(self._outgoing.read())
                self._outer.settimeout(None)
            self._outer.settimeout(max(0.001, deadline - time.monotonic()))
            received = self._outer.recv(1 << 16)
            self._outer.settimeout(None)
            if not received:
                raise ConnectionResetError("The peer ended the connection.")
            self._incoming.write(received)

    def receive_into(self, buffer: memoryview) -> int:
        """Receives at least one byte into a buffer; returns the number of bytes, 0 at the end."""
        while True:
            with self._using:
                count = self._decrypt(buffer)
            if count is not None:
                return count
            received = self._outer.recv_into(self._encrypted)
            if not received:
                return 0
            with self._using:
                self._incoming.write(memoryview(self._encrypted)[:received])

    def _decrypt(self, buffer: memoryview) -> int | None:
        """Decrypts whole records until the buffer is full; returns None if there are none."""
        count = 0
        while count < len(buffer):
            try:
                read = self._session.read(len(buffer) - count, buffer[count:])
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                return count
            if not read:
                return count
            count += read
        return count or None

    def send(self, data: memoryview) -> None:
        """Encrypts and sends all of the data; must only be called by one thread."""
        with self._using:
            self._session.write(data)
            encrypted = self._outgoing.read()
        self._outer.sendall(encrypted)
