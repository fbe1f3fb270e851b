"""fedsup serve SUPERNET --out=FOLDER: rounds whose clients are phones that connect over HTTP.

Devices enrol with the printed token, fetch the subnet of their tier, train it and send back the
change of its weights; see docs/gateway.md. A round is closed at --goal updates or after
--round_deadline seconds. The folder and the database hold all state: if a server is killed, the
same command continues where it stopped, and several servers can share one database.
"""

import asyncio
import datetime
import gc
import os
import subprocess
import sys
from collections.abc import Sequence

from fedsup_tf.files import checkpoint
from fedsup_tf.files.atomic_write import make_folder
from fedsup_tf.space import SearchSpace
from tff_programs.gateway.address import Address, parse_address
from tff_programs.gateway.certificates import CertificateFiles, make_certificate
from tff_programs.gateway.database import Database
from tff_programs.gateway.enrolment_code import enrolment_link, keep_server, terminal_code
from tff_programs.gateway.operator_handlers import operator_application
from tff_programs.gateway.same_gateway import (
    check_first_supernet,
    check_secret,
    check_secret_exists,
)
from tff_programs.gateway.secret_files import enrolment_token, server_secret
from tff_programs.gateway.server import Gateway, http_server, listen, run_until_stopped
from tff_programs.programs.cli import END_WITH
from tff_programs.programs.console import print_line
from tff_programs.programs.flags import gateway_flags
from tff_programs.programs.flags.data_flags import define_data_flags
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags, parse_with_path
from tff_programs.simulation.tiers import parse_tiers
from tflite.together.address import split_address

_ROLES = ("all", "web", "rounds")


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    gateway_flags.define_gateway_flags(define)
    define.enum(
        "role",
        "all",
        _ROLES,
        "Role of this process: web answers devices, rounds merges and exports, all does both.",
    )
    define.string(
        "address", "127.0.0.1:8080", "HOST:PORT to listen on; requires TLS beyond loopback."
    )
    define.string(
        "operator_address",
        "127.0.0.1:8081",
        "HOST:PORT of the operator's page and metrics, which must be on loopback; empty for none.",
    )
    define.string(
        "public_url",
        None,
        "Address at which devices reach the server, for the enrolment code.",
    )
    define.path("tls_certificate", None, "PEM file of the server's certificate.")
    define.path("tls_key", None, "PEM file of its private key, unencrypted.")
    define.bool("make_certificates", False, "Create a certificate for --public_url in --out/tls.")
    gateway_flags.define_round_flags(define)
    gateway_flags.define_device_flags(define)
    define_data_flags(define)


def main(argv: Sequence[str]) -> None:
    """Serves the supernet that the first argument names."""
    options, path = parse_with_path(define_flags, argv, "the supernet's file")
    if not options.out:
        raise ValueError("Expected --out=FOLDER, where the gateway is kept.")
    make_folder(options.out)
    database = gateway_flags.open_database(options)
    try:
        if options.role == "rounds":
            _keep_rounds(options, path, database)
        else:
            asyncio.run(_serve(options, path, argv, database))
    finally:
        database.close()


def _keep_rounds(options: ProgramFlags, path: str, database: Database) -> None:
    """Opens and closes rounds forever."""
    # Imported here, so that only the process that needs TensorFlow loads it.
    from tff_programs.gateway.keeper import keep_rounds
    from tff_programs.programs.flags.round_work_flags import round_work_from_flags

    work = round_work_from_flags(options, path, database)
    settings = gateway_flags.round_settings_from_flags(options)
    keep_rounds(database, options.out, settings, work, print_line)


async def _serve(options: ProgramFlags, path: str, argv: Sequence[str], database: Database) -> None:
    """Answers devices; in the role `all`, also runs a child process that keeps the rounds."""
    gateway_flags.round_settings_from_flags(options)
    address = parse_address(options.address, "address")
    operator_address = _operator_address(options)
    public_host = None
    if options.public_url:
        public_host = split_address(options.public_url, "--public_url").hostname
    elif address.is_any and (options.make_certificates or options.tls_certificate):
        raise ValueError(
            f"--address={options.address}: expected --public_url=https://NAME:PORT with it, "
            "received none. The code for phones must hold an address that they reach."
        )
    files = _certificate(options, address, public_host)
    tls = None if files is None else files.context()
    # Checked without TensorFlow, before any device is answered.
    weights, metadata = checkpoint.read_tensors(path, "supernet")
    check_first_supernet(database, checkpoint.fingerprint(weights), path, options.out)
    check_secret_exists(database, options.out)
    secret = server_secret(options.out)
    check_secret(database, secret, options.out)
    of_training = metadata["information"].get("settings", {})
    if options.tiers:
        space = SearchSpace.from_json(metadata["space"])
        parse_tiers(space, options.tiers, of_training.get("seed", 0))
    settings = gateway_flags.server_settings_from_flags(options, of_training)
    gateway = Gateway(database, options.out, secret, settings, print_line)
    server = http_server(gateway.application(), tls)
    servers = [server]
    try:
        own = address.url("http" if tls is None else "https", listen(server, address))
        fingerprint = files.fingerprint() if options.make_certificates else None
        public_url = options.public_url or own
        with database.write() as connection:
            keep_server(connection, public_url, fingerprint)

        def link_of(token: str) -> str:
            return enrolment_link(public_url, token, fingerprint)

        link = link_of(enrolment_token(options.out))
        lines = [terminal_code(link), link]
        if operator_address is not None:
            operator = http_server(operator_application(gateway, link_of), None)
            servers.append(operator)
            port = listen(operator, operator_address, "operator_address")
            lines.append(f"page on {operator_address.url('http', port)}")
        # Objects that exist by now are permanent; the garbage collector need not scan them again.
        gc.freeze()
        print_line("\n".join([*lines, f"serving on {own}"]))
        if options.role == "web":
            await run_until_stopped(server, gateway)
        else:
            await _beside_rounds(server, gateway, argv)
    finally:
        for each in servers:
            each.stop()
        gateway.close()


async def _beside_rounds(server, gateway: Gateway, argv: Sequence[str]) -> None:
    command = [
        *(sys.executable, "-c", "from tff_programs.programs.cli import main; main()"),
        *("serve", *argv[1:], "--role=rounds"),
    ]
    environment = {**os.environ, END_WITH: str(os.getpid())}
    process = subprocess.Popen(command, env=environment)
    serving = asyncio.create_task(run_until_stopped(server, gateway))
    ended = asyncio.create_task(asyncio.to_thread(process.wait))
    await asyncio.wait([serving, ended], return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        serving.cancel()
        raise RuntimeError(
            f"The process that keeps the rounds ended with code {process.returncode}. What it "
            "said is above; nothing that was accepted is lost."
        )
    process.terminate()
    await ended


def _operator_address(options: ProgramFlags) -> Address | None:
    if not options.operator_address:
        return None
    address = parse_address(options.operator_address, "operator_address")
    if not address.is_loopback:
        raise ValueError(
            f"--operator_address={options.operator_address}: expected an address of loopback such "
            "as 127.0.0.1:8081, received another one. The page has no authentication: put an "
            "authenticating proxy in front of it."
        )
    return address


def _certificate(
    options: ProgramFlags, address: Address, public_host: str | None
) -> CertificateFiles | None:
    given = (options.tls_certificate, options.tls_key)
    if options.make_certificates:
        if any(given):
            raise ValueError(
                "--make_certificates: expected no --tls_certificate and --tls_key with it. Leave "
                "one of them out."
            )
        names = dict.fromkeys([public_host, address.host, "localhost", "127.0.0.1"])
        return make_certificate(
            os.path.join(options.out, "tls"),
            [name for name in names if name],
            datetime.datetime.now(datetime.UTC),
        )
    if any(given) and not all(given):
        raise ValueError("Expected --tls_certificate and --tls_key together, received one of them.")
    if all(given):
        return CertificateFiles(*given)
    if not address.is_loopback:
        raise ValueError(
            f"--address={options.address}: expected --tls_certificate and --tls_key, or "
            "--make_certificates, beyond this machine's loopback, received none. Devices' keys "
            "would travel in the clear."
        )
    return None
