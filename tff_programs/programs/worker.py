"""fedsup worker: computes clients for a `fedsup train --workers=` on another machine.

A worker executes whatever computation it is sent. By default, only programs on this machine can
reach it; with --bind, any program that can reach that address can. Use --bind together with
--tls_certificate, --tls_key and --tls_authority: connections are then encrypted, and the worker
serves only peers with a certificate of that authority. TFF's own worker runs behind a
forwarder, in a network namespace, and replaces the process that started it: when one ends, so does
the other.
"""

import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence

from tff_programs.execution import enclosure, worker_command
from tff_programs.programs.flags.program_flags import FlagDefiner, parse_flags_only
from tff_programs.programs.flags.tls_flags import define_tls_flags, tls_files_from_flags


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define.string(
        "bind",
        "127.0.0.1",
        "IP address to listen on; 0.0.0.0 or :: for all addresses of this machine.",
    )
    define.integer("port", 10000, "Port to listen on.", lower_bound=1, upper_bound=65535)
    define.integer(
        "clients_at_once",
        0,
        "Clients computed in parallel; 0 for one per CPU core.",
        lower_bound=0,
        upper_bound=1024,
    )
    define.bool(
        "allow_open_port",
        False,
        "Start even if the system refuses a network namespace. TFF's worker then listens on a port "
        "of all interfaces without TLS, which a firewall must close.",
    )
    define_tls_flags(define)


def main(argv: Sequence[str]) -> None:
    """Replaces this process with a worker."""
    options = parse_flags_only(define_flags, argv)
    clients_at_once = options.clients_at_once or worker_command.cores()
    binary = worker_command.binary_path()
    tls = tls_files_from_flags(options)
    if tls is not None:
        tls.context(ssl.Purpose.CLIENT_AUTH)  # Reports unusable files before anything starts.
    listener, is_loopback = _listen(options.bind, options.port)
    versions = ", ".join(" ".join(pair) for pair in worker_command.versions().items())
    protection = "mutual TLS" if tls is not None else "no TLS"
    print(
        f"Worker of {versions} on {options.bind} port {options.port}, {protection}: "
        f"{clients_at_once} clients at once.",
        flush=True,
    )
    if tls is None and not is_loopback:
        print(
            f"Whoever reaches {options.bind} port {options.port} can run programs on this machine. "
            "Give --tls_certificate, --tls_key and --tls_authority, or --bind=127.0.0.1.",
            flush=True,
        )
    listener.set_inheritable(True)
    command = enclosure.command(
        worker_command.arguments(clients_at_once),
        binary,
        listener.detach(),
        tls=tls,
        allow_open_port=options.allow_open_port,
    )
    os.execve(command[0], command, worker_command.environment(clients_at_once))


def _listen(address: str, port: int) -> tuple[socket.socket, bool]:
    """Listens on an address; returns the socket, and whether it is a loopback address."""
    try:
        parsed = ipaddress.ip_address("127.0.0.1" if address == "localhost" else address)
    except ValueError as error:
        raise ValueError(
            f"Expected --bind as an IP address such as 127.0.0.1, 0.0.0.0 or ::, received "
            f"{address!r}."
        ) from error
    family = socket.AF_INET6 if parsed.version == 6 else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if parsed.version == 6 and parsed == ipaddress.ip_address("::"):
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listener.bind((str(parsed), port))
        listener.listen()
    except OSError as error:
        raise ValueError(
            f"Expected an address of this machine and a free port, received --bind={address} "
            f"--port={port}: {error.strerror}. Give others, or end what listens there."
        ) from error
    return listener, parsed.is_loopback
