"""Connects to the workers of a computation and checks that each has this version."""

import pathlib
import ssl
import time
from collections.abc import Callable, Sequence

import grpc

from tff_programs.execution.forwarder import TlsFiles
from tff_programs.execution.remote_worker import RemoteWorker

_TELL_AFTER_SECONDS = 2.0


def connect(
    addresses: Sequence[str],
    deadline_seconds: float,
    on_message: Callable[[str], None],
    tls: TlsFiles | None = None,
) -> list[RemoteWorker]:
    """Connects to workers, waits for those that are not up yet, and checks their versions.

    Args:
      addresses: Address of each worker, `host:port`.
      deadline_seconds: Timeout for all workers together, in seconds.
      on_message: Called with a line of text if the workers are not up after two seconds.
      tls: Files for mutual TLS if the workers require a certificate.

    Raises:
      ValueError: If an address is invalid, two lead to the same worker, or a file cannot be used.
      RuntimeError: If a worker is not up in time or has another version.
    """
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"Expected workers as host:port, received {address!r}.")
    if len(set(addresses)) != len(addresses):
        raise ValueError(f"Expected each worker once, received {', '.join(addresses)}.")
    credentials = None if tls is None else _credentials(tls)
    workers = [RemoteWorker(address, credentials=credentials) for address in addresses]
    try:
        _wait(workers, deadline_seconds, on_message)
        by_identity = {}
        for worker in workers:
            worker.check()
            first = by_identity.setdefault(worker.identity, worker)
            if first is not worker:
                raise ValueError(
                    f"Expected each worker once, received one under two names: {first.address} "
                    f"and {worker.address}. Leave one of them out of --workers."
                )
    except BaseException:
        for worker in workers:
            worker.disconnect()
        raise
    return workers


def _credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """Reads the files after checking that they can be used."""
    tls.context(ssl.Purpose.SERVER_AUTH)
    certificate, key, authority = (pathlib.Path(path).read_bytes() for path in tls)
    return grpc.ssl_channel_credentials(authority, key, certificate)


def _wait(workers, deadline_seconds, on_message):
    begin = time.monotonic()
    is_said = False
    while missing := [worker.address for worker in workers if not worker.is_ready]:
        seconds = time.monotonic() - begin
        if seconds > deadline_seconds:
            raise RuntimeError(
                f"Expected workers at {', '.join(missing)}, received no answer within "
                f"{deadline_seconds:.0f} s. Start `fedsup worker --port=PORT` there, check names, "
                "ports, firewalls and, with --tls_certificate on one side, that both sides have "
                "certificates of one authority and that a worker's is for the name in --workers; "
                "or wait longer with --workers_deadline."
            )
        if seconds > _TELL_AFTER_SECONDS and not is_said:
            on_message(
                f"Waiting up to {deadline_seconds:.0f} s for workers at {', '.join(missing)}."
            )
            is_said = True
        time.sleep(0.05)
